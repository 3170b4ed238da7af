// Packed moments: one tensor that holds the mean and the log-variance of a posterior as the halves of one dimension.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "core/kernel_params.h"

namespace vae_fused {

using at::Tensor;

// Views of the halves, or both undefined.
struct Halves {
  Tensor mu, logvar;
};
Halves halves_of(const Tensor& packed, int64_t dim);

// How logvar is stored in moments, a block of arguments: the dimension that is halved, and the bounds that logvar is
// clamped to, which are infinite where it is not.
struct Packing {
  int64_t dim;
  double logvar_min, logvar_max;

  template <class Use>
  auto in_order(Use use) const {
    return use(dim, logvar_min, logvar_max);
  }
};

// Checks the moments and the packing, and makes the dimension count from the front.
void check_moments(const char* name, const Tensor& moments, Packing& packing);

// The bounds rounded to the type of the moments, as torch.clamp rounds them.
ScaleForm clamp_of(const Packing& packing, at::ScalarType type);

// A posterior and its prior, all of one shape; the prior or part of it may be undefined.
struct Gaussians {
  Tensor mu, logvar, prior_mu, prior_logvar;
  ScaleForm scale{}, prior_scale{};
  Tensor mask{};  // factor of the divergence of each element, of their shape too, or undefined
};

// Checks the moments of both, which must have halves of one shape, and the packings, as check_moments does.
Gaussians unpack(const Tensor& moments, const std::optional<Tensor>& prior_moments, Packing& packing,
                 Packing& prior_packing);

}  // namespace vae_fused
