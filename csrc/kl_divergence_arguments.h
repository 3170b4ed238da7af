// The arguments of the KL divergence, checked once for CPU and CUDA, as parameters of its kernels.
#pragma once

#include "packed_moments.h"
#include "reduction.h"
#include "scale_form.h"

namespace vae_fused {

// Of the operators that take the pair apart, in one block. References to what the caller holds, for the time of one
// call.
struct DivergenceArguments {
  const Tensor& mu;
  const Tensor& logvar;
  const std::optional<Tensor>& prior_mu;
  const std::optional<Tensor>& prior_logvar;
  std::string_view reduction;
  const std::optional<Tensor>& mask;
  ScaleArguments scale{};

  template <class Use>
  auto in_order(Use use) const {
    return scale.in_order(
        [&](const auto&... of_scale) { return use(mu, logvar, prior_mu, prior_logvar, reduction, mask, of_scale...); });
  }
};

// Checks the arguments but the reduction.
Gaussians checked_gaussians(const DivergenceArguments& arguments);

// The incoming gradient has the shape of the reduced divergence.
void check_divergence_gradient(const Tensor& grad, const Tensor& mu, Reduction reduction);

// Of the forward: elements is the elementwise divergence [N], undefined where it is reduced.
KLDivergenceParams divergence_params(const Gaussians& pair, Reduction reduction, const Tensor& elements);

// Of the backward: the gradients that are defined are wanted.
KLDivergenceParams divergence_backward_params(const Tensor& grad, const Gaussians& pair, Reduction reduction,
                                              const Gaussians& grads);

}  // namespace vae_fused
