// The KL divergence from the unit prior or a given one: elements, partial sums, and gradients, any of them in one pass.
#include "core/gaussian.h"
#include "cpu/kernels/items.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/scale_form.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

// One element of either prior, as the general form, from the exponential that it takes of the log-variance: of what it
// is beyond the prior's, or of half of it.
template <bool kPrior, class Vector>
VAE_FUSED_INLINE GaussianKL<Vector> kl_element(Vector mu, const Exponential<Vector>& e, Vector prior_mu,
                                               Vector prior_logvar) {
  if constexpr (kPrior) {
    return gaussian_kl(mu, e, prior_mu, prior_logvar);
  } else {
    const auto element = posterior(mu, e);
    return {element.unit_kl, mu, Vector(0.5f) * element.variance_minus_one, Vector(0.0f)};
  }
}

// An absent parameter of the prior is 0.
template <class T, class Lanes>
VAE_FUSED_INLINE VectorIn<T, Lanes> load_or_zero(const InputTile<T>& tile, int at, Lanes lanes) {
  return tile.present() ? tile(at, lanes) : VectorIn<T, Lanes>(0.0f);
}

// kTransforms: logvar in any form, with a mask.
template <class T, bool kPrior, bool kTransforms>
static void kl_divergence_tiles(const KLDivergenceParams& p, const TilePlan& plan, int64_t first_tile,
                                int64_t last_tile) {
  const ClampOfTile<T> clamped(p.scale), prior_clamped(p.prior_scale);
  ElementBuffer<T> divergences, item_weights;
  for (int64_t tile = first_tile; tile < last_tile; ++tile) {
    const TileRange range(plan, tile);
    const auto input = [&](const Operand& operand)
                           VAE_FUSED_LAMBDA { return InputTile<T>(operand, p.extent, range.begin, range.count); };
    const auto output = [&](const Operand& operand) VAE_FUSED_LAMBDA {
      return OutputTile<T>(operand, p.extent, range.begin, range.count, p.streamed);
    };
    const InputTile<T> mu = input(p.mu), logvar = input(p.logvar), prior_mu = input(p.prior_mu),
                       prior_logvar = input(p.prior_logvar), grad_elements = input(p.grad_elements);
    InputTile<T> mask = input(kTransforms ? p.mask : Operand{});
    const T* factors = mask.plain(p.mask, p.extent, range.begin, range.count);
    OutputTile<T> elements = output(p.elements), grad_mu = output(p.grad_mu), grad_logvar = output(p.grad_logvar),
                  grad_prior_mu = output(p.grad_prior_mu), grad_prior_logvar = output(p.grad_prior_logvar);
    const auto types = types_of<kTransforms>(mu, logvar, prior_mu, prior_logvar, grad_elements, elements, grad_mu,
                                             grad_logvar, grad_prior_mu, grad_prior_logvar);
    const ItemWeights<T> weights(p.weight, plan, tile, range, item_weights);
    ItemSums<T> sums(plan, divergences, types, in_fours(p.mu, p.logvar, p.prior_mu, p.prior_logvar));
    const auto begin = [&](int at, auto lanes) VAE_FUSED_LAMBDA {
      using Vector = VectorIn<T, decltype(lanes)>;
      const Vector log_variance = logvar(at, lanes);
      if constexpr (kPrior && !kTransforms) {
        return exponential(clamped(log_variance) - prior_clamped(load_or_zero(prior_logvar, at, lanes)));
      } else {
        return scale_begun<kTransforms>(p.scale, clamped, log_variance);
      }
    };
    for_each_vector<T>(range.count, types, begin, [&](int at, auto lanes, const auto& scale) VAE_FUSED_LAMBDA {
      using Vector = VectorIn<T, decltype(lanes)>;
      const Vector mean = mu(at, lanes), mean_of_prior = load_or_zero(prior_mu, at, lanes),
                   prior = load_or_zero(prior_logvar, at, lanes);
      const Vector factor = kTransforms ? factors_of(factors, at, lanes) : Vector(1.0f);
      const GaussianKL<Vector> element = [&]() VAE_FUSED_LAMBDA {
        if constexpr (kTransforms) {
          return kl_of_scale<kPrior>(mean, scale, mean_of_prior, prior);
        } else {
          return kl_element<kPrior>(mean, scale, mean_of_prior, prior_clamped(prior));
        }
      }();
      const auto times_factor = [&](Vector x) VAE_FUSED_LAMBDA { return kTransforms ? factor * x : x; };
      const Vector value = times_factor(element.value);
      const Vector weight = times_factor(grad_elements.present() ? grad_elements(at, lanes) : weights(at, lanes));
      if (p.partials != nullptr) sums.add(at, value, lanes);
      if (elements.wanted()) elements.put(at, value, lanes);
      if (grad_mu.wanted()) grad_mu.put(at, weight * element.grad_mu, lanes);
      if (grad_logvar.wanted()) {
        const Vector to_logvar = weight * element.grad_logvar;
        grad_logvar.put(at, kTransforms ? to_logvar : clamped.gradient(logvar(at, lanes), to_logvar), lanes);
      }
      if constexpr (kPrior) {
        if (grad_prior_mu.wanted()) grad_prior_mu.put(at, (Vector(0.0f) - weight) * element.grad_mu, lanes);
        if (grad_prior_logvar.wanted()) {
          grad_prior_logvar.put(at, prior_clamped.gradient(prior, weight * element.grad_prior_logvar), lanes);
        }
      }
    });
    if (p.partials != nullptr) sums.write(plan, tile, range, types, p.partials);
    const auto finish = [&](const OutputTile<T>& tile_of, const Operand& operand)
                            VAE_FUSED_LAMBDA { tile_of.finish(operand, p.extent, range.begin, range.count); };
    finish(elements, p.elements);
    finish(grad_mu, p.grad_mu);
    finish(grad_logvar, p.grad_logvar);
    finish(grad_prior_mu, p.grad_prior_mu);
    finish(grad_prior_logvar, p.grad_prior_logvar);
  }
  if (p.streamed) order_streamed_stores();
}

template <class T, bool kTransforms>
static void kl_divergence_of(const KLDivergenceParams& p, const TilePlan& plan, int64_t first, int64_t last) {
  if (p.prior_mu.data != nullptr || p.prior_logvar.data != nullptr) {
    return kl_divergence_tiles<T, true, kTransforms>(p, plan, first, last);
  }
  kl_divergence_tiles<T, false, kTransforms>(p, plan, first, last);
}

void kl_divergence(const KLDivergenceParams& p, const TilePlan& plan, int64_t first, int64_t last) {
  with_arithmetic(p, [&](auto number, auto transforms) VAE_FUSED_LAMBDA {
    kl_divergence_of<decltype(number), decltype(transforms)::value>(p, plan, first, last);
  });
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
