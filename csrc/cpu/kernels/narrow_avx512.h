// Floats rounded to half precision on AVX-512, two registers at a time: they become one register of memory.
#pragma once

#include "cpu/kernels/convert.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

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

// A constant that looks like a variable, so that it stays in its register: GCC else makes it anew in every turn of a
// loop, by an operation that takes the place of a shuffle.
VAE_FUSED_INLINE __m512i in_register(__m512i constant) {
  asm("" : "+v"(constant));
  return constant;
}
VAE_FUSED_INLINE __mmask64 in_register(__mmask64 constant) {
  asm("" : "+k"(constant));
  return constant;
}

// To nearest, ties to even, with the halves of low and of high in the lower and the upper halves of the words: all 32
// are rounded at once. A NaN whose lower half is 0 stays what it is; any other may become anything.
VAE_FUSED_INLINE __m512i rounded_to_bfloat16(NativeFloat low, NativeFloat high) {
  constexpr int kOrWhereBoth = 0xf8;  // a | (b & c)
  const __m512i one = in_register(_mm512_set1_epi16(1)), half = in_register(_mm512_set1_epi16(INT16_MIN));
  // The bytes of words with their halves exchanged.
  const __m512i exchanged =
      in_register(_mm512_broadcast_i32x4(_mm_set_epi8(13, 12, 15, 14, 9, 8, 11, 10, 5, 4, 7, 6, 1, 0, 3, 2)));
  const __mmask64 lower_bytes = in_register(__mmask64{0x3333333333333333});
  const __mmask64 upper_bytes = in_register(__mmask64{0xcccccccccccccccc});
  const __m512i kept = _mm512_mask_shuffle_epi8((__m512i)high, lower_bytes, (__m512i)low, exchanged);
  const __m512i lost = _mm512_mask_shuffle_epi8((__m512i)low, upper_bytes, (__m512i)high, exchanged);
  // A half of the last bit goes up where that bit is set, as if a little more had been lost.
  const __m512i beside_half = _mm512_ternarylogic_epi32(lost, kept, one, kOrWhereBoth);
  return _mm512_mask_add_epi16(kept, _mm512_cmpgt_epu16_mask(beside_half, half), kept, one);
}

// The same, with every NaN quiet.
VAE_FUSED_INLINE __m512i rounded_to_bfloat16_or_nan(NativeFloat low, NativeFloat high) {
  constexpr int kSelect = 0xd8;  // c ? b : a
  const __m512i upper = _mm512_set1_epi32(0xffff0000);
  const __m512i kept = _mm512_ternarylogic_epi32(_mm512_srli_epi32((__m512i)low, 16), (__m512i)high, upper, kSelect);
  const __mmask16 low_nan = _mm512_cmp_ps_mask(low, low, _CMP_UNORD_Q);
  const __mmask16 high_nan = _mm512_cmp_ps_mask(high, high, _CMP_UNORD_Q);
  const __m512i nan =
      _mm512_or_epi32(_mm512_maskz_set1_epi32(low_nan, 0xffff), _mm512_maskz_mov_epi32(high_nan, upper));
  const __m512i quiet = _mm512_or_epi32(kept, _mm512_set1_epi16(0x40));
  return _mm512_ternarylogic_epi32(rounded_to_bfloat16(low, high), quiet, nan, kSelect);
}

template <int P>
VAE_FUSED_INLINE Narrowed<P> rounded_to_bfloat16(const VectorOf<float, P>& value) {
  Narrowed<P> result;
  repeat<P / 2>(
      [&](int i) VAE_FUSED_LAMBDA { result.pair[i] = rounded_to_bfloat16(value.part[2 * i], value.part[2 * i + 1]); });
  return result;
}

// The same, with every NaN quiet. NaN, which is rare, is looked for in all registers at once.
template <int P>
VAE_FUSED_INLINE Narrowed<P> rounded_to_bfloat16_or_nan(const VectorOf<float, P>& value) {
  static_assert(P == 2 || P == 4);  // as one test takes two masks
  Narrowed<P> result = rounded_to_bfloat16(value);
  __mmask16 nan[P / 2];
  repeat<P / 2>([&](int i) VAE_FUSED_LAMBDA {
    nan[i] = _mm512_cmp_ps_mask(value.part[2 * i], value.part[2 * i + 1], _CMP_UNORD_Q);
  });
  if (__builtin_expect(!_mm512_kortestz(nan[0], nan[P / 2 - 1]), 0)) {
    repeat<P / 2>([&](int i) VAE_FUSED_LAMBDA {
      result.pair[i] = rounded_to_bfloat16_or_nan(value.part[2 * i], value.part[2 * i + 1]);
    });
  }
  return result;
}

// In order: what came from the first register of a pair before what came from the second.
template <int P>
VAE_FUSED_INLINE Narrowed<P> narrow(const VectorOf<float, P>& value, const BFloat16*) {
  const __m512i lower_first = _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1,  //
                                               30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  Narrowed<P> result = rounded_to_bfloat16_or_nan(value);
  repeat<P / 2>([&](int i)
                    VAE_FUSED_LAMBDA { result.pair[i] = _mm512_permutexvar_epi16(lower_first, result.pair[i]); });
  return result;
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
