// Packed moments out of differentiable ATen operators, for a backward that is itself differentiated.
#pragma once

#include "autograd/common.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/where.h>

namespace vae_fused {

struct DifferentiableMoments {
  Tensor mu, logvar;  // logvar clamped
  Tensor passes;      // where the clamp passes the gradient; undefined without a clamp
  int64_t dim;

  // The packed gradient, from the gradients to mu and to the clamped logvar.
  Tensor pack(const Tensor& grad_mu, const Tensor& grad_logvar) const {
    return at::cat({grad_mu, passes.defined() ? at::where(passes, grad_logvar, 0) : grad_logvar}, dim);
  }
};

inline DifferentiableMoments differentiable_moments(const Tensor& moments, const Packing& packing) {
  const c10::SymInt size = moments.sym_size(packing.dim) / 2;
  const Tensor mu = moments.slice_symint(packing.dim, 0, size);
  const Tensor logvar = moments.slice_symint(packing.dim, size, 2 * size);
  const ScaleForm clamp = clamp_of(packing, moments.scalar_type());
  if (clamp.clamp == ClampKind::kNone) return {mu, logvar, Tensor(), packing.dim};
  return {mu, at::clamp(logvar, clamp.low, clamp.high), logvar.ge(clamp.low).logical_and(logvar.le(clamp.high)),
          packing.dim};
}

// The packing of a call, kept for its backward; prefix is that of its arguments, "prior_" for the prior's.
inline void save_packing(AutogradContext* ctx, const std::string& prefix, const Packing& packing) {
  ctx->saved_data[prefix + "dim"] = packing.dim;
  ctx->saved_data[prefix + "logvar_min"] = packing.logvar_min;
  ctx->saved_data[prefix + "logvar_max"] = packing.logvar_max;
}

inline Packing saved_packing(AutogradContext* ctx, const std::string& prefix) {
  const auto& saved = ctx->saved_data;
  return {saved.at(prefix + "dim").toInt(), saved.at(prefix + "logvar_min").toDouble(),
          saved.at(prefix + "logvar_max").toDouble()};
}

}  // namespace vae_fused
