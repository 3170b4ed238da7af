// What a reduction divides by, for CPU and CUDA alike.
#pragma once

#include <limits>

#include "checks.h"

namespace vae_fused {

// The sum of a term over [B, ...] is divided by this; by 0 for an empty batch, as torch's mean divides.
inline double divisor(Reduction reduction, int64_t batch, int64_t numel) {
  if (reduction == Reduction::kBatchMean) return static_cast<double>(batch);
  if (reduction == Reduction::kMean) return static_cast<double>(numel);
  return 1.0;
}

}  // namespace vae_fused
