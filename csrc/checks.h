// The checks that every operator makes of its arguments before it allocates or computes.
//
// A message names the argument, what was expected and what came: TypeError for a wrong dtype, ValueError for the rest.
// vae_fused/_arguments.py says the same in the same words for the reference path and for tracing.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <optional>
#include <string_view>

#include "core/recon_loss.h"

namespace vae_fused {

using at::Tensor;

enum class Reduction { kBatchMean, kSum, kSample, kMean, kNone };

// The reduction of that name; "none" only where the operator has it.
Reduction parse_reduction(std::string_view name, bool allow_none);

// The reconstruction term of that name.
ReconLoss parse_recon_loss(std::string_view name);

// float64 if any operand is, else float32: the dtype of arithmetic, losses and KL.
at::ScalarType accumulation_type(std::initializer_list<const Tensor*> operands);

// A tensor of one of the four floating types.
void check_floating(const char* name, const Tensor& value);

// A floating tensor with a batch dimension.
void check_batched(const char* name, const Tensor& value);

void check_same_dtype(const char* name, const Tensor& value, const char* other_name, const Tensor& other);

void check_same_device(const char* name, const Tensor& value, const char* other_name, const Tensor& other);

void check_latent_pair(const Tensor& mu, const Tensor& logvar);

// The prior parameter expands to the shape of mu.
void check_prior(const char* name, const std::optional<Tensor>& prior, const Tensor& mu);

// A factor of each element of mu: bool or floating, expands to its shape, and needs no gradient.
void check_mask(const std::optional<Tensor>& mask, const Tensor& mu);

void check_temperature(double temperature);

// A uint64 tensor of shape [2] or [batch, 2].
void check_key(const Tensor& key);

void check_normal_request(const Tensor& key, at::IntArrayRef size, at::ScalarType dtype);

void check_key_for(const Tensor& key, int64_t batch, at::Device device);

void check_num_samples(std::optional<int64_t> num_samples);

void check_reconstruction(const Tensor& recon, const Tensor& target);

// A scale and a shift say how bytes are read; any other target is taken as it is.
void check_target_scale(const Tensor& target, double scale, double shift);

// The KL comes from mu and logvar or from kl, never from both or neither.
void check_kl_source(const Tensor& recon, const std::optional<Tensor>& mu, const std::optional<Tensor>& logvar,
                     const std::optional<Tensor>& kl, Reduction reduction);

void check_beta(const std::optional<Tensor>& beta, const Tensor& recon);

// A constant factor of the elements: floating or bool, and expands to the shape of recon.
void check_weight(const std::optional<Tensor>& weight, const Tensor& recon);

// A likelihood needs log sigma, as a number or as a tensor that expands to the shape of recon; other terms have none.
void check_log_sigma(ReconLoss loss, const std::optional<Tensor>& log_sigma, std::optional<double> value,
                     const Tensor& recon);

// The settings that only some terms have.
void check_term_settings(ReconLoss loss, bool full, double smooth_l1_beta);

// An incoming gradient has the shape and device of what it is the gradient of.
void check_gradient(const char* name, const Tensor& grad, at::IntArrayRef shape, at::Device device);

// A generator, if there is one, draws for tensors on this device.
void check_generator(const std::optional<at::Generator>& generator, at::Device device);

// Gradients that are multiplied in place, and the number [] by which.
void check_scaled_gradients(at::TensorList gradients, const Tensor& factor);

// The arguments of the shared backward of both sampling operators: a gradient to z, to the KL, or both.
void check_reparameterize_backward(const std::optional<Tensor>& grad_z, const std::optional<Tensor>& grad_kl,
                                   const std::optional<Tensor>& mu, const Tensor& logvar, const Tensor& key,
                                   std::optional<int64_t> num_samples);

inline bool present(const std::optional<Tensor>& tensor) { return tensor.has_value() && tensor->defined(); }

}  // namespace vae_fused
