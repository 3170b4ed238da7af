#include <torch/library.h>

#include "argument_blocks.h"
#include "checks.h"
#include "cpu/allocate.h"
#include "cpu/parallel.h"
#include "cpu/scalar_access.h"
#include "kl_divergence_arguments.h"

namespace vae_fused {
namespace {

Tensor divergence_of(const Gaussians& pair, Reduction reduction) {
  const Tensor& mu = pair.mu;
  const auto dtype = accumulation_type({&mu});
  const bool elementwise = reduction == Reduction::kNone, by_item = reduction == Reduction::kSample;
  Tensor out = elementwise ? allocate_like(mu, dtype) : by_item ? allocate({mu.size(0)}, dtype) : allocate({}, dtype);

  KLDivergenceParams p = divergence_params(pair, reduction, elementwise ? out : Tensor());
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

Tensor kl_divergence_cpu(const DivergenceArguments& a) {
  const Gaussians pair = checked_gaussians(a);
  const Reduction reduction = parse_reduction(a.reduction, /*allow_none=*/true);
  return divergence_of(pair, reduction);
}

// Fills the gradients that are defined.
void fill_gradients(const Tensor& grad, const Gaussians& pair, Reduction reduction, const Gaussians& grads) {
  if (pair.mu.numel() == 0) return;
  KLDivergenceParams p = divergence_backward_params(grad, pair, reduction, grads);
  p.streamed = static_cast<int64_t>(pair.mu.nbytes()) > kStreamedBytes;
  const int64_t sums = reduction == Reduction::kSample ? pair.mu.size(0) : 1;
  run_tiles(kernels().kl_divergence, p, TilePlan(sums, p.item_numel), kGrainNoise);
}

Tensors<4> kl_divergence_backward_cpu(const Tensor& grad, std::array<bool, 4> output_mask,
                                      const DivergenceArguments& a) {
  const Gaussians pair = checked_gaussians(a);
  const Reduction reduction = parse_reduction(a.reduction, /*allow_none=*/true);
  check_divergence_gradient(grad, a.mu, reduction);
  const auto allocated = [&](int index, const Tensor& input) {
    return output_mask[index] && input.defined() ? allocate_like(a.mu) : Tensor();
  };
  const Gaussians grads{allocated(0, pair.mu), allocated(1, pair.logvar), allocated(2, pair.prior_mu),
                        allocated(3, pair.prior_logvar)};
  fill_gradients(grad, pair, reduction, grads);
  return {grads.mu, grads.logvar, grads.prior_mu, grads.prior_logvar};
}

Tensor packed_kl_divergence_cpu(const Tensor& moments, const std::optional<Tensor>& prior_moments, Packing packing,
                                Packing prior_packing) {
  const Gaussians pair = unpack(moments, prior_moments, packing, prior_packing);
  return divergence_of(pair, Reduction::kSample);
}

Tensors<2> packed_kl_divergence_backward_cpu(const Tensor& grad, const Tensor& moments,
                                             const std::optional<Tensor>& prior_moments, Packing packing,
                                             Packing prior_packing, std::array<bool, 2> output_mask) {
  const Gaussians pair = unpack(moments, prior_moments, packing, prior_packing);
  check_gradient("grad", grad, moments.sizes().slice(0, 1), moments.device());
  Tensor grad_moments, grad_prior_moments;
  if (output_mask[0]) grad_moments = allocate_like(moments);
  if (output_mask[1] && present(prior_moments)) grad_prior_moments = allocate_like(*prior_moments);
  const Halves half = halves_of(grad_moments, packing.dim);
  const Halves prior = halves_of(grad_prior_moments, prior_packing.dim);
  fill_gradients(grad, pair, Reduction::kSample, {half.mu, half.logvar, prior.mu, prior.logvar});
  return {grad_moments, grad_prior_moments};
}

TORCH_LIBRARY_IMPL(vae_fused, CPU, m) {
  m.impl("kl_divergence", unpacked<&kl_divergence_cpu>);
  m.impl("kl_divergence_backward", unpacked<&kl_divergence_backward_cpu>);
  m.impl("packed_kl_divergence", unpacked<&packed_kl_divergence_cpu>);
  m.impl("packed_kl_divergence_backward", unpacked<&packed_kl_divergence_backward_cpu>);
}

}  // namespace
}  // namespace vae_fused
