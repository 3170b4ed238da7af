// The operators that sample a posterior, once for the kernels of every kind of device. A Device has
//   Guard                      works on the device of a tensor until it goes out of scope
//   like, empty                memory for a result; samples_like, for one sample of mu or several
//   streams                    whether kernels write past the caches what is as large as a tensor
//   Source                     where a kernel finds its key: given(key), or drawn(generator, mu, samples), with the key
//   sample, fill_gradients     run the kernels
#pragma once

#include <torch/library.h>

#include "argument_blocks.h"
#include "checks.h"
#include "operands.h"
#include "packed_moments.h"
#include "sampling.h"
#include "scale_form.h"

namespace vae_fused {

template <class Device>
struct SamplingOperators {
  using Guard = typename Device::Guard;
  using Source = typename Device::Source;
  using OptionalTensor = std::optional<Tensor>;
  using OptionalGenerator = std::optional<at::Generator>;

  static Tensor reparameterize(const Tensor& mu, const Tensor& logvar, const Tensor& key,
                               std::optional<int64_t> num_samples, const ScaleArguments& scale, double temperature) {
    const Guard guard(mu.device());
    const ScaleForm form = checked_scale(mu, logvar, num_samples, scale, temperature);
    check_key_for(key, mu.size(0), mu.device());
    const Tensor contiguous_key = key.contiguous();
    Tensor z = Device::samples_like(mu, num_samples);
    sample(mu, logvar, Device::given(contiguous_key), num_samples, z, Tensor(), form, temperature);
    return z;
  }

  static Tensors<2> reparameterize_generator(const Tensor& mu, const Tensor& logvar, OptionalGenerator generator,
                                             std::optional<int64_t> num_samples, const ScaleArguments& scale,
                                             double temperature) {
    const Guard guard(mu.device());
    const ScaleForm form = checked_scale(mu, logvar, num_samples, scale, temperature);
    check_generator(generator, mu.device());
    const auto [key, source] = Device::drawn(generator, mu, num_samples.value_or(1));
    Tensor z = Device::samples_like(mu, num_samples);
    sample(mu, logvar, source, num_samples, z, Tensor(), form, temperature);
    return {z, key};
  }

  static Tensors<2> reparameterize_with_kl(const Tensor& mu, const Tensor& logvar, const Tensor& key,
                                           const OptionalTensor& mask, const ScaleArguments& scale) {
    const Guard guard(mu.device());
    const ScaleForm form = checked_scale(mu, logvar, mask, scale);
    check_key_for(key, mu.size(0), mu.device());
    const Tensor contiguous_key = key.contiguous();
    Tensor z = Device::like(mu), kl = empty_kl(mu);
    sample(mu, logvar, Device::given(contiguous_key), kOneSample, z, kl, form, 1.0, mask_operand(mask, mu));
    return {z, kl};
  }

  static Tensors<3> reparameterize_with_kl_generator(const Tensor& mu, const Tensor& logvar,
                                                     OptionalGenerator generator, const OptionalTensor& mask,
                                                     const ScaleArguments& scale) {
    const Guard guard(mu.device());
    const ScaleForm form = checked_scale(mu, logvar, mask, scale);
    check_generator(generator, mu.device());
    const auto [key, source] = Device::drawn(generator, mu, 1);
    Tensor z = Device::like(mu), kl = empty_kl(mu);
    sample(mu, logvar, source, kOneSample, z, kl, form, 1.0, mask_operand(mask, mu));
    return {z, kl, key};
  }

  static Tensors<2> reparameterize_backward(const OptionalTensor& grad_z, const OptionalTensor& grad_kl,
                                            const OptionalTensor& mu, const Tensor& logvar, const Tensor& key,
                                            std::optional<int64_t> num_samples, std::array<bool, 2> output_mask,
                                            const OptionalTensor& mask, const ScaleArguments& scale,
                                            double temperature) {
    const Guard guard(logvar.device());
    check_reparameterize_backward(grad_z, grad_kl, mu, logvar, key, num_samples);
    check_mask(mask, logvar);
    const ScaleForm form = scale_form(scale, logvar.scalar_type());
    check_temperature(temperature);
    Tensor grad_mu, grad_logvar;
    if (output_mask[0]) grad_mu = Device::like(logvar);
    if (output_mask[1]) grad_logvar = Device::like(logvar);
    fill_gradients(grad_z, grad_kl, mu.value_or(Tensor()), logvar, key, num_samples, grad_mu, grad_logvar, form,
                   temperature, mask_operand(mask, logvar));
    return {grad_mu, grad_logvar};
  }

  static Tensors<2> packed_reparameterize_with_kl(const Tensor& moments, const Tensor& key, Packing packing) {
    const Guard guard(moments.device());
    check_moments("moments", moments, packing);
    check_key_for(key, moments.size(0), moments.device());
    const Tensor contiguous_key = key.contiguous();
    const Halves half = halves_of(moments, packing.dim);
    Tensor z = Device::like(half.mu), kl = empty_kl(moments);
    sample(half.mu, half.logvar, Device::given(contiguous_key), kOneSample, z, kl,
           clamp_of(packing, moments.scalar_type()));
    return {z, kl};
  }

  static Tensors<3> packed_reparameterize_with_kl_generator(const Tensor& moments, Packing packing,
                                                            OptionalGenerator generator) {
    const Guard guard(moments.device());
    check_moments("moments", moments, packing);
    check_generator(generator, moments.device());
    const Halves half = halves_of(moments, packing.dim);
    const auto [key, source] = Device::drawn(generator, half.mu, 1);
    Tensor z = Device::like(half.mu), kl = empty_kl(moments);
    sample(half.mu, half.logvar, source, kOneSample, z, kl, clamp_of(packing, moments.scalar_type()));
    return {z, kl, key};
  }

  static Tensor packed_reparameterize_backward(const OptionalTensor& grad_z, const OptionalTensor& grad_kl,
                                               const Tensor& moments, const Tensor& key, Packing packing) {
    const Guard guard(moments.device());
    check_moments("moments", moments, packing);
    const Halves half = halves_of(moments, packing.dim);
    check_reparameterize_backward(grad_z, grad_kl, half.mu, half.logvar, key, kOneSample);
    Tensor grad_moments = Device::like(moments);
    const Halves grad = halves_of(grad_moments, packing.dim);
    fill_gradients(grad_z, grad_kl, half.mu, half.logvar, key, kOneSample, grad.mu, grad.logvar,
                   clamp_of(packing, moments.scalar_type()));
    return grad_moments;
  }

  static void register_in(torch::Library& m) {
    m.impl("reparameterize", unpacked<&reparameterize>);
    m.impl("reparameterize.generator", unpacked<&reparameterize_generator>);
    m.impl("reparameterize_with_kl", unpacked<&reparameterize_with_kl>);
    m.impl("reparameterize_with_kl.generator", unpacked<&reparameterize_with_kl_generator>);
    m.impl("reparameterize_backward", unpacked<&reparameterize_backward>);
    m.impl("packed_reparameterize_with_kl", unpacked<&packed_reparameterize_with_kl>);
    m.impl("packed_reparameterize_with_kl.generator", unpacked<&packed_reparameterize_with_kl_generator>);
    m.impl("packed_reparameterize_backward", unpacked<&packed_reparameterize_backward>);
  }

 private:
  static constexpr std::optional<int64_t> kOneSample = std::nullopt;

  static ScaleForm checked_scale(const Tensor& mu, const Tensor& logvar, std::optional<int64_t> num_samples,
                                 const ScaleArguments& scale, double temperature) {
    check_latent_pair(mu, logvar);
    check_num_samples(num_samples);
    const ScaleForm form = scale_form(scale, mu.scalar_type());
    check_temperature(temperature);
    return form;
  }

  static ScaleForm checked_scale(const Tensor& mu, const Tensor& logvar, const OptionalTensor& mask,
                                 const ScaleArguments& scale) {
    check_latent_pair(mu, logvar);
    check_mask(mask, mu);
    return scale_form(scale, mu.scalar_type());
  }

  static Tensor empty_kl(const Tensor& mu) { return Device::empty({mu.size(0)}, accumulation_type({&mu}), mu); }

  // Fills z, and where kl is defined [B] the KL of every item.
  static void sample(const Tensor& mu, const Tensor& logvar, const Source& source, std::optional<int64_t> num_samples,
                     const Tensor& z, const Tensor& kl, const ScaleForm& scale, double temperature = 1.0,
                     const Tensor& mask = {}) {
    if (mu.numel() == 0) {
      if (kl.defined()) kl.zero_();
      return;
    }
    ReparameterizeParams p{};
    p.extent = bind_operands(mu.sizes(), Order::kLogical,
                             {{mu, &p.mu}, {logvar, &p.logvar}, {first_sample(z, num_samples), &p.z}, {mask, &p.mask}});
    p.scale = scale;
    p.temperature = temperature;
    p.wide = mu.scalar_type() == at::kDouble;
    p.streamed = Device::streams(z);
    p.numel = mu.numel();
    p.item_numel = numel_per_item(mu);
    p.num_samples = num_samples.value_or(1);
    p.sample_stride = mu.numel();
    Device::sample(p, source, mu, kl);
  }

  // Fills the gradients that are defined; mu is only looked at where the KL has a gradient.
  static void fill_gradients(const OptionalTensor& grad_z, const OptionalTensor& grad_kl, const Tensor& mu,
                             const Tensor& logvar, const Tensor& key, std::optional<int64_t> num_samples,
                             const Tensor& grad_mu, const Tensor& grad_logvar, const ScaleForm& scale,
                             double temperature = 1.0, const Tensor& mask = {}) {
    if (logvar.numel() == 0) return;
    if (!present(grad_z) && !present(grad_kl)) {
      if (grad_mu.defined()) grad_mu.zero_();
      if (grad_logvar.defined()) grad_logvar.zero_();
      return;
    }
    const Tensor contiguous_key = key.contiguous();
    // A gradient over samples may be expanded or permuted over them: only its samples have to lie at one stride.
    const Tensor grad_sample = present(grad_z) ? first_sample(*grad_z, num_samples) : Tensor();
    ReparameterizeBackwardParams p{};
    p.key = noise_key(contiguous_key);
    p.has_kl = present(grad_kl);
    p.extent = bind_operands(logvar.sizes(), Order::kLogical,
                             {{logvar, &p.logvar},
                              {grad_sample, &p.grad_z},
                              {p.has_kl ? mu : Tensor(), &p.mu},
                              {grad_mu, &p.grad_mu},
                              {grad_logvar, &p.grad_logvar},
                              {p.has_kl ? mask : Tensor(), &p.mask}});
    p.scale = scale;
    p.temperature = temperature;
    p.wide = logvar.scalar_type() == at::kDouble;
    p.streamed = Device::streams(logvar);
    p.numel = logvar.numel();
    p.item_numel = numel_per_item(logvar);
    p.num_samples = num_samples.value_or(1);
    p.sample_stride = num_samples && grad_sample.defined() ? grad_z->stride(0) : 0;
    if (p.has_kl) p.grad_kl = weight_of_gradient(*grad_kl, 1.0);
    Device::fill_gradients(p, logvar, /*by_item=*/p.has_kl || p.key.per_item);
  }
};

}  // namespace vae_fused
