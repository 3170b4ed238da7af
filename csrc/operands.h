// From tensors to the plain operands that kernels take. ATen ends here.
#pragma once

#include <ATen/core/Tensor.h>

#include <initializer_list>
#include <optional>

#include "core/kernel_params.h"

namespace vae_fused {

using at::Tensor;

ElementType element_type(at::ScalarType type);

// One tensor and the operand to describe it; an undefined tensor leaves the operand absent.
struct Binding {
  const Tensor& tensor;
  Operand* operand;
};

enum class Order {
  kLogical,  // row-major: the index of an element decides its noise
  kMemory,   // event dimensions may be walked in the order of memory: nothing depends on the index
};

// Fills the operands with the strides of tensors that all have these sizes, and returns their common extent: dimensions
// of size 1 dropped, neighbours merged that step alike everywhere. Items (dimension 0) always stay outermost.
Extent bind_operands(at::IntArrayRef sizes, Order order, std::initializer_list<Binding> bindings);

// An incoming gradient, [] or [B], read by pointer and stride: loss.sum().backward() hands over one expanded element.
Weight weight_of_gradient(const Tensor& grad, double scale);

// The batch items' keys; the tensor has to outlive the kernel.
NoiseKey noise_key(const Tensor& contiguous_key);

}  // namespace vae_fused
