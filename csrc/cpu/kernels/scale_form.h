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
template <class S, int P>
VAE_FUSED_INLINE VectorOf<S, P> zero_beyond(VectorOf<S, P> x, VectorOf<S, P> low, VectorOf<S, P> high,
                                            VectorOf<S, P> gradient) {
  repeat<P>([&](int i) VAE_FUSED_LAMBDA {
    const auto passes = (x.part[i] >= low.part[i]) & (x.part[i] <= high.part[i]);
    gradient.part[i] = passes ? gradient.part[i] : typename VectorOf<S>::Register{};
  });
  return gradient;
}

template <class T>
class ClampOfTile {
 public:
  VAE_FUSED_HOST_DEVICE explicit ClampOfTile(const ScaleForm& form)
      : active_(form.clamp == ClampKind::kHard), low_(static_cast<T>(form.low)), high_(static_cast<T>(form.high)) {}

  template <int P>
  VAE_FUSED_HOST_DEVICE VectorOf<T, P> operator()(VectorOf<T, P> logvar) const {
    return active_ ? clamp(logvar, VectorOf<T, P>(low_), VectorOf<T, P>(high_)) : logvar;
  }

  // The gradient to logvar from the gradient to the clamped one.
  template <int P>
  VAE_FUSED_HOST_DEVICE VectorOf<T, P> gradient(VectorOf<T, P> logvar, VectorOf<T, P> to_clamped) const {
    return active_ ? zero_beyond(logvar, VectorOf<T, P>(low_), VectorOf<T, P>(high_), to_clamped) : to_clamped;
  }

 private:
  bool active_;
  T low_, high_;
};

// Not inlined: the branches of its many forms would be there again in every loop of every kernel.
template <class Vector>
static __attribute__((noinline)) Scale<Vector> scale_of_vector(const ScaleForm& form, Vector raw) {
  return scale_of(form, raw);
}

// What depends on the log-variance alone, for either kind of kernel: its scale in any form, or the exponential of half
// of it.
template <bool kTransforms, class T, int P>
VAE_FUSED_INLINE auto scale_begun(const ScaleForm& form, const ClampOfTile<T>& clamped, VectorOf<T, P> logvar) {
  if constexpr (kTransforms) {
    return scale_of_vector(form, logvar);
  } else {
    return exponential(VectorOf<T, P>(0.5f) * clamped(logvar));
  }
}

// The factors of the KL from an index of the tile on; 1 where there is no mask. They are an array of T, because the
// other tiles of a loop may all be of another type.
template <class T, class Lanes>
VAE_FUSED_INLINE VectorIn<T, Lanes> factors_of(const T* mask, int at, Lanes lanes) {
  return mask == nullptr ? VectorIn<T, Lanes>(T(1)) : load(mask + at, lanes);
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
