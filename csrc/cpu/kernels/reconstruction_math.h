// The elementary functions of the reconstruction terms on SIMD vectors, to about an ulp of float.
#pragma once

#include "core/reconstruction_math.h"
#include "cpu/kernels/simd_math.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

template <int P>
VAE_FUSED_INLINE VectorOf<float, P> quotient(VectorOf<float, P> x, VectorOf<float, P> y) {
  return x / y;
}

template <int P>
VAE_FUSED_INLINE VectorOf<float, P> at_least(VectorOf<float, P> x, VectorOf<float, P> low) {
  return maximum(x, low);
}

template <int P>
VAE_FUSED_INLINE VectorOf<float, P> exponential_of(VectorOf<float, P> x) {
  return exponential_polynomial(x).value;
}

template <int P>
VAE_FUSED_INLINE VectorOf<float, P> decay(VectorOf<float, P> x) {
  return exponential_of(VectorOf<float, P>(0.0f) - absolute(x));
}

// NaN of negative numbers, of infinity and of NaN; below -100 of 0. The exponent of a subnormal number has to be made
// normal first.
template <int P>
VAE_FUSED_INLINE VectorOf<float, P> natural_log(VectorOf<float, P> x) {
  using Float = VectorOf<float, P>;
  const Float smallest(1.17549435e-38f), zero(0.0f);
  const Float normal = select_less(x, smallest, x * Float(0x1p24f), x);
  const Float of_scale = select_less(x, smallest, Float(16.6355324f), zero);
  const Float of_valid = log_polynomial(normal) - of_scale + (x - x);
  return select_less(x, zero, Float(__builtin_nanf("")), of_valid);
}

// For x in [-1, 1]: the logarithm of the rounded sum, and what its rounding lost. As NaN beyond -1 as the logarithm.
template <int P>
VAE_FUSED_INLINE VectorOf<float, P> log_one_plus(VectorOf<float, P> x) {
  using Float = VectorOf<float, P>;
  const Float one(1.0f), sum = one + x;
  return natural_log(sum) + quotient(x - (sum - one), at_least(sum, Float(0.5f)));
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
