// The reconstruction term of an output layer. The gradients of hidden, weight and bias are computed in the forward,
// chunk by chunk, for an incoming gradient of 1; the backward multiplies them by the one that comes.
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>

#include <algorithm>
#include <array>

#include "autograd/common.h"

namespace vae_fused {
namespace {

enum Input { kHidden, kWeight, kBias, kTarget, kInputs };

// Of ATen operators and the differentiable backward of the loss; the reconstruction is there as a whole.
std::array<Tensor, kInputs> differentiable_backward(const Tensor& grad_loss, const OutputLayerArguments& a) {
  const Tensor recon = at::linear(a.hidden, a.weight, a.bias);
  Tensor incoming = grad_loss;
  if (a.reduction == "batchmean") incoming = grad_loss / at::Scalar(recon.sym_size(0));
  if (a.reduction == "mean") incoming = grad_loss / at::Scalar(recon.sym_numel());
  const OptionalTensor none, no_kl = at::zeros_symint({recon.sym_size(0)}, recon.options().dtype(at::kDouble));
  const auto gradients = ops::elbo_loss_backward(
      incoming, {true, true, false, false, false, false},
      {recon, a.target, none, none, no_kl, 0.0, none, a.recon_loss, a.reduction == "sample" ? "sample" : "sum"});
  const Tensor &to_recon = std::get<0>(gradients), &to_target = std::get<1>(gradients);
  const Tensor rows = to_recon.flatten(0, -2);
  return {at::matmul(to_recon, a.weight), at::matmul(rows.t(), a.hidden.flatten(0, -2)),
          present(a.bias) ? rows.sum(0) : Tensor(), to_target};
}

bool records_graph(const OutputLayerArguments& a, const Tensor& grad_loss = {}) {
  return vae_fused::records_graph({grad_loss, a.hidden, a.weight, or_undefined(a.bias), a.target});
}

Tensors<4> linear_reconstruction_backward_autograd(const Tensor& grad_loss, const OutputLayerArguments& a,
                                                   std::array<bool, 4> output_mask) {
  if (!records_graph(a, grad_loss)) {
    BelowAutograd guard;
    return ops::linear_reconstruction_backward(grad_loss, a, output_mask);
  }
  const auto computed = differentiable_backward(grad_loss, a);
  const auto asked = [&](Input input) { return output_mask[input] ? computed[input] : Tensor(); };
  return {asked(kHidden), asked(kWeight), asked(kBias), asked(kTarget)};
}

constexpr std::array<const char*, 3> kBuffers = {"grad_hidden", "grad_weight", "grad_bias"};

struct LinearReconstruction : torch::autograd::Function<LinearReconstruction> {
  // Compiled autograd may trace the backward: it calls operators only.
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& hidden, const Tensor& weight, const OptionalTensor& bias,
                        const Tensor& target, const OutputLayerArguments& a) {
    const std::array<bool, 3> wanted = {hidden.requires_grad(), weight.requires_grad(),
                                        present(bias) && bias->requires_grad()};
    // Where each item has its own incoming gradient, forward and backward are two passes.
    const bool with_gradients =
        a.reduction != "sample" && std::any_of(wanted.begin(), wanted.end(), [](bool one) { return one; });
    Tensor reconstruction;
    {
      BelowAutograd guard;
      if (with_gradients) {
        std::array<Tensor, 3> gradients;
        std::tie(reconstruction, gradients[0], gradients[1], gradients[2]) =
            ops::linear_reconstruction_with_gradients(a, wanted);
        // One entry each: compiled autograd lifts single tensors out of saved_data, but not lists of them.
        for (size_t i = 0; i < kBuffers.size(); ++i) ctx->saved_data[kBuffers[i]] = gradients[i];
      } else {
        reconstruction = ops::linear_reconstruction(a);
      }
    }
    ctx->save_for_backward({hidden, weight, or_undefined(bias), target});
    ctx->saved_data["recon_loss"] = std::string(a.recon_loss);
    ctx->saved_data["reduction"] = std::string(a.reduction);
    ctx->saved_data["chunk"] = a.chunk;
    ctx->set_materialize_grads(false);
    return reconstruction;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list result(5);
    const Tensor& grad_loss = grads[0];
    if (!grad_loss.defined()) return result;
    const auto saved = ctx->get_saved_variables();
    std::array<bool, kInputs> missing;
    for (int i = 0; i < kInputs; ++i) missing[i] = needs_gradient(ctx, saved, i);

    if (!at::GradMode::is_enabled()) hand_over(ctx, grad_loss, saved, missing, result);
    if (std::any_of(missing.begin(), missing.end(), [](bool wanted) { return wanted; })) {
      const auto [to_hidden, to_weight, to_bias, to_target] = ops::linear_reconstruction_backward(
          grad_loss,
          {saved[kHidden], saved[kWeight], or_none(saved[kBias]), saved[kTarget],
           ctx->saved_data["recon_loss"].toStringRef(), ctx->saved_data["reduction"].toStringRef(),
           ctx->saved_data["chunk"].toOptional<int64_t>()},
          missing);
      const std::array<Tensor, kInputs> computed = {to_hidden, to_weight, to_bias, to_target};
      for (int i = 0; i < kInputs; ++i) {
        if (missing[i]) result[i] = computed[i];
      }
    }
    return result;
  }

  // Gives the buffers away, once: their owner may add into them, so a second backward computes them again. A traced
  // graph, or a batch of incoming gradients (is_grads_batched), multiplies into new tensors instead.
  static void hand_over(AutogradContext* ctx, const Tensor& grad_loss, const variable_list& saved,
                        std::array<bool, kInputs>& missing, variable_list& result) {
    std::vector<Tensor> given_away;
    for (size_t i = 0; i < kBuffers.size(); ++i) {
      const auto kept = ctx->saved_data.find(kBuffers[i]);
      if (!missing[i] || kept == ctx->saved_data.end()) continue;
      const Tensor gradient = kept->second.toTensor();
      if (!gradient.defined()) continue;
      missing[i] = false;
      if (c10::impl::dispatch_mode_enabled() || at::isTensorSubclassLike(grad_loss) ||
          at::isTensorSubclassLike(gradient)) {
        result[i] = (gradient * grad_loss.to(gradient.scalar_type())).to(saved[i].scalar_type());
      } else {
        ctx->saved_data.erase(kept);
        given_away.push_back(gradient);
        result[i] = gradient;
      }
    }
    if (given_away.empty()) return;
    ops::scale_gradients_(given_away, grad_loss);
    for (size_t i = 0; i < kBuffers.size(); ++i) {
      if (result[i].defined()) result[i] = result[i].to(saved[i].scalar_type());
    }
  }
};

Tensor linear_reconstruction_autograd(const OutputLayerArguments& a) {
  if (!records_graph(a)) {
    BelowAutograd guard;
    return ops::linear_reconstruction(a);
  }
  return LinearReconstruction::apply(a.hidden, a.weight, a.bias, a.target, a);
}

// As torch's linear: the layer in the lower precision; the loss takes the target as it comes.
template <at::DeviceType device>
Tensor linear_reconstruction_autocast(const OutputLayerArguments& a) {
  const c10::impl::ExcludeDispatchKeyGuard guard(at::autocast::get_autocast_dispatch_key_from_device_type(device));
  const auto dtype = at::autocast::get_autocast_dtype(device);
  const auto cast = [&](const auto& tensor) { return at::autocast::cached_cast(dtype, tensor, device); };
  return ops::linear_reconstruction(
      {cast(a.hidden), cast(a.weight), cast(a.bias), a.target, a.recon_loss, a.reduction, a.chunk});
}

TORCH_LIBRARY_IMPL(vae_fused, Autograd, m) {
  m.impl("linear_reconstruction", unpacked<&linear_reconstruction_autograd>);
  m.impl("linear_reconstruction_backward", unpacked<&linear_reconstruction_backward_autograd>);
  // Not for differentiation: the first is called inside the Function, the second on its buffers. They refuse loudly.
  m.impl("linear_reconstruction_with_gradients", torch::autograd::autogradNotImplementedFallback());
  m.impl("scale_gradients_", torch::autograd::autogradNotImplementedFallback());
}

TORCH_LIBRARY_IMPL(vae_fused, AutocastCPU, m) {
  m.impl("linear_reconstruction", unpacked<&linear_reconstruction_autocast<at::kCPU>>);
}

TORCH_LIBRARY_IMPL(vae_fused, AutocastCUDA, m) {
  m.impl("linear_reconstruction", unpacked<&linear_reconstruction_autocast<at::kCUDA>>);
}

}  // namespace
}  // namespace vae_fused
