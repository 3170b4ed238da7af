// Vectors of half-precision elements, converted in registers between memory and floats.
#pragma once

#include "cpu/kernels/convert.h"

#if defined(__AVX512F__)

#include "cpu/kernels/half_avx512.h"

#else

namespace vae_fused {
namespace VAE_FUSED_ISA {

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

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused

#endif
