#include <ATen/CPUGeneratorImpl.h>

#include <mutex>

#include "cpu/results.h"
#include "cpu/scalar_access.h"
#include "sampling_operators.h"

namespace vae_fused {
namespace {

struct SamplingOnCPU : OnCPU {
  using Source = NoiseKey;

  static Tensor samples_like(const Tensor& mu, std::optional<int64_t> num_samples) {
    return allocate_like(mu, mu.scalar_type(), num_samples);
  }

  static NoiseKey given(const Tensor& contiguous_key) { return noise_key(contiguous_key); }

  // One 64-bit draw is the seed; every sample of this call then comes from the key (seed, 0), on any number of threads.
  static std::pair<Tensor, NoiseKey> drawn(const std::optional<at::Generator>& generator, const Tensor&, int64_t) {
    Tensor key = allocate({2}, at::kUInt64);
    auto* words = static_cast<uint64_t*>(key.mutable_data_ptr());
    auto* source = at::get_generator_or_default<at::CPUGeneratorImpl>(generator, at::detail::getDefaultCPUGenerator());
    {
      std::lock_guard<std::mutex> lock(source->mutex_);
      words[0] = source->random64();
    }
    words[1] = 0;
    return {key, noise_key(key)};
  }

  static void sample(ReparameterizeParams& p, const NoiseKey& key, const Tensor& mu, const Tensor& kl) {
    p.key = key;
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

  static void fill_gradients(const ReparameterizeBackwardParams& p, const Tensor& logvar, bool by_item) {
    const TilePlan plan = by_item ? TilePlan(logvar.size(0), p.item_numel) : TilePlan(1, p.numel);
    run_tiles(kernels().reparameterize_backward, p, plan, kGrainNoise / p.num_samples);
  }
};

TORCH_LIBRARY_IMPL(vae_fused, CPU, m) { SamplingOperators<SamplingOnCPU>::register_in(m); }

}  // namespace
}  // namespace vae_fused
