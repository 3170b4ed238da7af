#include <torch/library.h>

#include "cpu/allocate.h"
#include "cpu/objective_terms.h"
#include "log_sigma_gradient.h"
#include "overwritten.h"

namespace vae_fused {
namespace {

// Loss and terms; and the gradients of the loss, for an incoming gradient of 1.
struct Forward {
  Tensor loss, reconstruction, kl;
  double grad_one_log_sigma = 0.0;
};

// Fills the gradients that have a buffer, too.
Forward forward(const Objective& objective, const Gradients& grads) {
  const auto dtype = objective.result_type();
  const auto result = [&] { return objective.by_item() ? allocate({objective.batch()}, dtype) : allocate({}, dtype); };
  Forward results{result(), result(), result()};

  Terms terms(objective, grads, Tensor());
  terms.sum_reconstruction();
  terms.sum_latent();
  terms.run(true, objective.mu.defined());

  const auto given_kl = [&](int64_t item) { return read_number(objective.kl, item * objective.kl.stride(0)); };
  const double beta = beta_of(objective);
  for (int64_t i = 0; i < results.loss.numel(); ++i) {
    double latent = 0.0;
    if (objective.mu.defined()) {
      latent = terms.latent_of(i);
    } else if (objective.by_item()) {
      latent = given_kl(i);
    } else {
      for (int64_t item = 0; item < objective.batch(); ++item) latent += given_kl(item);
    }
    const double data = terms.reconstruction_of(i) / objective.data_divisor();
    latent /= objective.latent_divisor();
    write_number(results.loss, i, data + beta * latent);
    write_number(results.reconstruction, i, data);
    write_number(results.kl, i, latent);
    results.grad_one_log_sigma += terms.log_sigma_gradient_of(i) / objective.data_divisor();
  }
  return results;
}

// Fills the gradients that have a buffer, for an incoming gradient [] or [B]; returns that of one log_sigma, if wanted.
double backward(const Objective& objective, const Tensor& grad_loss, const Gradients& grads, bool one_log_sigma) {
  Terms terms(objective, grads, grad_loss);
  if (one_log_sigma) terms.sum_reconstruction();
  terms.run(one_log_sigma || grads.recon.defined() || grads.target.defined() || grads.log_sigma.defined(),
            grads.mu.defined() || grads.logvar.defined());
  double gradient = 0.0;
  for (int64_t i = 0; one_log_sigma && i < objective.sums(); ++i) {
    const int64_t at = objective.by_item() ? i * grad_loss.stride(0) : 0;
    gradient += read_number(grad_loss, at) * terms.log_sigma_gradient_of(i) / objective.data_divisor();
  }
  return gradient;
}

Tensor like_if(bool wanted, const Tensor& tensor) {
  return wanted && tensor.defined() ? allocate_like(tensor) : Tensor();
}

// The buffer for the gradients of every element's log_sigma, where they are wanted and there are any.
Tensor log_sigma_buffer(bool wanted, const ReconstructionTerm& term) {
  if (!wanted || !term.element_log_sigma.defined()) return Tensor();
  if (term.log_sigma_is_of_elements()) return allocate_like(term.log_sigma);
  return allocate(term.element_log_sigma.sizes(), accumulation_type({&term.log_sigma}));
}

// The gradient of log_sigma as the forward gives it.
Tensor log_sigma_gradient(bool wanted, const ReconstructionTerm& term, const Tensor& of_elements, double of_one) {
  if (!wanted || !term.log_sigma.defined()) return Tensor();
  if (term.element_log_sigma.defined()) return summed_log_sigma_gradient(term, of_elements);
  Tensor gradient = allocate(term.log_sigma.sizes(), accumulation_type({&term.log_sigma}));
  write_number(gradient, 0, of_one);
  return gradient;
}

std::tuple<Tensor, Tensor, Tensor> elbo_loss_cpu(const Tensor& recon, const Tensor& target, const OptionalTensor& mu,
                                                 const OptionalTensor& logvar, const OptionalTensor& kl, double beta,
                                                 const OptionalTensor& beta_tensor, std::string_view recon_loss,
                                                 std::string_view reduction, double target_scale, double target_shift,
                                                 const OptionalTensor& weight, const OptionalTensor& log_sigma,
                                                 std::optional<double> log_sigma_value, double recon_weight, bool full,
                                                 double smooth_l1_beta) {
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
  const auto [loss, reconstruction, kl_term, grad_one_log_sigma] = forward(objective, Gradients{});
  return {loss, reconstruction, kl_term};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_with_gradients_cpu(
    const Tensor& recon, const Tensor& target, const OptionalTensor& mu, const OptionalTensor& logvar,
    const OptionalTensor& kl, double beta, const OptionalTensor& beta_tensor, std::string_view recon_loss,
    std::string_view reduction, std::array<bool, 4> output_mask, double target_scale, double target_shift,
    const OptionalTensor& weight, const OptionalTensor& log_sigma, std::optional<double> log_sigma_value,
    double recon_weight, bool full, double smooth_l1_beta) {
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
  const Gradients grads{like_if(output_mask[0], recon),
                        Tensor(),
                        like_if(output_mask[1], objective.mu),
                        like_if(output_mask[2], objective.logvar),
                        Tensor(),
                        log_sigma_buffer(output_mask[3], objective.term)};
  const auto [loss, reconstruction, kl_term, grad_one_log_sigma] = forward(objective, grads);
  return {loss,
          reconstruction,
          kl_term,
          grads.recon,
          grads.mu,
          grads.logvar,
          log_sigma_gradient(output_mask[3], objective.term, grads.log_sigma, grad_one_log_sigma)};
}

// The gradient of recon takes its place: the kernel reads an element before it writes the gradient of it, and a tile
// that it has to gather before it writes any.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_inplace_cpu(
    const Tensor& recon, const Tensor& target, const OptionalTensor& mu, const OptionalTensor& logvar,
    const OptionalTensor& kl, double beta, const OptionalTensor& beta_tensor, std::string_view recon_loss,
    std::string_view reduction, std::array<bool, 3> output_mask, double target_scale, double target_shift,
    const OptionalTensor& weight, const OptionalTensor& log_sigma, std::optional<double> log_sigma_value,
    double recon_weight, bool full, double smooth_l1_beta) {
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
  const Gradients grads{recon,
                        Tensor(),
                        like_if(output_mask[0], objective.mu),
                        like_if(output_mask[1], objective.logvar),
                        Tensor(),
                        log_sigma_buffer(output_mask[2], objective.term)};
  const auto [loss, reconstruction, kl_term, grad_one_log_sigma] = forward(objective, grads);
  return {loss,         reconstruction,
          kl_term,      grads.mu,
          grads.logvar, log_sigma_gradient(output_mask[2], objective.term, grads.log_sigma, grad_one_log_sigma)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_backward_cpu(
    const Tensor& grad_loss, const Tensor& recon, const Tensor& target, const OptionalTensor& mu,
    const OptionalTensor& logvar, const OptionalTensor& kl, double beta, const OptionalTensor& beta_tensor,
    std::string_view recon_loss, std::string_view reduction, std::array<bool, 6> output_mask, double target_scale,
    double target_shift, const OptionalTensor& weight, const OptionalTensor& log_sigma,
    std::optional<double> log_sigma_value, double recon_weight, bool full, double smooth_l1_beta) {
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
  const Gradients grads{
      like_if(output_mask[0], recon),        like_if(objective.wants_grad_target(output_mask[1]), target),
      like_if(output_mask[2], objective.mu), like_if(output_mask[3], objective.logvar),
      like_if(output_mask[4], objective.kl), log_sigma_buffer(output_mask[5], objective.term)};
  const bool one_log_sigma = output_mask[5] && objective.term.with_one_sigma();
  const double grad_one_log_sigma = backward(objective, grad_loss, grads, one_log_sigma);
  if (grads.kl.defined()) {
    const double scale = beta_of(objective) / objective.latent_divisor();
    for (int64_t item = 0; item < objective.batch(); ++item) {
      const int64_t at = objective.by_item() ? item * grad_loss.stride(0) : 0;
      write_number(grads.kl, item * grads.kl.stride(0), read_number(grad_loss, at) * scale);
    }
  }
  const Tensor grad_log_sigma = log_sigma_gradient(output_mask[5], objective.term, grads.log_sigma, grad_one_log_sigma);
  return {grads.recon, grads.target,
          grads.mu,    grads.logvar,
          grads.kl,    grad_log_sigma.defined() ? grad_log_sigma.to(log_sigma->scalar_type()) : Tensor()};
}

// The forward computed the gradients for an incoming gradient of 1; for any other they are computed again in place.
void elbo_loss_backward_inplace_cpu(const Tensor& grad_loss, const Tensor& recon, const Tensor& target,
                                    const OptionalTensor& mu, const OptionalTensor& logvar, const OptionalTensor& kl,
                                    double beta, const OptionalTensor& beta_tensor, std::string_view recon_loss,
                                    std::string_view reduction, const OptionalTensor& grad_recon,
                                    const OptionalTensor& grad_mu, const OptionalTensor& grad_logvar,
                                    double target_scale, double target_shift, const OptionalTensor& weight,
                                    const OptionalTensor& log_sigma, std::optional<double> log_sigma_value,
                                    double recon_weight, bool full, double smooth_l1_beta,
                                    const OptionalTensor& grad_log_sigma) {
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
  if (!objective.by_item() && read_number(grad_loss, 0) == 1.0) return;
  backward(objective, grad_loss, checked_buffers(objective, grad_recon, grad_mu, grad_logvar, grad_log_sigma),
           /*one_log_sigma=*/false);
}

TORCH_LIBRARY_IMPL(vae_fused, CPU, m) {
  m.impl("elbo_loss", &elbo_loss_cpu);
  m.impl("elbo_loss_with_gradients", &elbo_loss_with_gradients_cpu);
  m.impl("elbo_loss_", &elbo_loss_inplace_cpu);
  m.impl("elbo_loss_backward", &elbo_loss_backward_cpu);
  m.impl("elbo_loss_backward_", &elbo_loss_backward_inplace_cpu);
}

}  // namespace
}  // namespace vae_fused
