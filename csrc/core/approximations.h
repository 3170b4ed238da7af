// The approximations of a GPU's special function units, with the largest error that the PTX manual gives for each.
// "ftz" takes subnormal numbers as 0, which none of the arguments here depends on; it saves the code that scales them.
#pragma once

#if defined(__CUDACC__) && !defined(VAE_FUSED_EMULATED_APPROXIMATIONS)

namespace vae_fused {

// Absolute error 2^-22 for x in (1/2, 2), relative error 2^-22 elsewhere.
__device__ __forceinline__ float approximate_log2(float x) {
  float result;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// Relative error 2^-22.
__device__ __forceinline__ float approximate_exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// Relative error 2^-23.
__device__ __forceinline__ float approximate_sqrt(float x) {
  float result;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// Relative error 2^-23.
__device__ __forceinline__ float approximate_reciprocal(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

}  // namespace vae_fused

#endif
