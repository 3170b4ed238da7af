#include "cuda/standard_normal.h"

#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "checks.h"
#include "cuda/device.h"
#include "operands.h"

namespace vae_fused {
namespace {

Tensor standard_normal_cuda(const Tensor& key, at::IntArrayRef size, at::ScalarType dtype) {
  check_normal_request(key, size, dtype);
  const c10::DeviceGuard guard(key.device());
  Tensor out = at::empty(size, key.options().dtype(dtype));
  if (out.numel() == 0) return out;
  const Tensor contiguous_key = key.contiguous();
  const int64_t items = key.dim() == 2 ? size[0] : 1;
  const StandardNormalParams params{noise_key(contiguous_key), out.numel(), out.numel() / items, element_type(dtype),
                                    out.mutable_data_ptr()};
  launch_standard_normal(params, Work(items, params.item_numel), launch_site());
  check_launch();
  return out;
}

TORCH_LIBRARY_IMPL(vae_fused, CUDA, m) { m.impl("standard_normal", &standard_normal_cuda); }

}  // namespace
}  // namespace vae_fused
