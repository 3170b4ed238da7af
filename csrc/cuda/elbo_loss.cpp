#include <ATen/ops/sum.h>

#include "cuda/objective_launch.h"
#include "cuda/results.h"
#include "objective_operators.h"

namespace vae_fused {
namespace {

struct ObjectiveOnCUDA : OnCUDA {
  // For an incoming gradient of 1.
  static Sums forward(const Objective& objective, const Gradients& grads, bool one_log_sigma) {
    ElboLossTermParams params = params_of(objective, grads, Tensor());
    return launch_with_sums(objective, params, objective.mu.defined(), one_log_sigma);
  }

  // Fills the gradients that have a buffer, for an incoming gradient [] or [B]; returns that of one log sigma for every
  // sum, if wanted.
  static Tensor backward(const Objective& objective, const Tensor& grad_loss, const Gradients& grads,
                         bool nothing_if_one, bool one_log_sigma) {
    ElboLossTermParams params = params_of(objective, grads, grad_loss);
    ElboLossParams& p = params.p;
    const auto wanted = [](const Tensor& grad) { return grad.defined() && grad.numel() > 0; };
    p.with_data = wanted(grads.recon) || wanted(grads.target) || wanted(grads.log_sigma);
    p.with_latent = wanted(grads.mu) || wanted(grads.logvar);
    p.nothing_if_one = nothing_if_one;
    if (one_log_sigma) {
      return launch_with_sums(objective, params, p.with_latent, one_log_sigma).grad_one_log_sigma;
    }
    if (p.with_data || p.with_latent || wanted(grads.kl) || wanted(grads.shared_log_sigma)) {
      launch(objective.term, params);
    }
    return Tensor();
  }

  static Tensor of_one_log_sigma(const Tensor& log_sigma, const Tensor& of_sums) {
    if (of_sums.dim() == 0) return of_sums.view(log_sigma.sizes());
    return at::sum(of_sums).to(accumulation_type({&log_sigma})).view(log_sigma.sizes());
  }
};

TORCH_LIBRARY_IMPL(vae_fused, CUDA, m) { ObjectiveOperators<ObjectiveOnCUDA>::register_in(m); }

}  // namespace
}  // namespace vae_fused
