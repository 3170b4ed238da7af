#include "cuda/kl_divergence.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "argument_blocks.h"
#include "checks.h"
#include "cuda/device.h"
#include "kl_divergence_arguments.h"

namespace vae_fused {
namespace {

Tensor divergence_of(const Gaussians& pair, Reduction reduction) {
  const Tensor& mu = pair.mu;
  const auto options = mu.options().dtype(accumulation_type({&mu}));
  const bool elementwise = reduction == Reduction::kNone, by_item = reduction == Reduction::kSample;
  Tensor out = elementwise ? at::empty_like(mu, options)
               : by_item   ? at::empty({mu.size(0)}, options)
                           : at::empty({}, options);
  if (out.numel() == 0) return out;

  KLDivergenceParams p = divergence_params(pair, reduction, elementwise ? out : Tensor());
  const Work work(by_item ? mu.size(0) : 1, p.item_numel);

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

Tensor kl_divergence_cuda(const DivergenceArguments& a) {
  const Gaussians pair = checked_gaussians(a);
  const Reduction reduction = parse_reduction(a.reduction, /*allow_none=*/true);
  const c10::DeviceGuard guard(a.mu.device());
  return divergence_of(pair, reduction);
}

// Fills the gradients that are defined.
void fill_gradients(const Tensor& grad, const Gaussians& pair, Reduction reduction, const Gaussians& grads) {
  if (pair.mu.numel() == 0) return;
  const KLDivergenceParams p = divergence_backward_params(grad, pair, reduction, grads);
  const Work work(reduction == Reduction::kSample ? pair.mu.size(0) : 1, p.item_numel);
  launch_kl_divergence(p, work, Summation{}, launch_site());
  check_launch();
}

Tensors<4> kl_divergence_backward_cuda(const Tensor& grad, std::array<bool, 4> output_mask,
                                       const DivergenceArguments& a) {
  const Gaussians pair = checked_gaussians(a);
  const Reduction reduction = parse_reduction(a.reduction, /*allow_none=*/true);
  check_divergence_gradient(grad, a.mu, reduction);
  const c10::DeviceGuard guard(a.mu.device());
  const auto allocated = [&](int index, const Tensor& input) {
    return output_mask[index] && input.defined() ? at::empty_like(a.mu) : Tensor();
  };
  const Gaussians grads{allocated(0, pair.mu), allocated(1, pair.logvar), allocated(2, pair.prior_mu),
                        allocated(3, pair.prior_logvar)};
  fill_gradients(grad, pair, reduction, grads);
  return {grads.mu, grads.logvar, grads.prior_mu, grads.prior_logvar};
}

Tensor packed_kl_divergence_cuda(const Tensor& moments, const std::optional<Tensor>& prior_moments, Packing packing,
                                 Packing prior_packing) {
  const Gaussians pair = unpack(moments, prior_moments, packing, prior_packing);
  const c10::DeviceGuard guard(moments.device());
  return divergence_of(pair, Reduction::kSample);
}

Tensors<2> packed_kl_divergence_backward_cuda(const Tensor& grad, const Tensor& moments,
                                              const std::optional<Tensor>& prior_moments, Packing packing,
                                              Packing prior_packing, std::array<bool, 2> output_mask) {
  const Gaussians pair = unpack(moments, prior_moments, packing, prior_packing);
  check_gradient("grad", grad, moments.sizes().slice(0, 1), moments.device());
  const c10::DeviceGuard guard(moments.device());
  Tensor grad_moments, grad_prior_moments;
  if (output_mask[0]) grad_moments = at::empty_like(moments);
  if (output_mask[1] && present(prior_moments)) grad_prior_moments = at::empty_like(*prior_moments);
  const Halves half = halves_of(grad_moments, packing.dim);
  const Halves prior = halves_of(grad_prior_moments, prior_packing.dim);
  fill_gradients(grad, pair, Reduction::kSample, {half.mu, half.logvar, prior.mu, prior.logvar});
  return {grad_moments, grad_prior_moments};
}

TORCH_LIBRARY_IMPL(vae_fused, CUDA, m) {
  m.impl("kl_divergence", unpacked<&kl_divergence_cuda>);
  m.impl("kl_divergence_backward", unpacked<&kl_divergence_backward_cuda>);
  m.impl("packed_kl_divergence", unpacked<&packed_kl_divergence_cuda>);
  m.impl("packed_kl_divergence_backward", unpacked<&packed_kl_divergence_backward_cuda>);
}

}  // namespace
}  // namespace vae_fused
