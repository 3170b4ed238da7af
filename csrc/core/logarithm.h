// The logarithm of any number, for scales that are not stored as logarithms; and a selection, which its edges need.
#pragma once

#include <cmath>
#include <limits>

#include "core/math.h"

namespace vae_fused {

// a < b ? x : y; the SIMD vectors of the CPU kernels have their own.
VAE_FUSED_HOST_DEVICE double select_less(double a, double b, double x, double y) { return a < b ? x : y; }
#if defined(__CUDACC__)
__device__ __forceinline__ float select_less(float a, float b, float x, float y) { return a < b ? x : y; }

__device__ __forceinline__ void split_exponent(float x, float& mantissa, float& exponent) {
  const int bits = __float_as_int(x);
  const int power = (bits - kSqrtHalfBits) >> 23;
  mantissa = __int_as_float(bits - power * (1 << 23));
  exponent = static_cast<float>(power);
}
#endif

template <class T>
VAE_FUSED_HOST_DEVICE T absolute(T x) {
  return select_less(x, T(0.0f), T(0.0f) - x, x);
}

// ln x, and x - 1 - ln x without cancellation near 1. Of 0 they are -infinity and infinity, of a negative number NaN.
template <class T>
struct Logarithm {
  T value;
  T argument_minus_one_minus_log;
};

// Float and float vectors. Subnormal numbers are raised by 2^24 first.
template <class T>
VAE_FUSED_HOST_DEVICE Logarithm<T> logarithm_polynomial(T x) {
  const T smallest(1.17549435e-38f), infinity(std::numeric_limits<float>::infinity());
  T mantissa, exponent;
  split_exponent(select_less(x, smallest, x * T(16777216.0f), x), mantissa, exponent);
  exponent = exponent - select_less(x, smallest, T(24.0f), T(0.0f));
  const T f = mantissa - T(1.0f), tail = log1p_minus_argument(f);
  const T finite = fused_multiply_add(exponent, T(kLn2High), f + fused_multiply_add(exponent, T(kLn2Low), tail));
  // Adding x keeps a NaN, for which every comparison is false.
  const T beyond = x + select_less(x, T(0.0f), T(std::numeric_limits<float>::quiet_NaN()), T(0.0f) - infinity);
  const T value = select_less(T(0.0f), x, select_less(x, infinity, finite, x), beyond);
  const T excess = select_less(absolute(exponent), T(0.5f), T(0.0f) - tail, (x - T(1.0f)) - value);
  return {value, select_less(x, infinity, excess, x)};
}

// Near 1, with h = x - 1 and s = h / (2 + h): ln x = 2 s + 2 s^3 (1/3 + s^2/5 + ...), and h - 2 s = h s. For |h| <= 1/4
// the thirteenth term is below 2e-22 of the first.
VAE_FUSED_HOST_DEVICE Logarithm<double> logarithm(double x) {
  const double value = ::log(x), h = x - 1.0;
  if (::fabs(h) > 0.25) return {value, x == std::numeric_limits<double>::infinity() ? x : h - value};
  const double s = h / (2.0 + h), square = s * s;
  double sum = 0.0;
  VAE_FUSED_UNROLL
  for (int n = 25; n >= 3; n -= 2) sum = sum * square + 1.0 / n;
  return {value, s * (h - 2.0 * square * sum)};
}

#if defined(__CUDACC__)
__device__ __forceinline__ Logarithm<float> logarithm(float x) { return logarithm_polynomial(x); }
#endif

}  // namespace vae_fused
