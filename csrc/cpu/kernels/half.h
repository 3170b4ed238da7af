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
// To nearest, ties to even, in the upper half of every float; not for NaN.
VAE_FUSED_INLINE __m512i rounded_to_bfloat16(NativeFloat value) {
  const __m512i bits = _mm512_castps_si512(value);
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i below_half = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
  return _mm512_mask_add_epi32(below_half, odd, bits, _mm512_set1_epi32(0x8000));
}

// The same of any value: NaN stays NaN and becomes quiet. The upper half of every float is gathered by one permutation,
// which is cheaper than a shift and a truncation.
VAE_FUSED_INLINE __m256i narrow(NativeFloat value, const BFloat16*) {
  const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
  const __m512i quiet_nan = _mm512_or_epi32(_mm512_castps_si512(value), _mm512_set1_epi32(0x400000));
  const __m512i result = _mm512_mask_mov_epi32(rounded_to_bfloat16(value), nan, quiet_nan);
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
#else
// NaN, which is rare, is looked for in all registers at once, and one permutation puts the halves of two in order.
template <int P>
VAE_FUSED_INLINE Narrowed<P> narrow(const VectorOf<float, P>& value, const BFloat16* type) {
  const __m512i in_order = _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1,  //
                                            30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  Narrowed<P> result;
  __mmask16 nan = 0;
  repeat<P / 2>([&](int i) VAE_FUSED_LAMBDA {
    const NativeFloat even = value.part[2 * i], odd = value.part[2 * i + 1];
    nan |= _mm512_cmp_ps_mask(even, odd, _CMP_UNORD_Q);
    const __m512i low = _mm512_srli_epi32(rounded_to_bfloat16(even), 16), high = rounded_to_bfloat16(odd);
    constexpr int kLowOrUpperHalfOfHigh = 0xf8;  // a | (b & c)
    const __m512i mixed = _mm512_ternarylogic_epi32(low, high, _mm512_set1_epi32(0xffff0000), kLowOrUpperHalfOfHigh);
    result.pair[i] = _mm512_permutexvar_epi16(in_order, mixed);
  });
  if (__builtin_expect(nan != 0, 0)) return narrow<BFloat16, P>(value, type);
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

typedef uint16_t NativeHalves __attribute__((vector_size(kNativeLanes * 2)));

// The upper half of every word. The compiler's own conversions between these widths take twice the instructions.
VAE_FUSED_INLINE NativeWord as_upper_halves(NativeHalves bits) {
#if defined(__AVX2__)
  return (NativeWord)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)bits), 16);
#else
  return __builtin_convertvector(bits, NativeWord) << 16;
#endif
}
VAE_FUSED_INLINE NativeHalves upper_halves(NativeWord words) {
#if defined(__AVX2__)
  const __m256i halves = _mm256_srli_epi32((__m256i)words, 16);
  return (NativeHalves)_mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
#else
  return __builtin_convertvector(words >> 16, NativeHalves);
#endif
}

VAE_FUSED_INLINE NativeFloat widen(NativeHalves bits, const BFloat16*) { return (NativeFloat)as_upper_halves(bits); }
// To nearest, ties to even, in the upper half of every float; not for NaN.
VAE_FUSED_INLINE NativeWord rounded_to_bfloat16(NativeFloat value) {
  const NativeWord bits = (NativeWord)value;
  return bits + 0x7fffu + ((bits >> 16) & 1u);
}
// The same of any value: NaN stays NaN and becomes quiet.
VAE_FUSED_INLINE NativeHalves narrow(NativeFloat value, const BFloat16*) {
  return upper_halves(value != value ? (NativeWord)value | 0x400000u : rounded_to_bfloat16(value));
}

#if defined(__AVX2__) && defined(__F16C__)

VAE_FUSED_INLINE NativeFloat widen(NativeHalves bits, const Half*) { return _mm256_cvtph_ps((__m128i)bits); }
VAE_FUSED_INLINE NativeHalves narrow(NativeFloat value, const Half*) {
  return (NativeHalves)_mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

#else

// The bits of convert.h's conversions, lane by lane.
VAE_FUSED_INLINE NativeFloat widen(NativeHalves bits, const Half*) {
  const NativeWord wide = __builtin_convertvector(bits, NativeWord);
  const NativeWord sign = (wide & 0x8000u) << 16, magnitude = (wide & 0x7fffu) << 13;
  const NativeWord finite = (NativeWord)((NativeFloat)magnitude * 0x1p112f);
  // As signed numbers, which the magnitudes are too: SSE2 compares no others.
  const NativeInt beyond = (NativeInt)magnitude >= (0x7c00 << 13);
  return (NativeFloat)(sign | (beyond ? magnitude | 0x7f800000u : finite));
}
VAE_FUSED_INLINE NativeHalves narrow(NativeFloat value, const Half*) {
  const NativeWord bits = (NativeWord)value, sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  const NativeInt order = (NativeInt)magnitude;
  const NativeWord subnormal = (NativeWord)((NativeFloat)magnitude + 0.5f) - 0x3f000000u;
  const NativeWord normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
  const NativeWord infinity = (NativeWord)(order - order) + 0x7c00u, quiet_nan = infinity + 0x200u;
  NativeWord result = order < 0x38800000 ? subnormal : normal;
  result = order >= 0x477ff000 ? infinity : result;
  result = order > 0x7f800000 ? quiet_nan : result;
  return __builtin_convertvector(sign | result, NativeHalves);
}

#endif

template <int P, HalfPrecision Stored>
VAE_FUSED_INLINE Float load_widened(const Stored* source) {
  Float result;
  repeat<kParts>([&](int i) VAE_FUSED_LAMBDA {
    NativeHalves bits;
    std::memcpy(&bits, source + i * kNativeLanes, sizeof(bits));
    result.part[i] = widen(bits, source);
  });
  return result;
}
template <HalfPrecision Stored>
VAE_FUSED_INLINE void store(Stored* destination, Float value) {
  repeat<kParts>([&](int i) VAE_FUSED_LAMBDA {
    const NativeHalves bits = narrow(value.part[i], destination);
    std::memcpy(destination + i * kNativeLanes, &bits, sizeof(bits));
  });
}
#if defined(__AVX2__)
// Both registers are packed at once, and NaN, which is rare, is looked for in both at once.
VAE_FUSED_INLINE void store(BFloat16* destination, Float value) {
  static_assert(kParts == 2);
  const __m256 nan = _mm256_cmp_ps(value.part[0], value.part[1], _CMP_UNORD_Q);
  if (__builtin_expect(_mm256_movemask_ps(nan) != 0, 0)) return store<BFloat16>(destination, value);
  const __m256i low = _mm256_srli_epi32((__m256i)rounded_to_bfloat16(value.part[0]), 16);
  const __m256i high = _mm256_srli_epi32((__m256i)rounded_to_bfloat16(value.part[1]), 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0b11011000);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(destination), packed);
}
#endif
template <HalfPrecision Stored>
VAE_FUSED_INLINE void stream(Stored* destination, Float value) {
  store(destination, value);
}

// Partial vectors are converted element by element, in calls: inlined at every access that would make most of the code
// of the kernels, and of the time to compile it.
template <int P, HalfPrecision Stored>
static __attribute__((noinline)) Float load_widened_partial(const Stored* source, int count) {
  alignas(32) float lanes[Float::kCount] = {};
  for (int lane = 0; lane < count; ++lane) lanes[lane] = widen(source[lane]);
  return load(static_cast<const float*>(lanes));
}
template <HalfPrecision Stored>
static __attribute__((noinline)) void store_partial(Stored* destination, Float value, int count) {
  alignas(32) float lanes[Float::kCount];
  store(lanes, value);
  for (int lane = 0; lane < count; ++lane) narrow(lanes[lane], destination + lane);
}

#endif

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
