// What the CPU and the CUDA host code of the sampling operators share: the shapes of z and its gradients.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>

#include <optional>

namespace vae_fused {

using at::Tensor;

// An uninitialised z from torch's allocator: like mu, or K times that, each sample in the memory format of mu. The CPU
// kernels have their own allocation, cpu/allocate.h.
inline Tensor empty_samples(const Tensor& mu, std::optional<int64_t> num_samples) {
  if (!num_samples) return at::empty_like(mu);
  const Tensor one = at::empty_like(mu, mu.options().device(at::kMeta));
  at::DimVector sizes(mu.sizes().begin(), mu.sizes().end()), strides(one.strides().begin(), one.strides().end());
  sizes.insert(sizes.begin(), *num_samples);
  strides.insert(strides.begin(), mu.numel());
  return at::empty_strided(sizes, strides, mu.options());
}

// One sample of a tensor of samples, which is the tensor itself where there is no dimension of samples.
inline Tensor first_sample(const Tensor& samples, std::optional<int64_t> num_samples) {
  return num_samples ? samples.select(0, 0) : samples;
}

inline int64_t numel_per_item(const Tensor& tensor) {
  return tensor.size(0) == 0 ? 0 : tensor.numel() / tensor.size(0);
}

}  // namespace vae_fused
