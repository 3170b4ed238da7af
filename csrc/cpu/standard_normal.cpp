#include <torch/library.h>

#include "checks.h"
#include "cpu/allocate.h"
#include "cpu/parallel.h"
#include "operands.h"

namespace vae_fused {
namespace {

Tensor standard_normal_cpu(const Tensor& key, at::IntArrayRef size, at::ScalarType dtype) {
  check_normal_request(key, size, dtype);
  const bool per_item = key.dim() == 2;
  Tensor out = allocate(size, dtype);
  if (out.numel() == 0) return out;
  const Tensor contiguous_key = key.contiguous();
  const int64_t items = per_item ? size[0] : 1;
  StandardNormalParams params{noise_key(contiguous_key), out.numel(), out.numel() / items, element_type(dtype),
                              out.mutable_data_ptr()};
  run_tiles(kernels().standard_normal, params, TilePlan(items, params.item_numel), kGrainNoise);
  return out;
}

TORCH_LIBRARY_IMPL(vae_fused, CPU, m) { m.impl("standard_normal", &standard_normal_cpu); }

}  // namespace
}  // namespace vae_fused
