// What the two Functions of the objective share.
#pragma once

#include "autograd/common.h"

namespace vae_fused {

// The two terms of the loss, which are results but no outputs: autograd has nothing to know of them.
struct DetachedTerms {
  Tensor reconstruction, kl;
};

// The loss is linear in beta with the KL term as its slope.
inline Tensor gradient_of_beta(const Tensor& grad_loss, const OptionalTensor& mu, const OptionalTensor& logvar,
                               const OptionalTensor& kl, const OptionalTensor& beta_tensor,
                               std::string_view reduction) {
  Tensor kl_term;
  if (present(kl)) {
    const Tensor wide = kl->to(accumulation_type({&*kl}));
    kl_term = reduction == "sum" ? wide.sum() : reduction == "batchmean" ? wide.mean() : wide;
  } else {
    kl_term = ops::kl_divergence(*mu, *logvar, std::nullopt, std::nullopt, reduction);
  }
  return (grad_loss * kl_term).sum().to(beta_tensor->options());
}

}  // namespace vae_fused
