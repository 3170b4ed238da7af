#include "cuda/reparameterize.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "argument_blocks.h"
#include "checks.h"
#include "cuda/device.h"
#include "operands.h"
#include "packed_moments.h"
#include "sampling.h"
#include "scale_form.h"

namespace vae_fused {
namespace {

KeySource given_key(const Tensor& contiguous_key) {
  KeySource source{};
  source.given = noise_key(contiguous_key);
  return source;
}

// The key that will be drawn [2], and where from. Nothing is drawn for an empty tensor, whose key is (0, 0).
std::pair<Tensor, KeySource> drawn_key(const std::optional<at::Generator>& generator, const Tensor& mu,
                                       int64_t num_samples) {
  const auto options = mu.options().dtype(at::kUInt64);
  if (mu.numel() == 0) return {at::zeros({2}, options), KeySource{}};
  Tensor key = at::empty({2}, options);
  const int lanes = mu.scalar_type() == at::kDouble ? 2 : 4;
  return {key, reserve_noise(generator, num_samples * mu.numel(), lanes, key)};
}

// Fills z, and where kl is defined [B] the KL of every item.
void sample(const Tensor& mu, const Tensor& logvar, const KeySource& source, std::optional<int64_t> num_samples,
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
  p.numel = mu.numel();
  p.item_numel = numel_per_item(mu);
  p.num_samples = num_samples.value_or(1);
  p.sample_stride = mu.numel();

  const bool by_item = kl.defined() || source.given.per_item;
  const Work work = by_item ? Work(mu.size(0), p.item_numel) : Work(1, p.numel);
  Summation sum{};
  Tensor partials;
  HeldTicket held{};
  if (kl.defined()) {
    sum.out = kl.mutable_data_ptr();
    sum.wide = p.wide;
    sum.divisor = 1.0;
    if (work.pieces > 1) {
      partials = at::empty({work.units()}, mu.options().dtype(at::kDouble));
      held = next_ticket(mu);
      sum.partials = partials.mutable_data_ptr<double>();
      sum.ticket = held.ticket;
    }
  }
  launch_reparameterize(p, source, work, sum, launch_site());
  check_launch();
}

Tensor empty_kl(const Tensor& mu) { return at::empty({mu.size(0)}, mu.options().dtype(accumulation_type({&mu}))); }

Tensor reparameterize_cuda(const Tensor& mu, const Tensor& logvar, const Tensor& key,
                           std::optional<int64_t> num_samples, const ScaleArguments& scale_arguments,
                           double temperature) {
  check_latent_pair(mu, logvar);
  check_num_samples(num_samples);
  const ScaleForm scale = scale_form(scale_arguments, mu.scalar_type());
  check_temperature(temperature);
  check_key_for(key, mu.size(0), mu.device());
  const c10::DeviceGuard guard(mu.device());
  const Tensor contiguous_key = key.contiguous();
  Tensor z = empty_samples(mu, num_samples);
  sample(mu, logvar, given_key(contiguous_key), num_samples, z, Tensor(), scale, temperature);
  return z;
}

Tensors<2> reparameterize_generator_cuda(const Tensor& mu, const Tensor& logvar, std::optional<at::Generator> generator,
                                         std::optional<int64_t> num_samples, const ScaleArguments& scale_arguments,
                                         double temperature) {
  check_latent_pair(mu, logvar);
  check_num_samples(num_samples);
  const ScaleForm scale = scale_form(scale_arguments, mu.scalar_type());
  check_temperature(temperature);
  const c10::DeviceGuard guard(mu.device());
  const auto [key, source] = drawn_key(generator, mu, num_samples.value_or(1));
  Tensor z = empty_samples(mu, num_samples);
  sample(mu, logvar, source, num_samples, z, Tensor(), scale, temperature);
  return {z, key};
}

Tensors<2> reparameterize_with_kl_cuda(const Tensor& mu, const Tensor& logvar, const Tensor& key,
                                       const std::optional<Tensor>& mask, const ScaleArguments& scale_arguments) {
  check_latent_pair(mu, logvar);
  check_mask(mask, mu);
  const ScaleForm scale = scale_form(scale_arguments, mu.scalar_type());
  check_key_for(key, mu.size(0), mu.device());
  const c10::DeviceGuard guard(mu.device());
  const Tensor contiguous_key = key.contiguous();
  Tensor z = at::empty_like(mu), kl = empty_kl(mu);
  sample(mu, logvar, given_key(contiguous_key), std::nullopt, z, kl, scale, 1.0, mask_operand(mask, mu));
  return {z, kl};
}

Tensors<3> reparameterize_with_kl_generator_cuda(const Tensor& mu, const Tensor& logvar,
                                                 std::optional<at::Generator> generator,
                                                 const std::optional<Tensor>& mask,
                                                 const ScaleArguments& scale_arguments) {
  check_latent_pair(mu, logvar);
  check_mask(mask, mu);
  const ScaleForm scale = scale_form(scale_arguments, mu.scalar_type());
  const c10::DeviceGuard guard(mu.device());
  const auto [key, source] = drawn_key(generator, mu, 1);
  Tensor z = at::empty_like(mu), kl = empty_kl(mu);
  sample(mu, logvar, source, std::nullopt, z, kl, scale, 1.0, mask_operand(mask, mu));
  return {z, kl, key};
}

// Fills the gradients that are defined; mu is only looked at where the KL has a gradient.
void fill_gradients(const std::optional<Tensor>& grad_z, const std::optional<Tensor>& grad_kl, const Tensor& mu,
                    const Tensor& logvar, const Tensor& key, std::optional<int64_t> num_samples, const Tensor& grad_mu,
                    const Tensor& grad_logvar, const ScaleForm& scale, double temperature = 1.0,
                    const Tensor& mask = {}) {
  if (logvar.numel() == 0) return;
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
  p.numel = logvar.numel();
  p.item_numel = numel_per_item(logvar);
  p.num_samples = num_samples.value_or(1);
  p.sample_stride = num_samples && grad_sample.defined() ? grad_z->stride(0) : 0;
  if (p.has_kl) p.grad_kl = weight_of_gradient(*grad_kl, 1.0);

  const bool by_item = p.has_kl || p.key.per_item;
  launch_reparameterize_backward(p, by_item ? Work(logvar.size(0), p.item_numel) : Work(1, p.numel), launch_site());
  check_launch();
}

Tensors<2> reparameterize_backward_cuda(const std::optional<Tensor>& grad_z, const std::optional<Tensor>& grad_kl,
                                        const std::optional<Tensor>& mu, const Tensor& logvar, const Tensor& key,
                                        std::optional<int64_t> num_samples, std::array<bool, 2> output_mask,
                                        const std::optional<Tensor>& mask, const ScaleArguments& scale_arguments,
                                        double temperature) {
  check_reparameterize_backward(grad_z, grad_kl, mu, logvar, key, num_samples);
  check_mask(mask, logvar);
  const ScaleForm scale = scale_form(scale_arguments, logvar.scalar_type());
  check_temperature(temperature);
  const c10::DeviceGuard guard(logvar.device());
  Tensor grad_mu, grad_logvar;
  if (output_mask[0]) grad_mu = at::empty_like(logvar);
  if (output_mask[1]) grad_logvar = at::empty_like(logvar);
  fill_gradients(grad_z, grad_kl, mu.value_or(Tensor()), logvar, key, num_samples, grad_mu, grad_logvar, scale,
                 temperature, mask_operand(mask, logvar));
  return {grad_mu, grad_logvar};
}

Tensors<2> packed_reparameterize_with_kl_cuda(const Tensor& moments, const Tensor& key, Packing packing) {
  check_moments("moments", moments, packing);
  check_key_for(key, moments.size(0), moments.device());
  const c10::DeviceGuard guard(moments.device());
  const Halves half = halves_of(moments, packing.dim);
  const Tensor contiguous_key = key.contiguous();
  Tensor z = at::empty_like(half.mu), kl = empty_kl(moments);
  sample(half.mu, half.logvar, given_key(contiguous_key), std::nullopt, z, kl,
         clamp_of(packing, moments.scalar_type()));
  return {z, kl};
}

Tensors<3> packed_reparameterize_with_kl_generator_cuda(const Tensor& moments, Packing packing,
                                                        std::optional<at::Generator> generator) {
  check_moments("moments", moments, packing);
  const c10::DeviceGuard guard(moments.device());
  const Halves half = halves_of(moments, packing.dim);
  const auto [key, source] = drawn_key(generator, half.mu, 1);
  Tensor z = at::empty_like(half.mu), kl = empty_kl(moments);
  sample(half.mu, half.logvar, source, std::nullopt, z, kl, clamp_of(packing, moments.scalar_type()));
  return {z, kl, key};
}

Tensor packed_reparameterize_backward_cuda(const std::optional<Tensor>& grad_z, const std::optional<Tensor>& grad_kl,
                                           const Tensor& moments, const Tensor& key, Packing packing) {
  check_moments("moments", moments, packing);
  const Halves half = halves_of(moments, packing.dim);
  check_reparameterize_backward(grad_z, grad_kl, half.mu, half.logvar, key, std::nullopt);
  const c10::DeviceGuard guard(moments.device());
  Tensor grad_moments = at::empty_like(moments);
  const Halves grad = halves_of(grad_moments, packing.dim);
  fill_gradients(grad_z, grad_kl, half.mu, half.logvar, key, std::nullopt, grad.mu, grad.logvar,
                 clamp_of(packing, moments.scalar_type()));
  return grad_moments;
}

TORCH_LIBRARY_IMPL(vae_fused, CUDA, m) {
  m.impl("reparameterize", unpacked<&reparameterize_cuda>);
  m.impl("reparameterize.generator", unpacked<&reparameterize_generator_cuda>);
  m.impl("reparameterize_with_kl", unpacked<&reparameterize_with_kl_cuda>);
  m.impl("reparameterize_with_kl.generator", unpacked<&reparameterize_with_kl_generator_cuda>);
  m.impl("reparameterize_backward", unpacked<&reparameterize_backward_cuda>);
  m.impl("packed_reparameterize_with_kl", unpacked<&packed_reparameterize_with_kl_cuda>);
  m.impl("packed_reparameterize_with_kl.generator", unpacked<&packed_reparameterize_with_kl_generator_cuda>);
  m.impl("packed_reparameterize_backward", unpacked<&packed_reparameterize_backward_cuda>);
}

}  // namespace
}  // namespace vae_fused
