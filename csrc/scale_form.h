// How the scale of a posterior is stored, from the arguments of an operator to what its kernel knows.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>

#include "core/kernel_params.h"

namespace vae_fused {

using at::Tensor;

// As the operators take it, a block of arguments; the default is the log-variance as it is.
struct ScaleArguments {
  std::string_view parameterization = "logvar";
  double epsilon = 0.0;
  std::optional<double> logvar_min, logvar_max;  // both or neither
  std::string_view clamp = "hard";

  template <class Use>
  auto in_order(Use use) const {
    return use(parameterization, epsilon, logvar_min, logvar_max, clamp);
  }

  bool is_default() const { return parameterization == "logvar" && epsilon == 0.0 && !logvar_min && !logvar_max; }
};

// Checks the arguments. The bounds are rounded to the type of the operand, as torch.clamp rounds them.
ScaleForm scale_form(const ScaleArguments& arguments, at::ScalarType type);

// A bound as the type holds it; infinite where it is too large for it.
double rounded_to(at::ScalarType type, double value);

// A mask in a type that kernels read, in the shape of mu; undefined where there is none.
Tensor mask_operand(const std::optional<Tensor>& mask, const Tensor& mu);

}  // namespace vae_fused
