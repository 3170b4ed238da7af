#include "cuda/elbo_loss.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "cuda/device.h"
#include "objective.h"
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
ElboLossParams params_of(const Objective& objective, const Gradients& grads, const Tensor& grad_loss) {
  const auto weight = [&](double scale) {
    return grad_loss.defined() ? weight_of_gradient(grad_loss, scale) : one_number(scale);
  };
  ElboLossParams p{};
  p.batch = objective.batch();
  p.beta = weight_of_beta(objective);
  p.grad_loss = weight(1.0);
  p.data_divisor = objective.data_divisor();
  p.latent_divisor = objective.latent_divisor();

  ReconstructionParams& data = p.data;
  data.extent = bind_operands(objective.recon.sizes(), Order::kMemory,
                              {{objective.recon, &data.recon},
                               {objective.target, &data.target},
                               {grads.recon, &data.grad_recon},
                               {grads.target, &data.grad_target}});
  data.wide = accumulation_type({&objective.recon, &objective.target}) == at::kDouble;
  data.numel = objective.recon.numel();
  data.target_scale = objective.target_scale;
  data.target_shift = objective.target_shift;
  data.weight = weight(1.0 / p.data_divisor);
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
  return p;
}

// Loss and terms; and the gradients of the loss that have a buffer, for an incoming gradient of 1.
std::tuple<Tensor, Tensor, Tensor> forward(const Objective& objective, const Gradients& grads) {
  const auto options = objective.recon.options().dtype(objective.result_type());
  const auto result = [&] {
    return objective.by_item() ? at::empty({objective.batch()}, options) : at::empty({}, options);
  };
  Tensor loss = result(), reconstruction = result(), kl = result();
  if (loss.numel() == 0) return {loss, reconstruction, kl};

  ElboLossParams p = params_of(objective, grads, Tensor());
  p.with_data = true;
  p.with_latent = objective.mu.defined();
  p.loss = loss.mutable_data_ptr();
  p.reconstruction = reconstruction.mutable_data_ptr();
  p.kl = kl.mutable_data_ptr();
  p.wide_results = objective.result_type() == at::kDouble;
  pair_terms(p);
  Tensor partials;
  HeldTicket held{};
  if (!p.paired) {
    const int64_t latent_units = p.with_latent ? p.latent_work.units() : 0;
    partials = at::empty({p.data_work.units() + latent_units}, options.dtype(at::kDouble));
    p.data_partials = partials.mutable_data_ptr<double>();
    p.latent_partials = p.data_partials + p.data_work.units();
    held = next_ticket(objective.recon);
    p.ticket = held.ticket;
  }
  launch_elbo_loss(p, launch_site());
  check_launch();
  return {loss, reconstruction, kl};
}

// Fills the gradients that have a buffer, for an incoming gradient [] or [B].
void backward(const Objective& objective, const Tensor& grad_loss, const Gradients& grads, bool nothing_if_one) {
  ElboLossParams p = params_of(objective, grads, grad_loss);
  const auto wanted = [](const Tensor& grad) { return grad.defined() && grad.numel() > 0; };
  p.with_data = wanted(grads.recon) || wanted(grads.target);
  p.with_latent = wanted(grads.mu) || wanted(grads.logvar);
  p.nothing_if_one = nothing_if_one;
  if (!p.with_data && !p.with_latent && !wanted(grads.kl)) return;
  launch_elbo_loss(p, launch_site());
  check_launch();
}

Tensor like_if(bool wanted, const Tensor& tensor) {
  return wanted && tensor.defined() ? at::empty_like(tensor) : Tensor();
}

std::tuple<Tensor, Tensor, Tensor> elbo_loss_cuda(const Tensor& recon, const Tensor& target, const OptionalTensor& mu,
                                                  const OptionalTensor& logvar, const OptionalTensor& kl, double beta,
                                                  const OptionalTensor& beta_tensor, std::string_view recon_loss,
                                                  std::string_view reduction, double target_scale,
                                                  double target_shift) {
  const c10::DeviceGuard guard(recon.device());
  const Objective objective(
      {recon, target, mu, logvar, kl, beta, beta_tensor, recon_loss, reduction, target_scale, target_shift});
  return forward(objective, Gradients{});
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_with_gradients_cuda(
    const Tensor& recon, const Tensor& target, const OptionalTensor& mu, const OptionalTensor& logvar,
    const OptionalTensor& kl, double beta, const OptionalTensor& beta_tensor, std::string_view recon_loss,
    std::string_view reduction, std::array<bool, 3> output_mask, double target_scale, double target_shift) {
  const c10::DeviceGuard guard(recon.device());
  const Objective objective(
      {recon, target, mu, logvar, kl, beta, beta_tensor, recon_loss, reduction, target_scale, target_shift});
  TORCH_CHECK_VALUE(!objective.by_item(), "reduction must not be sample where the forward computes the gradients");
  const Gradients grads{like_if(output_mask[0], recon), Tensor(), like_if(output_mask[1], objective.mu),
                        like_if(output_mask[2], objective.logvar), Tensor()};
  const auto [loss, reconstruction, kl_term] = forward(objective, grads);
  return {loss, reconstruction, kl_term, grads.recon, grads.mu, grads.logvar};
}

// The gradient of recon takes its place: the kernel reads a group of elements before it writes their gradients.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_inplace_cuda(
    const Tensor& recon, const Tensor& target, const OptionalTensor& mu, const OptionalTensor& logvar,
    const OptionalTensor& kl, double beta, const OptionalTensor& beta_tensor, std::string_view recon_loss,
    std::string_view reduction, std::array<bool, 2> output_mask, double target_scale, double target_shift) {
  const c10::DeviceGuard guard(recon.device());
  const Objective objective(
      {recon, target, mu, logvar, kl, beta, beta_tensor, recon_loss, reduction, target_scale, target_shift});
  check_overwritten(objective);
  const Gradients grads{recon, Tensor(), like_if(output_mask[0], objective.mu),
                        like_if(output_mask[1], objective.logvar), Tensor()};
  const auto [loss, reconstruction, kl_term] = forward(objective, grads);
  return {loss, reconstruction, kl_term, grads.mu, grads.logvar};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_backward_cuda(
    const Tensor& grad_loss, const Tensor& recon, const Tensor& target, const OptionalTensor& mu,
    const OptionalTensor& logvar, const OptionalTensor& kl, double beta, const OptionalTensor& beta_tensor,
    std::string_view recon_loss, std::string_view reduction, std::array<bool, 5> output_mask, double target_scale,
    double target_shift) {
  const c10::DeviceGuard guard(recon.device());
  const Objective objective(
      {recon, target, mu, logvar, kl, beta, beta_tensor, recon_loss, reduction, target_scale, target_shift});
  check_grad_loss(objective, grad_loss);
  const Gradients grads{like_if(output_mask[0], recon), like_if(output_mask[1], target),
                        like_if(output_mask[2], objective.mu), like_if(output_mask[3], objective.logvar),
                        like_if(output_mask[4], objective.kl)};
  backward(objective, grad_loss, grads, /*nothing_if_one=*/false);
  return {grads.recon, grads.target, grads.mu, grads.logvar, grads.kl};
}

void elbo_loss_backward_inplace_cuda(const Tensor& grad_loss, const Tensor& recon, const Tensor& target,
                                     const OptionalTensor& mu, const OptionalTensor& logvar, const OptionalTensor& kl,
                                     double beta, const OptionalTensor& beta_tensor, std::string_view recon_loss,
                                     std::string_view reduction, const OptionalTensor& grad_recon,
                                     const OptionalTensor& grad_mu, const OptionalTensor& grad_logvar,
                                     double target_scale, double target_shift) {
  const c10::DeviceGuard guard(recon.device());
  const Objective objective(
      {recon, target, mu, logvar, kl, beta, beta_tensor, recon_loss, reduction, target_scale, target_shift});
  check_grad_loss(objective, grad_loss);
  backward(objective, grad_loss, checked_buffers(objective, grad_recon, grad_mu, grad_logvar),
           /*nothing_if_one=*/!objective.by_item());
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
