// Elementary functions for the formulas of this folder, for double and for float on a GPU.
//
// A type T takes part when it has fused_multiply_add, product_and_sum, square_root, minus_two_log_of_uniform,
// sincos_of_turn and exponential; the SIMD vectors of the CPU kernels define theirs in cpu/kernels/simd_math.h and
// double_math.h. For exponential_polynomial it needs maximum and nearest_power besides.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/approximations.h"
#include "core/macros.h"

namespace vae_fused {

// The element type of T: T itself, or what a SIMD vector holds.
template <class T>
struct ScalarOf {
  using type = typename T::Scalar;
};
template <>
struct ScalarOf<float> {
  using type = float;
};
template <>
struct ScalarOf<double> {
  using type = double;
};
template <class T>
using scalar_of = typename ScalarOf<T>::type;

// e^x and its two shifted forms, none of which cancels near zero.
template <class T>
struct Exponential {
  T value;              // e^x
  T minus_one;          // e^x - 1
  T minus_one_minus_x;  // e^x - 1 - x, never negative near zero
};

constexpr int32_t kSqrtHalfBits = 0x3f3504f3;  // the bits of sqrt(1/2)
constexpr float kLog2E = 1.44269504f;

// ---- float on a GPU: what the polynomials are made of, declared before them because lookup by argument finds nothing

#if defined(__CUDACC__)
__device__ __forceinline__ float fused_multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
// fminf and fmaxf drop NaN; the comparisons are written so that NaN in x survives.
__device__ __forceinline__ float clamp(float x, float low, float high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}
__device__ __forceinline__ float maximum(float x, float low) { return x < low ? low : x; }
__device__ __forceinline__ float product_and_sum(float a, float b, float c) { return fmaf(a, b, c); }
// k, the integer nearest to x / ln 2 but at most 127, and 2^k, which is 0 for k = -127.
__device__ __forceinline__ void nearest_power(float x, float& k, float& power) {
  const float nearest = rintf(x * kLog2E);
  k = nearest > 127.0f ? 127.0f : nearest;
  power = __int_as_float((static_cast<int>(k) + 127) << 23);
}
#endif

// ---- float and float vectors: one polynomial -----------------------------------------------------------------------

constexpr float kLn2High = 0.693359375f;  // few enough bits for k * kLn2High to be exact
constexpr float kLn2Low = -2.12194440e-4f;
// There, and below, 2^k would be subnormal and is 0. Above, k stays at 127 and e^r overflows when e^x does.
constexpr float kExponentialLowest = -88.0f;

// Polynomials are taken two terms at a time, p + q x in steps of x^2: as many operations as Horner's scheme where the
// square is there anyway, and chains of half the length.

// e^x = 2^k e^r with |r| <= ln 2 / 2, and e^r - 1 - r = r^2 P(r); P is a minimax polynomial, relative error 3e-9.
// For k = 0 both shifted forms come from r^2 P(r) alone: the terms that would cancel are exactly zero.
template <class T>
VAE_FUSED_HOST_DEVICE Exponential<T> exponential_polynomial(T x) {
  const T raised = maximum(x, T(kExponentialLowest));
  T k, power;
  nearest_power(raised, k, power);
  T r = fused_multiply_add(k, T(-kLn2High), raised);
  r = fused_multiply_add(k, T(-kLn2Low), r);
  const T square = r * r;
  T p = fused_multiply_add(T(0.000199075745f), r, T(0.00139336439f));
  p = fused_multiply_add(p, square, fused_multiply_add(T(0.00833328627f), r, T(0.0416664667f)));
  p = fused_multiply_add(p, square, fused_multiply_add(T(0.166666672f), r, T(0.5f)));
  const T tail = square * p;
  const T power_minus_one = power - T(1.0f);
  const T body = r + tail;
  return {fused_multiply_add(power, body, power), fused_multiply_add(power, body, power_minus_one),
          fused_multiply_add(power, tail, fused_multiply_add(power, r, power_minus_one - x))};
}

// ln(1 + f) - f = -f^2/2 + f^3 P(f) of f in [sqrt(1/2) - 1, sqrt(2) - 1); minimax, relative error of the logarithm
// 3e-8.
template <class T>
VAE_FUSED_HOST_DEVICE T log1p_minus_argument(T f) {
  const T square = f * f;
  T p = fused_multiply_add(T(0.0891786739f), f, T(-0.143502071f));
  p = fused_multiply_add(p, square, fused_multiply_add(T(0.148769647f), f, T(-0.165656343f)));
  p = fused_multiply_add(p, square, fused_multiply_add(T(0.199653983f), f, T(-0.250017464f)));
  p = fused_multiply_add(p, f, T(0.333338588f));
  return fused_multiply_add(p * f, square, T(-0.5f) * square);
}

// ln u of u in (0, 1]: u = 2^e m with m in [sqrt(1/2), sqrt(2)), exactly 0 at u = 1. Hardware approximations have a
// constant absolute error instead, which near u = 1 would be larger than the logarithm itself, and its square root is
// the radius of a normal.
template <class T>
VAE_FUSED_HOST_DEVICE T log_polynomial(T u) {
  T mantissa, exponent;
  split_exponent(u, mantissa, exponent);
  const T f = mantissa - T(1.0f);
  const T p = fused_multiply_add(exponent, T(kLn2Low), log1p_minus_argument(f));
  return fused_multiply_add(exponent, T(kLn2High), f + p);
}

// ---- double --------------------------------------------------------------------------------------------------------

// a * b + c, in one rounding where that is cheap.
VAE_FUSED_HOST_DEVICE double product_and_sum(double a, double b, double c) { return a * b + c; }

VAE_FUSED_HOST_DEVICE double square_root(double x) { return ::sqrt(x); }

VAE_FUSED_HOST_DEVICE double minus_two_log_of_uniform(double u) { return -2.0 * ::log(u); }

VAE_FUSED_HOST_DEVICE void sincos_of_turn(double angle, double& sine, double& cosine) {
#if defined(__CUDACC__)
  // CUDA's sin reduces large angles through an array in local memory; sincospi has no such path. Within 1e-15 of sin.
  ::sincospi(angle * 0.3183098861837907, &sine, &cosine);
#else
  sine = ::sin(angle);
  cosine = ::cos(angle);
#endif
}

// e^x - 1 - x by its series where the difference would cancel: |x| <= 1/2 leaves 0.5^16 / 18! = 2e-21 behind.
VAE_FUSED_HOST_DEVICE double series_minus_one_minus_x(double x) {
  double sum = 1.0;
  VAE_FUSED_UNROLL
  for (int n = 17; n >= 3; --n) sum = 1.0 + x * sum / n;
  return 0.5 * x * x * sum;
}

VAE_FUSED_HOST_DEVICE Exponential<double> exponential(double x) {
  const double minus_one = ::expm1(x);
  return {::exp(x), minus_one, ::fabs(x) <= 0.5 ? series_minus_one_minus_x(x) : minus_one - x};
}

// ---- float on a GPU: the functions ----------------------------------------------------------------------------------

#if defined(__CUDACC__)
__device__ __forceinline__ float square_root(float x) { return approximate_sqrt(x); }

// Near 1 the approximation's error, 2^-22 of log2 u, would be larger than the logarithm itself, and its square root is
// the radius of a normal: the series in t = 1 - u there, which leaves less than 1e-6 of it behind.
__device__ __forceinline__ float minus_two_log_of_uniform(float u) {
  constexpr float kMinusTwoLn2 = -1.38629436f, kNearOne = 0.015625f;
  const float t = 1.0f - u;
  const float series = t * fmaf(t, fmaf(t, 2.0f / 3.0f, 1.0f), 2.0f);
  return t < kNearOne ? series : kMinusTwoLn2 * approximate_log2(u);
}

// The approximations are good to 2^-21.4 on [-pi, pi]: the angle, in (0, 2 pi], is turned by half a turn.
__device__ __forceinline__ void sincos_of_turn(float angle, float& sine, float& cosine) {
  constexpr float kPiHigh = 3.14159274f, kPiLow = -8.74227766e-8f;
  const float turned = __fadd_rn(angle, -kPiHigh) - kPiLow;  // of the rounded angle: no fused product
  sine = -__sinf(turned);
  cosine = -__cosf(turned);
}
__device__ __forceinline__ Exponential<float> exponential(float x) { return exponential_polynomial(x); }
#endif

}  // namespace vae_fused
