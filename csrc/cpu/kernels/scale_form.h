// The scale of the posterior on the vectors of a tile: the log-variance itself with a clamp, which is a branch that
// never varies, or any form of it, with a temperature and a mask.
#pragma once

#include "core/logvar_clamp.h"
#include "core/scale_form.h"
#include "cpu/kernels/tile.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

VAE_FUSED_INLINE Float clamp_vector(Float x, Float low, Float high) { return clamp(x, low, high); }
VAE_FUSED_INLINE double clamp_vector(double x, double low, double high) { return clamp_number(x, low, high); }

VAE_FUSED_INLINE Float zero_beyond(Float x, Float low, Float high, Float gradient) {
  for (int i = 0; i < kParts; ++i) {
    const NativeInt passes = (x.part[i] >= low.part[i]) & (x.part[i] <= high.part[i]);
    gradient.part[i] = passes ? gradient.part[i] : NativeFloat{};
  }
  return gradient;
}
VAE_FUSED_INLINE double zero_beyond(double x, double low, double high, double gradient) {
  return clamp_passes(x, low, high) ? gradient : 0.0;
}

// Lanes beyond a partial vector hold 0, which adds nothing to a sum, and must hold it still when 0 is out of bounds.
VAE_FUSED_INLINE Float wanted_lanes(Float x, Full) { return x; }
VAE_FUSED_INLINE Float wanted_lanes(Float x, Partial lanes) {
  float values[kLanes];
  store(values, x);
  return load_partial(values, lanes.count);
}
template <class Lanes>
VAE_FUSED_INLINE double wanted_lanes(double x, Lanes) {
  return x;
}

template <class T>
class ClampOfTile {
 public:
  using Vector = typename VectorOf<T>::Type;

  VAE_FUSED_HOST_DEVICE explicit ClampOfTile(const ScaleForm& form)
      : active_(form.clamp == ClampKind::kHard), low_(static_cast<T>(form.low)), high_(static_cast<T>(form.high)) {}

  template <class Lanes>
  VAE_FUSED_HOST_DEVICE Vector operator()(Vector logvar, Lanes lanes) const {
    return active_ ? wanted_lanes(clamp_vector(logvar, low_, high_), lanes) : logvar;
  }

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

// The factors of the KL from an index of the tile on; 1 where there is no mask. They are an array of T, because the
// other tiles of a loop may all be of another type.
template <class T, class Lanes>
VAE_FUSED_INLINE typename VectorOf<T>::Type factors_of(const T* mask, int at, Lanes lanes) {
  return mask == nullptr ? typename VectorOf<T>::Type(T(1)) : load(mask + at, lanes);
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
