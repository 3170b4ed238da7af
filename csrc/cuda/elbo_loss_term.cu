// The objective with any reconstruction term in one launch. The storage types are known when the kernel runs, so that
// there is one kernel for a term and not one for every pair of types.
#include "core/reconstruction_terms.h"
#include "cuda/elbo_loss_latent.h"

namespace vae_fused {
namespace {

constexpr int kGroupOfTerm = 8;

// Sums over a unit: of the elements, and of their derivatives in the one log sigma.
struct TermSums {
  double value = 0.0, slope = 0.0;
};

template <class Access, class Term>
__device__ __forceinline__ TermSums term_of_unit(const ElboLossTermParams& launch, const Unit& unit) {
  using T = typename Access::Compute;
  constexpr int kGroup = Access::kGroup;
  const ReconstructionParams& p = launch.p.data;
  const Term term(launch.settings);
  const T item_weight = unit.exists ? static_cast<T>(weight_of(p.weight, unit.item)) : T(0);
  const T one_log_sigma = launch.one_log_sigma ? static_cast<T>(weight_of(launch.log_sigma_number, 0)) : T(0);
  TermSums sums;
  for_each_group<Access>(p.extent, launch.p.data_work, unit, [&](const auto& cursor, int) {
    T recon[kGroup], target[kGroup], weight[kGroup], log_sigma[kGroup], values[kGroup], slopes[kGroup];
    cursor.template load<AnyStorage>(p.recon, recon);
    cursor.template load<AnyStorageOrBytes>(p.target, target);
    if (p.target.type == ElementType::kByte) {
      const T scale = static_cast<T>(p.target_scale), shift = static_cast<T>(p.target_shift);
#pragma unroll
      for (int e = 0; e < kGroup; ++e) target[e] = scale * target[e] + shift;
    }
    if (launch.weight.data != nullptr) {
      cursor.template load<AnyStorageOrRepeated>(launch.weight, weight);
    } else {
#pragma unroll
      for (int e = 0; e < kGroup; ++e) weight[e] = cursor.has(e) ? T(1) : T(0);
    }
    if (launch.log_sigma.data != nullptr) {
      cursor.template load<AnyStorageOrRepeated>(launch.log_sigma, log_sigma);
    } else {
#pragma unroll
      for (int e = 0; e < kGroup; ++e) log_sigma[e] = one_log_sigma;
    }
#pragma unroll
    for (int e = 0; e < kGroup; ++e) {
      const auto element = term(recon[e], target[e], log_sigma[e]);
      // Elements that are none have the weight 0, but what they would be may be infinite or no number.
      values[e] = cursor.has(e) ? weight[e] * element.value : T(0);
      slopes[e] = cursor.has(e) ? weight[e] * element.to_log_sigma : T(0);
      weight[e] *= item_weight;
      recon[e] = weight[e] * element.to_recon;
      target[e] = weight[e] * element.to_target;
      log_sigma[e] = weight[e] * element.to_log_sigma;
    }
    sums.value += static_cast<double>(group_sum(values));
    if (launch.one_log_sigma) sums.slope += static_cast<double>(group_sum(slopes));
    if (p.grad_recon.data != nullptr) cursor.template store<AnyStorage>(p.grad_recon, recon);
    if (p.grad_target.data != nullptr) cursor.template store<AnyStorage>(p.grad_target, target);
    if (launch.grad_log_sigma.data != nullptr) cursor.template store<AnyStorage>(launch.grad_log_sigma, log_sigma);
  });
  return sums;
}

__device__ __forceinline__ void write_results(const ElboLossTermParams& launch, int64_t item, const TermSums& sums,
                                              double latent_sum) {
  const ElboLossParams& p = launch.p;
  const double data = sums.value / p.data_divisor, latent = latent_sum / p.latent_divisor;
  write_sum(p.loss, p.wide_results, item, data + weight_of(p.beta, 0) * latent);
  write_sum(p.reconstruction, p.wide_results, item, data);
  write_sum(p.kl, p.wide_results, item, latent);
  if (launch.grad_log_sigma_number == nullptr) return;
  // Over no elements the gradient is 0, though the weight may be a division by 0.
  const double slope = p.data.numel == 0 ? 0.0 : weight_of(p.data.weight, item) * sums.slope;
  write_sum(launch.grad_log_sigma_number, launch.wide_grad_log_sigma, item, slope);
}

// What the forward summed over the elements that share a log sigma.
__device__ __forceinline__ void scale_shared_log_sigma_gradient(const ElboLossTermParams& launch) {
  const Operand& gradient = launch.shared_log_sigma_gradient;
  const double incoming = weight_of(launch.p.grad_loss, 0);
  for (int64_t i = blockIdx.x * int64_t{kBlock} + threadIdx.x; i < launch.shared_log_sigmas;
       i += gridDim.x * int64_t{kBlock}) {
    const int64_t at = i * gradient.strides[0];
    write_number(gradient.data, gradient.type, at, incoming * read_number<double>(gradient.data, gradient.type, at));
  }
}

template <class Access, class Term>
__global__ void __launch_bounds__(kBlock, 2) elbo_loss_term_kernel(const __grid_constant__ ElboLossTermParams launch) {
  using T = typename Access::Compute;
  const ElboLossParams& p = launch.p;
  if (p.nothing_if_one && weight_of(p.grad_loss, 0) == 1.0) return;
  const bool sums = p.sums();
  const int64_t data_steps = p.data_steps(), steps = p.steps();
  if (p.grad_given_kl.data != nullptr) write_grad_given_kl(p);
  if (launch.shared_log_sigmas > 0) scale_shared_log_sigma_gradient(launch);
  for (int64_t step = blockIdx.x; step < steps; step += gridDim.x) {
    const bool with_data = step < data_steps, with_latent = p.paired || !with_data;
    const Unit unit = unit_of(with_data ? p.data_work : p.latent_work, with_data ? step : step - data_steps);
    TermSums data;
    double latent = 0.0;
    if (with_data) data = term_of_unit<Access, Term>(launch, unit);
    if (with_latent && p.with_latent) {
      latent = latent_of_unit<T>(p, unit_of(p.latent_work, p.paired ? step : step - data_steps));
    } else if (with_latent && unit.exists) {
      latent = given_kl_of_lane(p, unit.item, unit.lane, p.data_work.team);
    }
    if (!sums) continue;
    const int team = with_data ? p.data_work.team : p.latent_work.team;
    if (with_data) data = {team_sum(data.value, team), launch.one_log_sigma ? team_sum(data.slope, team) : 0.0};
    if (with_latent) latent = team_sum(latent, team);
    if (unit.lane != 0 || !unit.exists) continue;
    if (p.paired) {
      write_results(launch, unit.item, data, latent);
    } else if (with_data) {
      p.data_partials[unit.index] = data.value;
      if (launch.one_log_sigma) launch.slope_partials[unit.index] = data.slope;
    } else {
      p.latent_partials[unit.index] = latent;
    }
  }
  if (!sums || p.paired || !is_last_block(p.ticket)) return;
  for_each_item(p.data_work.items, p.most_pieces(), [&](int64_t item, int lane, int team, bool exists) {
    TermSums data;
    double latent = 0.0;
    if (exists) {
      data.value = lane_sum(p.data_partials, p.data_work, item, lane, team);
      if (launch.one_log_sigma) data.slope = lane_sum(launch.slope_partials, p.data_work, item, lane, team);
      latent = p.with_latent ? lane_sum(p.latent_partials, p.latent_work, item, lane, team)
                             : given_kl_of_lane(p, item, lane, team);
    }
    data = {team_sum(data.value, team), launch.one_log_sigma ? team_sum(data.slope, team) : 0.0};
    latent = team_sum(latent, team);
    if (lane == 0 && exists) write_results(launch, item, data, latent);
  });
}

template <class Access, class Term>
void start(const ElboLossTermParams& launch, const LaunchSite& site) {
  const auto kernel = &elbo_loss_term_kernel<Access, Term>;
  VAE_FUSED_LAUNCH(kernel, site.grid(launch.p.steps()), site.stream, launch);
}

}  // namespace

void launch_elbo_loss_term(const ElboLossTermParams& params, const LaunchSite& site) {
  ElboLossTermParams launch = params;
  ElboLossParams& p = launch.p;
  give_rank(p.data.extent);
  give_rank(p.latent.extent);
  p.latent_vectors = vectorizes_latents(p.latent);
  if (p.data.wide || p.latent.wide) return start<GenericAccess<double, 1>, AnyTerm<double>>(launch, site);
  const ReconstructionParams& data = p.data;
  if (!vectorizes_or_repeats(data.extent, kGroupOfTerm, launch.weight) ||
      !vectorizes_or_repeats(data.extent, kGroupOfTerm, launch.log_sigma) ||
      !vectorizes_as_stored(data.extent, kGroupOfTerm,
                            {&data.recon, &data.target, &data.grad_recon, &data.grad_target, &launch.grad_log_sigma})) {
    return start<GenericAccess<float, 1>, AnyTerm<float>>(launch, site);
  }
  with_term(launch.settings.formula, [&](auto chosen) {
    using Term = typename decltype(chosen)::template For<float>;
    with_vectors<kGroupOfTerm>(p.data.extent, /*clamped=*/false,
                               [&](auto access) { start<decltype(access), Term>(launch, site); });
  });
}

}  // namespace vae_fused
