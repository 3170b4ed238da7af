// The clamp of logvar on the elements of a group. Inactive, as for all but packed moments, it is one branch a group.
#pragma once

#include "core/kernel_params.h"
#include "core/logvar_clamp.h"

namespace vae_fused {

template <class T, int kGroup>
class ClampOfGroup {
 public:
  // The elements beyond count stay 0, which adds nothing to a sum.
  __device__ __forceinline__ void apply(const LogvarClamp& clamp, int count, T (&logvar)[kGroup]) {
    if (!clamp.active) return;
    const T low = static_cast<T>(clamp.low), high = static_cast<T>(clamp.high);
#pragma unroll
    for (int e = 0; e < kGroup; ++e) {
      if (!clamp_passes(logvar[e], low, high)) beyond_ |= 1u << e;
      if (e < count) logvar[e] = clamp_number(logvar[e], low, high);
    }
  }

  // Turns the gradients to the clamped logvar into those to logvar.
  __device__ __forceinline__ void end_gradients(T (&gradient)[kGroup]) const {
    if (beyond_ == 0) return;
#pragma unroll
    for (int e = 0; e < kGroup; ++e) gradient[e] = beyond_ >> e & 1 ? T(0) : gradient[e];
  }

 private:
  unsigned beyond_ = 0;  // one bit an element
};

}  // namespace vae_fused
