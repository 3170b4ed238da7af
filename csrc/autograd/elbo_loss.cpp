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

// Those that the forward can compute: of recon, mu, logvar, kl and log_sigma.
std::array<bool, 5> wanted_gradients(const ObjectiveArguments& a) {
  const auto wanted = [](const OptionalTensor& input) { return present(input) && input->requires_grad(); };
  return {a.recon.requires_grad(), wanted(a.mu), wanted(a.logvar), wanted(a.kl), wanted(a.term.log_sigma)};
}

// A gradient buffer can be handed over only once and is corrected in place, which a traced graph cannot express; there,
// and where each item has its own incoming gradient, forward and backward are two passes.
bool gradients_in_forward(const ObjectiveArguments& a) {
  if (a.reduction == "sample" || c10::impl::dispatch_mode_enabled()) return false;
  const auto mask = wanted_gradients(a);
  if (std::none_of(mask.begin(), mask.end(), [](bool wanted) { return wanted; })) return false;
  return !at::isTensorSubclassLike(a.recon) && !at::isTensorSubclassLike(a.target);
}

// The inputs are saved in their order; a weight, which is none, follows.
constexpr size_t kWeight = kLogSigma + 1;

// Whose gradients the backward operator gives, in its order.
constexpr std::array<Input, 6> kComputed = {kRecon, kTarget, kMu, kLogvar, kKL, kLogSigma};

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
        std::array<Tensor, 5> gradients;
        std::tie(loss, terms->reconstruction, terms->kl, gradients[0], gradients[1], gradients[2], gradients[3],
                 gradients[4]) = ops::elbo_loss_with_gradients(wanted_gradients(arguments), arguments);
        for (size_t i = 0; i < gradients.size(); ++i) {
          if (gradients[i].defined()) ctx->saved_data[kBuffers[i].name] = gradients[i];
        }
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
    std::array<bool, kLogSigma + 1> missing{};
    for (const Input input : kComputed) missing[input] = needs_gradient(ctx, saved, input);

    // A batch of incoming gradients (is_grads_batched) does not fit into one buffer.
    if (!at::GradMode::is_enabled() && !at::isTensorSubclassLike(grad_loss)) {
      // Given away once: a second backward computes them again, because the first owner may have added into them.
      std::array<OptionalTensor, kBuffers.size()> gradients;
      bool any = false;
      for (size_t i = 0; i < kBuffers.size(); ++i) {
        const auto found = ctx->saved_data.find(kBuffers[i].name);
        if (!missing[kBuffers[i].of] || found == ctx->saved_data.end()) continue;
        gradients[i] = found->second.toTensor();
        ctx->saved_data.erase(found);
        any = true;
      }
      if (any) {
        ops::elbo_loss_backward_(grad_loss, gradients[0], gradients[1], gradients[2], gradients[3], gradients[4],
                                 arguments);
      }
      for (size_t i = 0; i < kBuffers.size(); ++i) {
        if (!gradients[i]) continue;
        const Input of = kBuffers[i].of;
        // That of a shared log_sigma is wide.
        result[of] = of == kLogSigma ? gradients[i]->to(saved[of].scalar_type()) : *gradients[i];
        missing[of] = false;
      }
    }
    if (std::any_of(missing.begin(), missing.end(), [](bool wanted) { return wanted; })) {
      auto [to_recon, to_target, to_mu, to_logvar, to_kl, to_log_sigma] = ops::elbo_loss_backward(
          grad_loss,
          {missing[kRecon], missing[kTarget], missing[kMu], missing[kLogvar], missing[kKL], missing[kLogSigma]},
          arguments);
      const std::array<Tensor, 6> computed = {to_recon, to_target, to_mu, to_logvar, to_kl, to_log_sigma};
      for (size_t i = 0; i < computed.size(); ++i) {
        if (missing[kComputed[i]]) result[kComputed[i]] = computed[i];
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
