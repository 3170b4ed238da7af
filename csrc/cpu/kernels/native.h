// The registers of the instruction set that a translation unit is compiled for: one width for float and double.
//
// They are GCC / Clang vector types: operators come from the compiler, and only what those cannot express is
// intrinsics, all of it here. Everything lives in a namespace per instruction set: no symbol of one can stand in for
// another's.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VAE_FUSED_ISA avx512
#define VAE_FUSED_NATIVE_LANES 16
#elif defined(__AVX2__)
#define VAE_FUSED_ISA avx2
#define VAE_FUSED_NATIVE_LANES 8
#else
#define VAE_FUSED_ISA baseline
#define VAE_FUSED_NATIVE_LANES 4
#endif

#define VAE_FUSED_INLINE static inline __attribute__((always_inline))

namespace vae_fused {
namespace VAE_FUSED_ISA {

constexpr int kNativeLanes = VAE_FUSED_NATIVE_LANES;  // of float
constexpr int kWideLanes = kNativeLanes / 2;          // of double and of 64-bit integers

typedef float NativeFloat __attribute__((vector_size(kNativeLanes * 4)));
typedef int32_t NativeInt __attribute__((vector_size(kNativeLanes * 4)));
typedef uint32_t NativeWord __attribute__((vector_size(kNativeLanes * 4)));
typedef double NativeDouble __attribute__((vector_size(kNativeLanes * 4)));
typedef uint64_t NativeWide __attribute__((vector_size(kNativeLanes * 4)));

#if defined(__AVX512F__)

VAE_FUSED_INLINE NativeFloat fused_multiply_add(NativeFloat a, NativeFloat b, NativeFloat c) {
  return _mm512_fmadd_ps(a, b, c);
}
VAE_FUSED_INLINE NativeDouble fused_multiply_add(NativeDouble a, NativeDouble b, NativeDouble c) {
  return _mm512_fmadd_pd(a, b, c);
}
VAE_FUSED_INLINE NativeFloat square_root(NativeFloat x) { return _mm512_sqrt_ps(x); }
VAE_FUSED_INLINE NativeDouble square_root(NativeDouble x) { return _mm512_sqrt_pd(x); }
// Of a NaN in either operand the processor returns the second.
VAE_FUSED_INLINE NativeFloat minimum(NativeFloat x, NativeFloat high) { return _mm512_min_ps(high, x); }
VAE_FUSED_INLINE NativeDouble minimum(NativeDouble x, NativeDouble high) { return _mm512_min_pd(high, x); }
VAE_FUSED_INLINE NativeFloat maximum(NativeFloat x, NativeFloat low) { return _mm512_max_ps(low, x); }
VAE_FUSED_INLINE NativeDouble maximum(NativeDouble x, NativeDouble low) { return _mm512_max_pd(low, x); }
// Of every lane that of odd where the last bit of bits is set, else that of even.
VAE_FUSED_INLINE NativeFloat select_by_last_bit(NativeInt bits, NativeFloat odd, NativeFloat even) {
  return _mm512_mask_blend_ps(_mm512_test_epi32_mask((__m512i)bits, _mm512_set1_epi32(1)), even, odd);
}
// x with its sign changed where the first bit of bits is set.
VAE_FUSED_INLINE NativeFloat flip_sign_by_first_bit(NativeFloat x, NativeInt bits) {
  constexpr int kFlipWhereBothAreSet = 0x78;  // a ^ (b & c)
  const __m512i sign = _mm512_set1_epi32(INT32_MIN);
  return (NativeFloat)_mm512_ternarylogic_epi32((__m512i)x, (__m512i)bits, sign, kFlipWhereBothAreSet);
}
VAE_FUSED_INLINE void stream(float* destination, NativeFloat value) { _mm512_stream_ps(destination, value); }
VAE_FUSED_INLINE void stream(double* destination, NativeDouble value) { _mm512_stream_pd(destination, value); }
// The upper half of the lanes onto the lower one, until one is left.
VAE_FUSED_INLINE double folded_sum(NativeDouble x) {
  const __m256d four = _mm512_castpd512_pd256(x) + _mm512_extractf64x4_pd(x, 1);
  const __m128d two = _mm256_castpd256_pd128(four) + _mm256_extractf128_pd(four, 1);
  return two[0] + two[1];
}

// The first count lanes.
VAE_FUSED_INLINE NativeFloat load_masked(const float* source, int count) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), source);
}
VAE_FUSED_INLINE NativeDouble load_masked(const double* source, int count) {
  return _mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << count) - 1), source);
}
VAE_FUSED_INLINE void store_masked(float* destination, NativeFloat value, int count) {
  _mm512_mask_storeu_ps(destination, static_cast<__mmask16>((1u << count) - 1), value);
}
VAE_FUSED_INLINE void store_masked(double* destination, NativeDouble value, int count) {
  _mm512_mask_storeu_pd(destination, static_cast<__mmask8>((1u << count) - 1), value);
}

#elif defined(__AVX2__)

VAE_FUSED_INLINE NativeFloat fused_multiply_add(NativeFloat a, NativeFloat b, NativeFloat c) {
  return _mm256_fmadd_ps(a, b, c);
}
VAE_FUSED_INLINE NativeDouble fused_multiply_add(NativeDouble a, NativeDouble b, NativeDouble c) {
  return _mm256_fmadd_pd(a, b, c);
}
VAE_FUSED_INLINE NativeFloat square_root(NativeFloat x) { return _mm256_sqrt_ps(x); }
VAE_FUSED_INLINE NativeDouble square_root(NativeDouble x) { return _mm256_sqrt_pd(x); }
// Of a NaN in either operand the processor returns the second.
VAE_FUSED_INLINE NativeFloat minimum(NativeFloat x, NativeFloat high) { return _mm256_min_ps(high, x); }
VAE_FUSED_INLINE NativeDouble minimum(NativeDouble x, NativeDouble high) { return _mm256_min_pd(high, x); }
VAE_FUSED_INLINE NativeFloat maximum(NativeFloat x, NativeFloat low) { return _mm256_max_ps(low, x); }
VAE_FUSED_INLINE NativeDouble maximum(NativeDouble x, NativeDouble low) { return _mm256_max_pd(low, x); }
VAE_FUSED_INLINE void stream(float* destination, NativeFloat value) { _mm256_stream_ps(destination, value); }
VAE_FUSED_INLINE void stream(double* destination, NativeDouble value) { _mm256_stream_pd(destination, value); }
VAE_FUSED_INLINE double folded_sum(NativeDouble x) {
  const __m128d two = _mm256_castpd256_pd128(x) + _mm256_extractf128_pd(x, 1);
  return two[0] + two[1];
}

#else

// Two roundings.
VAE_FUSED_INLINE NativeFloat fused_multiply_add(NativeFloat a, NativeFloat b, NativeFloat c) { return a * b + c; }
VAE_FUSED_INLINE NativeDouble fused_multiply_add(NativeDouble a, NativeDouble b, NativeDouble c) { return a * b + c; }
VAE_FUSED_INLINE NativeFloat square_root(NativeFloat x) {
  for (int lane = 0; lane < kNativeLanes; ++lane) x[lane] = __builtin_sqrtf(x[lane]);
  return x;
}
VAE_FUSED_INLINE NativeDouble square_root(NativeDouble x) {
  for (int lane = 0; lane < kWideLanes; ++lane) x[lane] = __builtin_sqrt(x[lane]);
  return x;
}
VAE_FUSED_INLINE NativeFloat minimum(NativeFloat x, NativeFloat high) { return x > high ? high : x; }
VAE_FUSED_INLINE NativeDouble minimum(NativeDouble x, NativeDouble high) { return x > high ? high : x; }
VAE_FUSED_INLINE NativeFloat maximum(NativeFloat x, NativeFloat low) { return x < low ? low : x; }
VAE_FUSED_INLINE NativeDouble maximum(NativeDouble x, NativeDouble low) { return x < low ? low : x; }
VAE_FUSED_INLINE void stream(float* destination, NativeFloat value) {
  __builtin_memcpy(destination, &value, sizeof(value));
}
VAE_FUSED_INLINE void stream(double* destination, NativeDouble value) {
  __builtin_memcpy(destination, &value, sizeof(value));
}
VAE_FUSED_INLINE double folded_sum(NativeDouble x) { return x[0] + x[1]; }

#endif

#if !defined(__AVX512F__)

VAE_FUSED_INLINE NativeFloat select_by_last_bit(NativeInt bits, NativeFloat odd, NativeFloat even) {
  return (bits & 1) != 0 ? odd : even;
}
VAE_FUSED_INLINE NativeFloat flip_sign_by_first_bit(NativeFloat x, NativeInt bits) {
  return (NativeFloat)((NativeInt)x ^ (bits & INT32_MIN));
}

#endif

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
