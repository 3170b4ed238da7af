// The noise itself.
#include "cuda/standard_normal.h"

#include "cuda/noise.h"
#include "cuda/sum.h"

namespace vae_fused {
namespace {

struct StandardNormalLaunch {
  KeySource source;
  Extent extent;
  Operand out;
  Work work;
};

template <class Access, class S>
__global__ void __launch_bounds__(kBlock, kBlocksWithNoise<Access>)
    standard_normal_kernel(const __grid_constant__ StandardNormalLaunch launch) {
  using T = typename Access::Compute;
  for_each_unit(launch.work, Summation{}, [&](const Unit& unit) {
    if (!unit.exists) return 0.0;  // there is no key for it either
    const NoiseStream noise = stream_of(key_of(launch.source, unit.item));
    for_each_group<Access>(launch.extent, launch.work, unit, [&](const auto& cursor, int at) {
      T normals[Access::kGroup];
      fill_normals<Access::kAligned>(noise, unit.within + at, normals);
      cursor.template store<S>(launch.out, normals);
    });
    return 0.0;
  });
}

template <class Access, class S>
void start(const StandardNormalLaunch& launch, const LaunchSite& site) {
  const auto kernel = &standard_normal_kernel<Access, S>;
  VAE_FUSED_LAUNCH(kernel, site.grid(launch.work.steps()), site.stream, launch);
}

}  // namespace

void launch_standard_normal(const StandardNormalParams& p, const Work& work, const LaunchSite& site) {
  StandardNormalLaunch launch{};
  launch.source.given = p.key;
  launch.extent.rank = 1;
  launch.extent.sizes[0] = p.numel;
  launch.out = {p.out, p.type, {1}};
  launch.work = work;
  if (p.type == ElementType::kDouble) return start<GenericAccess<double, 2>, double>(launch, site);
  with_storage(p.type, [&](auto storage) {
    using S = typename decltype(storage)::Type;
    constexpr int kGroup = Pack<S>::kCount;
    const bool noise_aligned = !p.key.per_item || p.item_numel % kGroup == 0;
    if (noise_aligned && vectorizes(launch.extent, kGroup, {{launch.out, kStorage<S>}})) {
      start<VectorAccess<kGroup, false>, S>(launch, site);
    } else {
      start<GenericAccess<float, 4>, float>(launch, site);
    }
  });
}

}  // namespace vae_fused
