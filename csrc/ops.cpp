#include "ops.h"

namespace vae_fused::ops {
namespace {

template <class Signature>
c10::TypedOperatorHandle<Signature> find(const char* name, const char* overload = "") {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload).typed<Signature>();
}

}  // namespace

Tensor standard_normal(const Tensor& key, c10::SymIntArrayRef size, at::ScalarType dtype) {
  static const auto op = find<Tensor(const Tensor&, c10::SymIntArrayRef, at::ScalarType)>("vae_fused::standard_normal");
  return op.call(key, size, dtype);
}

Tensor reparameterize(const Tensor& mu, const Tensor& logvar, const Tensor& key, std::optional<int64_t> num_samples,
                      const ScaleArguments& scale, double temperature) {
  static const auto op =
      find<Tensor(const Tensor&, const Tensor&, const Tensor&, std::optional<int64_t>, std::string_view, double,
                  std::optional<double>, std::optional<double>, std::string_view, double)>("vae_fused::reparameterize");
  return op.call(mu, logvar, key, num_samples, scale.parameterization, scale.epsilon, scale.logvar_min,
                 scale.logvar_max, scale.clamp, temperature);
}

std::tuple<Tensor, Tensor> reparameterize(const Tensor& mu, const Tensor& logvar,
                                          const std::optional<at::Generator>& generator,
                                          std::optional<int64_t> num_samples, const ScaleArguments& scale,
                                          double temperature) {
  static const auto op = find<std::tuple<Tensor, Tensor>(
      const Tensor&, const Tensor&, std::optional<at::Generator>, std::optional<int64_t>, std::string_view, double,
      std::optional<double>, std::optional<double>, std::string_view, double)>("vae_fused::reparameterize",
                                                                               "generator");
  return op.call(mu, logvar, generator, num_samples, scale.parameterization, scale.epsilon, scale.logvar_min,
                 scale.logvar_max, scale.clamp, temperature);
}

std::tuple<Tensor, Tensor> reparameterize_with_kl(const Tensor& mu, const Tensor& logvar, const Tensor& key,
                                                  const OptionalTensor& mask, const ScaleArguments& scale) {
  static const auto op = find<std::tuple<Tensor, Tensor>(
      const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, std::string_view, double,
      std::optional<double>, std::optional<double>, std::string_view)>("vae_fused::reparameterize_with_kl");
  return op.call(mu, logvar, key, mask, scale.parameterization, scale.epsilon, scale.logvar_min, scale.logvar_max,
                 scale.clamp);
}

std::tuple<Tensor, Tensor, Tensor> reparameterize_with_kl(const Tensor& mu, const Tensor& logvar,
                                                          const std::optional<at::Generator>& generator,
                                                          const OptionalTensor& mask, const ScaleArguments& scale) {
  static const auto op = find<std::tuple<Tensor, Tensor, Tensor>(
      const Tensor&, const Tensor&, std::optional<at::Generator>, const OptionalTensor&, std::string_view, double,
      std::optional<double>, std::optional<double>, std::string_view)>("vae_fused::reparameterize_with_kl",
                                                                       "generator");
  return op.call(mu, logvar, generator, mask, scale.parameterization, scale.epsilon, scale.logvar_min, scale.logvar_max,
                 scale.clamp);
}

std::tuple<Tensor, Tensor> reparameterize_backward(const OptionalTensor& grad_z, const OptionalTensor& grad_kl,
                                                   const OptionalTensor& mu, const Tensor& logvar, const Tensor& key,
                                                   std::optional<int64_t> num_samples, std::array<bool, 2> output_mask,
                                                   const OptionalTensor& mask, const ScaleArguments& scale,
                                                   double temperature) {
  static const auto op = find<std::tuple<Tensor, Tensor>(
      const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, const Tensor&, const Tensor&,
      std::optional<int64_t>, std::array<bool, 2>, const OptionalTensor&, std::string_view, double,
      std::optional<double>, std::optional<double>, std::string_view, double)>("vae_fused::reparameterize_backward");
  return op.call(grad_z, grad_kl, mu, logvar, key, num_samples, output_mask, mask, scale.parameterization,
                 scale.epsilon, scale.logvar_min, scale.logvar_max, scale.clamp, temperature);
}

Tensor kl_divergence(const Tensor& mu, const Tensor& logvar, const OptionalTensor& prior_mu,
                     const OptionalTensor& prior_logvar, std::string_view reduction, const OptionalTensor& mask,
                     const ScaleArguments& scale) {
  static const auto op =
      find<Tensor(const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&, std::string_view,
                  const OptionalTensor&, std::string_view, double, std::optional<double>, std::optional<double>,
                  std::string_view)>("vae_fused::kl_divergence");
  return op.call(mu, logvar, prior_mu, prior_logvar, reduction, mask, scale.parameterization, scale.epsilon,
                 scale.logvar_min, scale.logvar_max, scale.clamp);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> kl_divergence_backward(
    const Tensor& grad, const Tensor& mu, const Tensor& logvar, const OptionalTensor& prior_mu,
    const OptionalTensor& prior_logvar, std::string_view reduction, std::array<bool, 4> output_mask,
    const OptionalTensor& mask, const ScaleArguments& scale) {
  static const auto op = find<std::tuple<Tensor, Tensor, Tensor, Tensor>(
      const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&, std::string_view,
      std::array<bool, 4>, const OptionalTensor&, std::string_view, double, std::optional<double>,
      std::optional<double>, std::string_view)>("vae_fused::kl_divergence_backward");
  return op.call(grad, mu, logvar, prior_mu, prior_logvar, reduction, output_mask, mask, scale.parameterization,
                 scale.epsilon, scale.logvar_min, scale.logvar_max, scale.clamp);
}

std::tuple<Tensor, Tensor> packed_reparameterize_with_kl(const Tensor& moments, const Tensor& key,
                                                         const Packing& packing) {
  static const auto op = find<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, int64_t, double, double)>(
      "vae_fused::packed_reparameterize_with_kl");
  return op.call(moments, key, packing.dim, packing.logvar_min, packing.logvar_max);
}

std::tuple<Tensor, Tensor, Tensor> packed_reparameterize_with_kl(const Tensor& moments,
                                                                 const std::optional<at::Generator>& generator,
                                                                 const Packing& packing) {
  static const auto op =
      find<std::tuple<Tensor, Tensor, Tensor>(const Tensor&, int64_t, double, double, std::optional<at::Generator>)>(
          "vae_fused::packed_reparameterize_with_kl", "generator");
  return op.call(moments, packing.dim, packing.logvar_min, packing.logvar_max, generator);
}

Tensor packed_reparameterize_backward(const OptionalTensor& grad_z, const OptionalTensor& grad_kl,
                                      const Tensor& moments, const Tensor& key, const Packing& packing) {
  static const auto op =
      find<Tensor(const OptionalTensor&, const OptionalTensor&, const Tensor&, const Tensor&, int64_t, double, double)>(
          "vae_fused::packed_reparameterize_backward");
  return op.call(grad_z, grad_kl, moments, key, packing.dim, packing.logvar_min, packing.logvar_max);
}

Tensor packed_kl_divergence(const Tensor& moments, const OptionalTensor& prior_moments, const Packing& packing,
                            const Packing& prior_packing) {
  static const auto op =
      find<Tensor(const Tensor&, const OptionalTensor&, int64_t, double, double, int64_t, double, double)>(
          "vae_fused::packed_kl_divergence");
  return op.call(moments, prior_moments, packing.dim, packing.logvar_min, packing.logvar_max, prior_packing.dim,
                 prior_packing.logvar_min, prior_packing.logvar_max);
}

std::tuple<Tensor, Tensor> packed_kl_divergence_backward(const Tensor& grad, const Tensor& moments,
                                                         const OptionalTensor& prior_moments, const Packing& packing,
                                                         const Packing& prior_packing,
                                                         std::array<bool, 2> output_mask) {
  static const auto op = find<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const OptionalTensor&, int64_t,
                                                         double, double, int64_t, double, double, std::array<bool, 2>)>(
      "vae_fused::packed_kl_divergence_backward");
  return op.call(grad, moments, prior_moments, packing.dim, packing.logvar_min, packing.logvar_max, prior_packing.dim,
                 prior_packing.logvar_min, prior_packing.logvar_max, output_mask);
}

std::tuple<Tensor, Tensor, Tensor> elbo_loss(const ObjectiveArguments& a) {
  static const auto op = find<std::tuple<Tensor, Tensor, Tensor>(
      const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, double,
      const OptionalTensor&, std::string_view, std::string_view, double, double)>("vae_fused::elbo_loss");
  return op.call(a.recon, a.target, a.mu, a.logvar, a.kl, a.beta, a.beta_tensor, a.recon_loss, a.reduction,
                 a.target_scale, a.target_shift);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_with_gradients(const ObjectiveArguments& a,
                                                                                    std::array<bool, 3> output_mask) {
  static const auto op = find<std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>(
      const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, double,
      const OptionalTensor&, std::string_view, std::string_view, std::array<bool, 3>, double, double)>(
      "vae_fused::elbo_loss_with_gradients");
  return op.call(a.recon, a.target, a.mu, a.logvar, a.kl, a.beta, a.beta_tensor, a.recon_loss, a.reduction, output_mask,
                 a.target_scale, a.target_shift);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_(const ObjectiveArguments& a,
                                                              std::array<bool, 2> output_mask) {
  static const auto op = find<std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>(
      const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, double,
      const OptionalTensor&, std::string_view, std::string_view, std::array<bool, 2>, double, double)>(
      "vae_fused::elbo_loss_");
  return op.call(a.recon, a.target, a.mu, a.logvar, a.kl, a.beta, a.beta_tensor, a.recon_loss, a.reduction, output_mask,
                 a.target_scale, a.target_shift);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_backward(const Tensor& grad_loss,
                                                                      const ObjectiveArguments& a,
                                                                      std::array<bool, 5> output_mask) {
  static const auto op = find<std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>(
      const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
      double, const OptionalTensor&, std::string_view, std::string_view, std::array<bool, 5>, double, double)>(
      "vae_fused::elbo_loss_backward");
  return op.call(grad_loss, a.recon, a.target, a.mu, a.logvar, a.kl, a.beta, a.beta_tensor, a.recon_loss, a.reduction,
                 output_mask, a.target_scale, a.target_shift);
}

void elbo_loss_backward_(const Tensor& grad_loss, const ObjectiveArguments& a, const OptionalTensor& grad_recon,
                         const OptionalTensor& grad_mu, const OptionalTensor& grad_logvar) {
  static const auto op =
      find<void(const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&,
                const OptionalTensor&, double, const OptionalTensor&, std::string_view, std::string_view,
                const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, double, double)>(
          "vae_fused::elbo_loss_backward_");
  op.call(grad_loss, a.recon, a.target, a.mu, a.logvar, a.kl, a.beta, a.beta_tensor, a.recon_loss, a.reduction,
          grad_recon, grad_mu, grad_logvar, a.target_scale, a.target_shift);
}

Tensor linear_reconstruction(const Tensor& hidden, const Tensor& weight, const OptionalTensor& bias,
                             const Tensor& target, std::string_view recon_loss, std::string_view reduction,
                             std::optional<int64_t> chunk) {
  static const auto op =
      find<Tensor(const Tensor&, const Tensor&, const OptionalTensor&, const Tensor&, std::string_view,
                  std::string_view, std::optional<int64_t>)>("vae_fused::linear_reconstruction");
  return op.call(hidden, weight, bias, target, recon_loss, reduction, chunk);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> linear_reconstruction_with_gradients(
    const Tensor& hidden, const Tensor& weight, const OptionalTensor& bias, const Tensor& target,
    std::string_view recon_loss, std::string_view reduction, std::optional<int64_t> chunk,
    std::array<bool, 3> output_mask) {
  static const auto op = find<std::tuple<Tensor, Tensor, Tensor, Tensor>(
      const Tensor&, const Tensor&, const OptionalTensor&, const Tensor&, std::string_view, std::string_view,
      std::optional<int64_t>, std::array<bool, 3>)>("vae_fused::linear_reconstruction_with_gradients");
  return op.call(hidden, weight, bias, target, recon_loss, reduction, chunk, output_mask);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> linear_reconstruction_backward(
    const Tensor& grad_loss, const Tensor& hidden, const Tensor& weight, const OptionalTensor& bias,
    const Tensor& target, std::string_view recon_loss, std::string_view reduction, std::optional<int64_t> chunk,
    std::array<bool, 4> output_mask) {
  static const auto op = find<std::tuple<Tensor, Tensor, Tensor, Tensor>(
      const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, const Tensor&, std::string_view,
      std::string_view, std::optional<int64_t>, std::array<bool, 4>)>("vae_fused::linear_reconstruction_backward");
  return op.call(grad_loss, hidden, weight, bias, target, recon_loss, reduction, chunk, output_mask);
}

void scale_gradient_(const Tensor& gradient, const Tensor& factor) {
  static const auto op = find<void(const Tensor&, const Tensor&)>("vae_fused::scale_gradient_");
  op.call(gradient, factor);
}

}  // namespace vae_fused::ops
