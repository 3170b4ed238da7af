// The backward of the objective: one fused kernel, or, where it is differentiated in turn, ATen operators.
#include <ATen/ExpandUtils.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/expm1.h>
#include <ATen/ops/log.h>
#include <ATen/ops/log1p.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/sign.h>

#include "autograd/elbo_loss.h"

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

// The derivatives of one element of the reconstruction term; core/reconstruction_terms.h has the formulas.
struct Derivatives {
  Tensor to_recon, to_target, to_log_sigma;
};

Derivatives derivatives(ReconLoss loss, const Tensor& recon, const Tensor& target, const Tensor& log_sigma,
                        double smooth_l1_beta) {
  const auto of_difference = [](const Tensor& slope) { return Derivatives{slope, -slope, Tensor()}; };
  switch (loss) {
    case ReconLoss::kMSE: return of_difference(2.0 * (recon - target));
    case ReconLoss::kL1: return of_difference(at::sign(recon - target));
    case ReconLoss::kSmoothL1: return of_difference(((recon - target) / smooth_l1_beta).clamp(-1.0, 1.0));
    case ReconLoss::kBCEWithLogits: return {at::sigmoid(recon) - target, (-recon).expand_as(target), Tensor()};
    case ReconLoss::kBCE:
      return {(recon - target) / (recon * (1.0 - recon)).clamp_min(1e-12),
              at::log1p(-recon).clamp_min(-100.0) - at::log(recon).clamp_min(-100.0), Tensor()};
    default: break;
  }
  const Tensor difference = recon - target;
  // No difference is no error, however small sigma is: 0 times an infinite 1 / sigma would be NaN.
  const double largest = difference.scalar_type() == at::kDouble ? 709.0 : 88.0;
  const Tensor lost = (difference == 0.0).logical_and(-log_sigma > largest);
  const Tensor inverse_sigma = at::exp((-log_sigma).masked_fill(lost, largest));
  const bool gaussian = loss == ReconLoss::kGaussianNLL;
  const Tensor direction = gaussian ? difference * inverse_sigma : at::sign(difference);
  const Tensor slope = direction * inverse_sigma;
  return {slope, -slope, 1.0 - direction * difference * inverse_sigma};
}

// The gradients of recon, target and log_sigma for the gradient that every element of the term has.
Derivatives reconstruction_gradients(const Tensor& grad_loss, const ObjectiveArguments& a) {
  const ReconLoss loss = parse_recon_loss(a.recon_loss);
  const Tensor given_sigma = or_undefined(a.term.log_sigma);
  const Tensor weight = or_undefined(a.term.weight);
  const auto type = accumulation_type({&a.recon, &a.target, &given_sigma, &weight});
  Tensor target = a.target.to(type);
  if (a.target.scalar_type() == at::kByte) target = target * a.target_scale + a.target_shift;
  Tensor log_sigma = given_sigma.defined() ? given_sigma.to(type) : Tensor();
  if (a.term.log_sigma_value) log_sigma = at::scalar_tensor(*a.term.log_sigma_value, target.options());
  const Derivatives of = derivatives(loss, a.recon.to(type), target, log_sigma, a.term.smooth_l1_beta);

  Tensor factor = term_weight(grad_loss, a.recon, a.reduction).to(type);
  if (a.term.recon_weight != 1.0) factor = factor * a.term.recon_weight;
  if (weight.defined()) factor = factor * weight.to(type);
  return {(factor * of.to_recon).to(a.recon.scalar_type()),
          a.target.is_floating_point() ? (factor * of.to_target).to(a.target.scalar_type()) : Tensor(),
          given_sigma.defined() ? at::sum_to((factor * of.to_log_sigma).expand_as(a.recon), given_sigma.sym_sizes())
                                      .to(given_sigma.scalar_type())
                                : Tensor()};
}

Tensors<6> differentiable_backward(const Tensor& grad_loss, const ObjectiveArguments& a) {
  const auto [to_recon, to_target, to_log_sigma] = reconstruction_gradients(grad_loss, a);
  const Tensor weighted = grad_loss * beta_of(a.beta, a.beta_tensor, grad_loss);
  Tensor to_mu, to_logvar, to_kl;
  if (present(a.kl)) {
    to_kl = term_weight(weighted, *a.kl, a.reduction).to(a.kl->scalar_type()).expand_as(*a.kl);
  } else {
    const auto latent_type = accumulation_type({&*a.mu});
    const Tensor weight = term_weight(weighted, *a.mu, a.reduction).to(latent_type);
    to_mu = (weight * a.mu->to(latent_type)).to(a.mu->scalar_type());
    to_logvar = (0.5 * weight * at::expm1(a.logvar->to(latent_type))).to(a.mu->scalar_type());
  }
  return {to_recon, to_target, to_mu, to_logvar, to_kl, to_log_sigma};
}

Tensors<6> elbo_loss_backward_autograd(const Tensor& grad_loss, std::array<bool, 6> output_mask,
                                       const ObjectiveArguments& a) {
  if (!records_graph(a, grad_loss)) {
    BelowAutograd guard;
    return ops::elbo_loss_backward(grad_loss, output_mask, a);
  }
  auto [to_recon, to_target, to_mu, to_logvar, to_kl, to_log_sigma] = differentiable_backward(grad_loss, a);
  const auto asked = [&](int index, const Tensor& gradient) { return output_mask[index] ? gradient : Tensor(); };
  return {asked(0, to_recon),  asked(1, to_target), asked(2, to_mu),
          asked(3, to_logvar), asked(4, to_kl),     asked(5, to_log_sigma)};
}

TORCH_LIBRARY_IMPL(vae_fused, Autograd, m) { m.impl("elbo_loss_backward", unpacked<&elbo_loss_backward_autograd>); }

}  // namespace
}  // namespace vae_fused
