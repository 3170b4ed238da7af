// Gradients of an incoming gradient of 1, multiplied by the one that came: where that is 1 too, it alone is read.
#include "cuda/scale_gradients.h"

#include "cuda/sum.h"

namespace vae_fused {
namespace {

constexpr int kScaledGroup = 8;

template <class Access, class S>
__global__ void __launch_bounds__(kBlock, 3) scale_gradients_kernel(const __grid_constant__ ScaleGradientsParams p) {
  using T = typename Access::Compute;
  const T factor = static_cast<T>(weight_of(p.factor, 0));
  if (factor == T(1)) return;
  for (int i = 0; i < p.count; ++i) {
    const ScaledGradient& gradient = p.gradients[i];
    const int64_t steps = gradient.work.steps();
    for (int64_t step = blockIdx.x; step < steps; step += gridDim.x) {
      const Unit unit = unit_of(gradient.work, step);
      if (!unit.exists) continue;
      for_each_group<Access>(gradient.extent, gradient.work, unit, [&](const auto& cursor, int) {
        T values[Access::kGroup];
        cursor.template load<S>(gradient.values, values);
#pragma unroll
        for (int e = 0; e < Access::kGroup; ++e) values[e] *= factor;
        cursor.template store<S>(gradient.values, values);
      });
    }
  }
}

template <class Access, class S>
void start(const ScaleGradientsParams& p, int64_t steps, const LaunchSite& site) {
  const auto kernel = &scale_gradients_kernel<Access, S>;
  VAE_FUSED_LAUNCH(kernel, site.grid(steps), site.stream, p);
}

}  // namespace

void launch_scale_gradients(const ScaleGradientsParams& params, const LaunchSite& site) {
  ScaleGradientsParams p = params;
  int64_t steps = 0;
  bool vectors = p.factor.type != ElementType::kDouble;
  for (int i = 0; i < p.count; ++i) {
    ScaledGradient& gradient = p.gradients[i];
    give_rank(gradient.extent);
    steps = std::max(steps, gradient.work.steps());
    vectors = vectors && vectorizes_as_stored(gradient.extent, kScaledGroup, {&gradient.values});
  }
  if (vectors) return start<VectorAccess<kScaledGroup, true>, AnyStorage>(p, steps, site);
  start<GenericAccess<double, 1>, double>(p, steps, site);
}

}  // namespace vae_fused
