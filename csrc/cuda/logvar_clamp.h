// The clamp of logvar on the elements of a group. Inactive, as for all but packed moments, it is one branch a group.
// And the mask of the KL.
#pragma once

#include "core/kernel_params.h"
#include "core/logvar_clamp.h"
#include "cuda/vector_access.h"

namespace vae_fused {

// Where Access never clamps it is nothing.
template <class Access>
class ClampOfGroup {
  using T = typename Access::Compute;
  static constexpr int kGroup = Access::kGroup;

 public:
  // The elements that the group does not have stay 0, which adds nothing to a sum.
  template <class Cursor>
  __device__ __forceinline__ void apply(const ScaleForm& form, const Cursor& cursor, T (&logvar)[kGroup]) {
    if (!Access::kClamps || form.clamp == ClampKind::kNone) return;
    const T low = static_cast<T>(form.low), high = static_cast<T>(form.high);
#pragma unroll
    for (int e = 0; e < kGroup; ++e) {
      if (!clamp_passes(logvar[e], low, high)) beyond_ |= 1u << e;
      if (cursor.has(e)) logvar[e] = clamp_number(logvar[e], low, high);
    }
  }

  // Turns the gradients to the clamped logvar into those to logvar.
  __device__ __forceinline__ void end_gradients(T (&gradient)[kGroup]) const {
    if (!Access::kClamps || beyond_ == 0) return;
#pragma unroll
    for (int e = 0; e < kGroup; ++e) gradient[e] = beyond_ >> e & 1 ? T(0) : gradient[e];
  }

 private:
  unsigned beyond_ = 0;  // one bit an element
};

// The factors of the KL of a group, 1 where there is no mask.
template <class T, int kGroup, class Cursor>
__device__ __forceinline__ void load_mask(const Operand& mask, const Cursor& cursor, T (&factors)[kGroup]) {
#pragma unroll
  for (int e = 0; e < kGroup; ++e) factors[e] = T(1);
  if (mask.data != nullptr) cursor.template load<AnyStorageOrRepeated>(mask, factors);
}

}  // namespace vae_fused
