#include "scale_form.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>
#include <c10/util/Half.h>

#include <cmath>

#include "checks.h"

namespace vae_fused {
namespace {

struct Map {
  ScaleMap map;
  bool of_std;
};

Map parse_parameterization(std::string_view name) {
  if (name == "logvar" || name == "exp_var") return {ScaleMap::kExponential, false};
  if (name == "log_std" || name == "exp_std") return {ScaleMap::kExponential, true};
  if (name == "std") return {ScaleMap::kIdentity, true};
  if (name == "var") return {ScaleMap::kIdentity, false};
  if (name == "softplus_std") return {ScaleMap::kSoftplus, true};
  if (name == "softplus_var") return {ScaleMap::kSoftplus, false};
  TORCH_CHECK_VALUE(false,
                    "parameterization must be one of logvar, log_std, std, var, exp_std, exp_var, softplus_std, "
                    "softplus_var, got '",
                    name, "'");
}

ClampKind parse_clamp(std::string_view name) {
  if (name == "hard") return ClampKind::kHard;
  if (name == "soft") return ClampKind::kSoft;
  if (name == "straight_through") return ClampKind::kStraightThrough;
  TORCH_CHECK_VALUE(false, "clamp must be one of hard, soft, straight_through, got '", name, "'");
}

}  // namespace

double rounded_to(at::ScalarType type, double value) {
  switch (type) {
    case at::kHalf: return static_cast<float>(c10::Half(static_cast<float>(value)));
    case at::kBFloat16: return static_cast<float>(c10::BFloat16(static_cast<float>(value)));
    case at::kFloat: return static_cast<float>(value);
    default: return value;
  }
}

ScaleForm scale_form(const ScaleArguments& arguments, at::ScalarType type) {
  const Map map = parse_parameterization(arguments.parameterization);
  TORCH_CHECK_VALUE(arguments.epsilon >= 0.0 && std::isfinite(arguments.epsilon),
                    "epsilon must be finite and not negative, got ", arguments.epsilon);
  const ClampKind kind = parse_clamp(arguments.clamp);
  const auto low = arguments.logvar_min, high = arguments.logvar_max;
  TORCH_CHECK_VALUE(low.has_value() == high.has_value(), "logvar_clamp must be (low, high), got one bound");
  ScaleForm form{};
  form.map = map.map;
  form.of_std = map.of_std;
  form.epsilon = arguments.epsilon;
  if (!low) {
    TORCH_CHECK_VALUE(kind == ClampKind::kHard, "clamp='", arguments.clamp, "' needs logvar_clamp, got None");
    return form;
  }
  TORCH_CHECK_VALUE(*low <= *high, "logvar_clamp must be (low, high) with low <= high, got (", *low, ", ", *high, ")");
  form.clamp = kind;
  form.low = rounded_to(type, *low);
  form.high = rounded_to(type, *high);
  TORCH_CHECK_VALUE(kind != ClampKind::kSoft || (std::isfinite(form.high - form.low) && form.low < form.high),
                    "clamp='soft' needs a finite logvar_clamp with low < high, got (", *low, ", ", *high, ")");
  const double of_order = map.of_std ? 0.5 : 1.0;
  form.value_low = std::exp(of_order * form.low);
  form.value_high = std::exp(of_order * form.high);
  return form;
}

Tensor mask_operand(const std::optional<Tensor>& mask, const Tensor& mu) {
  if (!present(mask)) return Tensor();
  // A bool is a byte that is 0 or 1; weights in another precision take that of the arithmetic.
  const Tensor readable = mask->scalar_type() == at::kBool ? mask->view(at::kByte) : mask->to(accumulation_type({&mu}));
  return readable.expand_as(mu);
}

}  // namespace vae_fused
