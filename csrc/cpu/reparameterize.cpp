#include <ATen/CPUGeneratorImpl.h>
#include <torch/library.h>

#include <mutex>

#include "argument_blocks.h"
#include "checks.h"
#include "cpu/allocate.h"
#include "cpu/parallel.h"
#include "cpu/scalar_access.h"
#include "operands.h"
#include "packed_moments.h"
#include "sampling.h"
#include "scale_form.h"

namespace vae_fused {
namespace {

// One 64-bit draw is the seed; every sample of this call then comes from the key (seed, 0), on any number of threads.
Tensor draw_key(const std::optional<at::Generator>& generator) {
  Tensor key = allocate({2}, at::kUInt64);
  auto* words = static_cast<uint64_t*>(key.mutable_data_ptr());
  auto* source = at::get_generator_or_default<at::CPUGeneratorImpl>(generator, at::detail::getDefaultCPUGenerator());
  std::lock_guard<std::mutex> lock(source->mutex_);
  words[0] = source->random64();
  words[1] = 0;
  return key;
}

void check_generator(const std::optional<at::Generator>& generator) {
  if (!generator.has_value() || !generator->defined()) return;
  TORCH_CHECK_VALUE(generator->device().is_cpu(), "generator must be on the device of mu, cpu, got ",
                    generator->device());
}

// Fills z, and where kl is defined [B] the KL of every item.
void sample(const Tensor& mu, const Tensor& logvar, const Tensor& key, std::optional<int64_t> num_samples,
            const Tensor& z, const Tensor& kl, const ScaleForm& scale, double temperature = 1.0,
            const Tensor& mask = {}) {
  if (mu.numel() == 0) {
    if (kl.defined()) kl.zero_();
    return;
  }
  const Tensor contiguous_key = key.contiguous();
  ReparameterizeParams p{};
  p.key = noise_key(contiguous_key);
  p.extent = bind_operands(mu.sizes(), Order::kLogical,
                           {{mu, &p.mu}, {logvar, &p.logvar}, {first_sample(z, num_samples), &p.z}, {mask, &p.mask}});
  p.scale = scale;
  p.temperature = temperature;
  p.wide = mu.scalar_type() == at::kDouble;
  p.streamed = static_cast<int64_t>(z.nbytes()) > kStreamedBytes;
  p.numel = mu.numel();
  p.item_numel = numel_per_item(mu);
  p.num_samples = num_samples.value_or(1);
  p.sample_stride = mu.numel();

  const bool by_item = kl.defined() || p.key.per_item;
  const TilePlan plan = by_item ? TilePlan(mu.size(0), p.item_numel) : TilePlan(1, p.numel);
  Partials partials;
  if (kl.defined()) {
    partials.resize(plan.partials());
    p.kl_partials = partials.data();
  }
  run_tiles(kernels().reparameterize, p, plan, kGrainNoise / p.num_samples);
  if (!kl.defined()) return;
  for (int64_t item = 0; item < plan.items; ++item) {
    write_number(kl, item, sum_of(partials.data() + item * plan.pieces, plan.pieces));
  }
}

Tensor empty_kl(const Tensor& mu) { return allocate({mu.size(0)}, accumulation_type({&mu})); }

Tensor reparameterize_cpu(const Tensor& mu, const Tensor& logvar, const Tensor& key, std::optional<int64_t> num_samples,
                          const ScaleArguments& scale_arguments, double temperature) {
  check_latent_pair(mu, logvar);
  check_num_samples(num_samples);
  const ScaleForm scale = scale_form(scale_arguments, mu.scalar_type());
  check_temperature(temperature);
  check_key_for(key, mu.size(0), mu.device());
  Tensor z = allocate_like(mu, mu.scalar_type(), num_samples);
  sample(mu, logvar, key, num_samples, z, Tensor(), scale, temperature);
  return z;
}

Tensors<2> reparameterize_generator_cpu(const Tensor& mu, const Tensor& logvar, std::optional<at::Generator> generator,
                                        std::optional<int64_t> num_samples, const ScaleArguments& scale_arguments,
                                        double temperature) {
  check_latent_pair(mu, logvar);
  check_num_samples(num_samples);
  const ScaleForm scale = scale_form(scale_arguments, mu.scalar_type());
  check_temperature(temperature);
  check_generator(generator);
  Tensor key = draw_key(generator);
  Tensor z = allocate_like(mu, mu.scalar_type(), num_samples);
  sample(mu, logvar, key, num_samples, z, Tensor(), scale, temperature);
  return {z, key};
}

Tensors<2> reparameterize_with_kl_cpu(const Tensor& mu, const Tensor& logvar, const Tensor& key,
                                      const std::optional<Tensor>& mask, const ScaleArguments& scale_arguments) {
  check_latent_pair(mu, logvar);
  check_mask(mask, mu);
  const ScaleForm scale = scale_form(scale_arguments, mu.scalar_type());
  check_key_for(key, mu.size(0), mu.device());
  Tensor z = allocate_like(mu), kl = empty_kl(mu);
  sample(mu, logvar, key, std::nullopt, z, kl, scale, 1.0, mask_operand(mask, mu));
  return {z, kl};
}

Tensors<3> reparameterize_with_kl_generator_cpu(const Tensor& mu, const Tensor& logvar,
                                                std::optional<at::Generator> generator,
                                                const std::optional<Tensor>& mask,
                                                const ScaleArguments& scale_arguments) {
  check_latent_pair(mu, logvar);
  check_mask(mask, mu);
  const ScaleForm scale = scale_form(scale_arguments, mu.scalar_type());
  check_generator(generator);
  Tensor key = draw_key(generator);
  Tensor z = allocate_like(mu), kl = empty_kl(mu);
  sample(mu, logvar, key, std::nullopt, z, kl, scale, 1.0, mask_operand(mask, mu));
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
  p.streamed = static_cast<int64_t>(logvar.nbytes()) > kStreamedBytes;
  p.numel = logvar.numel();
  p.item_numel = numel_per_item(logvar);
  p.num_samples = num_samples.value_or(1);
  p.sample_stride = num_samples && grad_sample.defined() ? grad_z->stride(0) : 0;
  if (p.has_kl) p.grad_kl = weight_of_gradient(*grad_kl, 1.0);

  const bool by_item = p.has_kl || p.key.per_item;
  const TilePlan plan = by_item ? TilePlan(logvar.size(0), p.item_numel) : TilePlan(1, p.numel);
  run_tiles(kernels().reparameterize_backward, p, plan, kGrainNoise / p.num_samples);
}

Tensors<2> reparameterize_backward_cpu(const std::optional<Tensor>& grad_z, const std::optional<Tensor>& grad_kl,
                                       const std::optional<Tensor>& mu, const Tensor& logvar, const Tensor& key,
                                       std::optional<int64_t> num_samples, std::array<bool, 2> output_mask,
                                       const std::optional<Tensor>& mask, const ScaleArguments& scale_arguments,
                                       double temperature) {
  check_reparameterize_backward(grad_z, grad_kl, mu, logvar, key, num_samples);
  check_mask(mask, logvar);
  const ScaleForm scale = scale_form(scale_arguments, logvar.scalar_type());
  check_temperature(temperature);
  Tensor grad_mu, grad_logvar;
  if (output_mask[0]) grad_mu = allocate_like(logvar);
  if (output_mask[1]) grad_logvar = allocate_like(logvar);
  fill_gradients(grad_z, grad_kl, mu.value_or(Tensor()), logvar, key, num_samples, grad_mu, grad_logvar, scale,
                 temperature, mask_operand(mask, logvar));
  return {grad_mu, grad_logvar};
}

Tensors<2> packed_reparameterize_with_kl_cpu(const Tensor& moments, const Tensor& key, Packing packing) {
  check_moments("moments", moments, packing);
  check_key_for(key, moments.size(0), moments.device());
  const Halves half = halves_of(moments, packing.dim);
  Tensor z = allocate_like(half.mu), kl = empty_kl(moments);
  sample(half.mu, half.logvar, key, std::nullopt, z, kl, clamp_of(packing, moments.scalar_type()));
  return {z, kl};
}

Tensors<3> packed_reparameterize_with_kl_generator_cpu(const Tensor& moments, Packing packing,
                                                       std::optional<at::Generator> generator) {
  check_moments("moments", moments, packing);
  check_generator(generator);
  Tensor key = draw_key(generator);
  const Halves half = halves_of(moments, packing.dim);
  Tensor z = allocate_like(half.mu), kl = empty_kl(moments);
  sample(half.mu, half.logvar, key, std::nullopt, z, kl, clamp_of(packing, moments.scalar_type()));
  return {z, kl, key};
}

Tensor packed_reparameterize_backward_cpu(const std::optional<Tensor>& grad_z, const std::optional<Tensor>& grad_kl,
                                          const Tensor& moments, const Tensor& key, Packing packing) {
  check_moments("moments", moments, packing);
  const Halves half = halves_of(moments, packing.dim);
  check_reparameterize_backward(grad_z, grad_kl, half.mu, half.logvar, key, std::nullopt);
  Tensor grad_moments = allocate_like(moments);
  const Halves grad = halves_of(grad_moments, packing.dim);
  fill_gradients(grad_z, grad_kl, half.mu, half.logvar, key, std::nullopt, grad.mu, grad.logvar,
                 clamp_of(packing, moments.scalar_type()));
  return grad_moments;
}

TORCH_LIBRARY_IMPL(vae_fused, CPU, m) {
  m.impl("reparameterize", unpacked<&reparameterize_cpu>);
  m.impl("reparameterize.generator", unpacked<&reparameterize_generator_cpu>);
  m.impl("reparameterize_with_kl", unpacked<&reparameterize_with_kl_cpu>);
  m.impl("reparameterize_with_kl.generator", unpacked<&reparameterize_with_kl_generator_cpu>);
  m.impl("reparameterize_backward", unpacked<&reparameterize_backward_cpu>);
  m.impl("packed_reparameterize_with_kl", unpacked<&packed_reparameterize_with_kl_cpu>);
  m.impl("packed_reparameterize_with_kl.generator", unpacked<&packed_reparameterize_with_kl_generator_cpu>);
  m.impl("packed_reparameterize_backward", unpacked<&packed_reparameterize_backward_cpu>);
}

}  // namespace
}  // namespace vae_fused
