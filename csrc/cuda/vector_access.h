// VectorAccess: groups of elements as vectors of 16 bytes, and the ends of contiguous operands one by one.
#pragma once

#include "cuda/access.h"
#include "cuda/pack.h"

namespace vae_fused {

// The storage type of an operand whose type is known at run time only; the second may be bytes, which are only read.
struct AnyStorage {};
struct AnyStorageOrBytes {};
// As the second, of an operand that may have one element for a whole row.
struct AnyStorageOrRepeated {};

// kRows: the operands may be rows that lie apart, and logvar may be clamped, as the halves of packed moments are and
// do; contiguous operands save the arithmetic of both.
template <int kSize, bool kRows>
struct VectorAccess {
  using Compute = float;
  static constexpr int kGroup = kSize;
  static constexpr bool kAligned = true;  // every group begins a Philox block
  static constexpr bool kClamps = kRows;
  static constexpr bool kTransforms = false;

  // A whole group.
  class Cursor {
   public:
    __device__ __forceinline__ Cursor(const Extent& extent, int64_t index, int)
        : in_rows_(kRows && extent.rank == 2), row_(0), column_(index) {
      if (in_rows_) row_ = divide(index, extent.sizes[1], column_);
    }

    template <class S>
    __device__ __forceinline__ void load(const Operand& operand, float (&values)[kSize], int64_t shift = 0) const {
      if constexpr (std::is_same_v<S, AnyStorage>) {
        switch (operand.type) {
          case ElementType::kHalf: return load<__half>(operand, values, shift);
          case ElementType::kBFloat16: return load<__nv_bfloat16>(operand, values, shift);
          default: return load<float>(operand, values, shift);
        }
      } else if constexpr (std::is_same_v<S, AnyStorageOrRepeated>) {
        if (!in_rows_ || operand.strides[1] != 0) return load<AnyStorageOrBytes>(operand, values, shift);
        const float value = read_number<float>(operand.data, operand.type, shift + row_ * operand.strides[0]);
#pragma unroll
        for (int e = 0; e < kSize; ++e) values[e] = value;
      } else if constexpr (std::is_same_v<S, AnyStorageOrBytes>) {
        if (operand.type != ElementType::kByte) return load<AnyStorage>(operand, values, shift);
        static_assert(kSize == 8);
        const auto bytes =
            *reinterpret_cast<const HalfPack*>(static_cast<const uint8_t*>(operand.data) + shift + offset(operand));
#pragma unroll
        for (int e = 0; e < kSize; ++e) values[e] = static_cast<float>(bytes.word[e / 4] >> (e % 4 * 8) & 0xffu);
      } else {
        const auto* packs =
            reinterpret_cast<const Pack<S>*>(static_cast<const S*>(operand.data) + shift + offset(operand));
#pragma unroll
        for (int i = 0; i < kSize / Pack<S>::kCount; ++i) {
          const Pack<S> pack = packs[i];
          unpack(pack, values + i * Pack<S>::kCount);
        }
      }
    }

    template <class S>
    __device__ __forceinline__ void store(const Operand& operand, const float (&values)[kSize],
                                          int64_t shift = 0) const {
      if constexpr (std::is_same_v<S, AnyStorage>) {
        switch (operand.type) {
          case ElementType::kHalf: return store<__half>(operand, values, shift);
          case ElementType::kBFloat16: return store<__nv_bfloat16>(operand, values, shift);
          default: return store<float>(operand, values, shift);
        }
      } else {
        auto* packs = reinterpret_cast<Pack<S>*>(static_cast<S*>(operand.data) + shift + offset(operand));
#pragma unroll
        for (int i = 0; i < kSize / Pack<S>::kCount; ++i) {
          Pack<S> pack;
          pack_into(pack, values + i * Pack<S>::kCount);
          packs[i] = pack;
        }
      }
    }

    __device__ __forceinline__ constexpr bool has(int) const { return true; }

   private:
    __device__ __forceinline__ int64_t offset(const Operand& operand) const {
      return kRows ? row_ * operand.strides[0] + column_ : column_;
    }

    bool in_rows_;
    int64_t row_, column_;
  };

  // Some elements, [low, high), of a group of contiguous operands: where a unit begins or ends inside of it.
  class PartialCursor {
   public:
    __device__ __forceinline__ PartialCursor(int64_t index, int low, int high)
        : index_(index), low_(low), high_(high) {}

    template <class S>
    __device__ __forceinline__ void load(const Operand& operand, float (&values)[kSize], int64_t shift = 0) const {
#pragma unroll
      for (int e = 0; e < kSize; ++e) {
        values[e] = has(e) ? read_number<float>(operand.data, operand.type, shift + index_ + e) : 0.0f;
      }
    }

    template <class S>
    __device__ __forceinline__ void store(const Operand& operand, const float (&values)[kSize],
                                          int64_t shift = 0) const {
#pragma unroll
      for (int e = 0; e < kSize; ++e) {
        if (has(e)) write_number(operand.data, operand.type, shift + index_ + e, values[e]);
      }
    }

    __device__ __forceinline__ bool has(int e) const { return e >= low_ && e < high_; }

   private:
    int64_t index_;  // of the group's first element
    int low_, high_;
  };
};

// The same for a posterior whose scale is stored in any form, with a temperature and a mask: one kernel for contiguous
// operands and rows. A prior beside it is not clamped.
constexpr int kTransformingGroup = 8;
template <int kSize>
struct TransformingVectors : VectorAccess<kSize, true> {
  static constexpr bool kTransforms = true;
  static constexpr bool kClamps = false;
};

// Whether every operand can be moved in vectors of the type that it has when the kernel runs. AnyStorage has no
// float64.
inline bool vectorizes_as_stored(const Extent& extent, int group, std::initializer_list<const Operand*> operands) {
  return std::all_of(operands.begin(), operands.end(), [&](const Operand* operand) {
    const bool has_vectors = operand->data == nullptr || operand->type != ElementType::kDouble;
    return has_vectors && vectorizes(extent, group, {{*operand, operand->type}});
  });
}

// The same for an operand that is read as AnyStorageOrRepeated.
inline bool vectorizes_or_repeats(const Extent& extent, int group, const Operand& operand) {
  const bool repeats = extent.rank == 2 && extent.sizes[1] % group == 0 && operand.strides[1] == 0;
  return repeats || vectorizes_as_stored(extent, group, {&operand});
}

// body(Access) for the access to vectors of operands of this extent, whose logvar may be clamped.
template <int kGroup, class Body>
void with_vectors(const Extent& extent, bool clamped, Body body) {
  if (extent.rank == 1 && !clamped) return body(VectorAccess<kGroup, false>{});
  body(VectorAccess<kGroup, true>{});
}

}  // namespace vae_fused
