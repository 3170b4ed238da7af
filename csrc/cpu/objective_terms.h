// Both terms of the objective on the CPU, in one parallel region, and what their sums come to.
#pragma once

#include <cmath>

#include "cpu/parallel.h"
#include "cpu/scalar_access.h"
#include "objective.h"
#include "operands.h"

namespace vae_fused {

inline double beta_of(const Objective& objective) {
  return present(objective.beta_tensor) ? read_number(*objective.beta_tensor, 0) : objective.beta;
}

// Of a term without a sigma, or with one for every element, the sum is that of the kernel.
inline OneSigma one_sigma_of(const ReconstructionTerm& term) {
  if (!term.with_one_sigma()) return {1.0, 0.0, 0.0};
  const double log_sigma = term.log_sigma_value ? *term.log_sigma_value : read_number(term.log_sigma, 0);
  return one_sigma(term.loss, log_sigma, term.constant);
}

// Beyond this, which leaves room for the incoming gradient, a weight is one of float64: infinite in float, it would
// make NaN of an element without an error. Only a sigma below e^-34 gives such a weight.
inline constexpr double kLargestFloatWeight = 1e30;

inline ReconstructionTermParams reconstruction_params(const Objective& objective, const Gradients& grads,
                                                      const Weight& weight) {
  ReconstructionTermParams params{};
  ReconstructionParams& p = params.data;
  p.extent = bind_operands(objective.recon.sizes(), Order::kMemory,
                           {{objective.recon, &p.recon},
                            {objective.target, &p.target},
                            {grads.recon, &p.grad_recon},
                            {grads.target, &p.grad_target},
                            {objective.term.weight, &params.weight},
                            {objective.term.element_log_sigma, &params.log_sigma},
                            {grads.log_sigma, &params.grad_log_sigma}});
  p.wide = objective.data_type() == at::kDouble || std::abs(weight.scale) > kLargestFloatWeight;
  p.streamed = static_cast<int64_t>(objective.recon.nbytes()) > kStreamedBytes;
  p.numel = objective.recon.numel();
  p.item_numel = objective.numel_of_sum(objective.recon);
  p.target_scale = objective.target_scale;
  p.target_shift = objective.target_shift;
  p.weight = weight;
  params.settings = objective.term.settings;
  return params;
}

inline KLDivergenceParams latent_params(const Objective& objective, const Gradients& grads, const Weight& weight) {
  KLDivergenceParams p{};
  p.extent = bind_operands(
      objective.mu.sizes(), Order::kMemory,
      {{objective.mu, &p.mu}, {objective.logvar, &p.logvar}, {grads.mu, &p.grad_mu}, {grads.logvar, &p.grad_logvar}});
  p.wide = objective.mu.scalar_type() == at::kDouble;
  p.streamed = static_cast<int64_t>(objective.mu.nbytes()) > kStreamedBytes;
  p.numel = objective.mu.numel();
  p.item_numel = objective.numel_of_sum(objective.mu);
  p.weight = weight;
  return p;
}

// The tiles of the latents follow those of the data.
struct Terms {
  const ReconstructionTerm& term;
  const OneSigma sigma;
  ReconstructionTermParams reconstruction;
  TilePlan reconstruction_plan;
  KLDivergenceParams latent{};
  TilePlan latent_plan{0, 0};
  Partials reconstruction_partials, weight_partials, latent_partials;

  // grad_loss is undefined for an incoming gradient of 1.
  Terms(const Objective& objective, const Gradients& grads, const Tensor& grad_loss)
      : term(objective.term),
        sigma(one_sigma_of(term)),
        reconstruction(reconstruction_params(
            objective, grads,
            weight_of(grad_loss, sigma.gradient_scale() * term.recon_weight / objective.data_divisor()))),
        reconstruction_plan(objective.sums(), reconstruction.data.item_numel) {
    if (!objective.mu.defined()) return;
    latent = latent_params(objective, grads, weight_of(grad_loss, beta_of(objective) / objective.latent_divisor()));
    latent_plan = TilePlan(objective.sums(), latent.item_numel);
  }

  void sum_reconstruction() {
    reconstruction_partials.assign(reconstruction_plan.partials(), 0.0);
    reconstruction.data.partials = reconstruction_partials.data();
    if (!term.with_one_sigma() || !term.weight.defined()) return;
    weight_partials.assign(reconstruction_plan.partials(), 0.0);
    reconstruction.weight_partials = weight_partials.data();
  }

  void sum_latent() {
    latent_partials.assign(latent_plan.partials(), 0.0);
    latent.partials = latent_partials.data();
  }

  void run(bool with_reconstruction, bool with_latent) const {
    const int64_t split = with_reconstruction ? reconstruction_plan.tiles : 0;
    const int64_t tiles = split + (with_latent ? latent_plan.tiles : 0);
    const KernelTable& table = kernels();
    parallel_over_tiles(tiles, tiles_of(reconstruction_plan, kGrainMemory), [&](int64_t first, int64_t last) {
      if (first < split) run_reconstruction(table, first, std::min(last, split));
      if (last > split) table.kl_divergence(latent, latent_plan, std::max(first, split) - split, last - split);
    });
  }

  double reconstruction_of(int64_t item) const {
    return term.recon_weight * sigma.value(plain_sum_of(item), weights_of(item));
  }
  // Of one log_sigma. Over no elements it is 0, though the divisor may be 0 too.
  double log_sigma_gradient_of(int64_t item, double divisor) const {
    if (reconstruction.data.numel == 0) return 0.0;
    return term.recon_weight * sigma.derivative(plain_sum_of(item), weights_of(item)) / divisor;
  }
  double latent_of(int64_t item) const { return total(latent_partials, latent_plan, item); }

 private:
  static Weight weight_of(const Tensor& grad_loss, double scale) {
    return grad_loss.defined() ? weight_of_gradient(grad_loss, scale) : Weight{nullptr, ElementType::kDouble, 0, scale};
  }

  static double total(const Partials& partials, const TilePlan& plan, int64_t item) {
    return sum_of(partials.data() + item * plan.pieces, plan.pieces);
  }

  void run_reconstruction(const KernelTable& table, int64_t first, int64_t last) const {
    if (term.is_squared_error()) return table.reconstruction(reconstruction.data, reconstruction_plan, first, last);
    table.reconstruction_term(reconstruction, reconstruction_plan, first, last);
  }

  double plain_sum_of(int64_t item) const { return total(reconstruction_partials, reconstruction_plan, item); }
  double weights_of(int64_t item) const {
    if (weight_partials.empty()) return static_cast<double>(reconstruction.data.item_numel);
    return total(weight_partials, reconstruction_plan, item);
  }
};

}  // namespace vae_fused
