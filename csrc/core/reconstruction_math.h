// Elementary functions of the reconstruction terms, for double and for float on a GPU.
//
// A type T takes part when it has these functions; the SIMD vectors of the CPU kernels define theirs in
// cpu/kernels/reconstruction_math.h.
#pragma once

#include <cmath>

#include "core/approximations.h"
#include "core/macros.h"

namespace vae_fused {

// ---- double --------------------------------------------------------------------------------------------------------

VAE_FUSED_HOST_DEVICE double absolute(double x) { return ::fabs(x); }
VAE_FUSED_HOST_DEVICE double reciprocal(double x) { return 1.0 / x; }
// a * b + c, in one rounding where that is cheap.
VAE_FUSED_HOST_DEVICE double product_and_sum(double a, double b, double c) { return a * b + c; }
// The comparison is false for NaN.
VAE_FUSED_HOST_DEVICE double where_less(double a, double b, double yes, double no) { return a < b ? yes : no; }
VAE_FUSED_HOST_DEVICE double exponential_of(double x) { return ::exp(x); }
VAE_FUSED_HOST_DEVICE double logarithm(double x) { return ::log(x); }
VAE_FUSED_HOST_DEVICE double log_one_plus(double x) { return ::log1p(x); }

// ---- float on a GPU ------------------------------------------------------------------------------------------------

#if defined(__CUDACC__)
__device__ __forceinline__ float absolute(float x) { return fabsf(x); }
__device__ __forceinline__ float reciprocal(float x) { return approximate_reciprocal(x); }
__device__ __forceinline__ float product_and_sum(float a, float b, float c) { return fmaf(a, b, c); }
__device__ __forceinline__ float where_less(float a, float b, float yes, float no) { return a < b ? yes : no; }
__device__ __forceinline__ float exponential_of(float x) { return expf(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ float log_one_plus(float x) { return log1pf(x); }
#endif

// ---- of these ------------------------------------------------------------------------------------------------------

// -1, 0 or 1; 0 for NaN, as torch.sign.
template <class T>
VAE_FUSED_HOST_DEVICE T sign_of(T x) {
  const T zero(0.0f), one(1.0f);
  return where_less(zero, x, one, zero) - where_less(x, zero, one, zero);
}

template <class T>
VAE_FUSED_HOST_DEVICE T at_least(T x, T low) {
  return where_less(x, low, low, x);
}

// To [-1, 1]; NaN stays.
template <class T>
VAE_FUSED_HOST_DEVICE T within_one(T x) {
  const T low(-1.0f), high(1.0f);
  const T raised = at_least(x, low);
  return where_less(high, raised, high, raised);
}

}  // namespace vae_fused
