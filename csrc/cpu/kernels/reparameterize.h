// z = mu + temperature sigma eps with the KL in the same pass, and the backward of both with eps generated again.
#pragma once

#include "core/gaussian.h"
#include "cpu/kernels/items.h"
#include "cpu/kernels/scale_form.h"
#include "cpu/kernels/standard_normal.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

inline __attribute__((always_inline)) Operand sample_of(Operand operand, int64_t sample, int64_t sample_stride) {
  if (operand.data == nullptr) return operand;
  operand.data = static_cast<char*>(operand.data) + sample * sample_stride * size_of(operand.type);
  return operand;
}

// Noise is drawn for a run of elements that are worked on at once. While that of a run is drawn, memory catches up with
// the stores of the run before; those of a whole tile would come in one burst. The backward of 8192 x 512 elements
// takes 1.45 ms instead of 1.58 on two cores; shorter runs lose more at their ends.
constexpr int kNoiseRun = 512;

VAE_FUSED_INLINE int noise_run(const NoiseKey& key, const TileRange& range) {
  return key.per_item || range.count < kNoiseRun ? range.count : kNoiseRun;
}

// The noise of elements first .. first + count - 1 of a tile. With a key for every item they are the whole tile, which
// is put together from the noise of several.
template <class T, class Params>
VAE_FUSED_INLINE const T* noise_of_run(const Params& p, const TilePlan& plan, int64_t tile, const TileRange& range,
                                       int first, int count, int64_t sample, Noise<T>& noise, TileBuffer<T>& of_items) {
  if (!p.key.per_item) return noise(0, sample * p.numel + range.begin + first, count);
  const T* normals = nullptr;
  for_each_segment(plan, tile, range, [&](const Segment& segment) VAE_FUSED_LAMBDA {
    normals = noise(segment.item, sample * p.item_numel + segment.within, segment.count);
    if (plan.items_per_tile > 1) std::memcpy(of_items.values + segment.start, normals, segment.count * sizeof(T));
  });
  return plan.items_per_tile > 1 ? of_items.values : normals;
}

// kTransforms: logvar in any form, with a temperature and a mask.
template <class T, bool kWithKL, bool kTransforms>
static void reparameterize_tiles(const ReparameterizeParams& p, const TilePlan& plan, int64_t first_tile,
                                 int64_t last_tile) {
  Noise<T> noise(p.key);
  TileBuffer<T> noise_of_items;
  ElementBuffer<T> kl_of_elements;
  const ClampOfTile<T> clamped(p.scale);
  for (int64_t tile = first_tile; tile < last_tile; ++tile) {
    const TileRange range(plan, tile);
    const InputTile<T> mu(p.mu, p.extent, range.begin, range.count);
    const InputTile<T> logvar(p.logvar, p.extent, range.begin, range.count);
    InputTile<T> mask(kTransforms ? p.mask : Operand{}, p.extent, range.begin, range.count);
    const T* factors = mask.plain(p.mask, p.extent, range.begin, range.count);
    for (int64_t sample = 0; sample < p.num_samples; ++sample) {
      const Operand z = sample_of(p.z, sample, p.sample_stride);
      OutputTile<T> out(z, p.extent, range.begin, range.count, p.streamed);
      const unsigned types = kTransforms ? kAnyTypes : types_of(mu, logvar, out);
      ItemSums<T> kl(plan, kl_of_elements);
      const int run = noise_run(p.key, range);
      for (int first = 0; first < range.count; first += run) {
        const int count = range.count - first < run ? range.count - first : run;
        const T* normals = noise_of_run(p, plan, tile, range, first, count, sample, noise, noise_of_items);
        const auto begin = [&](int i, auto lanes) VAE_FUSED_LAMBDA {
          return scale_begun<kTransforms>(p.scale, clamped, logvar(first + i, lanes));
        };
        for_each_vector<T>(count, types, begin, [&](int i, auto lanes, const auto& scale) VAE_FUSED_LAMBDA {
          using Vector = VectorIn<T, decltype(lanes)>;
          const Vector temperature(static_cast<T>(p.temperature)), half(0.5f);
          const int at = first + i;
          const auto mean = mu(at, lanes), normal = load(normals + i, lanes);
          if constexpr (kTransforms) {
            out.put(at, product_and_sum(temperature * scale.sigma, normal, mean), lanes);
            if constexpr (kWithKL) {
              const Vector unit_kl = half * (mean * mean + scale.minus_one_minus_logvar);
              kl.add(at, factors_of(factors, at, lanes) * unit_kl, lanes);
            }
          } else {
            const auto element = posterior(mean, scale);
            out.put(at, product_and_sum(element.sigma, normal, mean), lanes);
            if constexpr (kWithKL) kl.add(at, element.unit_kl, lanes);
          }
        });
      }
      if constexpr (kWithKL) kl.write(plan, tile, range, p.kl_partials);
      out.finish(z, p.extent, range.begin, range.count);
    }
  }
  if (p.streamed) order_streamed_stores();
}

template <class T, bool kTransforms>
static void reparameterize_as(const ReparameterizeParams& p, const TilePlan& plan, int64_t first, int64_t last) {
  if (p.kl_partials != nullptr) return reparameterize_tiles<T, true, kTransforms>(p, plan, first, last);
  reparameterize_tiles<T, false, kTransforms>(p, plan, first, last);
}

template <class T>
static void reparameterize_of(const ReparameterizeParams& p, const TilePlan& plan, int64_t first, int64_t last) {
  if (p.transforms()) return reparameterize_as<T, true>(p, plan, first, last);
  reparameterize_as<T, false>(p, plan, first, last);
}

static void reparameterize(const ReparameterizeParams& p, const TilePlan& plan, int64_t first, int64_t last) {
  if (p.wide) return reparameterize_of<double>(p, plan, first, last);
  reparameterize_of<float>(p, plan, first, last);
}

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
    const T* normals = noise_of_run(p, plan, tile, range, 0, range.count, sample, noise, noise_of_items);
    for (int i = 0; i < range.count; ++i) {
      grad_sum.values[i] += grad[i];
      noise_sum.values[i] += grad[i] * normals[i];
    }
  }
}

// Where the gradient to z of a launch comes from.
enum class GradSource { kNone, kOneSample, kManySamples };

template <class T, bool kTransforms, bool kWithKL, GradSource kGrad>
static void reparameterize_backward_tiles(const ReparameterizeBackwardParams& p, const TilePlan& plan,
                                          int64_t first_tile, int64_t last_tile) {
  constexpr bool kOne = kGrad == GradSource::kOneSample;
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
    if constexpr (kGrad == GradSource::kManySamples) {
      sum_over_samples(p, plan, tile, range, grad_sum, noise_sum, noise, noise_of_items);
    }
    OutputTile<T> grad_mu(p.grad_mu, p.extent, range.begin, range.count, p.streamed);
    OutputTile<T> grad_logvar(p.grad_logvar, p.extent, range.begin, range.count, p.streamed);
    const ItemWeights<T> weights(kWithKL ? p.grad_kl : Weight{}, plan, tile, range, item_weights);
    const unsigned types = kTransforms ? kAnyTypes : types_of(logvar, mu, grad_z, grad_mu, grad_logvar);
    const int run = kOne ? noise_run(p.key, range) : range.count;
    for (int first = 0; first < range.count; first += run) {
      const int count = range.count - first < run ? range.count - first : run;
      const T* normals = nullptr;
      if constexpr (kOne) {
        normals = noise_of_run(p, plan, tile, range, first, count, 0, noise, noise_of_items);
      }
      const auto begin = [&](int i, auto lanes) VAE_FUSED_LAMBDA {
        return scale_begun<kTransforms>(p.scale, clamped, logvar(first + i, lanes));
      };
      for_each_vector<T>(count, types, begin, [&](int i, auto lanes, const auto& scale) VAE_FUSED_LAMBDA {
        using Vector = VectorIn<T, decltype(lanes)>;
        const Vector temperature(static_cast<T>(p.temperature)), half(0.5f);
        const int at = first + i;
        Vector to_mu(0.0f), grad_noise(0.0f), mean(0.0f);
        if constexpr (kOne) {
          to_mu = grad_z(at, lanes);
          grad_noise = to_mu * load(normals + i, lanes);
        }
        if constexpr (kGrad == GradSource::kManySamples) {
          to_mu = load(static_cast<const T*>(grad_sum.values) + at, lanes);
          grad_noise = load(static_cast<const T*>(noise_sum.values) + at, lanes);
        }
        if constexpr (kWithKL) mean = mu(at, lanes);
        Vector to_logvar(0.0f), weight(0.0f);
        if constexpr (kWithKL) weight = weights(at, lanes);
        if constexpr (kWithKL && kTransforms) weight = weight * factors_of(factors, at, lanes);
        if constexpr (kWithKL) to_mu = product_and_sum(weight, mean, to_mu);
        if constexpr (kTransforms) {
          if constexpr (kGrad != GradSource::kNone) to_logvar = temperature * grad_noise * scale.sigma_slope;
          if constexpr (kWithKL) {
            to_logvar = to_logvar + half * weight * scale.variance_minus_one * scale.logvar_slope;
          }
        } else {
          const auto element = posterior(mean, scale);
          if constexpr (kGrad != GradSource::kNone) to_logvar = grad_noise * element.sigma;
          if constexpr (kWithKL) to_logvar = product_and_sum(weight, element.variance_minus_one, to_logvar);
          to_logvar = clamped.gradient(logvar(at, lanes), half * to_logvar);
        }
        if (grad_mu.wanted()) grad_mu.put(at, to_mu, lanes);
        if (grad_logvar.wanted()) grad_logvar.put(at, to_logvar, lanes);
      });
    }
    grad_mu.finish(p.grad_mu, p.extent, range.begin, range.count);
    grad_logvar.finish(p.grad_logvar, p.extent, range.begin, range.count);
  }
  if (p.streamed) order_streamed_stores();
}

template <class T, bool kTransforms, bool kWithKL>
static void reparameterize_backward_with(const ReparameterizeBackwardParams& p, const TilePlan& plan, int64_t first,
                                         int64_t last) {
  if (p.grad_z.data == nullptr) {
    return reparameterize_backward_tiles<T, kTransforms, kWithKL, GradSource::kNone>(p, plan, first, last);
  }
  if (p.num_samples == 1) {
    return reparameterize_backward_tiles<T, kTransforms, kWithKL, GradSource::kOneSample>(p, plan, first, last);
  }
  reparameterize_backward_tiles<T, kTransforms, kWithKL, GradSource::kManySamples>(p, plan, first, last);
}

template <class T, bool kTransforms>
static void reparameterize_backward_as(const ReparameterizeBackwardParams& p, const TilePlan& plan, int64_t first,
                                       int64_t last) {
  if (p.has_kl) return reparameterize_backward_with<T, kTransforms, true>(p, plan, first, last);
  reparameterize_backward_with<T, kTransforms, false>(p, plan, first, last);
}

template <class T>
static void reparameterize_backward_of(const ReparameterizeBackwardParams& p, const TilePlan& plan, int64_t first,
                                       int64_t last) {
  if (p.transforms()) return reparameterize_backward_as<T, true>(p, plan, first, last);
  reparameterize_backward_as<T, false>(p, plan, first, last);
}

static void reparameterize_backward(const ReparameterizeBackwardParams& p, const TilePlan& plan, int64_t first,
                                    int64_t last) {
  if (p.wide) return reparameterize_backward_of<double>(p, plan, first, last);
  reparameterize_backward_of<float>(p, plan, first, last);
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
