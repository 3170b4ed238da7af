// The arguments of an output layer with its reconstruction term, in one block.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>

namespace vae_fused {

// References to what the caller holds, for the time of one call.
struct OutputLayerArguments {
  const at::Tensor& hidden;               // [items, ..., in_features]
  const at::Tensor& weight;               // [outputs, in_features]
  const std::optional<at::Tensor>& bias;  // [outputs]
  const at::Tensor& target;               // [items, ..., outputs]
  std::string_view recon_loss;
  std::string_view reduction;
  std::optional<int64_t> chunk;  // rows

  template <class Use>
  auto in_order(Use use) const {
    return use(hidden, weight, bias, target, recon_loss, reduction, chunk);
  }
};

// Checks the arguments but the reduction: hidden, weight, bias and target fit together.
void check_output_layer(const OutputLayerArguments& arguments);

}  // namespace vae_fused
