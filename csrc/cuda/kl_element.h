// The KL divergence of one unit: its sum, its elements and its gradients, whichever are asked for.
#pragma once

#include "core/gaussian.h"
#include "core/scale_form.h"
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

// Returns what falls to this thread of the sum over the unit. Without a prior, its operands are not looked at; without
// elements, those of the elementwise divergence and its gradient, floats both, are not.
template <class Access, class S, bool kPrior, bool kElements>
__device__ __forceinline__ double kl_divergence_of_unit(const KLDivergenceParams& p, const Work& work, const Unit& unit,
                                                        typename Access::Compute item_weight) {
  using T = typename Access::Compute;
  constexpr int kGroup = Access::kGroup;
  double sum = 0.0;
  for_each_group<Access>(p.extent, work, unit, [&](const auto& cursor, int) {
    T mu[kGroup], logvar[kGroup], prior_mu[kGroup] = {}, prior_logvar[kGroup] = {}, weight[kGroup];
    cursor.template load<S>(p.mu, mu);
    cursor.template load<S>(p.logvar, logvar);
    if constexpr (kPrior) {
      if (p.prior_mu.data != nullptr) cursor.template load<S>(p.prior_mu, prior_mu);
      if (p.prior_logvar.data != nullptr) cursor.template load<S>(p.prior_logvar, prior_logvar);
    }
    ClampOfGroup<Access> clamp, prior_clamp;
    const ClampOfGroup<Access> unclamped;
    if constexpr (!Access::kTransforms) clamp.apply(p.scale, cursor, logvar);
    if constexpr (kPrior) prior_clamp.apply(p.prior_scale, cursor, prior_logvar);
#pragma unroll
    for (int e = 0; e < kGroup; ++e) weight[e] = item_weight;
    if (kElements && p.grad_elements.data != nullptr) cursor.template load<float>(p.grad_elements, weight);

    GaussianKL<T> element[kGroup];
    T values[kGroup];
#pragma unroll
    for (int e = 0; e < kGroup; ++e) {
      if constexpr (Access::kTransforms) {
        element[e] = kl_of_scale<kPrior>(mu[e], scale_of(p.scale, logvar[e]), prior_mu[e], prior_logvar[e]);
      } else {
        element[e] = kl_element<kPrior>(mu[e], logvar[e], prior_mu[e], prior_logvar[e]);
      }
    }
    if constexpr (Access::kTransforms) {
      T mask[kGroup];
      load_mask(p.mask, cursor, mask);
#pragma unroll
      for (int e = 0; e < kGroup; ++e) {
        element[e].value = cursor.has(e) ? mask[e] * element[e].value : T(0);
        weight[e] *= mask[e];
      }
    }
#pragma unroll
    for (int e = 0; e < kGroup; ++e) values[e] = element[e].value;
    sum += group_sum(values);
    if constexpr (kElements) {
      if (p.elements.data != nullptr) {
#pragma unroll
        for (int e = 0; e < kGroup; ++e) values[e] = element[e].value;
        cursor.template store<float>(p.elements, values);
      }
    }
    const auto put = [&](const Operand& operand, const ClampOfGroup<Access>& through, auto value_of) {
      if (operand.data == nullptr) return;
#pragma unroll
      for (int e = 0; e < kGroup; ++e) values[e] = value_of(e);
      through.end_gradients(values);
      cursor.template store<S>(operand, values);
    };
    put(p.grad_mu, unclamped, [&](int e) { return weight[e] * element[e].grad_mu; });
    put(p.grad_logvar, clamp, [&](int e) { return weight[e] * element[e].grad_logvar; });
    if constexpr (kPrior) {
      put(p.grad_prior_mu, unclamped, [&](int e) { return -weight[e] * element[e].grad_mu; });
      put(p.grad_prior_logvar, prior_clamp, [&](int e) { return weight[e] * element[e].grad_prior_logvar; });
    }
  });
  return sum;
}

}  // namespace vae_fused
