// The scale of the posterior out of differentiable ATen operators, for a backward that is itself differentiated:
// core/scale_form.h, value for value and derivative for derivative.
#pragma once

#include "autograd/common.h"

#include <ATen/ops/clamp.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/expm1.h>
#include <ATen/ops/log.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/sqrt.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/where.h>

namespace vae_fused {

struct DifferentiableScale {
  Tensor sigma, sigma_slope;  // and its derivative in raw
  Tensor variance_minus_one, logvar, logvar_slope;
};

namespace differentiable {

struct Sloped {
  Tensor value, slope;
};

inline DifferentiableScale scale_of_logvar(const Sloped& logvar) {
  const Tensor sigma = at::exp(0.5 * logvar.value);
  return {sigma, 0.5 * sigma * logvar.slope, at::expm1(logvar.value), logvar.value, logvar.slope};
}

inline Tensor inside(const Tensor& x, double low, double high) { return x.ge(low).logical_and(x.le(high)); }

// The value stays an exponential where its logarithm is clamped; straight-through, the factor that the clamp puts on a
// value is a constant, so that the derivative of its logarithm is what it was.
inline Sloped clamped_logvar(const Sloped& logvar, const ScaleForm& form) {
  switch (form.clamp) {
    case ClampKind::kNone: return logvar;
    case ClampKind::kHard:
      return {at::clamp(logvar.value, form.low, form.high),
              at::where(inside(logvar.value, form.low, form.high), logvar.slope, 0)};
    case ClampKind::kSoft: {
      const double middle = 0.5 * (form.low + form.high), half = 0.5 * (form.high - form.low);
      const Tensor bent = at::tanh((logvar.value - middle) / half);
      return {middle + half * bent, logvar.slope * (1.0 - bent * bent)};
    }
    case ClampKind::kStraightThrough:
      return {logvar.value + (at::clamp(logvar.value, form.low, form.high) - logvar.value).detach(), logvar.slope};
  }
  return logvar;
}

inline Sloped clamped_value(const Sloped& value, const ScaleForm& form) {
  const Tensor bounded = at::clamp(value.value, form.value_low, form.value_high);
  if (form.clamp == ClampKind::kHard) {
    return {bounded, at::where(inside(value.value, form.value_low, form.value_high), value.slope, 0)};
  }
  const Tensor factor = (bounded / value.value).detach();
  return {value.value * factor, value.slope * factor};
}

}  // namespace differentiable

// Of raw in the type of the arithmetic.
inline DifferentiableScale differentiable_scale(const ScaleForm& form, const Tensor& raw) {
  using differentiable::Sloped;
  const double order = form.of_std ? 2.0 : 1.0;
  const bool soft = form.clamp == ClampKind::kSoft;
  const Tensor one = at::ones_like(raw);
  Sloped value{raw, one};
  if (form.map == ScaleMap::kSoftplus) value = {at::softplus(raw, 1, 40), at::sigmoid(raw)};
  if (form.map == ScaleMap::kExponential || soft) {
    Sloped logvar{order * raw, order * one};
    if (form.map != ScaleMap::kExponential) logvar = {order * at::log(value.value), order * value.slope / value.value};
    logvar = differentiable::clamped_logvar(logvar, form);
    if (form.epsilon == 0.0) return differentiable::scale_of_logvar(logvar);
    const Tensor grown = at::exp(logvar.value / order);
    value = {grown, grown * logvar.slope / order};
  } else if (form.clamp != ClampKind::kNone) {
    value = differentiable::clamped_value(value, form);
  }
  const Tensor shifted = value.value + form.epsilon;
  if (form.of_std) {
    return {shifted, value.slope, shifted * shifted - 1.0, 2.0 * at::log(shifted), 2.0 * value.slope / shifted};
  }
  const Tensor sigma = at::sqrt(shifted);
  return {sigma, 0.5 * value.slope / sigma, shifted - 1.0, at::log(shifted), value.slope / shifted};
}

// The mask as a factor of elements, or 1.
inline Tensor masked(const Tensor& weight, const OptionalTensor& mask) {
  return present(mask) ? weight * mask->to(weight.scalar_type()) : weight;
}

// The scale arguments of a call that is not the default one, kept for its backward.
inline void save_scale(AutogradContext* ctx, const ScaleArguments& scale) {
  if (scale.is_default()) return;
  ctx->saved_data["parameterization"] = std::string(scale.parameterization);
  ctx->saved_data["epsilon"] = scale.epsilon;
  ctx->saved_data["clamp"] = std::string(scale.clamp);
  if (!scale.logvar_min) return;
  ctx->saved_data["logvar_min"] = *scale.logvar_min;
  ctx->saved_data["logvar_max"] = *scale.logvar_max;
}

// The strings are those of the context.
inline ScaleArguments saved_scale(AutogradContext* ctx) {
  ScaleArguments scale;
  const auto& saved = ctx->saved_data;
  if (saved.count("parameterization") == 0) return scale;
  scale.parameterization = saved.at("parameterization").toStringRef();
  scale.epsilon = saved.at("epsilon").toDouble();
  scale.clamp = saved.at("clamp").toStringRef();
  if (saved.count("logvar_min") == 0) return scale;
  scale.logvar_min = saved.at("logvar_min").toDouble();
  scale.logvar_max = saved.at("logvar_max").toDouble();
  return scale;
}

}  // namespace vae_fused
