// The objective. Its gradients are computed in the forward, where the data is read anyway, for an incoming gradient of
// 1; the backward hands the buffers over, corrected on the device if the incoming gradient turns out to be another
// number.
#include "autograd/elbo_loss.h"

#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/ops/expm1.h>
#include <ATen/ops/scalar_tensor.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>

#include <algorithm>
#include <array>

namespace vae_fused {
namespace {

// 1 / divisor of a term, over the elements of one of its tensors.
Tensor term_weight(const Tensor& grad_loss, const Tensor& term, std::string_view reduction) {
  if (reduction == "batchmean") return grad_loss / at::Scalar(term.sym_size(0));
  if (reduction == "mean") return grad_loss / at::Scalar(term.sym_numel());
  return over_events(grad_loss, term);
}

Tensor beta_of(double beta, const OptionalTensor& beta_tensor, const Tensor& like) {
  return present(beta_tensor) ? beta_tensor->to(like.options()) : at::scalar_tensor(beta, like.options());
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> differentiable_backward(const Tensor& grad_loss,
                                                                           const ObjectiveArguments& a) {
  const Tensor weighted = grad_loss * beta_of(a.beta, a.beta_tensor, grad_loss);
  const auto data_type = accumulation_type({&a.recon, &a.target});
  Tensor target = a.target.to(data_type);
  if (a.target.scalar_type() == at::kByte) target = target * a.target_scale + a.target_shift;
  const Tensor to_recon =
      2.0 * term_weight(grad_loss, a.recon, a.reduction).to(data_type) * (a.recon.to(data_type) - target);
  const Tensor to_target = a.target.is_floating_point() ? (-to_recon).to(a.target.scalar_type()) : Tensor();
  Tensor to_mu, to_logvar, to_kl;
  if (present(a.kl)) {
    to_kl = term_weight(weighted, *a.kl, a.reduction).to(a.kl->scalar_type()).expand_as(*a.kl);
  } else {
    const auto latent_type = accumulation_type({&*a.mu});
    const Tensor weight = term_weight(weighted, *a.mu, a.reduction).to(latent_type);
    to_mu = (weight * a.mu->to(latent_type)).to(a.mu->scalar_type());
    to_logvar = (0.5 * weight * at::expm1(a.logvar->to(latent_type))).to(a.mu->scalar_type());
  }
  return {to_recon.to(a.recon.scalar_type()), to_target, to_mu, to_logvar, to_kl};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_backward_autograd(
    const Tensor& grad_loss, const Tensor& recon, const Tensor& target, const OptionalTensor& mu,
    const OptionalTensor& logvar, const OptionalTensor& kl, double beta, const OptionalTensor& beta_tensor,
    std::string_view recon_loss, std::string_view reduction, std::array<bool, 5> output_mask, double target_scale,
    double target_shift) {
  const ObjectiveArguments arguments{recon,       target,     mu,        logvar,       kl,          beta,
                                     beta_tensor, recon_loss, reduction, target_scale, target_shift};
  if (!records_graph({grad_loss, recon, target, or_undefined(mu), or_undefined(logvar), or_undefined(kl),
                      or_undefined(beta_tensor)})) {
    BelowAutograd guard;
    return ops::elbo_loss_backward(grad_loss, arguments, output_mask);
  }
  auto [to_recon, to_target, to_mu, to_logvar, to_kl] = differentiable_backward(grad_loss, arguments);
  const auto asked = [&](int index, const Tensor& gradient) { return output_mask[index] ? gradient : Tensor(); };
  return {asked(0, to_recon), asked(1, to_target), asked(2, to_mu), asked(3, to_logvar), asked(4, to_kl)};
}

// A gradient buffer can be handed over only once and is corrected in place, which a traced graph cannot express; there,
// and where each item has its own incoming gradient, forward and backward are two passes.
bool gradients_in_forward(const ObjectiveArguments& a) {
  if (a.reduction == "sample" || c10::impl::dispatch_mode_enabled()) return false;
  const auto wanted = [](const OptionalTensor& input) { return present(input) && input->requires_grad(); };
  if (!a.recon.requires_grad() && !wanted(a.mu) && !wanted(a.logvar)) return false;
  return !at::isTensorSubclassLike(a.recon) && !at::isTensorSubclassLike(a.target);
}

enum Input { kRecon, kTarget, kMu, kLogvar, kKL, kBetaTensor };

struct ElboLoss : torch::autograd::Function<ElboLoss> {
  // Compiled autograd may trace the backward: it calls operators only.
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& recon, const Tensor& target, const OptionalTensor& mu,
                        const OptionalTensor& logvar, const OptionalTensor& kl, const OptionalTensor& beta_tensor,
                        const ObjectiveArguments& arguments, DetachedTerms* terms) {
    Tensor loss;
    {
      BelowAutograd guard;
      if (gradients_in_forward(arguments)) {
        Tensor grad_recon, grad_mu, grad_logvar;
        std::tie(loss, terms->reconstruction, terms->kl, grad_recon, grad_mu, grad_logvar) =
            ops::elbo_loss_with_gradients(arguments, {recon.requires_grad(), present(mu) && mu->requires_grad(),
                                                      present(logvar) && logvar->requires_grad()});
        // One entry each: compiled autograd lifts single tensors out of saved_data, but not lists of them.
        ctx->saved_data["grad_recon"] = grad_recon;
        ctx->saved_data["grad_mu"] = grad_mu;
        ctx->saved_data["grad_logvar"] = grad_logvar;
      } else {
        std::tie(loss, terms->reconstruction, terms->kl) = ops::elbo_loss(arguments);
      }
    }
    ctx->save_for_backward(
        {recon, target, or_undefined(mu), or_undefined(logvar), or_undefined(kl), or_undefined(beta_tensor)});
    ctx->saved_data["beta"] = arguments.beta;
    ctx->saved_data["recon_loss"] = std::string(arguments.recon_loss);
    ctx->saved_data["reduction"] = std::string(arguments.reduction);
    ctx->saved_data["target_scale"] = arguments.target_scale;
    ctx->saved_data["target_shift"] = arguments.target_shift;
    ctx->set_materialize_grads(false);
    return loss;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list result(8);
    const Tensor& grad_loss = grads[0];
    if (!grad_loss.defined()) return result;
    const auto saved = ctx->get_saved_variables();
    const std::string recon_loss = ctx->saved_data["recon_loss"].toStringRef();
    const std::string reduction = ctx->saved_data["reduction"].toStringRef();
    const OptionalTensor mu = or_none(saved[kMu]), logvar = or_none(saved[kLogvar]), kl = or_none(saved[kKL]),
                         beta_tensor = or_none(saved[kBetaTensor]);
    const ObjectiveArguments arguments{saved[kRecon],
                                       saved[kTarget],
                                       mu,
                                       logvar,
                                       kl,
                                       ctx->saved_data["beta"].toDouble(),
                                       beta_tensor,
                                       recon_loss,
                                       reduction,
                                       ctx->saved_data["target_scale"].toDouble(),
                                       ctx->saved_data["target_shift"].toDouble()};
    std::array<bool, 5> missing;
    for (int i = 0; i < 5; ++i) missing[i] = needs_gradient(ctx, saved, i);

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
      ops::elbo_loss_backward_(grad_loss, arguments, or_none(gradients[0]), or_none(gradients[1]),
                               or_none(gradients[2]));
      const auto hand_over = [&](Input input, const Tensor& gradient) {
        if (missing[input] && gradient.defined()) {
          result[input] = gradient;
          missing[input] = false;
        }
      };
      hand_over(kRecon, gradients[0]);
      hand_over(kMu, gradients[1]);
      hand_over(kLogvar, gradients[2]);
    }
    if (std::any_of(missing.begin(), missing.end(), [](bool wanted) { return wanted; })) {
      auto [to_recon, to_target, to_mu, to_logvar, to_kl] = ops::elbo_loss_backward(grad_loss, arguments, missing);
      const std::array<Tensor, 5> computed = {to_recon, to_target, to_mu, to_logvar, to_kl};
      for (int i = 0; i < 5; ++i) {
        if (missing[i]) result[i] = computed[i];
      }
    }
    if (needs_gradient(ctx, saved, kBetaTensor)) {
      result[kBetaTensor] = gradient_of_beta(grad_loss, mu, logvar, kl, beta_tensor, reduction);
    }
    return result;
  }
};

std::tuple<Tensor, Tensor, Tensor> elbo_loss_autograd(const Tensor& recon, const Tensor& target,
                                                      const OptionalTensor& mu, const OptionalTensor& logvar,
                                                      const OptionalTensor& kl, double beta,
                                                      const OptionalTensor& beta_tensor, std::string_view recon_loss,
                                                      std::string_view reduction, double target_scale,
                                                      double target_shift) {
  const ObjectiveArguments arguments{recon,       target,     mu,        logvar,       kl,          beta,
                                     beta_tensor, recon_loss, reduction, target_scale, target_shift};
  if (!records_graph(
          {recon, target, or_undefined(mu), or_undefined(logvar), or_undefined(kl), or_undefined(beta_tensor)})) {
    BelowAutograd guard;
    return ops::elbo_loss(arguments);
  }
  DetachedTerms terms;
  const Tensor loss = ElboLoss::apply(recon, target, mu, logvar, kl, beta_tensor, arguments, &terms);
  return {loss, terms.reconstruction, terms.kl};
}

TORCH_LIBRARY_IMPL(vae_fused, Autograd, m) {
  m.impl("elbo_loss", &elbo_loss_autograd);
  m.impl("elbo_loss_backward", &elbo_loss_backward_autograd);
  // Not for differentiation: the first is called inside the Function, the second on its buffers. They refuse loudly.
  m.impl("elbo_loss_with_gradients", torch::autograd::autogradNotImplementedFallback());
  m.impl("elbo_loss_backward_", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace
}  // namespace vae_fused
