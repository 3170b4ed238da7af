// Consecutive logical elements of an operand, wherever they lie in memory: in place, or gathered from it and scattered
// to it.
#pragma once

#include <type_traits>

#include "cpu/kernels/convert.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

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

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
