// Elementary functions on vectors of doubles, to two units in the last place (three without a fused multiply-add):
// docs/numerics.md. Minimax polynomials, with what the reductions round away carried along.
#pragma once

#include "core/compensated_sum.h"
#include "core/logarithm.h"
#include "core/math.h"
#include "cpu/kernels/simd.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

namespace double_constants {
constexpr double kLog2E = 1.4426950408889634;
// ln 2 in two: of the first, 40 bits, every multiple in use is exact.
constexpr double kLn2High = 0x1.62e42fefa4p-1, kLn2Low = -0x1.8432a1b0e2634p-43;
// pi / 2 in three of 50 bits.
constexpr double kHalfPiHigh = 0x1.921fb54442d18p+0, kHalfPiMiddle = 0x1.1a62633145c08p-54,
                 kHalfPiLow = -0x1.1f1976b7ed8fcp-106;
constexpr double kSmallestNormal = 0x1p-1022;
}  // namespace double_constants

// c[0] + c[1] x + ...
template <int P, int kTerms>
VAE_FUSED_INLINE VectorOf<double, P> polynomial(VectorOf<double, P> x, const double (&coefficients)[kTerms]) {
  using Double = VectorOf<double, P>;
  Double sum(coefficients[kTerms - 1]);
#pragma GCC unroll 16
  for (int n = kTerms - 2; n >= 0; --n) sum = fused_multiply_add(sum, x, Double(coefficients[n]));
  return sum;
}

// x 2^k rounded once, with k an integer of at most 1100 in magnitude: results may be subnormal or overflow.
VAE_FUSED_INLINE Double times_power_of_two(Double x, Double k) {
#if defined(__AVX512F__)
  return map(x, k, [](NativeDouble a, NativeDouble b) { return (NativeDouble)_mm512_scalef_pd(a, b); });
#else
  const Double half = round_to_nearest(Double(0.5) * k);
  return x * power_of_two(half) * power_of_two(k - half);
#endif
}

// e^x = 2^k e^r with |r| <= ln 2 / 2. e^r - 1 - r = r^2 P(r), relative error 2^-58, and what rounding r lost is in the
// tail. 2^k (1 + r) - 1 less x is exact where it cancels, for k of -1, 0 and 1. From 709 on, where 2^k would overflow
// before e^x does, e^x - 1 is e^x to rounding.
VAE_FUSED_INLINE Exponential<Double> exponential(Double x) {
  using namespace double_constants;
  constexpr double kCoefficients[] = {0.5,
                                      0.1666666666666667,
                                      0.041666666666666616,
                                      0.008333333333326167,
                                      0.0013888888888917966,
                                      0.00019841269874721837,
                                      2.4801587245728077e-05,
                                      2.755725551308904e-06,
                                      2.755734962944997e-07,
                                      2.510517404797571e-08,
                                      2.088937150171594e-09};
  const Double one(1.0), highest(709.0);
  const Double clamped = clamp(x, Double(-746.0), Double(746.0));
  const Double k = round_to_nearest(clamped * Double(kLog2E));
  const Double high = fused_multiply_add(k, Double(-kLn2High), clamped), low = k * Double(kLn2Low);
  const Double r = high - low;
  const Double tail = fused_multiply_add(r * r, polynomial(r, kCoefficients), (high - r) - low);
  const Double value = times_power_of_two(one + (r + tail), k);
  const Double power = power_of_two(clamp(k, Double(-1022.0), Double(1023.0)));
  const Double power_minus_one = power - one, shifted = fused_multiply_add(power, r, power_minus_one);
  const Double rounded_away = fused_multiply_add(power, r, power_minus_one - shifted);
  return {value, select_less(highest, x, value, fused_multiply_add(power, tail, shifted)),
          select_less(highest, x, value - x, fused_multiply_add(power, tail, (shifted - x) + rounded_away))};
}

// x = 2^exponent mantissa, f = mantissa - 1, and tail = ln(1 + f) - f, for a positive normal x. With s = f / (2 + f),
// ln(1 + f) = 2 atanh s = f - f^2/2 + s (f^2/2 + s^2 P(s^2)); relative error of the logarithm 2^-59.
template <int P>
struct ReducedLogarithm {
  VectorOf<double, P> exponent, mantissa, f, tail;
};

template <int P>
VAE_FUSED_INLINE ReducedLogarithm<P> reduced_logarithm(VectorOf<double, P> x) {
  using Double = VectorOf<double, P>;
  constexpr double kCoefficients[] = {0.6666666666666734,  0.3999999999941638,  0.28571428742014027,
                                      0.22222198610893976, 0.18183562400655356, 0.15314098924425518,
                                      0.1479547451533592};
  ReducedLogarithm<P> log;
  split_exponent(x, log.mantissa, log.exponent);
  log.f = log.mantissa - Double(1.0);
  const Double s = log.f / (Double(2.0) + log.f), square = s * s;
  const Double half_square = Double(0.5) * log.f * log.f;
  const Double sum = fused_multiply_add(square, polynomial(square, kCoefficients), half_square);
  log.tail = fused_multiply_add(s, sum, Double(0.0) - half_square);
  return log;
}

template <int P>
VAE_FUSED_INLINE VectorOf<double, P> value_of(const ReducedLogarithm<P>& log) {
  using Double = VectorOf<double, P>;
  using namespace double_constants;
  const Double low = fused_multiply_add(log.exponent, Double(kLn2Low), log.tail);
  return fused_multiply_add(log.exponent, Double(kLn2High), log.f + low);
}

// Subnormal numbers are raised by 2^54 first. x - 1 - ln x = x - mantissa - exponent ln 2 - tail, where nothing cancels
// that was rounded.
VAE_FUSED_INLINE Logarithm<Double> logarithm(Double x) {
  using namespace double_constants;
  const Double smallest(kSmallestNormal), infinity(std::numeric_limits<double>::infinity()), zero(0.0);
  auto log = reduced_logarithm(select_less(x, smallest, x * Double(0x1p54), x));
  log.exponent = log.exponent - select_less(x, smallest, Double(54.0), zero);
  // Adding x keeps a NaN, for which every comparison is false.
  const Double beyond = x + select_less(x, zero, Double(std::numeric_limits<double>::quiet_NaN()), zero - infinity);
  const Double value = select_less(zero, x, select_less(x, infinity, value_of(log), x), beyond);
  const TwoSum<Double> distance(x, zero - log.mantissa);
  const Double rest = (distance.sum - log.exponent * Double(kLn2High)) + distance.lost;
  const Double excess = rest - fused_multiply_add(log.exponent, Double(kLn2Low), log.tail);
  return {value, select_less(zero, x, select_less(x, infinity, excess, x), (x - Double(1.0)) - value)};
}

template <int P>
VAE_FUSED_INLINE VectorOf<double, P> minus_two_log_of_uniform(VectorOf<double, P> u) {
  return VectorOf<double, P>(-2.0) * value_of(reduced_logarithm(u));
}

// sin and cos of an angle in [0, 2 pi]: the nearest multiple q of pi/2 is taken off in three steps, of which the first
// is exact, then minimax polynomials on [-pi/4, pi/4], relative error 2^-58, and a swap and signs by the two low bits
// of q.
template <int P>
VAE_FUSED_INLINE void sincos_of_turn(VectorOf<double, P> angle, VectorOf<double, P>& sine,
                                     VectorOf<double, P>& cosine) {
  using Double = VectorOf<double, P>;
  using namespace double_constants;
  constexpr double kSine[] = {-0.1666666666666663,    0.008333333333322118,  -0.00019841269829589165,
                              2.7557313621267693e-06, -2.50507477453837e-08, 1.5896229182514523e-10};
  constexpr double kCosine[] = {0.041666666666666595,   -0.0013888888888873056, 2.4801587288851487e-05,
                                -2.755731417923751e-07, 2.087570083426169e-09,  -1.1358536134927359e-11};
  const Double shift(NativeOf<double>::kRoundingShift);
  const Double shifted = fused_multiply_add(angle, Double(0.6366197723675814), shift);
  const Double q = shifted - shift;
  Double r = fused_multiply_add(q, Double(-kHalfPiHigh), angle);
  r = fused_multiply_add(q, Double(-kHalfPiMiddle), r);
  r = fused_multiply_add(q, Double(-kHalfPiLow), r);
  const Double square = r * r;
  const Double s = fused_multiply_add(square * r, polynomial(square, kSine), r);
  const Double c = fused_multiply_add(square * square, polynomial(square, kCosine),
                                      fused_multiply_add(Double(-0.5), square, Double(1.0)));
  repeat<P>([&](int i) VAE_FUSED_LAMBDA {
    const NativeWide quadrant = (NativeWide)shifted.part[i];
    const NativeWide odd = NativeWide{} - (quadrant & 1);  // all bits or none
    const NativeWide sines = (NativeWide)s.part[i], cosines = (NativeWide)c.part[i];
    const NativeWide swapped = (sines ^ cosines) & odd;
    sine.part[i] = (NativeDouble)(sines ^ swapped ^ ((quadrant & 2) << 62));
    cosine.part[i] = (NativeDouble)(cosines ^ swapped ^ (((quadrant + 1) & 2) << 62));
  });
}

// ---- of the reconstruction terms -----------------------------------------------------------------------------------

VAE_FUSED_INLINE Double quotient(Double x, Double y) { return x / y; }

VAE_FUSED_INLINE Double at_least(Double x, Double low) { return maximum(x, low); }

VAE_FUSED_INLINE Double exponential_of(Double x) { return exponential(x).value; }

VAE_FUSED_INLINE Double decay(Double x) { return exponential_of(Double(0.0) - absolute(x)); }

VAE_FUSED_INLINE Double natural_log(Double x) { return logarithm(x).value; }

// The logarithm of the rounded sum, and what its rounding lost, for x in [-1, 1]. For x < -1/2 the sum is exact.
VAE_FUSED_INLINE Double log_one_plus(Double x) {
  const Double one(1.0), sum = one + x;
  return natural_log(sum) + quotient(x - (sum - one), at_least(sum, Double(0.5)));
}

// The same for x in [0, 1], where a logarithm has no edges.
VAE_FUSED_INLINE Double log_one_plus_of_unit(Double x) {
  const Double one(1.0), sum = one + x;
  return value_of(reduced_logarithm(sum)) + quotient(x - (sum - one), sum);
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
