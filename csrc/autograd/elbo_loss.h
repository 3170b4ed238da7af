// What the two Functions of the objective share.
#pragma once

#include <array>

#include "autograd/common.h"

namespace vae_fused {

// The two terms of the loss, which are results but no outputs: autograd has nothing to know of them.
struct DetachedTerms {
  Tensor reconstruction, kl;
};

// The tensors that both Functions take first, in their order.
enum Input { kRecon, kTarget, kMu, kLogvar, kKL, kBetaTensor, kLogSigma };

// The gradients that the forward computes, in the order of its results: as what they wait for the backward, one entry
// each, because compiled autograd lifts single tensors out of saved_data, but not lists of them; and whose they are.
struct Buffer {
  const char* name;
  Input of;
};
inline constexpr std::array<Buffer, 5> kBuffers = {{{"grad_recon", kRecon},
                                                    {"grad_mu", kMu},
                                                    {"grad_logvar", kLogvar},
                                                    {"grad_kl", kKL},
                                                    {"grad_log_sigma", kLogSigma}}};

// Whether autograd has to record an operator of the objective; grad_loss is that of its backward.
inline bool records_graph(const ObjectiveArguments& a, const Tensor& grad_loss = {}) {
  return records_graph({grad_loss, a.recon, a.target, or_undefined(a.mu), or_undefined(a.logvar), or_undefined(a.kl),
                        or_undefined(a.beta_tensor), or_undefined(a.term.log_sigma)});
}

// The arguments that are no tensors, as a backward finds them again. Those of the reconstruction term that have their
// defaults are not saved: every entry costs a step on small tensors.
inline void save_settings(AutogradContext* ctx, const ObjectiveArguments& a) {
  ctx->saved_data["beta"] = a.beta;
  ctx->saved_data["recon_loss"] = std::string(a.recon_loss);
  ctx->saved_data["reduction"] = std::string(a.reduction);
  ctx->saved_data["target_scale"] = a.target_scale;
  ctx->saved_data["target_shift"] = a.target_shift;
  const TermArguments& term = a.term;
  if (term.log_sigma_value) ctx->saved_data["log_sigma_value"] = *term.log_sigma_value;
  if (term.recon_weight != 1.0) ctx->saved_data["recon_weight"] = term.recon_weight;
  if (term.full) ctx->saved_data["full"] = term.full;
  if (term.smooth_l1_beta != 1.0) ctx->saved_data["smooth_l1_beta"] = term.smooth_l1_beta;
}

struct SavedSettings {
  double beta;
  std::string recon_loss, reduction;
  double target_scale, target_shift;
  std::optional<double> log_sigma_value;
  double recon_weight = 1.0;
  bool full = false;
  double smooth_l1_beta = 1.0;

  explicit SavedSettings(AutogradContext* ctx)
      : beta(ctx->saved_data["beta"].toDouble()),
        recon_loss(ctx->saved_data["recon_loss"].toStringRef()),
        reduction(ctx->saved_data["reduction"].toStringRef()),
        target_scale(ctx->saved_data["target_scale"].toDouble()),
        target_shift(ctx->saved_data["target_shift"].toDouble()) {
    const auto find = [&](const char* name) {
      const auto found = ctx->saved_data.find(name);
      return found == ctx->saved_data.end() ? at::IValue() : found->second;
    };
    if (const auto value = find("log_sigma_value"); !value.isNone()) log_sigma_value = value.toDouble();
    if (const auto value = find("recon_weight"); !value.isNone()) recon_weight = value.toDouble();
    if (const auto value = find("full"); !value.isNone()) full = value.toBool();
    if (const auto value = find("smooth_l1_beta"); !value.isNone()) smooth_l1_beta = value.toDouble();
  }

  TermArguments term(const OptionalTensor& weight, const OptionalTensor& log_sigma) const {
    return {weight, log_sigma, log_sigma_value, recon_weight, full, smooth_l1_beta};
  }
};

// The loss is linear in beta with the KL term as its slope.
inline Tensor gradient_of_beta(const Tensor& grad_loss, const OptionalTensor& mu, const OptionalTensor& logvar,
                               const OptionalTensor& kl, const OptionalTensor& beta_tensor,
                               std::string_view reduction) {
  Tensor kl_term;
  if (present(kl)) {
    const Tensor wide = kl->to(accumulation_type({&*kl}));
    kl_term = reduction == "sum" ? wide.sum() : reduction == "batchmean" ? wide.mean() : wide;
  } else {
    const OptionalTensor none;
    kl_term = ops::kl_divergence({*mu, *logvar, none, none, reduction, none});
  }
  return (grad_loss * kl_term).sum().to(beta_tensor->options());
}

}  // namespace vae_fused
