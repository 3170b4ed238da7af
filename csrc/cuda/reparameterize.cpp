#include "cuda/reparameterize.h"

#include <ATen/ops/zeros.h>

#include "cuda/device.h"
#include "cuda/results.h"
#include "sampling_operators.h"

namespace vae_fused {
namespace {

struct SamplingOnCUDA : OnCUDA {
  using Source = KeySource;

  static Tensor samples_like(const Tensor& mu, std::optional<int64_t> num_samples) {
    return empty_samples(mu, num_samples);
  }

  static KeySource given(const Tensor& contiguous_key) {
    KeySource source{};
    source.given = noise_key(contiguous_key);
    return source;
  }

  // The key that will be drawn [2], and where from. Nothing is drawn for an empty tensor, whose key is (0, 0).
  static std::pair<Tensor, KeySource> drawn(const std::optional<at::Generator>& generator, const Tensor& mu,
                                            int64_t num_samples) {
    const auto options = mu.options().dtype(at::kUInt64);
    if (mu.numel() == 0) return {at::zeros({2}, options), KeySource{}};
    Tensor key = at::empty({2}, options);
    const int lanes = mu.scalar_type() == at::kDouble ? 2 : 4;
    return {key, reserve_noise(generator, num_samples * mu.numel(), lanes, key)};
  }

  static void sample(const ReparameterizeParams& p, const KeySource& source, const Tensor& mu, const Tensor& kl) {
    const bool by_item = kl.defined() || source.given.per_item;
    const Work work = by_item ? Work(mu.size(0), p.item_numel) : Work(1, p.numel);
    HeldSum sum;
    if (kl.defined()) sum = HeldSum(kl, work, /*divisor=*/1.0);
    launch_reparameterize(p, source, work, sum.summation, launch_site());
    check_launch();
  }

  static void fill_gradients(const ReparameterizeBackwardParams& p, const Tensor& logvar, bool by_item) {
    const Work work = by_item ? Work(logvar.size(0), p.item_numel) : Work(1, p.numel);
    launch_reparameterize_backward(p, work, launch_site());
    check_launch();
  }
};

TORCH_LIBRARY_IMPL(vae_fused, CUDA, m) { SamplingOperators<SamplingOnCUDA>::register_in(m); }

}  // namespace
}  // namespace vae_fused
