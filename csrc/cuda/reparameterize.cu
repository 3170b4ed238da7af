// z = mu + sigma eps with the KL in the same pass, and the backward of both with eps generated again.
#include "cuda/reparameterize.h"

#include "core/gaussian.h"
#include "core/scale_form.h"
#include "cuda/logvar_clamp.h"
#include "cuda/noise.h"
#include "cuda/sum.h"

namespace vae_fused {
namespace {

struct ForwardLaunch {
  ReparameterizeParams p;
  KeySource source;
  Work work;
  Summation sum;
};

struct BackwardLaunch {
  ReparameterizeBackwardParams p;
  KeySource source;
  Work work;
};

// The noise of a unit: indices in the stream of its key, in which every sample takes `samples_apart` normals.
struct NoiseOfUnit {
  NoiseStream stream;
  int64_t first, samples_apart;
};

template <class Params>
__device__ __forceinline__ NoiseOfUnit noise_of_unit(const Params& p, const KeySource& source, const Unit& unit) {
  if (source.given.per_item) return {stream_of(key_of(source, unit.item)), unit.within, p.item_numel};
  return {stream_of(key_of(source, 0)), unit.begin, p.numel};
}

// One sample or many, and with the KL, for which there is always one.
enum class Draw { kOne, kMany, kOneWithKL };

// body(first normal, elements to the first of sample 0) for the group of every sample.
template <Draw kDraw, class Params, class Body>
__device__ __forceinline__ void for_each_sample(const Params& p, const NoiseOfUnit& noise, int at, Body body) {
  int64_t first = noise.first + at, shift = 0;
  if constexpr (kDraw != Draw::kMany) {
    body(first, shift);
  } else {
#pragma unroll 1
    for (int64_t sample = 0; sample < p.num_samples; ++sample) {
      body(first, shift);
      first += noise.samples_apart;
      shift += p.sample_stride;
    }
  }
}

template <class Access, class S, Draw kDraw>
__global__ void __launch_bounds__(kBlock, kBlocksWithNoise<Access>)
    reparameterize_kernel(const __grid_constant__ ForwardLaunch launch) {
  using T = typename Access::Compute;
  constexpr int kGroup = Access::kGroup;
  constexpr bool kWithKL = kDraw == Draw::kOneWithKL;
  const ReparameterizeParams& p = launch.p;
  record_key(launch.source);
  for_each_unit(launch.work, kWithKL ? launch.sum : Summation{}, [&](const Unit& unit) {
    if (!unit.exists) return 0.0;
    const NoiseOfUnit noise = noise_of_unit(p, launch.source, unit);
    double sum = 0.0;
    for_each_group<Access>(p.extent, launch.work, unit, [&](const auto& cursor, int at) {
      T mu[kGroup], sigma[kGroup], kl[kGroup];
      cursor.template load<S>(p.mu, mu);
      cursor.template load<S>(p.logvar, sigma);
      if constexpr (Access::kTransforms) {
        T mask[kGroup];
        if constexpr (kWithKL) load_mask(p.mask, cursor, mask);
#pragma unroll
        for (int e = 0; e < kGroup; ++e) {
          const auto element = scale_of(p.scale, sigma[e]);
          sigma[e] = static_cast<T>(p.temperature) * element.sigma;
          if constexpr (kWithKL) {
            const T unit_kl = T(0.5f) * (mu[e] * mu[e] + element.minus_one_minus_logvar);
            kl[e] = cursor.has(e) ? mask[e] * unit_kl : T(0);
          }
        }
      } else {
        ClampOfGroup<Access>().apply(p.scale, cursor, sigma);
#pragma unroll
        for (int e = 0; e < kGroup; ++e) {
          const auto element = posterior(mu[e], sigma[e]);
          sigma[e] = element.sigma;
          kl[e] = element.unit_kl;
        }
      }
      if constexpr (kWithKL) sum += group_sum(kl);
      for_each_sample<kDraw>(p, noise, at, [&](int64_t first, int64_t shift) {
        T z[kGroup];
        fill_normals<Access::kAligned>(noise.stream, first, z);
#pragma unroll
        for (int e = 0; e < kGroup; ++e) z[e] = mu[e] + sigma[e] * z[e];
        cursor.template store<S>(p.z, z, shift);
      });
    });
    return sum;
  });
}

template <class Access, class S, Draw kDraw>
__global__ void __launch_bounds__(kBlock, kBlocksWithNoise<Access>)
    reparameterize_backward_kernel(const __grid_constant__ BackwardLaunch launch) {
  using T = typename Access::Compute;
  constexpr int kGroup = Access::kGroup;
  constexpr bool kWithKL = kDraw == Draw::kOneWithKL;
  const ReparameterizeBackwardParams& p = launch.p;
  for_each_unit(launch.work, Summation{}, [&](const Unit& unit) {
    if (!unit.exists) return 0.0;
    const NoiseOfUnit noise = noise_of_unit(p, launch.source, unit);
    const T weight = kWithKL ? static_cast<T>(weight_of(p.grad_kl, unit.item)) : T(0);
    for_each_group<Access>(p.extent, launch.work, unit, [&](const auto& cursor, int at) {
      // The sums over the samples of grad_z and of grad_z eps are all that the gradients need of them.
      T grad_mu[kGroup] = {}, grad_logvar[kGroup] = {};
      [[maybe_unused]] T mask[kGroup];
      if constexpr (kWithKL) {
        cursor.template load<S>(p.mu, grad_mu);
#pragma unroll
        for (int e = 0; e < kGroup; ++e) grad_mu[e] *= weight;
        if constexpr (Access::kTransforms) {
          load_mask(p.mask, cursor, mask);
#pragma unroll
          for (int e = 0; e < kGroup; ++e) grad_mu[e] *= mask[e];
        }
      }
      // Where z has no gradient it adds nothing, an infinite sigma times 0 included. Without the KL it always has one.
      const bool with_sample = !kWithKL || p.grad_z.data != nullptr;
      if (with_sample) {
        for_each_sample<kDraw>(p, noise, at, [&](int64_t first, int64_t shift) {
          T grad_z[kGroup], normals[kGroup];
          cursor.template load<S>(p.grad_z, grad_z, shift);
          fill_normals<Access::kAligned>(noise.stream, first, normals);
#pragma unroll
          for (int e = 0; e < kGroup; ++e) {
            grad_mu[e] += grad_z[e];
            grad_logvar[e] += grad_z[e] * normals[e];
          }
        });
      }
      T logvar[kGroup];
      cursor.template load<S>(p.logvar, logvar);
      if constexpr (Access::kTransforms) {
        if (p.grad_mu.data != nullptr) cursor.template store<S>(p.grad_mu, grad_mu);
#pragma unroll
        for (int e = 0; e < kGroup; ++e) {
          const auto element = scale_of(p.scale, logvar[e]);
          grad_logvar[e] *= with_sample ? static_cast<T>(p.temperature) * element.sigma_slope : T(0);
          if constexpr (kWithKL) {
            grad_logvar[e] += T(0.5f) * weight * mask[e] * element.variance_minus_one * element.logvar_slope;
          }
        }
      } else {
        ClampOfGroup<Access> clamp;
        clamp.apply(p.scale, cursor, logvar);
        // Stored first: the registers of one gradient are free for the other.
        if (p.grad_mu.data != nullptr) cursor.template store<S>(p.grad_mu, grad_mu);
#pragma unroll
        for (int e = 0; e < kGroup; ++e) {
          const auto element = posterior(T(0), logvar[e]);
          grad_logvar[e] *= with_sample ? element.sigma : T(0);
          if constexpr (kWithKL) grad_logvar[e] += weight * element.variance_minus_one;
          grad_logvar[e] *= T(0.5f);
        }
        clamp.end_gradients(grad_logvar);
      }
      if (p.grad_logvar.data != nullptr) cursor.template store<S>(p.grad_logvar, grad_logvar);
    });
    return 0.0;
  });
}

template <Draw kDraw, class Access, class S>
void start(const ForwardLaunch& launch, const LaunchSite& site) {
  const auto kernel = &reparameterize_kernel<Access, S, kDraw>;
  VAE_FUSED_LAUNCH(kernel, site.grid(launch.work.steps()), site.stream, launch);
}

template <Draw kDraw, class Access, class S>
void start(const BackwardLaunch& launch, const LaunchSite& site) {
  const auto kernel = &reparameterize_backward_kernel<Access, S, kDraw>;
  VAE_FUSED_LAUNCH(kernel, site.grid(launch.work.steps()), site.stream, launch);
}

// Without vectors, one sample is many.
template <Draw kDraw>
constexpr Draw kGenericDraw = kDraw == Draw::kOne ? Draw::kMany : kDraw;

template <Draw kDraw, class Launch>
void start_generic(const Launch& launch, const LaunchSite& site) {
  if (launch.p.wide) return start<kGenericDraw<kDraw>, GenericAccess<double, 2>, double>(launch, site);
  start<kGenericDraw<kDraw>, GenericAccess<float, 4>, float>(launch, site);
}

// Whether the noise of every item and sample begins a group.
template <class Launch>
bool noise_aligned(const Launch& launch, int group) {
  const bool samples =
      launch.p.num_samples == 1 || (launch.p.numel % group == 0 && launch.p.sample_stride % group == 0);
  return samples && (!launch.source.given.per_item || launch.p.item_numel % group == 0);
}

template <Draw kDraw, class Launch>
void start_transforming(const Launch& launch, const LaunchSite& site, std::initializer_list<const Operand*> operands) {
  if (launch.p.wide) return start<kGenericDraw<kDraw>, TransformingAccess<double, 2>, double>(launch, site);
  if (noise_aligned(launch, kTransformingGroup) &&
      vectorizes_or_repeats(launch.p.extent, kTransformingGroup, launch.p.mask) &&
      vectorizes_as_stored(launch.p.extent, kTransformingGroup, operands)) {
    return start<kGenericDraw<kDraw>, TransformingVectors<kTransformingGroup>, AnyStorage>(launch, site);
  }
  start<kGenericDraw<kDraw>, TransformingAccess<float, 4>, float>(launch, site);
}

template <Draw kDraw, class Launch>
void start_drawing(const Launch& launch, const LaunchSite& site, std::initializer_list<const Operand*> operands) {
  if (launch.p.transforms()) return start_transforming<kDraw>(launch, site, operands);
  if (launch.p.wide) return start_generic<kDraw>(launch, site);
  with_storage(launch.p.logvar.type, [&](auto storage) {
    using S = typename decltype(storage)::Type;
    constexpr int kGroup = Pack<S>::kCount;
    const bool vectors =
        noise_aligned(launch, kGroup) && std::all_of(operands.begin(), operands.end(), [&](const Operand* operand) {
          return vectorizes(launch.p.extent, kGroup, {{*operand, kStorage<S>}});
        });
    if (!vectors) return start_generic<kDraw>(launch, site);
    with_vectors<kGroup>(launch.p.extent, launch.p.scale.clamp == ClampKind::kHard,
                         [&](auto access) { start<kDraw, decltype(access), S>(launch, site); });
  });
}

template <class Launch>
void start_for(const Launch& launch, bool with_kl, const LaunchSite& site,
               std::initializer_list<const Operand*> operands) {
  if (with_kl) return start_drawing<Draw::kOneWithKL>(launch, site, operands);
  if (launch.p.num_samples == 1) return start_drawing<Draw::kOne>(launch, site, operands);
  start_drawing<Draw::kMany>(launch, site, operands);
}

}  // namespace

void launch_reparameterize(const ReparameterizeParams& p, const KeySource& source, const Work& work,
                           const Summation& sum, const LaunchSite& site) {
  ForwardLaunch launch{p, source, work, sum};
  give_rank(launch.p.extent);
  start_for(launch, sum.out != nullptr, site, {&p.mu, &p.logvar, &p.z});
}

void launch_reparameterize_backward(const ReparameterizeBackwardParams& p, const Work& work, const LaunchSite& site) {
  BackwardLaunch launch{p, {}, work};
  launch.source.given = p.key;
  give_rank(launch.p.extent);
  start_for(launch, p.has_kl, site, {&p.mu, &p.logvar, &p.grad_z, &p.grad_mu, &p.grad_logvar});
}

}  // namespace vae_fused
