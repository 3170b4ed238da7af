#include "output_layer_arguments.h"

#include <algorithm>
#include <iterator>

#include "checks.h"

namespace vae_fused {
namespace {

// Those that have no operands but the reconstruction, which may be any number, and the target.
constexpr std::string_view kTerms[] = {"mse", "l1", "smooth_l1", "bce_with_logits"};

}  // namespace

void check_output_layer(const OutputLayerArguments& a) {
  const Tensor &hidden = a.hidden, &weight = a.weight;
  check_floating("hidden", hidden);
  TORCH_CHECK_VALUE(hidden.dim() >= 2, "hidden must have shape [batch, ..., in_features], got ", hidden.sizes());
  const auto check_parameter = [&](const char* name, const Tensor& value) {
    check_same_dtype(name, value, "hidden", hidden);
    check_same_device(name, value, "hidden", hidden);
  };
  TORCH_CHECK_VALUE(weight.dim() == 2 && weight.size(1) == hidden.size(-1), "weight must have shape [out_features, ",
                    hidden.size(-1), "], got ", weight.sizes());
  check_parameter("weight", weight);
  if (present(a.bias)) {
    TORCH_CHECK_VALUE(a.bias->dim() == 1 && a.bias->size(0) == weight.size(0), "bias must have shape [", weight.size(0),
                      "], got ", a.bias->sizes());
    check_parameter("bias", *a.bias);
  }
  check_floating("target", a.target);
  at::DimVector shape(hidden.sizes().begin(), hidden.sizes().end());
  shape.back() = weight.size(0);
  TORCH_CHECK_VALUE(a.target.sizes() == at::IntArrayRef(shape), "target must have the shape of the reconstruction, ",
                    at::IntArrayRef(shape), ", got ", a.target.sizes());
  check_same_device("target", a.target, "hidden", hidden);
  TORCH_CHECK_VALUE(std::find(std::begin(kTerms), std::end(kTerms), a.recon_loss) != std::end(kTerms),
                    "recon_loss must be one of mse, l1, smooth_l1, bce_with_logits, got '", a.recon_loss, "'");
  TORCH_CHECK_VALUE(!a.chunk || *a.chunk >= 1, "chunk must be at least 1, got ", a.chunk.value_or(1));
}

}  // namespace vae_fused
