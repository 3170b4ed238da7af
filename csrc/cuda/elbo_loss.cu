// The objective in one launch: the units of the reconstruction come first, those of the latents follow.
#include "cuda/elbo_loss.h"

#include "core/reconstruction.h"
#include "cuda/elbo_loss_latent.h"

namespace vae_fused {
namespace {

// Elements that a thread loads before it uses the first: 64 bytes in flight of one type, 48 of two, and 16 of bytes,
// which are a vector.
template <class R, class S>
constexpr int kDataGroup = sizeof(S) == 1 || sizeof(R) + sizeof(S) <= 4 ? 16 : 8;

// The storage type is known when the kernel is compiled where whole vectors are read, else when it runs.
template <class Access, class S>
__device__ __forceinline__ bool reads_bytes(const ReconstructionParams& p) {
  if constexpr (Access::kAligned) return std::is_same_v<S, uint8_t>;
  return p.target.type == ElementType::kByte;
}

// Squares are summed in float64, where the product of two floats is exact.
template <class Access, class R, class S>
__device__ __forceinline__ double reconstruction_of_unit(const ElboLossParams& launch, const Unit& unit) {
  using T = typename Access::Compute;
  constexpr int kGroup = Access::kGroup;
  const ReconstructionParams& p = launch.data;
  const T weight = unit.exists ? static_cast<T>(weight_of(p.weight, unit.item)) : T(0);
  const T slope = weight + weight;  // weight times the derivative, 2 root: doubling is exact, so it may come first
  double sum = 0.0;
  for_each_group<Access>(p.extent, launch.data_work, unit, [&](const auto& cursor, int) {
    T recon[kGroup], target[kGroup];
    cursor.template load<R>(p.recon, recon);
    cursor.template load<S>(p.target, target);
    if (reads_bytes<Access, S>(p)) {
      const T scale = static_cast<T>(p.target_scale), shift = static_cast<T>(p.target_shift);
#pragma unroll
      for (int e = 0; e < kGroup; ++e) {
        if (cursor.has(e)) target[e] = scale * target[e] + shift;  // no byte stays 0, as the reconstruction there
      }
    }
#pragma unroll
    for (int e = 0; e < kGroup; ++e) {
      const auto element = squared_error(recon[e], target[e]);
      const double root = element.root;
      sum += root * root;
      recon[e] = slope * element.root;
    }
    if (p.grad_recon.data != nullptr) cursor.template store<R>(p.grad_recon, recon);
    if constexpr (!std::is_same_v<S, uint8_t>) {  // bytes have no gradient
      if (p.grad_target.data == nullptr) return;
#pragma unroll
      for (int e = 0; e < kGroup; ++e) target[e] = -recon[e];
      cursor.template store<S>(p.grad_target, target);
    }
  });
  return sum;
}

__device__ __forceinline__ void write_results(const ElboLossParams& p, int64_t item, double data_sum,
                                              double latent_sum) {
  const double data = data_sum / p.data_divisor, latent = latent_sum / p.latent_divisor;
  write_sum(p.loss, p.wide_results, item, data + weight_of(p.beta, 0) * latent);
  write_sum(p.reconstruction, p.wide_results, item, data);
  write_sum(p.kl, p.wide_results, item, latent);
}

// Blocks that have to fit a multiprocessor together, which bounds the registers: as many as spill nothing.
template <class S>
constexpr int kBlocksWithData = sizeof(S) == 1 ? 2 : 3;

template <class Access, class R, class S>
__global__ void __launch_bounds__(kBlock, kBlocksWithData<S>)
    elbo_loss_kernel(const __grid_constant__ ElboLossParams p) {
  using T = typename Access::Compute;
  if (p.nothing_if_one && weight_of(p.grad_loss, 0) == 1.0) return;
  const bool sums = p.sums();
  const int64_t data_steps = p.data_steps(), steps = p.steps();
  if (p.grad_given_kl.data != nullptr) write_grad_given_kl(p);
  for (int64_t step = blockIdx.x; step < steps; step += gridDim.x) {
    const bool with_data = step < data_steps, with_latent = p.paired || !with_data;
    const Unit unit = unit_of(with_data ? p.data_work : p.latent_work, with_data ? step : step - data_steps);
    double data = 0.0, latent = 0.0;
    if (with_data) data = reconstruction_of_unit<Access, R, S>(p, unit);
    if (with_latent && p.with_latent) {
      latent = latent_of_unit<T>(p, unit_of(p.latent_work, p.paired ? step : step - data_steps));
    } else if (with_latent && unit.exists) {
      latent = given_kl_of_lane(p, unit.item, unit.lane, p.data_work.team);
    }
    if (!sums) continue;
    const int team = with_data ? p.data_work.team : p.latent_work.team;
    if (with_data) data = team_sum(data, team);
    if (with_latent) latent = team_sum(latent, team);
    if (unit.lane != 0 || !unit.exists) continue;
    if (p.paired) {
      write_results(p, unit.item, data, latent);
    } else if (with_data) {
      p.data_partials[unit.index] = data;
    } else {
      p.latent_partials[unit.index] = latent;
    }
  }
  if (!sums || p.paired || !is_last_block(p.ticket)) return;
  for_each_item(p.data_work.items, p.most_pieces(), [&](int64_t item, int lane, int team, bool exists) {
    double data = 0.0, latent = 0.0;
    if (exists) {
      data = lane_sum(p.data_partials, p.data_work, item, lane, team);
      latent = p.with_latent ? lane_sum(p.latent_partials, p.latent_work, item, lane, team)
                             : given_kl_of_lane(p, item, lane, team);
    }
    data = team_sum(data, team);
    latent = team_sum(latent, team);
    if (lane == 0 && exists) write_results(p, item, data, latent);
  });
}

template <class Access, class R, class S>
void start(const ElboLossParams& p, const LaunchSite& site) {
  const auto kernel = &elbo_loss_kernel<Access, R, S>;
  VAE_FUSED_LAUNCH(kernel, site.grid(p.steps()), site.stream, p);
}

}  // namespace

// body(Storage<S>) for the storage type of the target, which may be bytes.
template <class Body>
static void with_target_storage(ElementType type, Body body) {
  if (type == ElementType::kByte) return body(Storage<uint8_t>{});
  with_storage(type, body);
}

void pair_terms(ElboLossParams& p) {
  p.paired = p.sums() && p.data_work.pieces == 1 && (!p.with_latent || p.latent_work.pieces == 1);
  if (p.paired && p.with_latent) {
    p.data_work.team = p.latent_work.team = std::max(p.data_work.team, p.latent_work.team);
  }
}

void launch_elbo_loss(const ElboLossParams& params, const LaunchSite& site) {
  ElboLossParams p = params;
  give_rank(p.data.extent);
  give_rank(p.latent.extent);
  p.latent_vectors = vectorizes_latents(p.latent);
  if (p.data.wide || p.latent.wide) return start<GenericAccess<double, 1>, double, double>(p, site);
  with_storage(p.data.recon.type, [&](auto recon) {
    with_target_storage(p.data.target.type, [&](auto target) {
      using R = typename decltype(recon)::Type;
      using S = typename decltype(target)::Type;
      constexpr int kGroup = kDataGroup<R, S>;
      if (vectorizes(p.data.extent, kGroup,
                     {{p.data.recon, kStorage<R>},
                      {p.data.target, kStorage<S>},
                      {p.data.grad_recon, kStorage<R>},
                      {p.data.grad_target, kStorage<S>}})) {
        with_vectors<kGroup>(p.data.extent, /*clamped=*/false,
                             [&](auto access) { start<decltype(access), R, S>(p, site); });
      } else {
        start<GenericAccess<float, 1>, float, float>(p, site);
      }
    });
  });
}

}  // namespace vae_fused
