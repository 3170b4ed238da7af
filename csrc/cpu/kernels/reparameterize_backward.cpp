// The backward of z and of the KL, with eps generated again.
#include "core/gaussian.h"
#include "cpu/kernels/items.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/sample_noise.h"
#include "cpu/kernels/scale_form.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

// The sums over samples k of grad_z and of grad_z eps: all that the gradients need of K samples.
template <class T>
static void sum_over_samples(const ReparameterizeBackwardParams& p, const TilePlan& plan, int64_t tile,
                             const TileRange& range, TileBuffer<T>& grad_sum, TileBuffer<T>& noise_sum, Noise<T>& noise,
                             TileBuffer<T>& noise_of_items) {
  for (int i = 0; i < range.count; ++i) grad_sum.values[i] = noise_sum.values[i] = T(0);
  for (int64_t sample = 0; sample < p.num_samples; ++sample) {
    const Operand grad_z = sample_of(p.grad_z, sample, p.sample_stride);
    InputTile<T> grad_tile(grad_z, p.extent, range.begin, range.count);
    const T* grad = grad_tile.plain(grad_z, p.extent, range.begin, range.count);
    const T* normals =
        noise_of_run(p, plan, tile, range, 0, range.count, sample, AskedTypes{}, noise, noise_of_items, grad_tile);
    for (int i = 0; i < range.count; ++i) {
      grad_sum.values[i] += grad[i];
      noise_sum.values[i] += grad[i] * normals[i];
    }
  }
}

// What a launch has gradients of: one sample or many, the KL, or both of one sample. No call has more.
enum class Incoming { kSample, kSamples, kKL, kSampleAndKL };

template <class T, bool kTransforms, Incoming kIncoming>
static void reparameterize_backward_tiles(const ReparameterizeBackwardParams& p, const TilePlan& plan,
                                          int64_t first_tile, int64_t last_tile) {
  constexpr bool kWithKL = kIncoming == Incoming::kKL || kIncoming == Incoming::kSampleAndKL;
  constexpr bool kOne = kIncoming == Incoming::kSample || kIncoming == Incoming::kSampleAndKL;
  constexpr bool kMany = kIncoming == Incoming::kSamples;
  TileBuffer<T> grad_sum, noise_sum, noise_of_items;
  ElementBuffer<T> item_weights;
  Noise<T> noise(p.key);
  const ClampOfTile<T> clamped(p.scale);
  for (int64_t tile = first_tile; tile < last_tile; ++tile) {
    const TileRange range(plan, tile);
    const auto input = [&](bool used, const Operand& operand) VAE_FUSED_LAMBDA {
      return InputTile<T>(used ? operand : Operand{}, p.extent, range.begin, range.count);
    };
    const InputTile<T> logvar = input(true, p.logvar), mu = input(kWithKL, p.mu), grad_z = input(kOne, p.grad_z);
    InputTile<T> mask = input(kWithKL && kTransforms, p.mask);
    const T* factors = mask.plain(p.mask, p.extent, range.begin, range.count);
    if constexpr (kMany) {
      sum_over_samples(p, plan, tile, range, grad_sum, noise_sum, noise, noise_of_items);
    }
    OutputTile<T> grad_mu(p.grad_mu, p.extent, range.begin, range.count, p.streamed);
    OutputTile<T> grad_logvar(p.grad_logvar, p.extent, range.begin, range.count, p.streamed);
    const ItemWeights<T> weights(kWithKL ? p.grad_kl : Weight{}, plan, tile, range, item_weights);
    constexpr bool kAsked = kTransforms || kMany;  // sums over samples are floats, whatever the tiles are
    const auto types = types_of<kAsked>(logvar, mu, grad_z, grad_mu, grad_logvar);
    const int run = kOne ? noise_run(p.key, range) : range.count;
    for (int first = 0; first < range.count; first += run) {
      const int count = range.count - first < run ? range.count - first : run;
      const T* normals = nullptr;
      if constexpr (kOne) {
        normals = noise_of_run(p, plan, tile, range, first, count, 0, types, noise, noise_of_items, mu, logvar, grad_z);
      }
      const auto begin = [&](int i, auto lanes) VAE_FUSED_LAMBDA {
        return scale_begun<kTransforms>(p.scale, clamped, logvar(first + i, lanes));
      };
      const auto finish = [&](int i, auto lanes, const auto& scale) VAE_FUSED_LAMBDA {
        using Vector = VectorIn<T, decltype(lanes)>;
        const Vector temperature(static_cast<T>(p.temperature)), half(0.5f);
        const int at = first + i;
        Vector to_mu(0.0f), grad_noise(0.0f), mean(0.0f);
        if constexpr (kOne) {
          to_mu = grad_z(at, lanes);
          grad_noise = to_mu * load_noise(normals + i, lanes);
        }
        if constexpr (kMany) {
          to_mu = load(static_cast<const T*>(grad_sum.values) + at, lanes);
          grad_noise = load(static_cast<const T*>(noise_sum.values) + at, lanes);
        }
        if constexpr (kWithKL) mean = mu(at, lanes);
        Vector to_logvar(0.0f), weight(0.0f);
        if constexpr (kWithKL) weight = weights(at, lanes);
        if constexpr (kWithKL && kTransforms) weight = weight * factors_of(factors, at, lanes);
        if constexpr (kWithKL) to_mu = product_and_sum(weight, mean, to_mu);
        if constexpr (kTransforms) {
          if constexpr (kOne || kMany) to_logvar = temperature * grad_noise * scale.sigma_slope;
          if constexpr (kWithKL) {
            to_logvar = to_logvar + half * weight * scale.variance_minus_one * scale.logvar_slope;
          }
        } else {
          const auto element = posterior(mean, scale);
          if constexpr (kOne || kMany) to_logvar = grad_noise * element.sigma;
          if constexpr (kWithKL) to_logvar = product_and_sum(weight, element.variance_minus_one, to_logvar);
          to_logvar = clamped.gradient(logvar(at, lanes), half * to_logvar);
        }
        if (grad_mu.wanted()) grad_mu.put(at, to_mu, lanes);
        if (grad_logvar.wanted()) grad_logvar.put(at, to_logvar, lanes);
      };
      for_each_vector_of_run<T>(plan, count, types, begin, finish);
    }
    grad_mu.finish(p.grad_mu, p.extent, range.begin, range.count);
    grad_logvar.finish(p.grad_logvar, p.extent, range.begin, range.count);
  }
  if (p.streamed) order_streamed_stores();
}

template <class T, bool kTransforms>
static void reparameterize_backward_of(const ReparameterizeBackwardParams& p, const TilePlan& plan, int64_t first,
                                       int64_t last) {
  if (p.grad_z.data == nullptr) {
    reparameterize_backward_tiles<T, kTransforms, Incoming::kKL>(p, plan, first, last);
  } else if (p.has_kl) {
    reparameterize_backward_tiles<T, kTransforms, Incoming::kSampleAndKL>(p, plan, first, last);
  } else if (p.num_samples == 1) {
    reparameterize_backward_tiles<T, kTransforms, Incoming::kSample>(p, plan, first, last);
  } else {
    reparameterize_backward_tiles<T, kTransforms, Incoming::kSamples>(p, plan, first, last);
  }
}

void reparameterize_backward(const ReparameterizeBackwardParams& p, const TilePlan& plan, int64_t first, int64_t last) {
  with_arithmetic(p, [&](auto number, auto transforms) VAE_FUSED_LAMBDA {
    reparameterize_backward_of<decltype(number), decltype(transforms)::value>(p, plan, first, last);
  });
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
