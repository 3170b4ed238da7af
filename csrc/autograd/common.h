// What the autograd kernels share.
//
// Every operator has a kernel on the Autograd key. Its Function calls the same operator below autograd, and its
// backward calls the backward operator through the dispatcher, so that a gradient that is itself differentiated is
// either built from differentiable ATen operators or, in the usual case, one fused kernel.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <initializer_list>
#include <optional>

#include "checks.h"
#include "ops.h"

namespace vae_fused {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<Tensor>;
using BelowAutograd = at::AutoDispatchBelowADInplaceOrView;

inline Tensor or_undefined(const OptionalTensor& tensor) { return tensor.value_or(Tensor()); }

inline OptionalTensor or_none(const Tensor& tensor) { return tensor.defined() ? OptionalTensor(tensor) : std::nullopt; }

// Whether autograd has to record what is computed from these tensors.
inline bool records_graph(std::initializer_list<Tensor> inputs) {
  if (!at::GradMode::is_enabled()) return false;
  for (const Tensor& input : inputs) {
    if (input.defined() && input.requires_grad()) return true;
  }
  return false;
}

// Whether input i of a Function needs its gradient, where saved holds the tensor inputs in order. An absent optional
// input has no edge, so the edges are those of the present ones.
inline bool needs_gradient(AutogradContext* ctx, const variable_list& saved, size_t input) {
  if (!saved[input].defined()) return false;
  size_t edge = 0;
  for (size_t i = 0; i < input; ++i) edge += saved[i].defined() ? 1 : 0;
  return ctx->needs_input_grad(edge);
}

// Per-item values [B] in the shape [B, 1, ...] of a tensor, to be broadcast over its events; scalars stay scalars.
inline Tensor over_events(const Tensor& per_item, const Tensor& like) {
  if (per_item.dim() == 0) return per_item;
  c10::SymDimVector shape(like.dim(), 1);
  shape[0] = like.sym_size(0);
  return per_item.reshape_symint(shape);
}

}  // namespace vae_fused
