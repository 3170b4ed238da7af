// The elementary functions of the reconstruction terms on SIMD vectors, to about an ulp of float.
#pragma once

#include "core/reconstruction_math.h"
#include "cpu/kernels/simd_math.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

VAE_FUSED_INLINE Float absolute(Float a) {
  return map(a, [](NativeFloat x) { return (NativeFloat)((NativeInt)x & 0x7fffffff); });
}

VAE_FUSED_INLINE Float reciprocal(Float a) {
  return map(a, [](NativeFloat x) { return 1.0f / x; });
}

VAE_FUSED_INLINE Float product_and_sum(Float a, Float b, Float c) { return fused_multiply_add(a, b, c); }

VAE_FUSED_INLINE Float where_less(Float a, Float b, Float yes, Float no) {
  Float result;
  for (int i = 0; i < kParts; ++i) result.part[i] = a.part[i] < b.part[i] ? yes.part[i] : no.part[i];
  return result;
}

// 0 where the polynomial stops falling: below, e^x is subnormal.
VAE_FUSED_INLINE Float exponential_of(Float x) {
  return where_less(x, Float(kExponentialLowest), Float(0.0f), exponential_polynomial(x).value);
}

// NaN of negative numbers, of infinity and of NaN; below -100 of 0. The exponent of a subnormal number has to be made
// normal first.
VAE_FUSED_INLINE Float logarithm(Float x) {
  const Float smallest(1.17549435e-38f), zero(0.0f);
  const Float normal = where_less(x, smallest, x * Float(0x1p24f), x);
  const Float of_scale = where_less(x, smallest, Float(16.6355324f), zero);
  const Float of_valid = log_polynomial(normal) - of_scale + (x - x);
  return where_less(x, zero, Float(__builtin_nanf("")), of_valid);
}

// For x in [-1, 1]: the logarithm of the rounded sum, and what its rounding lost. As NaN beyond -1 as the logarithm.
VAE_FUSED_INLINE Float log_one_plus(Float x) {
  const Float one(1.0f), sum = one + x;
  return logarithm(sum) + (x - (sum - one)) * reciprocal(at_least(sum, Float(0.5f)));
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
