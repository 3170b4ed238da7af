// Float64 sums whose error does not grow with the number of terms.
#pragma once

#include <cmath>

#include "core/macros.h"

namespace vae_fused {

// The sum of two numbers, and what rounding it lost, exactly: Knuth's two-sum, which needs no comparison.
template <class T>
struct TwoSum {
  T sum, lost;

  VAE_FUSED_HOST_DEVICE TwoSum(T a, T b) : sum(a + b) {
    const T added = sum - a;
    lost = (a - (sum - added)) + (b - added);
  }
};

// Neumaier 1974.
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
