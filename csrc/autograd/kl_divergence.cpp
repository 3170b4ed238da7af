// The KL divergence between diagonal Gaussians.
#include "autograd/common.h"
#include "autograd/packed_moments.h"
#include "autograd/scale_form.h"

#include <ATen/ops/exp.h>
#include <ATen/ops/expm1.h>

namespace vae_fused {
namespace {

// The incoming gradient as a weight of every element of mu.
Tensor element_weight(const Tensor& grad, const Tensor& mu, std::string_view reduction) {
  if (reduction == "none") return grad;
  if (reduction == "batchmean") return grad / at::Scalar(mu.sym_size(0));
  if (reduction == "mean") return grad / at::Scalar(mu.sym_numel());
  return over_events(grad, mu);
}

Tensors<4> differentiable_backward(const Tensor& grad, const Tensor& mu, const Tensor& logvar,
                                   const OptionalTensor& prior_mu, const OptionalTensor& prior_logvar,
                                   std::string_view reduction, const OptionalTensor& mask, const ScaleForm& form) {
  const auto dtype = accumulation_type({&mu});
  const Tensor weight = masked(element_weight(grad.to(dtype), mu, reduction), mask);
  const DifferentiableScale scale = differentiable_scale(form, logvar.to(dtype));
  Tensor difference = mu.to(dtype), log_ratio = scale.logvar;
  if (present(prior_mu)) difference = difference - prior_mu->to(dtype);
  Tensor scaled = difference;
  if (present(prior_logvar)) {
    const Tensor prior = prior_logvar->to(dtype);
    log_ratio = log_ratio - prior;
    scaled = difference * at::exp(-prior);
  }
  const Tensor ratio_minus_one = present(prior_logvar) ? at::expm1(log_ratio) : scale.variance_minus_one;
  const Tensor to_mu = weight * scaled;
  const auto narrow = [&](const Tensor& gradient) { return gradient.to(mu.scalar_type()).expand_as(mu); };
  return {narrow(to_mu), narrow(0.5 * weight * ratio_minus_one * scale.logvar_slope), narrow(-to_mu),
          narrow(-0.5 * weight * (ratio_minus_one + difference * scaled))};
}

bool records_graph(const DivergenceArguments& a, const Tensor& grad = {}) {
  return vae_fused::records_graph({grad, a.mu, a.logvar, or_undefined(a.prior_mu), or_undefined(a.prior_logvar)});
}

Tensors<4> kl_divergence_backward_autograd(const Tensor& grad, std::array<bool, 4> output_mask,
                                           const DivergenceArguments& a) {
  if (!records_graph(a, grad)) {
    BelowAutograd guard;
    return ops::kl_divergence_backward(grad, output_mask, a);
  }
  auto [to_mu, to_logvar, to_prior_mu, to_prior_logvar] = differentiable_backward(
      grad, a.mu, a.logvar, a.prior_mu, a.prior_logvar, a.reduction, a.mask, scale_form(a.scale, a.mu.scalar_type()));
  const auto asked = [&](int index, const Tensor& gradient) { return output_mask[index] ? gradient : Tensor(); };
  return {asked(0, to_mu), asked(1, to_logvar), asked(2, present(a.prior_mu) ? to_prior_mu : Tensor()),
          asked(3, present(a.prior_logvar) ? to_prior_logvar : Tensor())};
}

struct KLDivergence : torch::autograd::Function<KLDivergence> {
  // Compiled autograd may trace the backward: it calls operators only.
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& mu, const Tensor& logvar, const OptionalTensor& prior_mu,
                        const OptionalTensor& prior_logvar, const DivergenceArguments& a) {
    ctx->save_for_backward({mu, logvar, or_undefined(prior_mu), or_undefined(prior_logvar), or_undefined(a.mask)});
    save_scale(ctx, a.scale);
    ctx->saved_data["reduction"] = std::string(a.reduction);
    BelowAutograd guard;
    return ops::kl_divergence({mu, logvar, prior_mu, prior_logvar, a.reduction, a.mask, a.scale});
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const std::string reduction = ctx->saved_data["reduction"].toStringRef();
    variable_list result(5);
    std::tie(result[0], result[1], result[2], result[3]) = ops::kl_divergence_backward(
        grads[0],
        {needs_gradient(ctx, saved, 0), needs_gradient(ctx, saved, 1), needs_gradient(ctx, saved, 2),
         needs_gradient(ctx, saved, 3)},
        {saved[0], saved[1], or_none(saved[2]), or_none(saved[3]), reduction, or_none(saved[4]), saved_scale(ctx)});
    return result;
  }
};

Tensor kl_divergence_autograd(const DivergenceArguments& a) {
  if (!records_graph(a)) {
    BelowAutograd guard;
    return ops::kl_divergence(a);
  }
  // Expanded here, so that autograd sums the gradient of a prior that is shared between elements.
  const auto expanded = [&](const OptionalTensor& prior) {
    return present(prior) ? OptionalTensor(prior->expand_symint(a.mu.sym_sizes())) : std::nullopt;
  };
  return KLDivergence::apply(a.mu, a.logvar, expanded(a.prior_mu), expanded(a.prior_logvar), a);
}

Tensors<2> packed_kl_divergence_backward_autograd(const Tensor& grad, const Tensor& moments,
                                                  const OptionalTensor& prior_moments, const Packing& packing,
                                                  const Packing& prior_packing, std::array<bool, 2> output_mask) {
  if (!vae_fused::records_graph({grad, moments, or_undefined(prior_moments)})) {
    BelowAutograd guard;
    return ops::packed_kl_divergence_backward(grad, moments, prior_moments, packing, prior_packing, output_mask);
  }
  const DifferentiableMoments parts = differentiable_moments(moments, packing);
  DifferentiableMoments prior{};
  if (present(prior_moments)) prior = differentiable_moments(*prior_moments, prior_packing);
  auto [to_mu, to_logvar, to_prior_mu, to_prior_logvar] = differentiable_backward(
      grad, parts.mu, parts.logvar, or_none(prior.mu), or_none(prior.logvar), "sample", std::nullopt, ScaleForm{});
  return {output_mask[0] ? parts.pack(to_mu, to_logvar) : Tensor(),
          output_mask[1] && present(prior_moments) ? prior.pack(to_prior_mu, to_prior_logvar) : Tensor()};
}

struct PackedKLDivergence : torch::autograd::Function<PackedKLDivergence> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& moments, const OptionalTensor& prior_moments,
                        const Packing& packing, const Packing& prior_packing) {
    ctx->save_for_backward({moments, or_undefined(prior_moments)});
    save_packing(ctx, "", packing);
    save_packing(ctx, "prior_", prior_packing);
    BelowAutograd guard;
    return ops::packed_kl_divergence(moments, prior_moments, packing, prior_packing);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    variable_list result(4);
    std::tie(result[0], result[1]) = ops::packed_kl_divergence_backward(
        grads[0], saved[0], or_none(saved[1]), saved_packing(ctx, ""), saved_packing(ctx, "prior_"),
        {needs_gradient(ctx, saved, 0), needs_gradient(ctx, saved, 1)});
    return result;
  }
};

Tensor packed_kl_divergence_autograd(const Tensor& moments, const OptionalTensor& prior_moments, const Packing& packing,
                                     const Packing& prior_packing) {
  if (!vae_fused::records_graph({moments, or_undefined(prior_moments)})) {
    BelowAutograd guard;
    return ops::packed_kl_divergence(moments, prior_moments, packing, prior_packing);
  }
  return PackedKLDivergence::apply(moments, prior_moments, packing, prior_packing);
}

TORCH_LIBRARY_IMPL(vae_fused, Autograd, m) {
  m.impl("kl_divergence", unpacked<&kl_divergence_autograd>);
  m.impl("kl_divergence_backward", unpacked<&kl_divergence_backward_autograd>);
  m.impl("packed_kl_divergence", unpacked<&packed_kl_divergence_autograd>);
  m.impl("packed_kl_divergence_backward", unpacked<&packed_kl_divergence_backward_autograd>);
}

}  // namespace
}  // namespace vae_fused
