// Typed callers of the operators through the dispatcher, for code that is itself behind it. Their schemas, with what
// they compute, are in library.cpp; an overload `generator` has a name of its own here.
#pragma once

#include <array>
#include <optional>
#include <string_view>
#include <tuple>

#include "argument_blocks.h"
#include "kl_divergence_arguments.h"
#include "objective_arguments.h"
#include "output_layer_arguments.h"
#include "packed_moments.h"
#include "scale_form.h"

namespace vae_fused::ops {

template <size_t n>
using Mask = std::array<bool, n>;
using OptionalGenerator = std::optional<at::Generator>;

inline constexpr Operator<"standard_normal", Tensor(const Tensor& key, c10::SymIntArrayRef size, at::ScalarType dtype)>
    standard_normal{};

inline constexpr Operator<"reparameterize",
                          Tensor(const Tensor& mu, const Tensor& logvar, const Tensor& key,
                                 std::optional<int64_t> num_samples, const ScaleArguments& scale, double temperature)>
    reparameterize{};
inline constexpr Operator<"reparameterize.generator",
                          Tensors<2>(const Tensor& mu, const Tensor& logvar, OptionalGenerator generator,
                                     std::optional<int64_t> num_samples, const ScaleArguments& scale,
                                     double temperature)>
    reparameterize_generator{};
inline constexpr Operator<"reparameterize_with_kl",
                          Tensors<2>(const Tensor& mu, const Tensor& logvar, const Tensor& key,
                                     const OptionalTensor& mask, const ScaleArguments& scale)>
    reparameterize_with_kl{};
inline constexpr Operator<"reparameterize_with_kl.generator",
                          Tensors<3>(const Tensor& mu, const Tensor& logvar, OptionalGenerator generator,
                                     const OptionalTensor& mask, const ScaleArguments& scale)>
    reparameterize_with_kl_generator{};
inline constexpr Operator<"reparameterize_backward",
                          Tensors<2>(const OptionalTensor& grad_z, const OptionalTensor& grad_kl,
                                     const OptionalTensor& mu, const Tensor& logvar, const Tensor& key,
                                     std::optional<int64_t> num_samples, Mask<2> output_mask,
                                     const OptionalTensor& mask, const ScaleArguments& scale, double temperature)>
    reparameterize_backward{};

inline constexpr Operator<"kl_divergence", Tensor(const DivergenceArguments& arguments)> kl_divergence{};
inline constexpr Operator<"kl_divergence_backward",
                          Tensors<4>(const Tensor& grad, Mask<4> output_mask, const DivergenceArguments& arguments)>
    kl_divergence_backward{};

inline constexpr Operator<"packed_reparameterize_with_kl",
                          Tensors<2>(const Tensor& moments, const Tensor& key, const Packing& packing)>
    packed_reparameterize_with_kl{};
inline constexpr Operator<"packed_reparameterize_with_kl.generator",
                          Tensors<3>(const Tensor& moments, const Packing& packing, OptionalGenerator generator)>
    packed_reparameterize_with_kl_generator{};
inline constexpr Operator<"packed_reparameterize_backward",
                          Tensor(const OptionalTensor& grad_z, const OptionalTensor& grad_kl, const Tensor& moments,
                                 const Tensor& key, const Packing& packing)>
    packed_reparameterize_backward{};
inline constexpr Operator<"packed_kl_divergence", Tensor(const Tensor& moments, const OptionalTensor& prior_moments,
                                                         const Packing& packing, const Packing& prior_packing)>
    packed_kl_divergence{};
inline constexpr Operator<"packed_kl_divergence_backward",
                          Tensors<2>(const Tensor& grad, const Tensor& moments, const OptionalTensor& prior_moments,
                                     const Packing& packing, const Packing& prior_packing, Mask<2> output_mask)>
    packed_kl_divergence_backward{};

inline constexpr Operator<"elbo_loss", Tensors<3>(const ObjectiveArguments& arguments)> elbo_loss{};
inline constexpr Operator<"elbo_loss_with_gradients",
                          Tensors<8>(Mask<5> output_mask, const ObjectiveArguments& arguments)>
    elbo_loss_with_gradients{};
inline constexpr Operator<"elbo_loss_", Tensors<7>(Mask<4> output_mask, const ObjectiveArguments& arguments)>
    elbo_loss_{};
inline constexpr Operator<"elbo_loss_backward",
                          Tensors<6>(const Tensor& grad_loss, Mask<6> output_mask, const ObjectiveArguments& arguments)>
    elbo_loss_backward{};
inline constexpr Operator<"elbo_loss_backward_",
                          void(const Tensor& grad_loss, const OptionalTensor& grad_recon, const OptionalTensor& grad_mu,
                               const OptionalTensor& grad_logvar, const OptionalTensor& grad_kl,
                               const OptionalTensor& grad_log_sigma, const ObjectiveArguments& arguments)>
    elbo_loss_backward_{};

inline constexpr Operator<"linear_reconstruction", Tensor(const OutputLayerArguments& arguments)>
    linear_reconstruction{};
inline constexpr Operator<"linear_reconstruction_with_gradients",
                          Tensors<4>(const OutputLayerArguments& arguments, Mask<3> output_mask)>
    linear_reconstruction_with_gradients{};
inline constexpr Operator<"linear_reconstruction_backward",
                          Tensors<4>(const Tensor& grad_loss, const OutputLayerArguments& arguments,
                                     Mask<4> output_mask)>
    linear_reconstruction_backward{};
inline constexpr Operator<"scale_gradients_", void(at::TensorList gradients, const Tensor& factor)> scale_gradients_{};

}  // namespace vae_fused::ops
