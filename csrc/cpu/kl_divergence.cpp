#include <torch/library.h>

#include "checks.h"
#include "cpu/allocate.h"
#include "cpu/parallel.h"
#include "cpu/scalar_access.h"
#include "operands.h"
#include "reduction.h"
#include "sampling.h"

namespace vae_fused {
namespace {

Tensor expanded(const std::optional<Tensor>& prior, const Tensor& mu) {
  return present(prior) ? prior->expand_as(mu) : Tensor();
}

Tensor kl_divergence_cpu(const Tensor& mu, const Tensor& logvar, const std::optional<Tensor>& prior_mu,
                         const std::optional<Tensor>& prior_logvar, std::string_view reduction_name) {
  check_latent_pair(mu, logvar);
  check_prior("prior_mu", prior_mu, mu);
  check_prior("prior_logvar", prior_logvar, mu);
  const Reduction reduction = parse_reduction(reduction_name, /*allow_none=*/true);
  const auto dtype = accumulation_type({&mu});
  const bool elementwise = reduction == Reduction::kNone, by_item = reduction == Reduction::kSample;
  Tensor out = elementwise ? allocate_like(mu, dtype) : by_item ? allocate({mu.size(0)}, dtype) : allocate({}, dtype);

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
  p.item_numel = by_item ? numel_per_item(mu) : p.numel;
  const TilePlan plan(by_item ? mu.size(0) : 1, p.item_numel);
  Partials partials(elementwise ? 0 : plan.partials(), 0.0);
  p.partials = elementwise ? nullptr : partials.data();
  run_tiles(kernels().kl_divergence, p, plan, kGrainNoise);
  if (elementwise) return out;
  const double scale = divisor(reduction, mu.size(0), mu.numel());
  for (int64_t i = 0; i < out.numel(); ++i) {
    write_number(out, i, sum_of(partials.data() + i * plan.pieces, plan.pieces) / scale);
  }
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> kl_divergence_backward_cpu(
    const Tensor& grad, const Tensor& mu, const Tensor& logvar, const std::optional<Tensor>& prior_mu,
    const std::optional<Tensor>& prior_logvar, std::string_view reduction_name, std::array<bool, 4> output_mask) {
  check_latent_pair(mu, logvar);
  check_prior("prior_mu", prior_mu, mu);
  check_prior("prior_logvar", prior_logvar, mu);
  const Reduction reduction = parse_reduction(reduction_name, /*allow_none=*/true);
  const bool elementwise = reduction == Reduction::kNone, by_item = reduction == Reduction::kSample;
  const int64_t batch = mu.size(0);
  check_gradient("grad", grad,
                 elementwise ? mu.sizes()
                 : by_item   ? mu.sizes().slice(0, 1)
                             : at::IntArrayRef(),
                 mu.device());
  const std::array<Tensor, 4> inputs = {mu, logvar, expanded(prior_mu, mu), expanded(prior_logvar, mu)};
  std::array<Tensor, 4> grads;
  for (size_t i = 0; i < grads.size(); ++i) {
    if (output_mask[i] && inputs[i].defined()) grads[i] = allocate_like(mu);
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
    p.streamed = static_cast<int64_t>(mu.nbytes()) > kStreamedBytes;
    p.numel = mu.numel();
    p.item_numel = by_item ? numel_per_item(mu) : p.numel;
    p.weight = elementwise ? Weight{} : weight_of_gradient(grad, 1.0 / divisor(reduction, batch, mu.numel()));
    run_tiles(kernels().kl_divergence, p, TilePlan(by_item ? batch : 1, p.item_numel), kGrainNoise);
  }
  return {grads[0], grads[1], grads[2], grads[3]};
}

TORCH_LIBRARY_IMPL(vae_fused, CPU, m) {
  m.impl("kl_divergence", &kl_divergence_cpu);
  m.impl("kl_divergence_backward", &kl_divergence_backward_cpu);
}

}  // namespace
}  // namespace vae_fused
