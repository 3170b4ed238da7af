// The kernels of the instruction set that is compiled for, each in a source file of its own: the compiler takes long
// over them and can work on several at a time.
#pragma once

#include <type_traits>

#include "cpu/kernels/kernel_table.h"
#include "cpu/kernels/native.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

TileKernel<StandardNormalParams> standard_normal;
TileKernel<ReparameterizeParams> reparameterize;
TileKernel<ReparameterizeBackwardParams> reparameterize_backward;
TileKernel<KLDivergenceParams> kl_divergence;
TileKernel<ReconstructionParams> reconstruction;
TileKernel<ReconstructionTermParams> reconstruction_term;

// body(T(), whether it transforms) for the arithmetic of a launch.
template <class Params, class Body>
VAE_FUSED_INLINE void with_arithmetic(const Params& p, Body body) {
  if (p.wide) {
    p.transforms() ? body(0.0, std::true_type()) : body(0.0, std::false_type());
  } else {
    p.transforms() ? body(0.0f, std::true_type()) : body(0.0f, std::false_type());
  }
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
