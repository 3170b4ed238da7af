#include "ops.h"
#include "ops_find.h"

namespace vae_fused::ops {

std::tuple<Tensor, Tensor, Tensor> elbo_loss(const ObjectiveArguments& a) {
  static const auto op = find<std::tuple<Tensor, Tensor, Tensor>(
      const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, double,
      const OptionalTensor&, std::string_view, std::string_view, double, double, const OptionalTensor&,
      const OptionalTensor&, std::optional<double>, double, bool, double)>("vae_fused::elbo_loss");
  return op.call(a.recon, a.target, a.mu, a.logvar, a.kl, a.beta, a.beta_tensor, a.recon_loss, a.reduction,
                 a.target_scale, a.target_shift, a.term.weight, a.term.log_sigma, a.term.log_sigma_value,
                 a.term.recon_weight, a.term.full, a.term.smooth_l1_beta);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_with_gradients(
    const ObjectiveArguments& a, std::array<bool, 4> output_mask) {
  static const auto op = find<std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>(
      const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, double,
      const OptionalTensor&, std::string_view, std::string_view, std::array<bool, 4>, double, double,
      const OptionalTensor&, const OptionalTensor&, std::optional<double>, double, bool, double)>(
      "vae_fused::elbo_loss_with_gradients");
  return op.call(a.recon, a.target, a.mu, a.logvar, a.kl, a.beta, a.beta_tensor, a.recon_loss, a.reduction, output_mask,
                 a.target_scale, a.target_shift, a.term.weight, a.term.log_sigma, a.term.log_sigma_value,
                 a.term.recon_weight, a.term.full, a.term.smooth_l1_beta);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_(const ObjectiveArguments& a,
                                                                      std::array<bool, 3> output_mask) {
  static const auto op = find<std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>(
      const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, double,
      const OptionalTensor&, std::string_view, std::string_view, std::array<bool, 3>, double, double,
      const OptionalTensor&, const OptionalTensor&, std::optional<double>, double, bool, double)>(
      "vae_fused::elbo_loss_");
  return op.call(a.recon, a.target, a.mu, a.logvar, a.kl, a.beta, a.beta_tensor, a.recon_loss, a.reduction, output_mask,
                 a.target_scale, a.target_shift, a.term.weight, a.term.log_sigma, a.term.log_sigma_value,
                 a.term.recon_weight, a.term.full, a.term.smooth_l1_beta);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_backward(const Tensor& grad_loss,
                                                                              const ObjectiveArguments& a,
                                                                              std::array<bool, 6> output_mask) {
  static const auto op = find<std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>(
      const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
      double, const OptionalTensor&, std::string_view, std::string_view, std::array<bool, 6>, double, double,
      const OptionalTensor&, const OptionalTensor&, std::optional<double>, double, bool, double)>(
      "vae_fused::elbo_loss_backward");
  return op.call(grad_loss, a.recon, a.target, a.mu, a.logvar, a.kl, a.beta, a.beta_tensor, a.recon_loss, a.reduction,
                 output_mask, a.target_scale, a.target_shift, a.term.weight, a.term.log_sigma, a.term.log_sigma_value,
                 a.term.recon_weight, a.term.full, a.term.smooth_l1_beta);
}

void elbo_loss_backward_(const Tensor& grad_loss, const ObjectiveArguments& a, const OptionalTensor& grad_recon,
                         const OptionalTensor& grad_mu, const OptionalTensor& grad_logvar,
                         const OptionalTensor& grad_log_sigma) {
  static const auto op = find<void(
      const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
      double, const OptionalTensor&, std::string_view, std::string_view, const OptionalTensor&, const OptionalTensor&,
      const OptionalTensor&, double, double, const OptionalTensor&, const OptionalTensor&, std::optional<double>,
      double, bool, double, const OptionalTensor&)>("vae_fused::elbo_loss_backward_");
  op.call(grad_loss, a.recon, a.target, a.mu, a.logvar, a.kl, a.beta, a.beta_tensor, a.recon_loss, a.reduction,
          grad_recon, grad_mu, grad_logvar, a.target_scale, a.target_shift, a.term.weight, a.term.log_sigma,
          a.term.log_sigma_value, a.term.recon_weight, a.term.full, a.term.smooth_l1_beta, grad_log_sigma);
}

}  // namespace vae_fused::ops
