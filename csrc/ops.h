// Typed callers of the operators through the dispatcher, for code that is itself behind it.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <array>
#include <optional>
#include <string_view>
#include <tuple>

#include "objective_arguments.h"
#include "packed_moments.h"
#include "scale_form.h"

namespace vae_fused::ops {

Tensor standard_normal(const Tensor& key, c10::SymIntArrayRef size, at::ScalarType dtype);

Tensor reparameterize(const Tensor& mu, const Tensor& logvar, const Tensor& key, std::optional<int64_t> num_samples,
                      const ScaleArguments& scale, double temperature);
std::tuple<Tensor, Tensor> reparameterize(const Tensor& mu, const Tensor& logvar,
                                          const std::optional<at::Generator>& generator,
                                          std::optional<int64_t> num_samples, const ScaleArguments& scale,
                                          double temperature);
std::tuple<Tensor, Tensor> reparameterize_with_kl(const Tensor& mu, const Tensor& logvar, const Tensor& key,
                                                  const OptionalTensor& mask, const ScaleArguments& scale);
std::tuple<Tensor, Tensor, Tensor> reparameterize_with_kl(const Tensor& mu, const Tensor& logvar,
                                                          const std::optional<at::Generator>& generator,
                                                          const OptionalTensor& mask, const ScaleArguments& scale);
std::tuple<Tensor, Tensor> reparameterize_backward(const OptionalTensor& grad_z, const OptionalTensor& grad_kl,
                                                   const OptionalTensor& mu, const Tensor& logvar, const Tensor& key,
                                                   std::optional<int64_t> num_samples, std::array<bool, 2> output_mask,
                                                   const OptionalTensor& mask, const ScaleArguments& scale,
                                                   double temperature);

Tensor kl_divergence(const Tensor& mu, const Tensor& logvar, const OptionalTensor& prior_mu,
                     const OptionalTensor& prior_logvar, std::string_view reduction,
                     const OptionalTensor& mask = std::nullopt, const ScaleArguments& scale = {});
std::tuple<Tensor, Tensor, Tensor, Tensor> kl_divergence_backward(
    const Tensor& grad, const Tensor& mu, const Tensor& logvar, const OptionalTensor& prior_mu,
    const OptionalTensor& prior_logvar, std::string_view reduction, std::array<bool, 4> output_mask,
    const OptionalTensor& mask = std::nullopt, const ScaleArguments& scale = {});

std::tuple<Tensor, Tensor> packed_reparameterize_with_kl(const Tensor& moments, const Tensor& key,
                                                         const Packing& packing);
std::tuple<Tensor, Tensor, Tensor> packed_reparameterize_with_kl(const Tensor& moments,
                                                                 const std::optional<at::Generator>& generator,
                                                                 const Packing& packing);
Tensor packed_reparameterize_backward(const OptionalTensor& grad_z, const OptionalTensor& grad_kl,
                                      const Tensor& moments, const Tensor& key, const Packing& packing);
Tensor packed_kl_divergence(const Tensor& moments, const OptionalTensor& prior_moments, const Packing& packing,
                            const Packing& prior_packing);
std::tuple<Tensor, Tensor> packed_kl_divergence_backward(const Tensor& grad, const Tensor& moments,
                                                         const OptionalTensor& prior_moments, const Packing& packing,
                                                         const Packing& prior_packing, std::array<bool, 2> output_mask);

std::tuple<Tensor, Tensor, Tensor> elbo_loss(const ObjectiveArguments& arguments);
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_with_gradients(const ObjectiveArguments& arguments,
                                                                                    std::array<bool, 3> output_mask);
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_(const ObjectiveArguments& arguments,
                                                              std::array<bool, 2> output_mask);
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> elbo_loss_backward(const Tensor& grad_loss,
                                                                      const ObjectiveArguments& arguments,
                                                                      std::array<bool, 5> output_mask);
void elbo_loss_backward_(const Tensor& grad_loss, const ObjectiveArguments& arguments, const OptionalTensor& grad_recon,
                         const OptionalTensor& grad_mu, const OptionalTensor& grad_logvar);

Tensor linear_reconstruction(const Tensor& hidden, const Tensor& weight, const OptionalTensor& bias,
                             const Tensor& target, std::string_view recon_loss, std::string_view reduction,
                             std::optional<int64_t> chunk);
std::tuple<Tensor, Tensor, Tensor, Tensor> linear_reconstruction_with_gradients(
    const Tensor& hidden, const Tensor& weight, const OptionalTensor& bias, const Tensor& target,
    std::string_view recon_loss, std::string_view reduction, std::optional<int64_t> chunk,
    std::array<bool, 3> output_mask);
std::tuple<Tensor, Tensor, Tensor, Tensor> linear_reconstruction_backward(
    const Tensor& grad_loss, const Tensor& hidden, const Tensor& weight, const OptionalTensor& bias,
    const Tensor& target, std::string_view recon_loss, std::string_view reduction, std::optional<int64_t> chunk,
    std::array<bool, 4> output_mask);
void scale_gradient_(const Tensor& gradient, const Tensor& factor);

}  // namespace vae_fused::ops
