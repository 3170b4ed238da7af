// The second term of the objective's kernels: the KL of the latents, or the one that is given.
#pragma once

#include "cuda/elbo_loss.h"
#include "cuda/kl_element.h"

namespace vae_fused {

constexpr int kLatentGroup = 8;

inline bool vectorizes_latents(const KLDivergenceParams& latent) {
  const ElementType type = latent.mu.type;
  return vectorizes(latent.extent, kLatentGroup,
                    {{latent.mu, type}, {latent.logvar, type}, {latent.grad_mu, type}, {latent.grad_logvar, type}});
}

// Latents are few beside the data, so one kernel for all their types and layouts will do.
template <class T>
__device__ __forceinline__ double latent_of_unit(const ElboLossParams& launch, const Unit& unit) {
  if (!unit.exists) return 0.0;
  const T weight = static_cast<T>(weight_of(launch.latent.weight, unit.item) * weight_of(launch.beta, 0));
  if constexpr (std::is_same_v<T, float>) {
    if (launch.latent_vectors) {
      using Access = VectorAccess<kLatentGroup, true>;
      return kl_divergence_of_unit<Access, AnyStorage, false, false>(launch.latent, launch.latent_work, unit, weight);
    }
  }
  return kl_divergence_of_unit<GenericAccess<T, 1>, T, false, false>(launch.latent, launch.latent_work, unit, weight);
}

// What falls to one lane of a team of the given KL of one item, or of all where there is one sum.
__device__ __forceinline__ double given_kl_of_lane(const ElboLossParams& p, int64_t item, int lane, int team) {
  if (p.data_work.items != 1) return lane == 0 ? weight_of(p.given_kl, item) : 0.0;
  double sum = 0.0;
  for (int64_t of = lane; of < p.batch; of += team) sum += weight_of(p.given_kl, of);
  return sum;
}

__device__ __forceinline__ void write_grad_given_kl(const ElboLossParams& p) {
  for (int64_t item = blockIdx.x * int64_t{kBlock} + threadIdx.x; item < p.batch; item += gridDim.x * int64_t{kBlock}) {
    const double gradient = weight_of(p.grad_loss, item) * weight_of(p.beta, 0) / p.latent_divisor;
    write_number(p.grad_given_kl.data, p.grad_given_kl.type, item * p.grad_given_kl.strides[0], gradient);
  }
}

}  // namespace vae_fused
