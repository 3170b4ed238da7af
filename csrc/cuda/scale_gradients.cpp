#include "cuda/scale_gradients.h"

#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "checks.h"
#include "cuda/device.h"
#include "operands.h"

namespace vae_fused {
namespace {

void scale_gradients_cuda(at::TensorList gradients, const Tensor& factor) {
  check_scaled_gradients(gradients, factor);
  const c10::DeviceGuard guard(factor.device());
  ScaleGradientsParams p{};
  p.factor = weight_of_gradient(factor, 1.0);
  const auto launch = [&] {
    if (p.count == 0) return;
    launch_scale_gradients(p, launch_site());
    check_launch();
    p.count = 0;
  };
  for (const Tensor& gradient : gradients) {
    if (gradient.numel() == 0) continue;
    ScaledGradient& scaled = p.gradients[p.count++];
    scaled.extent = bind_operands(gradient.sizes(), Order::kMemory, {{gradient, &scaled.values}});
    scaled.work = Work(1, gradient.numel());
    if (p.count == kGradientsOfLaunch) launch();
  }
  launch();
}

TORCH_LIBRARY_IMPL(vae_fused, CUDA, m) { m.impl("scale_gradients_", &scale_gradients_cuda); }

}  // namespace
}  // namespace vae_fused
