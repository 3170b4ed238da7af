#include <torch/library.h>

#include "checks.h"
#include "cpu/allocate.h"
#include "cpu/parallel.h"
#include "operands.h"

namespace vae_fused {
namespace {

Tensor standard_normal_cpu(const Tensor& key, at::IntArrayRef size, at::ScalarType dtype) {
  check_key(key);
  TORCH_CHECK_TYPE(dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf || dtype == at::kBFloat16,
                   "dtype must be float16, bfloat16, float32 or float64, got ", dtype);
  for (int64_t length : size) TORCH_CHECK_VALUE(length >= 0, "size must not be negative, got ", size);
  const bool per_item = key.dim() == 2;
  TORCH_CHECK_VALUE(!per_item || (!size.empty() && size[0] == key.size(0)), "size must begin with the number of keys, ",
                    per_item ? key.size(0) : 0, ", got ", size);
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
