// Clamping a number to bounds, and the gradient through it: both as torch.clamp has them.
#pragma once

#include "core/macros.h"

namespace vae_fused {

// The comparisons are written so that NaN in x survives.
template <class T>
VAE_FUSED_HOST_DEVICE T clamp_number(T x, T low, T high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

// The gradient passes at the bounds and between them; beyond them, and at NaN, it is zero.
template <class T>
VAE_FUSED_HOST_DEVICE bool clamp_passes(T x, T low, T high) {
  return x >= low && x <= high;
}

}  // namespace vae_fused
