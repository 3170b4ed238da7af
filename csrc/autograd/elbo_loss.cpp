// The objective. Its gradients are computed in the forward, where the data is read anyway, for an incoming gradient of
// 1; the backward hands the buffers over, corrected on the device if the incoming gradient turns out to be another
// number.
#include "autograd/elbo_loss.h"

#include <ATen/TensorSubclassLikeUtils.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>

#include <algorithm>
#include <array>

namespace vae_fused {
namespace {

// A gradient buffer can be handed over only once and is corrected in place, which a traced graph cannot express; there,
// and where each item has its own incoming gradient, forward and backward are two passes.
bool gradients_in_forward(const ObjectiveArguments& a) {
  if (a.reduction == "sample" || c10::impl::dispatch_mode_enabled()) return false;
  const auto wanted = [](const OptionalTensor& input) { return present(input) && input->requires_grad(); };
  if (!a.recon.requires_grad() && !wanted(a.mu) && !wanted(a.logvar) && !wanted(a.term.log_sigma)) return false;
  return !at::isTensorSubclassLike(a.recon) && !at::isTensorSubclassLike(a.target);
}

// The inputs of the Function in their order, which is that in which they are saved; a weight, which is none, is last.
enum Input { kRecon, kTarget, kMu, kLogvar, kKL, kBetaTensor, kLogSigma, kWeight };

struct ElboLoss : torch::autograd::Function<ElboLoss> {
  // Compiled autograd may trace the backward: it calls operators only.
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& recon, const Tensor& target, const OptionalTensor& mu,
                        const OptionalTensor& logvar, const OptionalTensor& kl, const OptionalTensor& beta_tensor,
                        const OptionalTensor& log_sigma, const ObjectiveArguments& arguments, DetachedTerms* terms) {
    Tensor loss;
    {
      BelowAutograd guard;
      if (gradients_in_forward(arguments)) {
        const auto wanted = [](const OptionalTensor& input) { return present(input) && input->requires_grad(); };
        Tensor grad_recon, grad_mu, grad_logvar, grad_log_sigma;
        std::tie(loss, terms->reconstruction, terms->kl, grad_recon, grad_mu, grad_logvar, grad_log_sigma) =
            ops::elbo_loss_with_gradients({recon.requires_grad(), wanted(mu), wanted(logvar), wanted(log_sigma)},
                                          arguments);
        // One entry each: compiled autograd lifts single tensors out of saved_data, but not lists of them.
        ctx->saved_data["grad_recon"] = grad_recon;
        ctx->saved_data["grad_mu"] = grad_mu;
        ctx->saved_data["grad_logvar"] = grad_logvar;
        if (grad_log_sigma.defined()) ctx->saved_data["grad_log_sigma"] = grad_log_sigma;
      } else {
        std::tie(loss, terms->reconstruction, terms->kl) = ops::elbo_loss(arguments);
      }
    }
    ctx->save_for_backward({recon, target, or_undefined(mu), or_undefined(logvar), or_undefined(kl),
                            or_undefined(beta_tensor), or_undefined(log_sigma), or_undefined(arguments.term.weight)});
    save_settings(ctx, arguments);
    ctx->set_materialize_grads(false);
    return loss;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list result(9);
    const Tensor& grad_loss = grads[0];
    if (!grad_loss.defined()) return result;
    const auto saved = ctx->get_saved_variables();
    const SavedSettings settings(ctx);
    const OptionalTensor mu = or_none(saved[kMu]), logvar = or_none(saved[kLogvar]), kl = or_none(saved[kKL]),
                         beta_tensor = or_none(saved[kBetaTensor]);
    const ObjectiveArguments arguments{saved[kRecon],
                                       saved[kTarget],
                                       mu,
                                       logvar,
                                       kl,
                                       settings.beta,
                                       beta_tensor,
                                       settings.recon_loss,
                                       settings.reduction,
                                       settings.target_scale,
                                       settings.target_shift,
                                       settings.term(or_none(saved[kWeight]), or_none(saved[kLogSigma]))};
    // The gradients that the backward operator gives, in its order.
    constexpr std::array<Input, 6> kComputed = {kRecon, kTarget, kMu, kLogvar, kKL, kLogSigma};
    std::array<bool, 6> missing;
    for (size_t i = 0; i < missing.size(); ++i) missing[i] = needs_gradient(ctx, saved, kComputed[i]);

    // A batch of incoming gradients (is_grads_batched) does not fit into one buffer.
    if (ctx->saved_data.count("grad_recon") != 0 && !at::GradMode::is_enabled() &&
        !at::isTensorSubclassLike(grad_loss)) {
      // Given away once: a second backward computes them again, because the first owner may have added into them.
      const auto take = [&](const char* name) {
        const Tensor gradient = ctx->saved_data[name].toTensor();
        ctx->saved_data.erase(name);
        return gradient;
      };
      const std::array<Tensor, 3> gradients = {take("grad_recon"), take("grad_mu"), take("grad_logvar")};
      const Tensor to_log_sigma = ctx->saved_data.count("grad_log_sigma") != 0 ? take("grad_log_sigma") : Tensor();
      const bool of_elements = to_log_sigma.defined() && saved[kLogSigma].numel() != 1 &&
                               saved[kLogSigma].sym_sizes() == saved[kRecon].sym_sizes();
      ops::elbo_loss_backward_(grad_loss, or_none(gradients[0]), or_none(gradients[1]), or_none(gradients[2]),
                               of_elements ? OptionalTensor(to_log_sigma) : std::nullopt, arguments);
      const auto hand_over = [&](size_t index, const Tensor& gradient) {
        if (missing[index] && gradient.defined()) {
          result[kComputed[index]] = gradient;
          missing[index] = false;
        }
      };
      hand_over(0, gradients[0]);
      hand_over(2, gradients[1]);
      hand_over(3, gradients[2]);
      hand_over(5, of_elements || !to_log_sigma.defined()
                       ? to_log_sigma
                       : scaled_log_sigma_gradient(to_log_sigma, grad_loss, saved[kLogSigma]));
    }
    if (std::any_of(missing.begin(), missing.end(), [](bool wanted) { return wanted; })) {
      auto [to_recon, to_target, to_mu, to_logvar, to_kl, to_log_sigma] =
          ops::elbo_loss_backward(grad_loss, missing, arguments);
      const std::array<Tensor, 6> computed = {to_recon, to_target, to_mu, to_logvar, to_kl, to_log_sigma};
      for (size_t i = 0; i < missing.size(); ++i) {
        if (missing[i]) result[kComputed[i]] = computed[i];
      }
    }
    if (needs_gradient(ctx, saved, kBetaTensor)) {
      result[kBetaTensor] = gradient_of_beta(grad_loss, mu, logvar, kl, beta_tensor, settings.reduction);
    }
    return result;
  }
};

Tensors<3> elbo_loss_autograd(const ObjectiveArguments& a) {
  if (!records_graph(a)) {
    BelowAutograd guard;
    return ops::elbo_loss(a);
  }
  DetachedTerms terms;
  const Tensor loss =
      ElboLoss::apply(a.recon, a.target, a.mu, a.logvar, a.kl, a.beta_tensor, a.term.log_sigma, a, &terms);
  return {loss, terms.reconstruction, terms.kl};
}

TORCH_LIBRARY_IMPL(vae_fused, Autograd, m) {
  m.impl("elbo_loss", unpacked<&elbo_loss_autograd>);
  // Not for differentiation: the first is called inside the Function, the second on its buffers. They refuse loudly.
  m.impl("elbo_loss_with_gradients", torch::autograd::autogradNotImplementedFallback());
  m.impl("elbo_loss_backward_", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace
}  // namespace vae_fused
