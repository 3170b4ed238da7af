// z = mu + sigma eps with the KL in the same pass, and the backward of both with eps generated again.
#include "cuda/reparameterize.h"

#include "core/gaussian.h"
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
  Key key;
  int64_t first, samples_apart;
};

template <class Params>
__device__ __forceinline__ NoiseOfUnit noise_of_unit(const Params& p, const KeySource& source, const Unit& unit) {
  if (source.given.per_item) return {key_of(source, unit.item), unit.within, p.item_numel};
  return {key_of(source, 0), unit.begin, p.numel};
}

template <class Access, class S, bool kWithKL>
__global__ void __launch_bounds__(kBlock, kBlocksWithNoise<Access>)
    reparameterize_kernel(const __grid_constant__ ForwardLaunch launch) {
  using T = typename Access::Compute;
  constexpr int kGroup = Access::kGroup;
  const ReparameterizeParams& p = launch.p;
  record_key(launch.source);
  for_each_unit(launch.work, launch.sum, [&](const Unit& unit) {
    if (!unit.exists) return 0.0;
    const NoiseOfUnit noise = noise_of_unit(p, launch.source, unit);
    double sum = 0.0;
    for_each_group<kGroup>(launch.work, unit, [&](int at, int count) {
      const typename Access::Cursor cursor(p.extent, unit.begin + at, count);
      T mu[kGroup], sigma[kGroup], kl[kGroup];
      cursor.template load<S>(p.mu, mu);
      cursor.template load<S>(p.logvar, sigma);
      ClampOfGroup<T, kGroup>().apply(p.clamp, count, sigma);
#pragma unroll
      for (int e = 0; e < kGroup; ++e) {
        const auto element = posterior(mu[e], sigma[e]);
        sigma[e] = element.sigma;
        kl[e] = element.unit_kl;
      }
      if constexpr (kWithKL) sum += group_sum(kl);
      for (int64_t sample = 0; sample < p.num_samples; ++sample) {
        T z[kGroup];
        fill_normals<Access::kAligned>(noise.key, noise.first + sample * noise.samples_apart + at, z);
#pragma unroll
        for (int e = 0; e < kGroup; ++e) z[e] = mu[e] + sigma[e] * z[e];
        cursor.template store<S>(p.z, z, sample * p.sample_stride);
      }
    });
    return sum;
  });
}

template <class Access, class S, bool kWithKL>
__global__ void __launch_bounds__(kBlock, kBlocksWithNoise<Access>)
    reparameterize_backward_kernel(const __grid_constant__ BackwardLaunch launch) {
  using T = typename Access::Compute;
  constexpr int kGroup = Access::kGroup;
  const ReparameterizeBackwardParams& p = launch.p;
  for_each_unit(launch.work, Summation{}, [&](const Unit& unit) {
    if (!unit.exists) return 0.0;
    const NoiseOfUnit noise = noise_of_unit(p, launch.source, unit);
    const T weight = kWithKL ? static_cast<T>(weight_of(p.grad_kl, unit.item)) : T(0);
    for_each_group<kGroup>(launch.work, unit, [&](int at, int count) {
      const typename Access::Cursor cursor(p.extent, unit.begin + at, count);
      // The sums over the samples of grad_z and of grad_z eps are all that the gradients need of them.
      T grad_mu[kGroup] = {}, grad_logvar[kGroup] = {};
      if (p.grad_z.data != nullptr) {
        for (int64_t sample = 0; sample < p.num_samples; ++sample) {
          T grad_z[kGroup], normals[kGroup];
          cursor.template load<S>(p.grad_z, grad_z, sample * p.sample_stride);
          fill_normals<Access::kAligned>(noise.key, noise.first + sample * noise.samples_apart + at, normals);
#pragma unroll
          for (int e = 0; e < kGroup; ++e) {
            grad_mu[e] += grad_z[e];
            grad_logvar[e] += grad_z[e] * normals[e];
          }
        }
      }
      T mu[kGroup] = {}, logvar[kGroup];
      if constexpr (kWithKL) cursor.template load<S>(p.mu, mu);
      cursor.template load<S>(p.logvar, logvar);
      ClampOfGroup<T, kGroup> clamp;
      clamp.apply(p.clamp, count, logvar);
#pragma unroll
      for (int e = 0; e < kGroup; ++e) {
        const auto element = posterior(mu[e], logvar[e]);
        grad_logvar[e] *= element.sigma;
        if constexpr (kWithKL) {
          grad_mu[e] += weight * mu[e];
          grad_logvar[e] += weight * element.variance_minus_one;
        }
        grad_logvar[e] *= T(0.5f);
      }
      clamp.end_gradients(grad_logvar);
      if (p.grad_mu.data != nullptr) cursor.template store<S>(p.grad_mu, grad_mu);
      if (p.grad_logvar.data != nullptr) cursor.template store<S>(p.grad_logvar, grad_logvar);
    });
    return 0.0;
  });
}

template <class Access, class S>
void start(const ForwardLaunch& launch, const LaunchSite& site) {
  const auto kernel =
      launch.sum.out != nullptr ? &reparameterize_kernel<Access, S, true> : &reparameterize_kernel<Access, S, false>;
  VAE_FUSED_LAUNCH(kernel, site.grid(launch.work.steps()), site.stream, launch);
}

template <class Access, class S>
void start(const BackwardLaunch& launch, const LaunchSite& site) {
  const auto kernel = launch.p.has_kl ? &reparameterize_backward_kernel<Access, S, true>
                                      : &reparameterize_backward_kernel<Access, S, false>;
  VAE_FUSED_LAUNCH(kernel, site.grid(launch.work.steps()), site.stream, launch);
}

template <class Launch>
void start_for(const Launch& launch, const LaunchSite& site, const Operand& logvar, const Operand& samples,
               std::initializer_list<const Operand*> others) {
  if (launch.p.wide) return start<GenericAccess<double, 2>, double>(launch, site);
  with_storage(logvar.type, [&](auto storage) {
    using S = typename decltype(storage)::Type;
    constexpr int kGroup = 16 / sizeof(S);
    const bool samples_aligned = launch.p.num_samples == 1 || launch.p.sample_stride % kGroup == 0;
    bool vectors = samples_aligned && vectorizes(launch.p.extent, launch.work.item_numel, kGroup,
                                                 {{logvar, kStorage<S>}, {samples, kStorage<S>}});
    for (const Operand* operand : others) {
      vectors = vectors && vectorizes(launch.p.extent, launch.work.item_numel, kGroup, {{*operand, kStorage<S>}});
    }
    if (vectors) {
      start<VectorAccess<kGroup>, S>(launch, site);
    } else {
      start<GenericAccess<float, 4>, float>(launch, site);
    }
  });
}

}  // namespace

void launch_reparameterize(const ReparameterizeParams& p, const KeySource& source, const Work& work,
                           const Summation& sum, const LaunchSite& site) {
  ForwardLaunch launch{p, source, work, sum};
  give_rank(launch.p.extent);
  start_for(launch, site, p.logvar, p.z, {&p.mu});
}

void launch_reparameterize_backward(const ReparameterizeBackwardParams& p, const Work& work, const LaunchSite& site) {
  BackwardLaunch launch{p, {}, work};
  launch.source.given = p.key;
  give_rank(launch.p.extent);
  start_for(launch, site, p.logvar, p.grad_z, {&p.mu, &p.grad_mu, &p.grad_logvar});
}

}  // namespace vae_fused
