// The gradient of a log_sigma that several elements share, from the gradients of all elements.
#pragma once

#include <ATen/ExpandUtils.h>

#include "objective.h"

namespace vae_fused {

inline Tensor summed_log_sigma_gradient(const ReconstructionTerm& term, const Tensor& of_elements) {
  return term.log_sigma_is_of_elements() ? of_elements : at::sum_to(of_elements, term.log_sigma.sizes());
}

}  // namespace vae_fused
