// Elementary functions of the reconstruction terms, for double and for float on a GPU.
//
// A type T takes part when it has these functions; the SIMD vectors of the CPU kernels define theirs in
// cpu/kernels/reconstruction_math.h.
#pragma once

#include <cmath>

#include "core/logarithm.h"

namespace vae_fused {

// ---- double --------------------------------------------------------------------------------------------------------

VAE_FUSED_HOST_DEVICE double quotient(double x, double y) { return x / y; }
VAE_FUSED_HOST_DEVICE double exponential_of(double x) { return ::exp(x); }
VAE_FUSED_HOST_DEVICE double natural_log(double x) { return ::log(x); }
VAE_FUSED_HOST_DEVICE double log_one_plus(double x) { return ::log1p(x); }
VAE_FUSED_HOST_DEVICE double log_one_plus_of_unit(double x) { return ::log1p(x); }
// e^-|x|
VAE_FUSED_HOST_DEVICE double decay(double x) { return ::exp(-::fabs(x)); }

// ---- float on a GPU ------------------------------------------------------------------------------------------------

#if defined(__CUDACC__)
__device__ __forceinline__ float quotient(float x, float y) { return x * approximate_reciprocal(y); }
__device__ __forceinline__ float exponential_of(float x) { return expf(x); }
__device__ __forceinline__ float natural_log(float x) { return logf(x); }
__device__ __forceinline__ float log_one_plus(float x) { return log1pf(x); }
__device__ __forceinline__ float decay(float x) { return approximate_exp2(-kLog2E * fabsf(x)); }
#endif

// ---- of these ------------------------------------------------------------------------------------------------------

// -1, 0 or 1; 0 for NaN, as torch.sign.
template <class T>
VAE_FUSED_HOST_DEVICE T sign_of(T x) {
  const T zero(0.0f), one(1.0f);
  return select_less(zero, x, one, zero) - select_less(x, zero, one, zero);
}

template <class T>
VAE_FUSED_HOST_DEVICE T at_least(T x, T low) {
  return select_less(x, low, low, x);
}

// log(1 + x) for x in [0, 1]: x + x^2 Q(x), Q minimax; relative error 5e-9, and what float rounds. A sum of logarithms
// near 0 keeps its digits, which an approximate logarithm of 1 + x would not leave it.
template <class T>
VAE_FUSED_HOST_DEVICE T log_one_plus_of_unit(T x) {
  const T square = x * x;
  T q = product_and_sum(T(0.0198514629f), x, T(-0.0569595397f));
  q = product_and_sum(T(-0.0032440247f), square, q);
  q = product_and_sum(q, square, product_and_sum(T(0.106036559f), x, T(-0.153055936f)));
  q = product_and_sum(q, square, product_and_sum(T(0.196759403f), x, T(-0.249541342f)));
  q = product_and_sum(q, square, product_and_sum(T(0.333299637f), x, T(-0.499999017f)));
  return product_and_sum(square, q, x);
}

// To [-1, 1]; NaN stays.
template <class T>
VAE_FUSED_HOST_DEVICE T within_one(T x) {
  const T low(-1.0f), high(1.0f);
  const T raised = at_least(x, low);
  return select_less(high, raised, high, raised);
}

}  // namespace vae_fused
