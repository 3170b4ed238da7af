// Whether the reconstruction may be overwritten by its gradient: each of its elements is read once, just before its
// gradient is written there, so no memory may hold two of them, or one of them and an element of another operand.
#pragma once

#include <algorithm>
#include <utility>

#include "objective.h"

namespace vae_fused {

// Whether two elements may lie in the same place; exact for everything that slicing, permuting and expanding make.
inline bool overlaps_itself(const Tensor& tensor) {
  if (tensor.numel() <= 1) return false;
  c10::SmallVector<std::pair<int64_t, int64_t>, 8> dimensions;  // stride, size
  for (int64_t dim = 0; dim < tensor.dim(); ++dim) {
    if (tensor.size(dim) > 1) dimensions.emplace_back(tensor.stride(dim), tensor.size(dim));
  }
  std::sort(dimensions.begin(), dimensions.end());
  int64_t reach = 0;  // offset of the last element in the dimensions so far
  for (const auto& [stride, size] : dimensions) {
    if (stride <= reach) return true;
    reach += (size - 1) * stride;
  }
  return false;
}

// The bytes from the first element of a tensor to its last.
inline std::pair<const char*, const char*> bytes_of(const Tensor& tensor) {
  int64_t last = 0;
  for (int64_t dim = 0; dim < tensor.dim(); ++dim) last += (tensor.size(dim) - 1) * tensor.stride(dim);
  const char* first = static_cast<const char*>(tensor.const_data_ptr());
  return {first, first + (last + 1) * tensor.element_size()};
}

// Interleaved tensors count as sharing.
inline bool share_memory(const Tensor& one, const Tensor& other) {
  if (one.device() != other.device() || one.numel() == 0 || other.numel() == 0) return false;
  const auto [one_first, one_end] = bytes_of(one);
  const auto [other_first, other_end] = bytes_of(other);
  return one_first < other_end && other_first < one_end;
}

inline void check_overwritten(const Objective& objective) {
  TORCH_CHECK_VALUE(!objective.by_item(),
                    "reduction must not be sample with inplace=True: each item has an incoming gradient of its own, "
                    "which is not known before the backward");
  TORCH_CHECK_VALUE(!overlaps_itself(objective.recon),
                    "recon has elements that share memory (is it expanded?), inplace=True would overwrite them");
  const auto check_apart = [&](const char* name, const Tensor& operand) {
    TORCH_CHECK_VALUE(!operand.defined() || !share_memory(objective.recon, operand), "recon shares memory with ", name,
                      ", inplace=True would overwrite it");
  };
  check_apart("target", objective.target);
  check_apart("mu", objective.mu);
  check_apart("logvar", objective.logvar);
  check_apart("kl", objective.kl);
  check_apart("beta", objective.beta_tensor.value_or(Tensor()));
  check_apart("weight", objective.term.weight);
  check_apart("log_sigma", objective.term.log_sigma);
}

}  // namespace vae_fused
