// The KL divergence from the unit prior or a given one, and its backward.
#include "cuda/kl_divergence.h"

#include "cuda/kl_element.h"

namespace vae_fused {
namespace {

struct KLDivergenceLaunch {
  KLDivergenceParams p;
  Work work;
  Summation sum;
};

// Ampere's code for groups of eight takes a few registers more than Hopper's and Blackwell's.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr bool kMoreRegisters = true;
#else
constexpr bool kMoreRegisters = false;
#endif

// Blocks that have to fit a multiprocessor together, which bounds the registers: as many as spill nothing.
template <class Access, bool kPrior>
constexpr int kBlocksWithKL = Access::kTransforms || ((kPrior || kMoreRegisters) && Access::kGroup == 8) ? 2 : 3;

template <class Access, class S, bool kPrior>
__global__ void __launch_bounds__(kBlock, kBlocksWithKL<Access, kPrior>)
    kl_divergence_kernel(const __grid_constant__ KLDivergenceLaunch launch) {
  using T = typename Access::Compute;
  for_each_unit(launch.work, launch.sum, [&](const Unit& unit) {
    if (!unit.exists) return 0.0;
    const T weight = static_cast<T>(weight_of(launch.p.weight, unit.item));
    return kl_divergence_of_unit<Access, S, kPrior, true>(launch.p, launch.work, unit, weight);
  });
}

template <class Access, class S>
void start(const KLDivergenceLaunch& launch, const LaunchSite& site) {
  const bool prior = launch.p.prior_mu.data != nullptr || launch.p.prior_logvar.data != nullptr;
  const auto kernel = prior ? &kl_divergence_kernel<Access, S, true> : &kl_divergence_kernel<Access, S, false>;
  VAE_FUSED_LAUNCH(kernel, site.grid(launch.work.steps()), site.stream, launch);
}

}  // namespace

void launch_kl_divergence(const KLDivergenceParams& params, const Work& work, const Summation& sum,
                          const LaunchSite& site) {
  KLDivergenceLaunch launch{params, work, sum};
  KLDivergenceParams& p = launch.p;
  give_rank(p.extent);
  if (p.transforms()) {
    if (p.wide) return start<TransformingAccess<double, 1>, double>(launch, site);
    const auto is_float = [](const Operand& operand) {
      return operand.data == nullptr || operand.type == ElementType::kFloat;
    };
    if (is_float(p.elements) && is_float(p.grad_elements) && p.prior_scale.clamp == ClampKind::kNone &&
        vectorizes_or_repeats(p.extent, kTransformingGroup, p.mask) &&
        vectorizes_as_stored(p.extent, kTransformingGroup,
                             {&p.mu, &p.logvar, &p.prior_mu, &p.prior_logvar, &p.elements, &p.grad_elements, &p.grad_mu,
                              &p.grad_logvar, &p.grad_prior_mu, &p.grad_prior_logvar})) {
      return start<TransformingVectors<kTransformingGroup>, AnyStorage>(launch, site);
    }
    return start<TransformingAccess<float, 1>, float>(launch, site);
  }
  if (p.wide) return start<GenericAccess<double, 1>, double>(launch, site);
  with_storage(p.mu.type, [&](auto storage) {
    using S = typename decltype(storage)::Type;
    constexpr int kGroup = Pack<S>::kCount;
    constexpr ElementType type = kStorage<S>;
    if (vectorizes(p.extent, kGroup,
                   {{p.mu, type},
                    {p.logvar, type},
                    {p.prior_mu, type},
                    {p.prior_logvar, type},
                    {p.elements, ElementType::kFloat},
                    {p.grad_elements, ElementType::kFloat},
                    {p.grad_mu, type},
                    {p.grad_logvar, type},
                    {p.grad_prior_mu, type},
                    {p.grad_prior_logvar, type}})) {
      with_vectors<kGroup>(p.extent, p.scale.clamp == ClampKind::kHard || p.prior_scale.clamp == ClampKind::kHard,
                           [&](auto access) { start<decltype(access), S>(launch, site); });
    } else {
      start<GenericAccess<float, 1>, float>(launch, site);
    }
  });
}

}  // namespace vae_fused
