// Uninitialised results of CPU operators. Laid out as at::empty_like lays them out; large ones come from the pool.
#pragma once

#include <ATen/EmptyTensor.h>
#include <ATen/ExpandUtils.h>
#include <ATen/core/Tensor.h>

#include <optional>

#include "cpu/pool.h"

namespace vae_fused {

using at::Tensor;

inline c10::Allocator* allocator_for(at::IntArrayRef sizes, at::ScalarType type) {
  return allocator_for(static_cast<size_t>(c10::multiply_integers(sizes)) * c10::elementSize(type));
}

inline Tensor allocate(at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType type) {
  return at::detail::empty_strided_generic(sizes, strides, allocator_for(sizes, type),
                                           c10::DispatchKeySet(c10::DispatchKey::CPU), type);
}

inline Tensor allocate(at::IntArrayRef sizes, at::ScalarType type) {
  return at::detail::empty_generic(sizes, allocator_for(sizes, type), c10::DispatchKeySet(c10::DispatchKey::CPU), type,
                                   std::nullopt);
}

// K samples of a tensor, each in its memory format; without K one, of the same rank.
inline Tensor allocate_like(const Tensor& tensor, at::ScalarType type, std::optional<int64_t> num_samples = {}) {
  const bool dense = tensor.is_non_overlapping_and_dense();
  const auto inferred = dense ? std::vector<int64_t>() : at::infer_dense_strides(tensor.sizes(), tensor.strides());
  const at::IntArrayRef strides = dense ? tensor.strides() : at::IntArrayRef(inferred);
  if (!num_samples) return allocate(tensor.sizes(), strides, type);
  at::DimVector all_sizes = {*num_samples}, all_strides = {tensor.numel()};
  all_sizes.append(tensor.sizes().begin(), tensor.sizes().end());
  all_strides.append(strides.begin(), strides.end());
  return allocate(all_sizes, all_strides, type);
}

inline Tensor allocate_like(const Tensor& tensor) { return allocate_like(tensor, tensor.scalar_type()); }

}  // namespace vae_fused
