// The scale of the posterior on the vectors of a tile: the log-variance itself with a clamp, which is a branch that
// never varies, or any form of it, with a temperature and a mask.
#pragma once

#include "core/scale_form.h"
#include "cpu/kernels/double_math.h"
#include "cpu/kernels/simd_math.h"
#include "cpu/kernels/tile.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

// Beyond the bounds, and at NaN, the gradient is zero.
template <class S>
VAE_FUSED_INLINE VectorOf<S> zero_beyond(VectorOf<S> x, VectorOf<S> low, VectorOf<S> high, VectorOf<S> gradient) {
  repeat<kParts>([&](int i) VAE_FUSED_LAMBDA {
    const auto passes = (x.part[i] >= low.part[i]) & (x.part[i] <= high.part[i]);
    gradient.part[i] = passes ? gradient.part[i] : typename VectorOf<S>::Register{};
  });
  return gradient;
}

template <class T>
class ClampOfTile {
 public:
  using Vector = VectorOf<T>;

  VAE_FUSED_HOST_DEVICE explicit ClampOfTile(const ScaleForm& form)
      : active_(form.clamp == ClampKind::kHard), low_(static_cast<T>(form.low)), high_(static_cast<T>(form.high)) {}

  VAE_FUSED_HOST_DEVICE Vector operator()(Vector logvar) const { return active_ ? clamp(logvar, low_, high_) : logvar; }

  // The gradient to logvar from the gradient to the clamped one.
  VAE_FUSED_HOST_DEVICE Vector gradient(Vector logvar, Vector to_clamped) const {
    return active_ ? zero_beyond(logvar, low_, high_, to_clamped) : to_clamped;
  }

 private:
  bool active_;
  Vector low_, high_;
};

// Not inlined: the branches of its many forms would be there again in every loop of every kernel.
template <class Vector>
static __attribute__((noinline)) Scale<Vector> scale_of_vector(const ScaleForm& form, Vector raw) {
  return scale_of(form, raw);
}

// What depends on the log-variance alone, for either kind of kernel: its scale in any form, or the exponential of half
// of it.
template <bool kTransforms, class T>
VAE_FUSED_INLINE auto scale_begun(const ScaleForm& form, const ClampOfTile<T>& clamped, VectorOf<T> logvar) {
  if constexpr (kTransforms) {
    return scale_of_vector(form, logvar);
  } else {
    return exponential(VectorOf<T>(0.5f) * clamped(logvar));
  }
}

// The factors of the KL from an index of the tile on; 1 where there is no mask. They are an array of T, because the
// other tiles of a loop may all be of another type.
template <class T, class Lanes>
VAE_FUSED_INLINE VectorOf<T> factors_of(const T* mask, int at, Lanes lanes) {
  return mask == nullptr ? VectorOf<T>(T(1)) : load(mask + at, lanes);
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
