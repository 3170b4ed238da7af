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

// What AVX-512 BF16 has of its own is how floats are narrowed to bfloat16. Whatever does none of that, or little in
// proportion, is left to AVX-512 and not compiled again.
#if defined(__AVX512BF16__)
constexpr bool kExtendsAvx512 = true;
#else
constexpr bool kExtendsAvx512 = false;
#endif

template <class... Operands>
VAE_FUSED_INLINE bool any_bfloat16(const Operands&... written) {
  return ((written.type == ElementType::kBFloat16) || ...);
}

// body(T(), whether it transforms) for the arithmetic of a launch, each compiled where it is not left to AVX-512.
template <class Params, class Body>
VAE_FUSED_INLINE void with_arithmetic(const Params& p, Body body) {
  if (!p.wide && !p.transforms()) return body(0.0f, std::false_type());
  if constexpr (!kExtendsAvx512) {
    if (!p.wide) return body(0.0f, std::true_type());
    if (p.transforms()) return body(0.0, std::true_type());
    body(0.0, std::false_type());
  }
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
