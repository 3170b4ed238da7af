// The KL divergence of one unit: its sum, its elements and its gradients, whichever are asked for.
#pragma once

#include "core/gaussian.h"
#include "cuda/logvar_clamp.h"
#include "cuda/sum.h"

namespace vae_fused {

// One element of either prior, as the general form.
template <bool kPrior, class T>
__device__ __forceinline__ GaussianKL<T> kl_element(T mu, T logvar, T prior_mu, T prior_logvar) {
  if constexpr (kPrior) {
    return gaussian_kl(mu, logvar, prior_mu, prior_logvar);
  } else {
    const auto element = posterior(mu, logvar);
    return {element.unit_kl, mu, T(0.5f) * element.variance_minus_one, T(0)};
  }
}

// Returns what falls to this thread of the sum over the unit. Without a prior, its two operands are not looked at.
template <class Access, class S, bool kPrior>
__device__ __forceinline__ double kl_divergence_of_unit(const KLDivergenceParams& p, const Work& work, const Unit& unit,
                                                        typename Access::Compute item_weight) {
  using T = typename Access::Compute;
  constexpr int kGroup = Access::kGroup;
  double sum = 0.0;
  for_each_group<kGroup>(work, unit, [&](int at, int count) {
    const typename Access::Cursor cursor(p.extent, unit.begin + at, count);
    T mu[kGroup], logvar[kGroup], prior_mu[kGroup] = {}, prior_logvar[kGroup] = {}, weight[kGroup];
    cursor.template load<S>(p.mu, mu);
    cursor.template load<S>(p.logvar, logvar);
    if constexpr (kPrior) {
      if (p.prior_mu.data != nullptr) cursor.template load<S>(p.prior_mu, prior_mu);
      if (p.prior_logvar.data != nullptr) cursor.template load<S>(p.prior_logvar, prior_logvar);
    }
    ClampOfGroup<T, kGroup> clamp, prior_clamp;
    const ClampOfGroup<T, kGroup> unclamped;
    clamp.apply(p.clamp, count, logvar);
    if constexpr (kPrior) prior_clamp.apply(p.prior_clamp, count, prior_logvar);
#pragma unroll
    for (int e = 0; e < kGroup; ++e) weight[e] = item_weight;
    if (p.grad_elements.data != nullptr) cursor.template load<S>(p.grad_elements, weight);

    GaussianKL<T> element[kGroup];
    T values[kGroup];
#pragma unroll
    for (int e = 0; e < kGroup; ++e) element[e] = kl_element<kPrior>(mu[e], logvar[e], prior_mu[e], prior_logvar[e]);
    const auto put = [&](const Operand& operand, const ClampOfGroup<T, kGroup>& through, auto value_of) {
      if (operand.data == nullptr) return;
#pragma unroll
      for (int e = 0; e < kGroup; ++e) values[e] = value_of(e);
      through.end_gradients(values);
      cursor.template store<S>(operand, values);
    };
    put(p.elements, unclamped, [&](int e) { return element[e].value; });
    put(p.grad_mu, unclamped, [&](int e) { return weight[e] * element[e].grad_mu; });
    put(p.grad_logvar, clamp, [&](int e) { return weight[e] * element[e].grad_logvar; });
    if constexpr (kPrior) {
      put(p.grad_prior_mu, unclamped, [&](int e) { return -weight[e] * element[e].grad_mu; });
      put(p.grad_prior_logvar, prior_clamp, [&](int e) { return weight[e] * element[e].grad_prior_logvar; });
    }
#pragma unroll
    for (int e = 0; e < kGroup; ++e) values[e] = element[e].value;
    sum += group_sum(values);
  });
  return sum;
}

}  // namespace vae_fused
