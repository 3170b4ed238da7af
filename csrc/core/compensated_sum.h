// A float64 sum whose error does not grow with the number of terms: Neumaier 1974.
#pragma once

#include <cmath>

#include "core/macros.h"

namespace vae_fused {

class CompensatedSum {
 public:
  VAE_FUSED_HOST_DEVICE void add(double value) {
    const double next = sum_ + value;
    // What the addition rounded away, exactly.
    lost_ += ::fabs(sum_) >= ::fabs(value) ? (sum_ - next) + value : (value - next) + sum_;
    sum_ = next;
  }

  // Of an infinite sum nothing finite was lost, and inf - inf must not make it NaN.
  VAE_FUSED_HOST_DEVICE double total() const { return std::isfinite(lost_) ? sum_ + lost_ : sum_; }

 private:
  double sum_ = 0.0, lost_ = 0.0;
};

}  // namespace vae_fused
