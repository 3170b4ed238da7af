// Reparameterized sampling with and without the KL. Backward keeps the key, not the noise.
#include "autograd/common.h"
#include "autograd/packed_moments.h"
#include "autograd/scale_form.h"

#include <ATen/ops/exp.h>
#include <ATen/ops/expm1.h>

namespace vae_fused {
namespace {

using ops::OptionalGenerator;

// grad_mu = sum_k g_k + w mu, grad_logvar = t (sum_k g_k eps_k) sigma' + w (sigma^2 - 1) (log sigma^2)' / 2 with t the
// temperature, w the KL's gradient times the mask, and the derivatives in what logvar holds.
Tensors<2> differentiable_backward(const OptionalTensor& grad_z, const OptionalTensor& grad_kl,
                                   const OptionalTensor& mu, const Tensor& logvar, const Tensor& key,
                                   std::optional<int64_t> num_samples, const OptionalTensor& mask,
                                   const ScaleForm& form, double temperature) {
  const auto dtype = accumulation_type({&logvar});
  const DifferentiableScale scale = differentiable_scale(form, logvar.to(dtype));
  Tensor grad_mu, grad_logvar;
  if (present(grad_z)) {
    c10::SymDimVector size(logvar.sym_sizes().begin(), logvar.sym_sizes().end());
    const bool samples_inside_items = num_samples && key.dim() == 2;
    if (num_samples) size.insert(size.begin() + (samples_inside_items ? 1 : 0), *num_samples);
    Tensor noise = ops::standard_normal(key, size, dtype);
    if (samples_inside_items) noise = noise.movedim(0, 1);
    const Tensor grad = grad_z->to(dtype);
    grad_mu = num_samples ? grad.sum(0) : grad;
    grad_logvar = temperature * (num_samples ? (grad * noise).sum(0) : grad * noise) * scale.sigma_slope;
  }
  if (present(grad_kl)) {
    const Tensor weight = masked(over_events(grad_kl->to(dtype), logvar), mask);
    const Tensor mu_of_kl = weight * mu->to(dtype);
    const Tensor logvar_of_kl = 0.5 * weight * scale.variance_minus_one * scale.logvar_slope;
    grad_mu = grad_mu.defined() ? grad_mu + mu_of_kl : mu_of_kl;
    grad_logvar = grad_logvar.defined() ? grad_logvar + logvar_of_kl : logvar_of_kl;
  }
  return {grad_mu.to(logvar.scalar_type()), grad_logvar.to(logvar.scalar_type())};
}

Tensors<2> reparameterize_backward_autograd(const OptionalTensor& grad_z, const OptionalTensor& grad_kl,
                                            const OptionalTensor& mu, const Tensor& logvar, const Tensor& key,
                                            std::optional<int64_t> num_samples, std::array<bool, 2> output_mask,
                                            const OptionalTensor& mask, const ScaleArguments& scale,
                                            double temperature) {
  if (!records_graph({or_undefined(grad_z), or_undefined(grad_kl), or_undefined(mu), logvar})) {
    BelowAutograd guard;
    return ops::reparameterize_backward(grad_z, grad_kl, mu, logvar, key, num_samples, output_mask, mask, scale,
                                        temperature);
  }
  auto [grad_mu, grad_logvar] = differentiable_backward(grad_z, grad_kl, mu, logvar, key, num_samples, mask,
                                                        scale_form(scale, logvar.scalar_type()), temperature);
  return {output_mask[0] ? grad_mu : Tensor(), output_mask[1] ? grad_logvar : Tensor()};
}

// What the KL and the sample take besides their operands.
struct Sampling {
  OptionalTensor mask;
  ScaleArguments scale;
  double temperature = 1.0;
};

// The outputs are z and, with_kl, kl. Without a given key, drawn_key receives the one that was drawn: a result that is
// no output, because autograd has nothing to know of it.
struct Reparameterize : torch::autograd::Function<Reparameterize> {
  // Compiled autograd may trace the backward: it calls operators only.
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* ctx, const Tensor& mu, const Tensor& logvar,
                               const OptionalTensor& given_key, const OptionalGenerator& generator,
                               std::optional<int64_t> num_samples, bool with_kl, const Sampling& sampling,
                               Tensor* drawn_key) {
    const auto& [mask, scale, temperature] = sampling;
    Tensor z, kl, key = or_undefined(given_key);
    {
      BelowAutograd guard;
      if (with_kl && given_key.has_value()) {
        std::tie(z, kl) = ops::reparameterize_with_kl(mu, logvar, key, mask, scale);
      } else if (with_kl) {
        std::tie(z, kl, key) = ops::reparameterize_with_kl_generator(mu, logvar, generator, mask, scale);
      } else if (given_key.has_value()) {
        z = ops::reparameterize(mu, logvar, key, num_samples, scale, temperature);
      } else {
        std::tie(z, key) = ops::reparameterize_generator(mu, logvar, generator, num_samples, scale, temperature);
      }
    }
    if (drawn_key != nullptr) *drawn_key = key;
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({with_kl ? mu : Tensor(), logvar, key, or_undefined(mask)});
    save_scale(ctx, scale);
    if (temperature != 1.0) ctx->saved_data["temperature"] = temperature;
    ctx->saved_data["num_samples"] = num_samples;
    ctx->saved_data["with_kl"] = with_kl;
    return with_kl ? variable_list{z, kl} : variable_list{z};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor grad_kl = ctx->saved_data["with_kl"].toBool() ? grads[1] : Tensor();
    const auto temperature = ctx->saved_data.find("temperature");
    variable_list result(8);
    if (!grads[0].defined() && !grad_kl.defined()) return result;
    std::tie(result[0], result[1]) = ops::reparameterize_backward(
        or_none(grads[0]), or_none(grad_kl), grad_kl.defined() ? OptionalTensor(saved[0]) : std::nullopt, saved[1],
        saved[2], ctx->saved_data["num_samples"].toOptional<int64_t>(),
        {ctx->needs_input_grad(0), ctx->needs_input_grad(1)}, or_none(saved[3]), saved_scale(ctx),
        temperature == ctx->saved_data.end() ? 1.0 : temperature->second.toDouble());
    return result;
  }
};

constexpr std::optional<int64_t> kOneSample = std::nullopt;

Tensor reparameterize_autograd(const Tensor& mu, const Tensor& logvar, const Tensor& key,
                               std::optional<int64_t> num_samples, const ScaleArguments& scale, double temperature) {
  return Reparameterize::apply(mu, logvar, OptionalTensor(key), OptionalGenerator(), num_samples, false,
                               Sampling{std::nullopt, scale, temperature}, nullptr)[0];
}

Tensors<2> reparameterize_generator_autograd(const Tensor& mu, const Tensor& logvar, OptionalGenerator generator,
                                             std::optional<int64_t> num_samples, const ScaleArguments& scale,
                                             double temperature) {
  Tensor key;
  auto outputs = Reparameterize::apply(mu, logvar, OptionalTensor(), generator, num_samples, false,
                                       Sampling{std::nullopt, scale, temperature}, &key);
  return {outputs[0], key};
}

Tensors<2> reparameterize_with_kl_autograd(const Tensor& mu, const Tensor& logvar, const Tensor& key,
                                           const OptionalTensor& mask, const ScaleArguments& scale) {
  auto outputs = Reparameterize::apply(mu, logvar, OptionalTensor(key), OptionalGenerator(), kOneSample, true,
                                       Sampling{mask, scale}, nullptr);
  return {outputs[0], outputs[1]};
}

Tensors<3> reparameterize_with_kl_generator_autograd(const Tensor& mu, const Tensor& logvar,
                                                     OptionalGenerator generator, const OptionalTensor& mask,
                                                     const ScaleArguments& scale) {
  Tensor key;
  auto outputs =
      Reparameterize::apply(mu, logvar, OptionalTensor(), generator, kOneSample, true, Sampling{mask, scale}, &key);
  return {outputs[0], outputs[1], key};
}

Tensor packed_reparameterize_backward_autograd(const OptionalTensor& grad_z, const OptionalTensor& grad_kl,
                                               const Tensor& moments, const Tensor& key, const Packing& packing) {
  if (!records_graph({or_undefined(grad_z), or_undefined(grad_kl), moments})) {
    BelowAutograd guard;
    return ops::packed_reparameterize_backward(grad_z, grad_kl, moments, key, packing);
  }
  const DifferentiableMoments parts = differentiable_moments(moments, packing);
  auto [grad_mu, grad_logvar] =
      differentiable_backward(grad_z, grad_kl, parts.mu, parts.logvar, key, kOneSample, std::nullopt, ScaleForm{}, 1.0);
  return parts.pack(grad_mu, grad_logvar);
}

// The outputs are z and kl; drawn_key as above.
struct PackedReparameterize : torch::autograd::Function<PackedReparameterize> {
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* ctx, const Tensor& moments, const OptionalTensor& given_key,
                               const OptionalGenerator& generator, const Packing& packing, Tensor* drawn_key) {
    Tensor z, kl, key = or_undefined(given_key);
    {
      BelowAutograd guard;
      if (given_key.has_value()) {
        std::tie(z, kl) = ops::packed_reparameterize_with_kl(moments, key, packing);
      } else {
        std::tie(z, kl, key) = ops::packed_reparameterize_with_kl_generator(moments, packing, generator);
      }
    }
    if (drawn_key != nullptr) *drawn_key = key;
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({moments, key});
    save_packing(ctx, "", packing);
    return {z, kl};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list result(5);
    if (!grads[0].defined() && !grads[1].defined()) return result;
    const auto saved = ctx->get_saved_variables();
    result[0] = ops::packed_reparameterize_backward(or_none(grads[0]), or_none(grads[1]), saved[0], saved[1],
                                                    saved_packing(ctx, ""));
    return result;
  }
};

Tensors<2> packed_reparameterize_with_kl_autograd(const Tensor& moments, const Tensor& key, const Packing& packing) {
  auto outputs = PackedReparameterize::apply(moments, OptionalTensor(key), OptionalGenerator(), packing, nullptr);
  return {outputs[0], outputs[1]};
}

Tensors<3> packed_reparameterize_with_kl_generator_autograd(const Tensor& moments, const Packing& packing,
                                                            OptionalGenerator generator) {
  Tensor key;
  auto outputs = PackedReparameterize::apply(moments, OptionalTensor(), generator, packing, &key);
  return {outputs[0], outputs[1], key};
}

TORCH_LIBRARY_IMPL(vae_fused, Autograd, m) {
  m.impl("reparameterize", unpacked<&reparameterize_autograd>);
  m.impl("reparameterize.generator", unpacked<&reparameterize_generator_autograd>);
  m.impl("reparameterize_with_kl", unpacked<&reparameterize_with_kl_autograd>);
  m.impl("reparameterize_with_kl.generator", unpacked<&reparameterize_with_kl_generator_autograd>);
  m.impl("reparameterize_backward", unpacked<&reparameterize_backward_autograd>);
  m.impl("packed_reparameterize_with_kl", unpacked<&packed_reparameterize_with_kl_autograd>);
  m.impl("packed_reparameterize_with_kl.generator", unpacked<&packed_reparameterize_with_kl_generator_autograd>);
  m.impl("packed_reparameterize_backward", unpacked<&packed_reparameterize_backward_autograd>);
}

}  // namespace
}  // namespace vae_fused
