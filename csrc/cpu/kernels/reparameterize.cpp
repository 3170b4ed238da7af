// z = mu + temperature sigma eps with the KL in the same pass.
#include "core/gaussian.h"
#include "cpu/kernels/items.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/sample_noise.h"
#include "cpu/kernels/scale_form.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

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
      const auto types = types_of<kTransforms>(mu, logvar, out);
      ItemSums<T> kl(plan, kl_of_elements, types, in_fours(p.mu, p.logvar));
      const int run = noise_run(p.key, range);
      for (int first = 0; first < range.count; first += run) {
        const int count = range.count - first < run ? range.count - first : run;
        const T* normals =
            noise_of_run(p, plan, tile, range, first, count, sample, types, noise, noise_of_items, mu, logvar);
        const auto begin = [&](int i, auto lanes) VAE_FUSED_LAMBDA {
          return scale_begun<kTransforms>(p.scale, clamped, logvar(first + i, lanes));
        };
        const auto finish = [&](int i, auto lanes, const auto& scale) VAE_FUSED_LAMBDA {
          using Vector = VectorIn<T, decltype(lanes)>;
          const Vector temperature(static_cast<T>(p.temperature)), half(0.5f);
          const int at = first + i;
          const auto mean = mu(at, lanes), normal = load_noise(normals + i, lanes);
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
        };
        for_each_vector_of_run<T>(plan, count, types, begin, finish);
      }
      if constexpr (kWithKL) kl.write(plan, tile, range, types, p.kl_partials);
      out.finish(z, p.extent, range.begin, range.count);
    }
  }
  if (p.streamed) order_streamed_stores();
}

template <class T, bool kTransforms>
static void reparameterize_of(const ReparameterizeParams& p, const TilePlan& plan, int64_t first, int64_t last) {
  if (p.kl_partials != nullptr) return reparameterize_tiles<T, true, kTransforms>(p, plan, first, last);
  reparameterize_tiles<T, false, kTransforms>(p, plan, first, last);
}

void reparameterize(const ReparameterizeParams& p, const TilePlan& plan, int64_t first, int64_t last) {
  with_arithmetic(p, [&](auto number, auto transforms) VAE_FUSED_LAMBDA {
    reparameterize_of<decltype(number), decltype(transforms)::value>(p, plan, first, last);
  });
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
