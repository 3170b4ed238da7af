#include <ATen/ops/mul.h>
#include <torch/library.h>

#include "checks.h"
#include "cpu/scalar_access.h"

namespace vae_fused {
namespace {

void scale_gradients_cpu(at::TensorList gradients, const Tensor& factor) {
  check_scaled_gradients(gradients, factor);
  if (read_number(factor, 0) == 1.0) return;
  // As a tensor, because a number beyond the range of a half type would be rounded to it.
  for (const Tensor& gradient : gradients) gradient.mul_(factor);
}

TORCH_LIBRARY_IMPL(vae_fused, CPU, m) { m.impl("scale_gradients_", &scale_gradients_cpu); }

}  // namespace
}  // namespace vae_fused
