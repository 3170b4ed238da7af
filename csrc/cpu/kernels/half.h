// Vectors of half-precision elements, converted in registers between memory and floats.
#pragma once

#include "cpu/kernels/convert.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

template <class Stored>
concept HalfPrecision = __is_same(Stored, Half) || __is_same(Stored, BFloat16);

#if defined(__AVX512F__)

VAE_FUSED_INLINE NativeFloat widen(__m256i bits, const Half*) { return _mm512_cvtph_ps(bits); }
VAE_FUSED_INLINE NativeFloat widen(__m256i bits, const BFloat16*) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
VAE_FUSED_INLINE __m256i narrow(NativeFloat value, const Half*) {
  return _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// To nearest, ties to even; NaN stays NaN and becomes quiet. The upper half of every float is gathered by one
// permutation, which is cheaper than a shift and a truncation.
VAE_FUSED_INLINE __m256i narrow(NativeFloat value, const BFloat16*) {
  const __m512i bits = _mm512_castps_si512(value);
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
  const __m512i half = _mm512_mask_mov_epi32(_mm512_set1_epi32(0x7fff), odd, _mm512_set1_epi32(0x8000));
  const __m512i rounded = _mm512_add_epi32(bits, half);
  const __m512i result = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  const __m512i upper_halves = _mm512_set_epi16(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,  //
                                                31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  return _mm512_castsi512_si256(_mm512_permutexvar_epi16(upper_halves, result));
}

VAE_FUSED_INLINE __mmask16 mask_of_part(int count, int i) {
  return static_cast<__mmask16>((1u << lanes_of_part<float>(count, i)) - 1);
}

template <int P, HalfPrecision Stored>
VAE_FUSED_INLINE VectorOf<float, P> load_widened(const Stored* source) {
  VectorOf<float, P> result;
  repeat<P>([&](int i) VAE_FUSED_LAMBDA {
    const void* of_part = source + i * kNativeLanes;
    result.part[i] = widen(_mm256_loadu_si256(static_cast<const __m256i*>(of_part)), source);
  });
  return result;
}
template <int P, HalfPrecision Stored>
VAE_FUSED_INLINE VectorOf<float, P> load_widened_partial(const Stored* source, int count) {
  VectorOf<float, P> result;
  repeat<P>([&](int i) VAE_FUSED_LAMBDA {
    result.part[i] = widen(_mm256_maskz_loadu_epi16(mask_of_part(count, i), source + i * kNativeLanes), source);
  });
  return result;
}

// The halves of a vector of floats: a register of them has those of two registers.
template <int P>
struct Narrowed {
  __m512i pair[P / 2];
};

template <HalfPrecision Stored, int P>
VAE_FUSED_INLINE Narrowed<P> narrow(const VectorOf<float, P>& value, const Stored* type) {
  Narrowed<P> result;
  repeat<P / 2>([&](int i) VAE_FUSED_LAMBDA {
    const __m512i low = _mm512_castsi256_si512(narrow(value.part[2 * i], type));
    result.pair[i] = _mm512_inserti64x4(low, narrow(value.part[2 * i + 1], type), 1);
  });
  return result;
}

#if defined(__AVX512BF16__)
template <int P>
VAE_FUSED_INLINE bool has_subnormal(const VectorOf<float, P>& value) {
  constexpr int kSubnormal = 0x20;
  __mmask16 subnormal = 0;
  repeat<P>([&](int i) VAE_FUSED_LAMBDA { subnormal |= _mm512_fpclass_ps_mask(value.part[i], kSubnormal); });
  return subnormal != 0;
}

// One instruction rounds two registers as the six above do each, but takes subnormal floats for 0: they can only be
// where a result is 0, which is one test for all.
template <int P>
VAE_FUSED_INLINE Narrowed<P> narrow(const VectorOf<float, P>& value, const BFloat16* type) {
  Narrowed<P> result;
  __mmask32 zero = 0;
  repeat<P / 2>([&](int i) VAE_FUSED_LAMBDA {
    result.pair[i] = (__m512i)_mm512_cvtne2ps_pbh(value.part[2 * i + 1], value.part[2 * i]);
    zero |= _mm512_testn_epi16_mask(result.pair[i], _mm512_set1_epi16(0x7fff));
  });
  if (__builtin_expect(zero != 0, 0) && has_subnormal(value)) return narrow<BFloat16, P>(value, type);
  return result;
}
#endif

template <HalfPrecision Stored, int P>
VAE_FUSED_INLINE void store(Stored* destination, const VectorOf<float, P>& value) {
  const Narrowed<P> narrowed = narrow(value, destination);
  repeat<P / 2>([&](int i)
                    VAE_FUSED_LAMBDA { _mm512_storeu_si512(destination + 2 * i * kNativeLanes, narrowed.pair[i]); });
}
template <HalfPrecision Stored, int P>
VAE_FUSED_INLINE void store_partial(Stored* destination, const VectorOf<float, P>& value, int count) {
  repeat<P>([&](int i) VAE_FUSED_LAMBDA {
    _mm256_mask_storeu_epi16(destination + i * kNativeLanes, mask_of_part(count, i),
                             narrow(value.part[i], destination));
  });
}
// Past the caches; destination is 64-byte aligned.
template <HalfPrecision Stored, int P>
VAE_FUSED_INLINE void stream(Stored* destination, const VectorOf<float, P>& value) {
  const Narrowed<P> narrowed = narrow(value, destination);
  repeat<P / 2>([&](int i) VAE_FUSED_LAMBDA {
    void* of_pair = destination + 2 * i * kNativeLanes;
    _mm512_stream_si512(static_cast<__m512i*>(of_pair), narrowed.pair[i]);
  });
}

#else

// Conversions element by element are calls: inlined at every access they would make most of the code of the kernels,
// and of the time to compile it.
#define VAE_FUSED_ELEMENTWISE static __attribute__((noinline))

#if defined(__AVX2__) && defined(__F16C__)
VAE_FUSED_INLINE __m128i narrow(NativeFloat value, const Half*) {
  return _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// To nearest, ties to even; NaN stays NaN and becomes quiet.
VAE_FUSED_INLINE __m128i narrow(NativeFloat value, const BFloat16*) {
  const NativeWord bits = (NativeWord)value;
  const NativeWord rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const NativeWord result = (value != value ? bits | 0x400000u : rounded) >> 16;
  return _mm_packus_epi32(_mm256_castsi256_si128((__m256i)result), _mm256_extracti128_si256((__m256i)result, 1));
}
#endif

template <int P, HalfPrecision Stored>
VAE_FUSED_ELEMENTWISE Float load_widened_partial(const Stored* source, int count) {
  alignas(32) float lanes[Float::kCount] = {};
  for (int lane = 0; lane < count; ++lane) lanes[lane] = widen(source[lane]);
  return load(lanes);
}
template <int P, HalfPrecision Stored>
VAE_FUSED_INLINE Float load_widened(const Stored* source) {
#if defined(__AVX2__) && defined(__F16C__)
  Float result;
  repeat<kParts>([&](int i) VAE_FUSED_LAMBDA {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i * kNativeLanes));
    if constexpr (__is_same(Stored, Half)) {
      result.part[i] = _mm256_cvtph_ps(bits);
    } else {
      result.part[i] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }
  });
  return result;
#else
  return load_widened_partial<P>(source, Float::kCount);
#endif
}
template <HalfPrecision Stored>
VAE_FUSED_ELEMENTWISE void store_partial(Stored* destination, Float value, int count) {
  alignas(32) float lanes[Float::kCount];
  store(lanes, value);
  for (int lane = 0; lane < count; ++lane) narrow(lanes[lane], destination + lane);
}
template <HalfPrecision Stored>
VAE_FUSED_INLINE void store(Stored* destination, Float value) {
#if defined(__AVX2__) && defined(__F16C__)
  repeat<kParts>([&](int i) VAE_FUSED_LAMBDA {
    void* of_part = destination + i * kNativeLanes;
    _mm_storeu_si128(static_cast<__m128i*>(of_part), narrow(value.part[i], destination));
  });
#else
  store_partial(destination, value, Float::kCount);
#endif
}
template <HalfPrecision Stored>
VAE_FUSED_INLINE void stream(Stored* destination, Float value) {
  store(destination, value);
}

#undef VAE_FUSED_ELEMENTWISE

#endif

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
