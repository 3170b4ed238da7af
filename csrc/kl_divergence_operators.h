// The operators of the KL divergence, once for the kernels of every kind of device. A Device has
//   Guard                      works on the device of a tensor until it goes out of scope
//   like, empty                memory for a result
//   streams                    whether kernels write past the caches what is as large as a tensor
//   sum, run                   run the kernel with sums, each divided by a number, or without
#pragma once

#include <torch/library.h>

#include "argument_blocks.h"
#include "checks.h"
#include "kl_divergence_arguments.h"

namespace vae_fused {

template <class Device>
struct KLDivergenceOperators {
  using Guard = typename Device::Guard;
  using OptionalTensor = std::optional<Tensor>;

  static Tensor kl_divergence(const DivergenceArguments& a) {
    const Guard guard(a.mu.device());
    const Gaussians pair = checked_gaussians(a);
    return divergence_of(pair, parse_reduction(a.reduction, /*allow_none=*/true));
  }

  static Tensors<4> kl_divergence_backward(const Tensor& grad, std::array<bool, 4> output_mask,
                                           const DivergenceArguments& a) {
    const Guard guard(a.mu.device());
    const Gaussians pair = checked_gaussians(a);
    const Reduction reduction = parse_reduction(a.reduction, /*allow_none=*/true);
    check_divergence_gradient(grad, a.mu, reduction);
    const auto like_if = [&](int index, const Tensor& input) {
      return output_mask[index] && input.defined() ? Device::like(a.mu) : Tensor();
    };
    const Gaussians grads{like_if(0, pair.mu), like_if(1, pair.logvar), like_if(2, pair.prior_mu),
                          like_if(3, pair.prior_logvar)};
    fill_gradients(grad, pair, reduction, grads);
    return {grads.mu, grads.logvar, grads.prior_mu, grads.prior_logvar};
  }

  static Tensor packed_kl_divergence(const Tensor& moments, const OptionalTensor& prior_moments, Packing packing,
                                     Packing prior_packing) {
    const Guard guard(moments.device());
    return divergence_of(unpack(moments, prior_moments, packing, prior_packing), Reduction::kSample);
  }

  static Tensors<2> packed_kl_divergence_backward(const Tensor& grad, const Tensor& moments,
                                                  const OptionalTensor& prior_moments, Packing packing,
                                                  Packing prior_packing, std::array<bool, 2> output_mask) {
    const Guard guard(moments.device());
    const Gaussians pair = unpack(moments, prior_moments, packing, prior_packing);
    check_gradient("grad", grad, moments.sizes().slice(0, 1), moments.device());
    Tensor grad_moments, grad_prior_moments;
    if (output_mask[0]) grad_moments = Device::like(moments);
    if (output_mask[1] && present(prior_moments)) grad_prior_moments = Device::like(*prior_moments);
    const Halves half = halves_of(grad_moments, packing.dim);
    const Halves prior = halves_of(grad_prior_moments, prior_packing.dim);
    fill_gradients(grad, pair, Reduction::kSample, {half.mu, half.logvar, prior.mu, prior.logvar});
    return {grad_moments, grad_prior_moments};
  }

  static void register_in(torch::Library& m) {
    m.impl("kl_divergence", unpacked<&kl_divergence>);
    m.impl("kl_divergence_backward", unpacked<&kl_divergence_backward>);
    m.impl("packed_kl_divergence", unpacked<&packed_kl_divergence>);
    m.impl("packed_kl_divergence_backward", unpacked<&packed_kl_divergence_backward>);
  }

 private:
  static Tensor divergence_of(const Gaussians& pair, Reduction reduction) {
    const Tensor& mu = pair.mu;
    const auto type = accumulation_type({&mu});
    const bool elementwise = reduction == Reduction::kNone, by_item = reduction == Reduction::kSample;
    Tensor out = elementwise ? Device::like(mu, type)
                 : by_item   ? Device::empty({mu.size(0)}, type, mu)
                             : Device::empty({}, type, mu);
    if (out.numel() == 0) return out;
    KLDivergenceParams p = divergence_params(pair, reduction, elementwise ? out : Tensor());
    if (elementwise) {
      Device::run(p, 1);
    } else {
      Device::sum(p, out, divisor(reduction, mu.size(0), mu.numel()));
    }
    return out;
  }

  // Fills the gradients that are defined.
  static void fill_gradients(const Tensor& grad, const Gaussians& pair, Reduction reduction, const Gaussians& grads) {
    if (pair.mu.numel() == 0) return;
    KLDivergenceParams p = divergence_backward_params(grad, pair, reduction, grads);
    p.streamed = Device::streams(pair.mu);
    Device::run(p, reduction == Reduction::kSample ? pair.mu.size(0) : 1);
  }
};

}  // namespace vae_fused
