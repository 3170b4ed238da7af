#include "cuda/kl_divergence.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "checks.h"
#include "cuda/device.h"
#include "operands.h"
#include "reduction.h"
#include "sampling.h"

namespace vae_fused {
namespace {

Tensor expanded(const std::optional<Tensor>& prior, const Tensor& mu) {
  return present(prior) ? prior->expand_as(mu) : Tensor();
}

Work work_of(const Tensor& mu, bool by_item) {
  return by_item ? Work(mu.size(0), numel_per_item(mu)) : Work(1, mu.numel());
}

Tensor kl_divergence_cuda(const Tensor& mu, const Tensor& logvar, const std::optional<Tensor>& prior_mu,
                          const std::optional<Tensor>& prior_logvar, std::string_view reduction_name) {
  check_latent_pair(mu, logvar);
  check_prior("prior_mu", prior_mu, mu);
  check_prior("prior_logvar", prior_logvar, mu);
  const Reduction reduction = parse_reduction(reduction_name, /*allow_none=*/true);
  const c10::DeviceGuard guard(mu.device());
  const auto options = mu.options().dtype(accumulation_type({&mu}));
  const bool elementwise = reduction == Reduction::kNone, by_item = reduction == Reduction::kSample;
  Tensor out = elementwise ? at::empty_like(mu, options)
               : by_item   ? at::empty({mu.size(0)}, options)
                           : at::empty({}, options);
  if (out.numel() == 0) return out;

  KLDivergenceParams p{};
  const Tensor prior_mean = expanded(prior_mu, mu), prior_logvariance = expanded(prior_logvar, mu);
  p.extent = bind_operands(mu.sizes(), Order::kMemory,
                           {{mu, &p.mu},
                            {logvar, &p.logvar},
                            {prior_mean, &p.prior_mu},
                            {prior_logvariance, &p.prior_logvar},
                            {elementwise ? out : Tensor(), &p.elements}});
  p.wide = mu.scalar_type() == at::kDouble;
  p.numel = mu.numel();
  const Work work = work_of(mu, by_item);
  p.item_numel = work.item_numel;

  Summation sum{};
  Tensor partials;
  HeldTicket held{};
  if (!elementwise) {
    sum.out = out.mutable_data_ptr();
    sum.wide = p.wide;
    sum.divisor = divisor(reduction, mu.size(0), mu.numel());
    if (work.pieces > 1) {
      partials = at::empty({work.units()}, mu.options().dtype(at::kDouble));
      held = next_ticket(mu);
      sum.partials = partials.mutable_data_ptr<double>();
      sum.ticket = held.ticket;
    }
  }
  launch_kl_divergence(p, work, sum, launch_site());
  check_launch();
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> kl_divergence_backward_cuda(
    const Tensor& grad, const Tensor& mu, const Tensor& logvar, const std::optional<Tensor>& prior_mu,
    const std::optional<Tensor>& prior_logvar, std::string_view reduction_name, std::array<bool, 4> output_mask) {
  check_latent_pair(mu, logvar);
  check_prior("prior_mu", prior_mu, mu);
  check_prior("prior_logvar", prior_logvar, mu);
  const Reduction reduction = parse_reduction(reduction_name, /*allow_none=*/true);
  const bool elementwise = reduction == Reduction::kNone, by_item = reduction == Reduction::kSample;
  check_gradient("grad", grad,
                 elementwise ? mu.sizes()
                 : by_item   ? mu.sizes().slice(0, 1)
                             : at::IntArrayRef(),
                 mu.device());
  const c10::DeviceGuard guard(mu.device());
  const std::array<Tensor, 4> inputs = {mu, logvar, expanded(prior_mu, mu), expanded(prior_logvar, mu)};
  std::array<Tensor, 4> grads;
  for (size_t i = 0; i < grads.size(); ++i) {
    if (output_mask[i] && inputs[i].defined()) grads[i] = at::empty_like(mu);
  }
  if (mu.numel() > 0) {
    KLDivergenceParams p{};
    p.extent = bind_operands(mu.sizes(), Order::kMemory,
                             {{mu, &p.mu},
                              {logvar, &p.logvar},
                              {inputs[2], &p.prior_mu},
                              {inputs[3], &p.prior_logvar},
                              {elementwise ? grad : Tensor(), &p.grad_elements},
                              {grads[0], &p.grad_mu},
                              {grads[1], &p.grad_logvar},
                              {grads[2], &p.grad_prior_mu},
                              {grads[3], &p.grad_prior_logvar}});
    p.wide = mu.scalar_type() == at::kDouble;
    p.numel = mu.numel();
    const Work work = work_of(mu, by_item);
    p.item_numel = work.item_numel;
    p.weight = elementwise ? Weight{} : weight_of_gradient(grad, 1.0 / divisor(reduction, mu.size(0), mu.numel()));
    launch_kl_divergence(p, work, Summation{}, launch_site());
    check_launch();
  }
  return {grads[0], grads[1], grads[2], grads[3]};
}

TORCH_LIBRARY_IMPL(vae_fused, CUDA, m) {
  m.impl("kl_divergence", &kl_divergence_cuda);
  m.impl("kl_divergence_backward", &kl_divergence_backward_cuda);
}

}  // namespace
}  // namespace vae_fused
