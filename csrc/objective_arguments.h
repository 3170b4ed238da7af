// The arguments of the objective in one block: what each of its operators takes, and what its callers pass on.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>

namespace vae_fused {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// What only some reconstruction terms have, and the factors of any; see library.cpp.
struct TermArguments {
  OptionalTensor weight{};
  OptionalTensor log_sigma{};
  std::optional<double> log_sigma_value{};
  double recon_weight = 1.0;
  bool full = false;
  double smooth_l1_beta = 1.0;
};

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
  TermArguments term{};

  template <class Use>
  auto in_order(Use use) const {
    return use(recon, target, mu, logvar, kl, beta, beta_tensor, recon_loss, reduction, target_scale, target_shift,
               term.weight, term.log_sigma, term.log_sigma_value, term.recon_weight, term.full, term.smooth_l1_beta);
  }
};

}  // namespace vae_fused
