#include <ATen/ops/sum.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "cuda/objective_launch.h"
#include "log_sigma_gradient.h"
#include "overwritten.h"

namespace vae_fused {
namespace {

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
  const Gradients grads{
      like_if(output_mask[0], recon),        like_if(objective.wants_grad_target(output_mask[1]), target),
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
