// Tiles of operands: consecutive logical elements as a plain array, whatever their layout and type in memory.
//
// Where the elements already lie next to each other in the type of the arithmetic, a tile is the memory itself. Else it
// is a buffer in the L1 cache that is gathered and widened on reading, narrowed and scattered on writing. No layout and
// no dtype needs a copy of the tensor, and the arithmetic is written once.
#pragma once

#include <type_traits>

#include "core/compensated_sum.h"
#include "cpu/kernels/convert.h"
#include "cpu/kernels/simd_math.h"
#include "cpu/tile_plan.h"

#define VAE_FUSED_LAMBDA __attribute__((always_inline))

namespace vae_fused {
namespace VAE_FUSED_ISA {

template <class T>
constexpr ElementType kElementType = std::is_same_v<T, float> ? ElementType::kFloat : ElementType::kDouble;

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

// The elements in place, or null where they are of another type or do not lie next to each other.
template <class T>
VAE_FUSED_INLINE T* in_place(const Operand& operand, const Extent& extent, int64_t begin, int count) {
  if (operand.type != kElementType<T>) return nullptr;
  T* data = static_cast<T*>(operand.data);
  const int last = extent.rank - 1;
  if (last < 0) return data;
  if (operand.strides[last] != 1) return nullptr;
  if (last == 0) return data + begin;
  if (begin % extent.sizes[last] + count > extent.sizes[last]) return nullptr;
  for_each_run(extent, operand.strides, begin, count, [&](int64_t offset, int64_t, int) { data += offset; });
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

template <class T>
VAE_FUSED_INLINE const T* read_tile(const Operand& operand, const Extent& extent, int64_t begin, int count,
                                    TileBuffer<T>& buffer) {
  if (operand.data == nullptr) return nullptr;
  if (const T* direct = in_place<T>(operand, extent, begin, count)) return direct;
  gather(operand, extent, begin, count, buffer.values);
  return buffer.values;
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

struct Full {};
struct Partial {
  int count;
};

VAE_FUSED_INLINE Float load(const float* source, Full) { return load(source); }
VAE_FUSED_INLINE Float load(const float* source, Partial lanes) { return load_partial(source, lanes.count); }
VAE_FUSED_INLINE double load(const double* source, Full) { return *source; }
VAE_FUSED_INLINE double load(const double* source, Partial) { return *source; }

// body(index, Full or Partial) over count elements.
template <class T, class Body>
VAE_FUSED_INLINE void for_each_vector(int count, Body body) {
  constexpr int step = VectorOf<T>::kCount;
  int i = 0;
  for (; i + step <= count; i += step) body(i, Full{});
  if (i < count) body(i, Partial{count - i});
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
    if (buffered_) values_ = buffer_.values;
    streamed_ = streamed && !buffered_ && reinterpret_cast<uintptr_t>(values_) % 64 == 0;
  }

  VAE_FUSED_HOST_DEVICE bool wanted() const { return wanted_; }

  VAE_FUSED_HOST_DEVICE void put(int index, Float value, Full) {
    if (streamed_) {
      stream(values_ + index, value);
    } else {
      store(values_ + index, value);
    }
  }
  VAE_FUSED_HOST_DEVICE void put(int index, Float value, Partial lanes) {
    store_partial(values_ + index, value, lanes.count);
  }
  template <class Lanes>
  VAE_FUSED_HOST_DEVICE void put(int index, double value, Lanes) {
    values_[index] = value;
  }

  VAE_FUSED_HOST_DEVICE void finish(const Operand& operand, const Extent& extent, int64_t begin, int count) const {
    if (wanted_ && buffered_) scatter(operand, extent, begin, count, values_);
  }

 private:
  bool wanted_, buffered_ = false, streamed_ = false;
  T* values_ = nullptr;
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
