// Groups of consecutive logical elements between memory and registers.
//
// VectorAccess: 16 bytes at a time, for aligned operands that lie contiguous, or in rows of whole groups.
// GenericAccess: any layout, any element type, any count; one element at a time.
// A kernel is written once for both. The elements of a group beyond its count read as 0, which adds 0 to every sum.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <initializer_list>
#include <type_traits>

#include "cuda/launch.h"

namespace vae_fused {

__device__ __forceinline__ float widen(uint8_t value) { return static_cast<float>(value); }
__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }

template <class S>
__device__ __forceinline__ S narrow(float value) {
  if constexpr (std::is_same_v<S, __half>) {
    return __float2half_rn(value);
  } else if constexpr (std::is_same_v<S, __nv_bfloat16>) {
    return __float2bfloat16_rn(value);
  } else {
    return value;
  }
}

// One element of a type known at run time; the branch is the same for all threads.
template <class T>
__device__ __forceinline__ T read_number(const void* data, ElementType type, int64_t offset) {
  switch (type) {
    case ElementType::kFloat: return static_cast<T>(static_cast<const float*>(data)[offset]);
    case ElementType::kHalf: return static_cast<T>(widen(static_cast<const __half*>(data)[offset]));
    case ElementType::kBFloat16: return static_cast<T>(widen(static_cast<const __nv_bfloat16*>(data)[offset]));
    case ElementType::kByte: return static_cast<T>(static_cast<const uint8_t*>(data)[offset]);
    default: return static_cast<T>(static_cast<const double*>(data)[offset]);
  }
}

template <class T>
__device__ __forceinline__ void write_number(void* data, ElementType type, int64_t offset, T value) {
  switch (type) {
    case ElementType::kFloat: static_cast<float*>(data)[offset] = static_cast<float>(value); break;
    case ElementType::kHalf: static_cast<__half*>(data)[offset] = narrow<__half>(static_cast<float>(value)); break;
    case ElementType::kBFloat16:
      static_cast<__nv_bfloat16*>(data)[offset] = narrow<__nv_bfloat16>(static_cast<float>(value));
      break;
    default: static_cast<double*>(data)[offset] = static_cast<double>(value);
  }
}

__device__ __forceinline__ double weight_of(const Weight& weight, int64_t item) {
  if (weight.values == nullptr) return weight.scale;
  return read_number<double>(weight.values, weight.type, item * weight.stride) * weight.scale;
}

// A 64-bit division takes some hundred instructions, a 32-bit one twenty, and nearly every index fits.
__device__ __forceinline__ int64_t divide(int64_t value, int64_t by, int64_t& remainder) {
  if (((value | by) >> 32) == 0) {
    const uint32_t low = static_cast<uint32_t>(value), low_by = static_cast<uint32_t>(by);
    const uint32_t quotient = low / low_by;
    remainder = low - quotient * low_by;
    return quotient;
  }
  const int64_t quotient = value / by;
  remainder = value - quotient * by;
  return quotient;
}

// A group is one element, so that neighbouring threads take neighbouring elements; where there is noise it is a Philox
// block's worth.
template <class T, int kSize>
struct GenericAccess {
  using Compute = T;
  static constexpr int kGroup = kSize;
  static constexpr bool kAligned = false;
  static constexpr bool kClamps = true;
  static constexpr bool kTransforms = false;

  class Cursor {
   public:
    __device__ __forceinline__ Cursor(const Extent& extent, int64_t index, int count) : extent_(extent), count_(count) {
      // The three innermost coordinates, and the index over all further dimensions together.
      first_ = {index, 0, 0, 0};
      const int last = extent.rank - 1;
      if (last > 0) first_.middle = divide(index, extent.sizes[last], first_.inner);
      if (last > 1) first_.outer = divide(first_.middle, extent.sizes[last - 1], first_.middle);
      if (last > 2) first_.rest = divide(first_.outer, extent.sizes[last - 2], first_.outer);
    }

    template <class S>
    __device__ __forceinline__ void load(const Operand& operand, T (&values)[kGroup], int64_t shift = 0) const {
      Place at = first_;
#pragma unroll
      for (int e = 0; e < kGroup; ++e) {
        values[e] = has(e) ? read_number<T>(operand.data, operand.type, shift + offset(operand, at)) : T(0);
        advance(at);
      }
    }

    template <class S>
    __device__ __forceinline__ void store(const Operand& operand, const T (&values)[kGroup], int64_t shift = 0) const {
      Place at = first_;
#pragma unroll
      for (int e = 0; e < kGroup; ++e) {
        if (has(e)) write_number(operand.data, operand.type, shift + offset(operand, at), values[e]);
        advance(at);
      }
    }

    __device__ __forceinline__ bool has(int e) const { return e < count_; }

   private:
    struct Place {
      int64_t inner, middle, outer, rest;
    };

    __device__ __forceinline__ void advance(Place& at) const {
      const int last = extent_.rank - 1;
      if (++at.inner < extent_.sizes[last] || last == 0) return;
      at.inner = 0;
      if (++at.middle < extent_.sizes[last - 1] || last == 1) return;
      at.middle = 0;
      if (++at.outer < extent_.sizes[last - 2] || last == 2) return;
      at.outer = 0;
      ++at.rest;
    }

    __device__ __forceinline__ int64_t offset(const Operand& operand, const Place& at) const {
      const int last = extent_.rank - 1;
      int64_t offset = at.inner * operand.strides[last];
      if (last > 0) offset += at.middle * operand.strides[last - 1];
      if (last > 1) offset += at.outer * operand.strides[last - 2];
      int64_t rest = at.rest;
#pragma unroll 1
      for (int dim = last - 3; dim >= 0; --dim) {
        int64_t coordinate;
        rest = divide(rest, extent_.sizes[dim], coordinate);
        offset += coordinate * operand.strides[dim];
      }
      return offset;
    }

    const Extent& extent_;
    Place first_;
    int count_;
  };
};

// The same for a posterior whose scale is stored in any form, with a temperature and a mask.
template <class T, int kSize>
struct TransformingAccess : GenericAccess<T, kSize> {
  static constexpr bool kTransforms = true;
};

// ---- on the host: which of the two ---------------------------------------------------------------------------------

template <class S>
constexpr ElementType kStorage = std::is_same_v<S, float>     ? ElementType::kFloat
                                 : std::is_same_v<S, __half>  ? ElementType::kHalf
                                 : std::is_same_v<S, uint8_t> ? ElementType::kByte
                                                              : ElementType::kBFloat16;

struct TypedOperand {
  const Operand& operand;
  ElementType type;  // that the kernel is compiled for
};

// Whether all operands that are there can be moved in aligned vectors of this many elements: contiguous ones of any
// size, whose ends are moved one element at a time, and rows of whole groups.
inline bool vectorizes(const Extent& extent, int group, std::initializer_list<TypedOperand> operands) {
  if (extent.rank < 1 || extent.rank > 2) return false;
  const int last = extent.rank - 1;
  if (last == 1 && extent.sizes[1] % group != 0) return false;
  return std::all_of(operands.begin(), operands.end(), [&](const TypedOperand& typed) {
    const Operand& operand = typed.operand;
    if (operand.data == nullptr) return true;
    return operand.type == typed.type && reinterpret_cast<uintptr_t>(operand.data) % 16 == 0 &&
           operand.strides[last] == 1 && (last == 0 || operand.strides[0] % group == 0);
  });
}

// Rank 0 is one element, which the cursors see as one dimension of size 1; its strides are 0.
inline void give_rank(Extent& extent) {
  if (extent.rank > 0) return;
  extent.rank = 1;
  extent.sizes[0] = 1;
}

template <class S>
struct Storage {
  using Type = S;
};

// body(Storage<S>) for the storage type of a floating operand; not for float64, whose kernels are generic alone.
template <class Body>
void with_storage(ElementType type, Body body) {
  if (type == ElementType::kHalf) return body(Storage<__half>{});
  if (type == ElementType::kBFloat16) return body(Storage<__nv_bfloat16>{});
  body(Storage<float>{});
}

}  // namespace vae_fused
