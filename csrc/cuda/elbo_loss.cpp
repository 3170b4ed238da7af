#include "cuda/elbo_loss.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sum.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "cuda/device.h"
#include "log_sigma_gradient.h"
#include "operands.h"
#include "overwritten.h"

namespace vae_fused {
namespace {

Weight one_number(double value) { return {nullptr, ElementType::kDouble, 0, value}; }

// A CPU beta is read here; one on the device when the kernel runs, so that a captured graph follows its schedule.
Weight weight_of_beta(const Objective& objective) {
  if (!present(objective.beta_tensor)) return one_number(objective.beta);
  const Tensor& beta = *objective.beta_tensor;
  if (beta.device() != objective.recon.device()) return one_number(beta.item<double>());
  return weight_of_gradient(beta, 1.0);
}

Work work_of(const Objective& objective, const Tensor& term) {
  return Work(objective.sums(), objective.numel_of_sum(term));
}

// The operands and the work of both terms; no sums yet. grad_loss is undefined for an incoming gradient of 1.
ElboLossTermParams params_of(const Objective& objective, const Gradients& grads, const Tensor& grad_loss) {
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
  return params;
}

void launch(const ReconstructionTerm& term, const ElboLossTermParams& params) {
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
  Tensor grad_one_log_sigma;  // [sums] of float64
};

// Sums both terms and fills the gradients that have a buffer, in one launch.
Sums launch_with_sums(const Objective& objective, ElboLossTermParams& params, bool with_latent, bool one_log_sigma) {
  const auto options = objective.recon.options().dtype(objective.result_type());
  const auto result = [&](const at::TensorOptions& of) {
    return objective.by_item() ? at::empty({objective.batch()}, of) : at::empty({}, of);
  };
  Sums sums{result(options), result(options), result(options)};
  if (one_log_sigma) sums.grad_one_log_sigma = result(options.dtype(at::kDouble));
  if (sums.loss.numel() == 0) return sums;

  ElboLossParams& p = params.p;
  p.with_data = true;
  p.with_latent = with_latent;
  p.loss = sums.loss.mutable_data_ptr();
  p.reconstruction = sums.reconstruction.mutable_data_ptr();
  p.kl = sums.kl.mutable_data_ptr();
  p.wide_results = objective.result_type() == at::kDouble;
  if (one_log_sigma) params.grad_log_sigma_number = sums.grad_one_log_sigma.mutable_data_ptr<double>();
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

// For an incoming gradient of 1.
Sums forward(const Objective& objective, const Gradients& grads, bool one_log_sigma) {
  ElboLossTermParams params = params_of(objective, grads, Tensor());
  return launch_with_sums(objective, params, objective.mu.defined(), one_log_sigma);
}

// Fills the gradients that have a buffer, for an incoming gradient [] or [B]; returns that of one log sigma for every
// sum, if wanted.
Tensor backward(const Objective& objective, const Tensor& grad_loss, const Gradients& grads, bool nothing_if_one,
                bool one_log_sigma) {
  ElboLossTermParams params = params_of(objective, grads, grad_loss);
  ElboLossParams& p = params.p;
  const auto wanted = [](const Tensor& grad) { return grad.defined() && grad.numel() > 0; };
  p.with_data = wanted(grads.recon) || wanted(grads.target) || wanted(grads.log_sigma);
  p.with_latent = wanted(grads.mu) || wanted(grads.logvar);
  p.nothing_if_one = nothing_if_one;
  if (one_log_sigma) {
    return launch_with_sums(objective, params, p.with_latent, one_log_sigma).grad_one_log_sigma;
  }
  if (p.with_data || p.with_latent || wanted(grads.kl)) launch(objective.term, params);
  return Tensor();
}

Tensor like_if(bool wanted, const Tensor& tensor) {
  return wanted && tensor.defined() ? at::empty_like(tensor) : Tensor();
}

// The buffer for the gradients of every element's log sigma, where they are wanted and there are any.
Tensor log_sigma_buffer(bool wanted, const ReconstructionTerm& term) {
  if (!wanted || !term.element_log_sigma.defined()) return Tensor();
  if (term.log_sigma_is_of_elements()) return at::empty_like(term.log_sigma);
  return at::empty(term.element_log_sigma.sizes(),
                   term.log_sigma.options().dtype(accumulation_type({&term.log_sigma})));
}

// The gradient of log sigma as the forward gives it.
Tensor log_sigma_gradient(bool wanted, const ReconstructionTerm& term, const Tensor& of_elements,
                          const Tensor& of_sums) {
  if (!wanted || !term.log_sigma.defined()) return Tensor();
  if (term.element_log_sigma.defined()) return summed_log_sigma_gradient(term, of_elements);
  return at::sum(of_sums).to(accumulation_type({&term.log_sigma})).view(term.log_sigma.sizes());
}

std::tuple<Tensor, Tensor, Tensor> elbo_loss_cuda(const Tensor& recon, const Tensor& target, const OptionalTensor& mu,
                                                  const OptionalTensor& logvar, const OptionalTensor& kl, double beta,
                                                  const OptionalTensor& beta_tensor, std::string_view recon_loss,
                                                  std::string_view reduction, double target_scale, double target_shift,
                                                  const OptionalTensor& weight, const OptionalTensor& log_sigma,
                                                  std::optional<double> log_sigma_value, double recon_weight, bool full,
                                                  double smooth_l1_beta) {
  const c10::DeviceGuard guard(recon.device());
  const Objective objective({recon,
                             target,
                             mu,
                             logvar,
                             kl,
                             beta,
                             beta_tensor,
                             recon_loss,
                             reduction,
                             target_scale,
                             target_shift,
                             {weight, log_sigma, log_sigma_value, recon_weight, full, smooth_l1_beta}});
  const Sums sums = forward(objective, Gradients{}, /*one_log_sigma=*/false);
  return {sums.loss, sums.reconstruction, sums.kl};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_with_gradients_cuda(
    const Tensor& recon, const Tensor& target, const OptionalTensor& mu, const OptionalTensor& logvar,
    const OptionalTensor& kl, double beta, const OptionalTensor& beta_tensor, std::string_view recon_loss,
    std::string_view reduction, std::array<bool, 4> output_mask, double target_scale, double target_shift,
    const OptionalTensor& weight, const OptionalTensor& log_sigma, std::optional<double> log_sigma_value,
    double recon_weight, bool full, double smooth_l1_beta) {
  const c10::DeviceGuard guard(recon.device());
  const Objective objective({recon,
                             target,
                             mu,
                             logvar,
                             kl,
                             beta,
                             beta_tensor,
                             recon_loss,
                             reduction,
                             target_scale,
                             target_shift,
                             {weight, log_sigma, log_sigma_value, recon_weight, full, smooth_l1_beta}});
  TORCH_CHECK_VALUE(!objective.by_item(), "reduction must not be sample where the forward computes the gradients");
  const ReconstructionTerm& term = objective.term;
  const Gradients grads{like_if(output_mask[0], recon),
                        Tensor(),
                        like_if(output_mask[1], objective.mu),
                        like_if(output_mask[2], objective.logvar),
                        Tensor(),
                        log_sigma_buffer(output_mask[3], term)};
  const Sums sums = forward(objective, grads, output_mask[3] && term.with_one_sigma());
  return {sums.loss,
          sums.reconstruction,
          sums.kl,
          grads.recon,
          grads.mu,
          grads.logvar,
          log_sigma_gradient(output_mask[3], term, grads.log_sigma, sums.grad_one_log_sigma)};
}

// The gradient of recon takes its place: the kernel reads a group of elements before it writes their gradients.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_inplace_cuda(
    const Tensor& recon, const Tensor& target, const OptionalTensor& mu, const OptionalTensor& logvar,
    const OptionalTensor& kl, double beta, const OptionalTensor& beta_tensor, std::string_view recon_loss,
    std::string_view reduction, std::array<bool, 3> output_mask, double target_scale, double target_shift,
    const OptionalTensor& weight, const OptionalTensor& log_sigma, std::optional<double> log_sigma_value,
    double recon_weight, bool full, double smooth_l1_beta) {
  const c10::DeviceGuard guard(recon.device());
  const Objective objective({recon,
                             target,
                             mu,
                             logvar,
                             kl,
                             beta,
                             beta_tensor,
                             recon_loss,
                             reduction,
                             target_scale,
                             target_shift,
                             {weight, log_sigma, log_sigma_value, recon_weight, full, smooth_l1_beta}});
  check_overwritten(objective);
  const ReconstructionTerm& term = objective.term;
  const Gradients grads{recon,
                        Tensor(),
                        like_if(output_mask[0], objective.mu),
                        like_if(output_mask[1], objective.logvar),
                        Tensor(),
                        log_sigma_buffer(output_mask[2], term)};
  const Sums sums = forward(objective, grads, output_mask[2] && term.with_one_sigma());
  return {sums.loss,    sums.reconstruction,
          sums.kl,      grads.mu,
          grads.logvar, log_sigma_gradient(output_mask[2], term, grads.log_sigma, sums.grad_one_log_sigma)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_backward_cuda(
    const Tensor& grad_loss, const Tensor& recon, const Tensor& target, const OptionalTensor& mu,
    const OptionalTensor& logvar, const OptionalTensor& kl, double beta, const OptionalTensor& beta_tensor,
    std::string_view recon_loss, std::string_view reduction, std::array<bool, 6> output_mask, double target_scale,
    double target_shift, const OptionalTensor& weight, const OptionalTensor& log_sigma,
    std::optional<double> log_sigma_value, double recon_weight, bool full, double smooth_l1_beta) {
  const c10::DeviceGuard guard(recon.device());
  const Objective objective({recon,
                             target,
                             mu,
                             logvar,
                             kl,
                             beta,
                             beta_tensor,
                             recon_loss,
                             reduction,
                             target_scale,
                             target_shift,
                             {weight, log_sigma, log_sigma_value, recon_weight, full, smooth_l1_beta}});
  check_grad_loss(objective, grad_loss);
  const ReconstructionTerm& term = objective.term;
  const Gradients grads{like_if(output_mask[0], recon),        like_if(output_mask[1], target),
                        like_if(output_mask[2], objective.mu), like_if(output_mask[3], objective.logvar),
                        like_if(output_mask[4], objective.kl), log_sigma_buffer(output_mask[5], term)};
  const Tensor of_sums = backward(objective, grad_loss, grads, /*nothing_if_one=*/false,
                                  output_mask[5] && term.with_one_sigma() && term.log_sigma.defined());
  const Tensor grad_log_sigma = log_sigma_gradient(output_mask[5], term, grads.log_sigma, of_sums);
  return {grads.recon, grads.target,
          grads.mu,    grads.logvar,
          grads.kl,    grad_log_sigma.defined() ? grad_log_sigma.to(log_sigma->scalar_type()) : Tensor()};
}

void elbo_loss_backward_inplace_cuda(const Tensor& grad_loss, const Tensor& recon, const Tensor& target,
                                     const OptionalTensor& mu, const OptionalTensor& logvar, const OptionalTensor& kl,
                                     double beta, const OptionalTensor& beta_tensor, std::string_view recon_loss,
                                     std::string_view reduction, const OptionalTensor& grad_recon,
                                     const OptionalTensor& grad_mu, const OptionalTensor& grad_logvar,
                                     double target_scale, double target_shift, const OptionalTensor& weight,
                                     const OptionalTensor& log_sigma, std::optional<double> log_sigma_value,
                                     double recon_weight, bool full, double smooth_l1_beta,
                                     const OptionalTensor& grad_log_sigma) {
  const c10::DeviceGuard guard(recon.device());
  const Objective objective({recon,
                             target,
                             mu,
                             logvar,
                             kl,
                             beta,
                             beta_tensor,
                             recon_loss,
                             reduction,
                             target_scale,
                             target_shift,
                             {weight, log_sigma, log_sigma_value, recon_weight, full, smooth_l1_beta}});
  check_grad_loss(objective, grad_loss);
  backward(objective, grad_loss, checked_buffers(objective, grad_recon, grad_mu, grad_logvar, grad_log_sigma),
           /*nothing_if_one=*/!objective.by_item(), /*one_log_sigma=*/false);
}

TORCH_LIBRARY_IMPL(vae_fused, CUDA, m) {
  m.impl("elbo_loss", &elbo_loss_cuda);
  m.impl("elbo_loss_with_gradients", &elbo_loss_with_gradients_cuda);
  m.impl("elbo_loss_", &elbo_loss_inplace_cuda);
  m.impl("elbo_loss_backward", &elbo_loss_backward_cuda);
  m.impl("elbo_loss_backward_", &elbo_loss_backward_inplace_cuda);
}

}  // namespace
}  // namespace vae_fused
