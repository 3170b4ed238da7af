// A target of bytes: its tile is a buffer of them as numbers.
#pragma once

#include "cpu/kernels/tile.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

template <class T>
VAE_FUSED_INLINE void scale_bytes(const ReconstructionParams& p, int count, InputTile<T>& target) {
  const T scale = static_cast<T>(p.target_scale), shift = static_cast<T>(p.target_shift);
  T* values = target.buffer();
  for (int i = 0; i < count; ++i) values[i] = scale * values[i] + shift;
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
