// The arguments of the objective in one value: what each of its operators takes, and what its callers pass on.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>

namespace vae_fused {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// References to what the caller holds, for the time of one call.
struct ObjectiveArguments {
  const Tensor& recon;
  const Tensor& target;
  const OptionalTensor& mu;
  const OptionalTensor& logvar;
  const OptionalTensor& kl;
  double beta;
  const OptionalTensor& beta_tensor;
  std::string_view recon_loss;
  std::string_view reduction;
  double target_scale = 1.0;
  double target_shift = 0.0;
};

}  // namespace vae_fused
