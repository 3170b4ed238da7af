#include "kl_divergence_arguments.h"

#include "checks.h"
#include "operands.h"
#include "sampling.h"

namespace vae_fused {
namespace {

// What forward and backward share, without operands.
KLDivergenceParams params_of(const Gaussians& pair, Reduction reduction) {
  KLDivergenceParams p{};
  p.scale = pair.scale;
  p.prior_scale = pair.prior_scale;
  p.wide = pair.mu.scalar_type() == at::kDouble;
  p.numel = pair.mu.numel();
  p.item_numel = reduction == Reduction::kSample ? numel_per_item(pair.mu) : p.numel;
  return p;
}

}  // namespace

Gaussians checked_gaussians(const DivergenceArguments& a) {
  const Tensor& mu = a.mu;
  check_latent_pair(mu, a.logvar);
  check_prior("prior_mu", a.prior_mu, mu);
  check_prior("prior_logvar", a.prior_logvar, mu);
  check_mask(a.mask, mu);
  const auto expanded = [&](const std::optional<Tensor>& prior) {
    return present(prior) ? prior->expand_as(mu) : Tensor();
  };
  return {mu,
          a.logvar,
          expanded(a.prior_mu),
          expanded(a.prior_logvar),
          scale_form(a.scale, mu.scalar_type()),
          ScaleForm{},
          mask_operand(a.mask, mu)};
}

void check_divergence_gradient(const Tensor& grad, const Tensor& mu, Reduction reduction) {
  const auto shape = reduction == Reduction::kNone     ? mu.sizes()
                     : reduction == Reduction::kSample ? mu.sizes().slice(0, 1)
                                                       : at::IntArrayRef();
  check_gradient("grad", grad, shape, mu.device());
}

KLDivergenceParams divergence_params(const Gaussians& pair, Reduction reduction, const Tensor& elements) {
  KLDivergenceParams p = params_of(pair, reduction);
  p.extent = bind_operands(pair.mu.sizes(), Order::kMemory,
                           {{pair.mu, &p.mu},
                            {pair.logvar, &p.logvar},
                            {pair.prior_mu, &p.prior_mu},
                            {pair.prior_logvar, &p.prior_logvar},
                            {elements, &p.elements},
                            {pair.mask, &p.mask}});
  return p;
}

KLDivergenceParams divergence_backward_params(const Tensor& grad, const Gaussians& pair, Reduction reduction,
                                              const Gaussians& grads) {
  const Tensor& mu = pair.mu;
  const bool elementwise = reduction == Reduction::kNone;
  KLDivergenceParams p = params_of(pair, reduction);
  p.extent = bind_operands(mu.sizes(), Order::kMemory,
                           {{pair.mu, &p.mu},
                            {pair.logvar, &p.logvar},
                            {pair.prior_mu, &p.prior_mu},
                            {pair.prior_logvar, &p.prior_logvar},
                            {elementwise ? grad : Tensor(), &p.grad_elements},
                            {grads.mu, &p.grad_mu},
                            {grads.logvar, &p.grad_logvar},
                            {grads.prior_mu, &p.grad_prior_mu},
                            {grads.prior_logvar, &p.grad_prior_logvar},
                            {pair.mask, &p.mask}});
  if (!elementwise) p.weight = weight_of_gradient(grad, 1.0 / divisor(reduction, mu.size(0), mu.numel()));
  return p;
}

}  // namespace vae_fused
