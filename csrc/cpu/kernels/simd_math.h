// Elementary functions on SIMD vectors, to about an ulp of float.
#pragma once

#include "core/logarithm.h"
#include "core/math.h"
#include "cpu/kernels/simd.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

// 2^k and k, the integer nearest to x / ln 2; k is at most 127, and for x near -88 and below 2^k is 0. The sum leaves
// k with the bias of an exponent in the last bits, and no bits behind the point.
template <int P>
VAE_FUSED_INLINE void nearest_power(VectorOf<float, P> x, VectorOf<float, P>& k, VectorOf<float, P>& power) {
  using Float = VectorOf<float, P>;
  const Float shift(NativeOf<float>::kRoundingShift + NativeOf<float>::kExponentBias);
  const Float shifted = fused_multiply_add(minimum(x, Float(88.37f)), Float(kLog2E), shift);
  k = shifted - shift;
  power = map(shifted, [](NativeFloat sum) { return (NativeFloat)((NativeInt)sum << 23); });
}

template <int P>
VAE_FUSED_INLINE Exponential<VectorOf<float, P>> exponential(VectorOf<float, P> x) {
  return exponential_polynomial(x);
}

template <int P>
VAE_FUSED_INLINE Logarithm<VectorOf<float, P>> logarithm(VectorOf<float, P> x) {
  return logarithm_polynomial(x);
}

// -2 ln u of u in (0, 1]: u = 2^e m with m in [sqrt(1/2), sqrt(2)), and -2 ln(1 + f) = f P(f) of f = m - 1; P minimax,
// relative error 3e-8. Exactly 0 at u = 1. The square root, which is the radius of a normal, halves a relative error.
template <int P>
VAE_FUSED_INLINE VectorOf<float, P> minus_two_log_of_uniform(VectorOf<float, P> u) {
  using Float = VectorOf<float, P>;
  Float mantissa, exponent;
  split_exponent(u, mantissa, exponent);
  const Float f = mantissa - Float(1.0f);
  Float p = fused_multiply_add(Float(-0.178357348f), f, Float(0.287004143f));
  p = fused_multiply_add(p, f, Float(-0.297539294f));
  p = fused_multiply_add(p, f, Float(0.331312686f));
  p = fused_multiply_add(p, f, Float(-0.399307966f));
  p = fused_multiply_add(p, f, Float(0.500034928f));
  p = fused_multiply_add(p, f, Float(-0.666677177f));
  p = fused_multiply_add(p, f, Float(1.0f));
  p = fused_multiply_add(p, f, Float(-2.0f));
  return fused_multiply_add(exponent, Float(-1.38629436f), p * f);
}

// sin and cos of an angle in [0, 2 pi]: the nearest multiple q of pi/2 is taken off in two steps, then minimax
// polynomials on [-pi/4, pi/4], absolute error 1e-8, and a swap and signs by the two low bits of q.
template <int P>
VAE_FUSED_INLINE void sincos_of_turn(VectorOf<float, P> angle, VectorOf<float, P>& sine, VectorOf<float, P>& cosine) {
  using Float = VectorOf<float, P>;
  const Float shifted = fused_multiply_add(angle, Float(0.636619747f), Float(kRoundingShift));
  const Float q = shifted - Float(kRoundingShift);
  Float r = fused_multiply_add(q, Float(-1.57079637f), angle);
  r = fused_multiply_add(q, Float(4.37113883e-8f), r);
  const Float square = r * r;
  Float s = fused_multiply_add(Float(-0.000195166547f), square, Float(0.00833217334f));
  s = fused_multiply_add(s, square, Float(-0.166666552f));
  s = fused_multiply_add(s * square, r, r);
  Float c = fused_multiply_add(Float(2.44377297e-5f), square, Float(-0.00138873619f));
  c = fused_multiply_add(c, square, Float(0.0416666456f));
  c = fused_multiply_add(c, square, Float(-0.5f));
  c = fused_multiply_add(c, square, Float(1.0f));
  repeat<P>([&](int i) VAE_FUSED_LAMBDA {
    const NativeInt quadrant = (NativeInt)shifted.part[i];
    const NativeFloat straight_sine = select_by_last_bit(quadrant, c.part[i], s.part[i]);
    const NativeFloat straight_cosine = select_by_last_bit(quadrant, s.part[i], c.part[i]);
    sine.part[i] = flip_sign_by_first_bit(straight_sine, quadrant << 30);
    cosine.part[i] = flip_sign_by_first_bit(straight_cosine, (quadrant + 1) << 30);
  });
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
