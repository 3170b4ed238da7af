// Tiles of operands: consecutive logical elements as a plain array, whatever their layout and type in memory.
//
// Where the elements already lie next to each other, a tile is the memory itself, and half types are converted in
// registers. Else it is a buffer in the L1 cache that is gathered and widened on reading, narrowed and scattered on
// writing. No layout and no dtype needs a copy of the tensor, and the arithmetic is written once.
#pragma once

#include <type_traits>

#include "core/compensated_sum.h"
#include "cpu/kernels/half.h"
#include "cpu/kernels/simd_math.h"
#include "cpu/tile_plan.h"

#define VAE_FUSED_LAMBDA __attribute__((always_inline))

namespace vae_fused {
namespace VAE_FUSED_ISA {

template <class T>
struct alignas(64) TileBuffer {
  T values[kTile];
};

// Visits the elements [begin, begin + count) as runs along the innermost dimension: body(offset in memory, stride,
// length).
template <class Body>
VAE_FUSED_INLINE void for_each_run(const Extent& extent, const int64_t* strides, int64_t begin, int count, Body body) {
  if (extent.rank == 0) return body(int64_t{0}, int64_t{1}, count);
  int64_t index[kMaxRank], remaining = begin, offset = 0;
  for (int dim = extent.rank - 1; dim >= 0; --dim) {
    index[dim] = remaining % extent.sizes[dim];
    remaining /= extent.sizes[dim];
    offset += index[dim] * strides[dim];
  }
  const int last = extent.rank - 1;
  while (count > 0) {
    const int64_t left = extent.sizes[last] - index[last];
    const int length = static_cast<int>(left < count ? left : count);
    body(offset, strides[last], length);
    count -= length;
    offset += length * strides[last];
    index[last] += length;
    for (int dim = last; dim > 0 && index[dim] == extent.sizes[dim]; --dim) {
      offset += strides[dim - 1] - extent.sizes[dim] * strides[dim];
      index[dim] = 0;
      ++index[dim - 1];
    }
  }
}

VAE_FUSED_INLINE int64_t size_of(ElementType type) {
  switch (type) {
    case ElementType::kDouble: return 8;
    case ElementType::kFloat: return 4;
    case ElementType::kByte: return 1;
    default: return 2;
  }
}

// Whether the kernels of T can take elements of this type from where they lie.
template <class T>
VAE_FUSED_INLINE bool taken_in_place(ElementType type) {
  if (std::is_same_v<T, double>) return type == ElementType::kDouble;
  return type == ElementType::kFloat || type == ElementType::kHalf || type == ElementType::kBFloat16;
}

// The elements in place, or null where they are of another type or do not lie next to each other.
template <class T>
VAE_FUSED_INLINE void* in_place(const Operand& operand, const Extent& extent, int64_t begin, int count) {
  if (!taken_in_place<T>(operand.type)) return nullptr;
  char* data = static_cast<char*>(operand.data);
  const int64_t size = size_of(operand.type);
  const int last = extent.rank - 1;
  if (last < 0) return data;
  if (operand.strides[last] != 1) return nullptr;
  if (last == 0) return data + begin * size;
  if (begin % extent.sizes[last] + count > extent.sizes[last]) return nullptr;
  for_each_run(extent, operand.strides, begin, count, [&](int64_t offset, int64_t, int) { data += offset * size; });
  return data;
}

template <class T>
static void gather(const Operand& operand, const Extent& extent, int64_t begin, int count, T* out) {
  with_type(operand.type, operand.data, [&](auto* data) {
    for_each_run(extent, operand.strides, begin, count, [&](int64_t offset, int64_t stride, int length) {
      widen_run(data + offset, stride, length, out);
      out += length;
    });
  });
}

template <class T>
static void scatter(const Operand& operand, const Extent& extent, int64_t begin, int count, const T* values) {
  with_floating_type(operand.type, operand.data, [&](auto* data) {
    for_each_run(extent, operand.strides, begin, count, [&](int64_t offset, int64_t stride, int length) {
      narrow_run(values, stride, length, data + offset);
      values += length;
    });
  });
}

// ---- vectors over a tile -------------------------------------------------------------------------------------------

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  using Type = Float;
  using Sum = LaneSum;
  static constexpr int kCount = kLanes;
};

// float64 sums of float64 data: as exact as the data.
struct ScalarSum : CompensatedSum {
  VAE_FUSED_HOST_DEVICE void add_square(double value) { add(value * value); }
};
template <>
struct VectorOf<double> {
  using Type = double;
  using Sum = ScalarSum;
  static constexpr int kCount = 1;
};

// What a loop hands its body: a whole vector, or the first lanes of one.
struct Full {};
struct Partial {
  int count;
};
// The same with the type that all tiles of the loop hold, or void where they differ and each has to be asked.
template <class Type>
struct FullOf : Full {
  using Stored = Type;
};
template <class Type>
struct PartialOf : Partial {
  using Stored = Type;
};

// The types of tiles as a set of bits; a tile that is absent has none.
constexpr unsigned type_bit(ElementType type) { return 1u << static_cast<int>(type); }
constexpr unsigned kAnyTypes = 0;  // each tile is asked
template <class... Tiles>
VAE_FUSED_INLINE unsigned types_of(const Tiles&... tiles) {
  return (tiles.types() | ...);
}

VAE_FUSED_INLINE Float load(const float* source, Full) { return load(source); }
VAE_FUSED_INLINE Float load(const float* source, Partial lanes) { return load_partial(source, lanes.count); }
template <class Stored>
VAE_FUSED_INLINE Float load(const Stored* source, Full) {
  return load_widened(source);
}
template <class Stored>
VAE_FUSED_INLINE Float load(const Stored* source, Partial lanes) {
  return load_widened_partial(source, lanes.count);
}
VAE_FUSED_INLINE double load(const double* source, Full) { return *source; }
VAE_FUSED_INLINE double load(const double* source, Partial) { return *source; }

template <class T, class Stored, class Body>
VAE_FUSED_INLINE void for_each_vector_of(int count, Body body) {
  constexpr int step = VectorOf<T>::kCount;
  int i = 0;
  for (; i + step <= count; i += step) body(i, FullOf<Stored>{});
  if (i < count) body(i, PartialOf<Stored>{{count - i}});
}

// body(index, lanes) over count elements of tiles of these types. Where they all have one type the loop is compiled for
// it: a test of the type at every access costs as much as the conversion itself. The narrower instruction sets do
// without: their conversions cost more than the test, and the compiler takes minutes over the additional loops.
template <class T, class Body>
VAE_FUSED_INLINE void for_each_vector(int count, unsigned types, Body body) {
  if constexpr (std::is_same_v<T, float> && kParts == 1) {
    if (types == type_bit(ElementType::kFloat)) return for_each_vector_of<T, float>(count, body);
    if (types == type_bit(ElementType::kHalf)) return for_each_vector_of<T, Half>(count, body);
    if (types == type_bit(ElementType::kBFloat16)) return for_each_vector_of<T, BFloat16>(count, body);
  }
  for_each_vector_of<T, void>(count, body);
}

// An input tile: read in place, or out of a buffer.
template <class T>
class InputTile {
 public:
  VAE_FUSED_HOST_DEVICE InputTile(const Operand& operand, const Extent& extent, int64_t begin, int count) {
    if (operand.data == nullptr) return;
    values_ = in_place<T>(operand, extent, begin, count);
    type_ = operand.type;
    if (values_ == nullptr) read_into_buffer(operand, extent, begin, count);
  }

  VAE_FUSED_HOST_DEVICE bool present() const { return values_ != nullptr; }
  VAE_FUSED_HOST_DEVICE unsigned types() const { return present() ? type_bit(type_) : 0; }

  // The vector at an index; lanes beyond a partial one are 0.
  template <class Lanes>
  VAE_FUSED_HOST_DEVICE typename VectorOf<T>::Type operator()(int index, Lanes lanes) const {
    if constexpr (!std::is_void_v<typename Lanes::Stored>) {
      return load(static_cast<const typename Lanes::Stored*>(values_) + index, lanes);
    } else if constexpr (std::is_same_v<T, float>) {
      if (type_ == ElementType::kHalf) return load(static_cast<const Half*>(values_) + index, lanes);
      if (type_ == ElementType::kBFloat16) return load(static_cast<const BFloat16*>(values_) + index, lanes);
    }
    return load(static_cast<const T*>(values_) + index, lanes);
  }

  // As a plain array: read into the buffer, too, where the elements lie in another type.
  VAE_FUSED_HOST_DEVICE const T* plain(const Operand& operand, const Extent& extent, int64_t begin, int count) {
    if (type_ == ElementType::kHalf || type_ == ElementType::kBFloat16) {
      read_into_buffer(operand, extent, begin, count);
    }
    return static_cast<const T*>(values_);
  }

  // The buffer, which holds the tile where it is of a type that is never taken in place.
  VAE_FUSED_HOST_DEVICE T* buffer() { return buffer_.values; }

 private:
  VAE_FUSED_HOST_DEVICE void read_into_buffer(const Operand& operand, const Extent& extent, int64_t begin, int count) {
    gather(operand, extent, begin, count, buffer_.values);
    values_ = buffer_.values;
    type_ = ElementType::kFloat;  // or float64, for whose kernels it is the only one
  }

  const void* values_ = nullptr;
  ElementType type_ = ElementType::kFloat;
  TileBuffer<T> buffer_;
};

// Whether whole vectors lie at multiples of their size where a tile does: one of several items needs items of whole
// vectors. Stores past the caches fault elsewhere.
VAE_FUSED_INLINE bool whole_vectors(const TilePlan& plan) {
  return plan.items_per_tile == 1 || plan.item_numel % kLanes == 0;
}

// An output tile: written in place, past the caches where it is streamed, or into a buffer that finish() scatters.
template <class T>
class OutputTile {
 public:
  VAE_FUSED_HOST_DEVICE OutputTile(const Operand& operand, const Extent& extent, int64_t begin, int count,
                                   bool streamed)
      : wanted_(operand.data != nullptr) {
    if (!wanted_) return;
    values_ = in_place<T>(operand, extent, begin, count);
    buffered_ = values_ == nullptr;
    if (buffered_) {
      values_ = buffer_.values;
    } else {
      type_ = operand.type;
    }
    streamed_ = streamed && !buffered_ && reinterpret_cast<uintptr_t>(values_) % 64 == 0;
  }

  VAE_FUSED_HOST_DEVICE bool wanted() const { return wanted_; }
  VAE_FUSED_HOST_DEVICE unsigned types() const { return wanted_ ? type_bit(type_) : 0; }

  template <class Lanes>
  VAE_FUSED_HOST_DEVICE void put(int index, Float value, Lanes lanes) {
    if constexpr (!std::is_void_v<typename Lanes::Stored>) {
      put_in(static_cast<typename Lanes::Stored*>(values_) + index, value, lanes);
    } else {
      if (type_ == ElementType::kHalf) return put_in(static_cast<Half*>(values_) + index, value, lanes);
      if (type_ == ElementType::kBFloat16) return put_in(static_cast<BFloat16*>(values_) + index, value, lanes);
      put_in(static_cast<float*>(values_) + index, value, lanes);
    }
  }
  template <class Lanes>
  VAE_FUSED_HOST_DEVICE void put(int index, double value, Lanes) {
    static_cast<double*>(values_)[index] = value;
  }

  VAE_FUSED_HOST_DEVICE void finish(const Operand& operand, const Extent& extent, int64_t begin, int count) const {
    if (wanted_ && buffered_) scatter(operand, extent, begin, count, buffer_.values);
  }

 private:
  template <class Stored>
  VAE_FUSED_HOST_DEVICE void put_in(Stored* destination, Float value, Full) {
    if (streamed_) {
      stream(destination, value);
    } else {
      store(destination, value);
    }
  }
  template <class Stored>
  VAE_FUSED_HOST_DEVICE void put_in(Stored* destination, Float value, Partial lanes) {
    store_partial(destination, value, lanes.count);
  }

  bool wanted_, buffered_ = false, streamed_ = false;
  ElementType type_ = ElementType::kFloat;
  void* values_ = nullptr;
  TileBuffer<T> buffer_;
};

// Streamed stores are not ordered with the ones that tell another thread that the work is done.
VAE_FUSED_INLINE void order_streamed_stores() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

VAE_FUSED_INLINE double weight_of(const Weight& weight, int64_t item) {
  if (weight.values == nullptr) return weight.scale;
  double value = 0.0;
  with_type(weight.type, weight.values, [&](auto* values) { value = widen(values[item * weight.stride]); });
  return value * weight.scale;
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
