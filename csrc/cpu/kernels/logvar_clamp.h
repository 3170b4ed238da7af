// The clamp of logvar on the vectors of a tile. Inactive, as for all but packed moments, it is a branch that never
// varies.
#pragma once

#include "core/logvar_clamp.h"
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

  VAE_FUSED_HOST_DEVICE explicit ClampOfTile(const LogvarClamp& clamp)
      : active_(clamp.active), low_(static_cast<T>(clamp.low)), high_(static_cast<T>(clamp.high)) {}

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

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
