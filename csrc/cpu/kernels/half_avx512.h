// Half-precision elements on AVX-512, two registers of floats at a time: one register of memory.
//
// Such a pair has its elements in order or, of bfloat16 alone, the even ones in the first register and the odd ones in
// the second. A bfloat16 is the upper half of a float, so a shift and a mask are then all it takes to widen 32 of them,
// where in order two shuffles go before two shifts. Nothing that is done to elements asks for their order.
#pragma once

#include "cpu/kernels/convert.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

VAE_FUSED_INLINE NativeFloat widen(__m256i bits, const Half*) { return _mm512_cvtph_ps(bits); }
VAE_FUSED_INLINE NativeFloat widen(__m256i bits, const BFloat16*) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

VAE_FUSED_INLINE __mmask16 mask_of_part(int count, int i) {
  return static_cast<__mmask16>((1u << lanes_of_part<float>(count, i)) - 1);
}
VAE_FUSED_INLINE __mmask32 mask_of_pair(int count, int i) {
  return _mm512_kunpackw(mask_of_part(count, 2 * i + 1), mask_of_part(count, 2 * i));
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

// ---- even and odd elements apart -----------------------------------------------------------------------------------

// Every pair of registers with the lanes that first and second name, of which those from 16 on are of the other one.
template <int P>
VAE_FUSED_INLINE VectorOf<float, P> permuted_pairs(const VectorOf<float, P>& value, __m512i first, __m512i second) {
  VectorOf<float, P> result;
  repeat<P / 2>([&](int i) VAE_FUSED_LAMBDA {
    result.part[2 * i] = _mm512_permutex2var_ps(value.part[2 * i], first, value.part[2 * i + 1]);
    result.part[2 * i + 1] = _mm512_permutex2var_ps(value.part[2 * i], second, value.part[2 * i + 1]);
  });
  return result;
}
template <int P>
VAE_FUSED_INLINE VectorOf<float, P> in_even_odd_order(const VectorOf<float, P>& value) {
  return permuted_pairs(value, _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0),
                        _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1));
}
template <int P>
VAE_FUSED_INLINE VectorOf<float, P> in_memory_order(const VectorOf<float, P>& value) {
  return permuted_pairs(value, _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0),
                        _mm512_set_epi32(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8));
}

template <int P, class HalvesOfPair>
VAE_FUSED_INLINE VectorOf<float, P> widened_even_odd(HalvesOfPair halves_of_pair) {
  VectorOf<float, P> result;
  repeat<P / 2>([&](int i) VAE_FUSED_LAMBDA {
    const __m512i halves = halves_of_pair(i);
    result.part[2 * i] = _mm512_castsi512_ps(_mm512_slli_epi32(halves, 16));
    result.part[2 * i + 1] = _mm512_castsi512_ps(_mm512_and_epi32(halves, _mm512_set1_epi32(0xffff0000)));
  });
  return result;
}
template <int P>
VAE_FUSED_INLINE VectorOf<float, P> load_even_odd(const BFloat16* source) {
  return widened_even_odd<P>([&](int i) VAE_FUSED_LAMBDA { return _mm512_loadu_si512(source + 2 * i * kNativeLanes); });
}
template <int P>
VAE_FUSED_INLINE VectorOf<float, P> load_even_odd_partial(const BFloat16* source, int count) {
  return widened_even_odd<P>([&](int i) VAE_FUSED_LAMBDA {
    return _mm512_maskz_loadu_epi16(mask_of_pair(count, i), source + 2 * i * kNativeLanes);
  });
}
template <int P>
VAE_FUSED_INLINE VectorOf<float, P> load_even_odd(const float* source) {
  return in_even_odd_order(load<float, P>(source));
}
template <int P>
VAE_FUSED_INLINE VectorOf<float, P> load_even_odd_partial(const float* source, int count) {
  return in_even_odd_order(load_partial<float, P>(source, count));
}

// ---- narrowing -----------------------------------------------------------------------------------------------------

// The halves of a vector of floats: a register of them has those of a pair.
template <int P>
struct Narrowed {
  __m512i pair[P / 2];
};

template <int P>
VAE_FUSED_INLINE Narrowed<P> narrow(const VectorOf<float, P>& value, const Half*) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  Narrowed<P> result;
  repeat<P / 2>([&](int i) VAE_FUSED_LAMBDA {
    const __m512i low = _mm512_castsi256_si512(_mm512_cvtps_ph(value.part[2 * i], kNearest));
    result.pair[i] = _mm512_inserti64x4(low, _mm512_cvtps_ph(value.part[2 * i + 1], kNearest), 1);
  });
  return result;
}

// To nearest, ties to even, with the halves of low and of high in the lower and the upper halves of the words: all 32
// are rounded at once. NaN stays NaN and becomes quiet if it is looked for, else it becomes anything.
template <bool kWithNaN>
VAE_FUSED_INLINE __m512i rounded_to_bfloat16(NativeFloat low, NativeFloat high) {
  constexpr int kSelect = 0xd8, kOrWhereBoth = 0xf8;  // c ? b : a, and a | (b & c)
  const __m512i upper = _mm512_set1_epi32(0xffff0000), one = _mm512_set1_epi16(1);
  const __m512i kept = _mm512_ternarylogic_epi32(_mm512_srli_epi32((__m512i)low, 16), (__m512i)high, upper, kSelect);
  const __m512i lost = _mm512_ternarylogic_epi32((__m512i)low, _mm512_slli_epi32((__m512i)high, 16), upper, kSelect);
  // A half of the last bit goes up where that bit is set, as if a little more had been lost.
  const __m512i beside_half = _mm512_ternarylogic_epi32(lost, kept, one, kOrWhereBoth);
  const __mmask32 up = _mm512_cmpgt_epu16_mask(beside_half, _mm512_set1_epi16(INT16_MIN));
  const __m512i rounded = _mm512_mask_add_epi16(kept, up, kept, one);
  if constexpr (!kWithNaN) return rounded;
  const __mmask16 low_nan = _mm512_cmp_ps_mask(low, low, _CMP_UNORD_Q);
  const __mmask16 high_nan = _mm512_cmp_ps_mask(high, high, _CMP_UNORD_Q);
  const __m512i nan =
      _mm512_or_epi32(_mm512_maskz_set1_epi32(low_nan, 0xffff), _mm512_maskz_mov_epi32(high_nan, upper));
  return _mm512_ternarylogic_epi32(rounded, _mm512_or_epi32(kept, _mm512_set1_epi16(0x40)), nan, kSelect);
}

// NaN, which is rare, is looked for in all registers at once.
template <int P>
VAE_FUSED_INLINE Narrowed<P> rounded_to_bfloat16(const VectorOf<float, P>& value) {
  Narrowed<P> result;
  __mmask16 nan = 0;
  repeat<P / 2>([&](int i) VAE_FUSED_LAMBDA {
    result.pair[i] = rounded_to_bfloat16<false>(value.part[2 * i], value.part[2 * i + 1]);
    nan |= _mm512_cmp_ps_mask(value.part[2 * i], value.part[2 * i + 1], _CMP_UNORD_Q);
  });
  if (__builtin_expect(nan != 0, 0)) {
    repeat<P / 2>([&](int i) VAE_FUSED_LAMBDA {
      result.pair[i] = rounded_to_bfloat16<true>(value.part[2 * i], value.part[2 * i + 1]);
    });
  }
  return result;
}

template <int P>
VAE_FUSED_INLINE Narrowed<P> permuted(Narrowed<P> halves, __m512i order) {
  repeat<P / 2>([&](int i) VAE_FUSED_LAMBDA { halves.pair[i] = _mm512_permutexvar_epi16(order, halves.pair[i]); });
  return halves;
}
// From the two halves of words in turn to all lower ones before all upper ones, and back.
template <int P>
VAE_FUSED_INLINE Narrowed<P> words_apart(const Narrowed<P>& halves) {
  return permuted(halves, _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1,  //
                                           30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0));
}
template <int P>
VAE_FUSED_INLINE Narrowed<P> words_together(const Narrowed<P>& halves) {
  return permuted(halves, _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,  //
                                           23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0));
}

#if defined(__AVX512BF16__)

template <int P>
VAE_FUSED_INLINE bool has_subnormal(const VectorOf<float, P>& value) {
  constexpr int kSubnormal = 0x20;
  __mmask16 subnormal = 0;
  repeat<P>([&](int i) VAE_FUSED_LAMBDA { subnormal |= _mm512_fpclass_ps_mask(value.part[i], kSubnormal); });
  return subnormal != 0;
}

// One instruction rounds a pair, with the halves of its registers one after the other, but takes subnormal floats for
// 0: they can only be where a result is 0, which is one test for all.
template <int P>
VAE_FUSED_INLINE Narrowed<P> narrow(const VectorOf<float, P>& value, const BFloat16*) {
  Narrowed<P> result;
  __mmask32 zero = 0;
  repeat<P / 2>([&](int i) VAE_FUSED_LAMBDA {
    result.pair[i] = (__m512i)_mm512_cvtne2ps_pbh(value.part[2 * i + 1], value.part[2 * i]);
    zero |= _mm512_testn_epi16_mask(result.pair[i], _mm512_set1_epi16(0x7fff));
  });
  if (__builtin_expect(zero != 0, 0) && has_subnormal(value)) return words_apart(rounded_to_bfloat16(value));
  return result;
}
template <int P>
VAE_FUSED_INLINE Narrowed<P> narrow_even_odd(const VectorOf<float, P>& value) {
  return words_together(narrow(value, static_cast<const BFloat16*>(nullptr)));
}

#else

template <int P>
VAE_FUSED_INLINE Narrowed<P> narrow(const VectorOf<float, P>& value, const BFloat16*) {
  return words_apart(rounded_to_bfloat16(value));
}
template <int P>
VAE_FUSED_INLINE Narrowed<P> narrow_even_odd(const VectorOf<float, P>& value) {
  return rounded_to_bfloat16(value);
}

#endif

template <class Stored, int P>
VAE_FUSED_INLINE void store_halves(Stored* destination, const Narrowed<P>& halves) {
  repeat<P / 2>([&](int i)
                    VAE_FUSED_LAMBDA { _mm512_storeu_si512(destination + 2 * i * kNativeLanes, halves.pair[i]); });
}
template <class Stored, int P>
VAE_FUSED_INLINE void store_halves_partial(Stored* destination, const Narrowed<P>& halves, int count) {
  repeat<P / 2>([&](int i) VAE_FUSED_LAMBDA {
    _mm512_mask_storeu_epi16(destination + 2 * i * kNativeLanes, mask_of_pair(count, i), halves.pair[i]);
  });
}
// Past the caches; destination is 64-byte aligned.
template <class Stored, int P>
VAE_FUSED_INLINE void stream_halves(Stored* destination, const Narrowed<P>& halves) {
  repeat<P / 2>([&](int i) VAE_FUSED_LAMBDA {
    void* of_pair = destination + 2 * i * kNativeLanes;
    _mm512_stream_si512(static_cast<__m512i*>(of_pair), halves.pair[i]);
  });
}

template <HalfPrecision Stored, int P>
VAE_FUSED_INLINE void store(Stored* destination, const VectorOf<float, P>& value) {
  store_halves(destination, narrow(value, destination));
}
template <HalfPrecision Stored, int P>
VAE_FUSED_INLINE void store_partial(Stored* destination, const VectorOf<float, P>& value, int count) {
  store_halves_partial(destination, narrow(value, destination), count);
}
template <HalfPrecision Stored, int P>
VAE_FUSED_INLINE void stream(Stored* destination, const VectorOf<float, P>& value) {
  stream_halves(destination, narrow(value, destination));
}

template <int P>
VAE_FUSED_INLINE void store_even_odd(BFloat16* destination, const VectorOf<float, P>& value) {
  store_halves(destination, narrow_even_odd(value));
}
template <int P>
VAE_FUSED_INLINE void store_even_odd_partial(BFloat16* destination, const VectorOf<float, P>& value, int count) {
  store_halves_partial(destination, narrow_even_odd(value), count);
}
template <int P>
VAE_FUSED_INLINE void stream_even_odd(BFloat16* destination, const VectorOf<float, P>& value) {
  stream_halves(destination, narrow_even_odd(value));
}
template <int P>
VAE_FUSED_INLINE void store_even_odd(float* destination, const VectorOf<float, P>& value) {
  store(destination, in_memory_order(value));
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
