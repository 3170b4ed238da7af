// From a checked objective to a launch: parameters, partial sums and results.
#pragma once

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "cuda/device.h"
#include "cuda/elbo_loss.h"
#include "objective.h"
#include "operands.h"

namespace vae_fused {

inline Weight one_number(double value) { return {nullptr, ElementType::kDouble, 0, value}; }

// A CPU beta is read here; one on the device when the kernel runs, so that a captured graph follows its schedule.
inline Weight weight_of_beta(const Objective& objective) {
  if (!present(objective.beta_tensor)) return one_number(objective.beta);
  const Tensor& beta = *objective.beta_tensor;
  if (beta.device() != objective.recon.device()) return one_number(beta.item<double>());
  return weight_of_gradient(beta, 1.0);
}

inline Work work_of(const Objective& objective, const Tensor& term) {
  return Work(objective.sums(), objective.numel_of_sum(term));
}

// The operands and the work of both terms; no sums yet. grad_loss is undefined for an incoming gradient of 1.
inline ElboLossTermParams params_of(const Objective& objective, const Gradients& grads, const Tensor& grad_loss) {
  const auto weight = [&](double scale) {
    return grad_loss.defined() ? weight_of_gradient(grad_loss, scale) : one_number(scale);
  };
  const ReconstructionTerm& term = objective.term;
  ElboLossTermParams params{};
  params.settings = term.settings;
  params.settings.formula = term.loss;  // one log sigma is read when the kernel runs
  params.one_log_sigma = term.with_one_sigma();
  if (params.one_log_sigma) {
    params.log_sigma_number =
        term.log_sigma_value ? one_number(*term.log_sigma_value) : weight_of_gradient(term.log_sigma.flatten(), 1.0);
  }
  ElboLossParams& p = params.p;
  p.batch = objective.batch();
  p.beta = weight_of_beta(objective);
  p.grad_loss = weight(1.0);
  p.data_divisor = objective.data_divisor() / term.recon_weight;
  p.latent_divisor = objective.latent_divisor();

  ReconstructionParams& data = p.data;
  data.extent = bind_operands(objective.recon.sizes(), Order::kMemory,
                              {{objective.recon, &data.recon},
                               {objective.target, &data.target},
                               {grads.recon, &data.grad_recon},
                               {grads.target, &data.grad_target},
                               {term.weight, &params.weight},
                               {term.element_log_sigma, &params.log_sigma},
                               {grads.log_sigma, &params.grad_log_sigma}});
  data.wide = objective.data_type() == at::kDouble;
  data.numel = objective.recon.numel();
  data.target_scale = objective.target_scale;
  data.target_shift = objective.target_shift;
  data.weight = weight(term.recon_weight / objective.data_divisor());
  p.data_work = work_of(objective, objective.recon);
  data.item_numel = p.data_work.item_numel;

  if (objective.mu.defined()) {
    KLDivergenceParams& latent = p.latent;
    latent.extent = bind_operands(objective.mu.sizes(), Order::kMemory,
                                  {{objective.mu, &latent.mu},
                                   {objective.logvar, &latent.logvar},
                                   {grads.mu, &latent.grad_mu},
                                   {grads.logvar, &latent.grad_logvar}});
    latent.wide = objective.mu.scalar_type() == at::kDouble;
    latent.numel = objective.mu.numel();
    latent.weight = weight(1.0 / p.latent_divisor);
    p.latent_work = work_of(objective, objective.mu);
    latent.item_numel = p.latent_work.item_numel;
  } else {
    p.given_kl = weight_of_gradient(objective.kl, 1.0);
    if (grads.kl.defined()) bind_operands(grads.kl.sizes(), Order::kLogical, {{grads.kl, &p.grad_given_kl}});
  }
  if (grads.shared_log_sigma.defined()) {
    const Tensor flat = grads.shared_log_sigma.view({-1});
    bind_operands(flat.sizes(), Order::kLogical, {{flat, &params.shared_log_sigma_gradient}});
    params.shared_log_sigmas = flat.numel();
  }
  return params;
}

inline void launch(const ReconstructionTerm& term, const ElboLossTermParams& params) {
  if (term.loss == ReconLoss::kMSE && !term.weight.defined()) {
    launch_elbo_loss(params.p, launch_site());
  } else {
    launch_elbo_loss_term(params, launch_site());
  }
  check_launch();
}

// Loss and terms; and what every sum adds to the gradient of one log sigma, where that is wanted.
struct Sums {
  Tensor loss, reconstruction, kl;
  Tensor grad_one_log_sigma;  // [] in the dtype of the gradient, or [B] of float64
};

// Sums both terms and fills the gradients that have a buffer, in one launch.
inline Sums launch_with_sums(const Objective& objective, ElboLossTermParams& params, bool with_latent,
                             bool one_log_sigma) {
  const auto options = objective.recon.options().dtype(objective.result_type());
  const auto result = [&](const at::TensorOptions& of) {
    return objective.by_item() ? at::empty({objective.batch()}, of) : at::empty({}, of);
  };
  Sums sums{result(options), result(options), result(options)};
  const auto log_sigma_type = [&] {
    return objective.by_item() ? at::kDouble : accumulation_type({&objective.term.log_sigma});
  };
  if (one_log_sigma) sums.grad_one_log_sigma = result(options.dtype(log_sigma_type()));
  if (sums.loss.numel() == 0) return sums;

  ElboLossParams& p = params.p;
  p.with_data = true;
  p.with_latent = with_latent;
  p.loss = sums.loss.mutable_data_ptr();
  p.reconstruction = sums.reconstruction.mutable_data_ptr();
  p.kl = sums.kl.mutable_data_ptr();
  p.wide_results = objective.result_type() == at::kDouble;
  if (one_log_sigma) {
    params.grad_log_sigma_number = sums.grad_one_log_sigma.mutable_data_ptr();
    params.wide_grad_log_sigma = sums.grad_one_log_sigma.scalar_type() == at::kDouble;
  }
  pair_terms(p);
  Tensor partials;
  HeldTicket held{};
  if (!p.paired) {
    const int64_t data_units = p.data_work.units(), latent_units = p.with_latent ? p.latent_work.units() : 0;
    const int64_t slope_units = params.one_log_sigma ? data_units : 0;
    partials = at::empty({data_units + latent_units + slope_units}, options.dtype(at::kDouble));
    p.data_partials = partials.mutable_data_ptr<double>();
    p.latent_partials = p.data_partials + data_units;
    params.slope_partials = p.latent_partials + latent_units;
    held = next_ticket(objective.recon);
    p.ticket = held.ticket;
  }
  launch(objective.term, params);
  return sums;
}

}  // namespace vae_fused
