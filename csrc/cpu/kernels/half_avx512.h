// Half-precision elements on AVX-512, two registers of floats at a time: one register of memory.
//
// Such a pair has its elements in order or, of bfloat16 alone, the even ones in the first register and the odd ones in
// the second. A bfloat16 is the upper half of a float, so a shift and a mask are then all it takes to widen 32 of them,
// where in order two shuffles go before two shifts. Nothing that is done to elements asks for their order.
#pragma once

#include "cpu/kernels/narrow_avx512.h"

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

// ---- stores --------------------------------------------------------------------------------------------------------

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

// Nothing looks for NaN: in a loop with even and odd elements apart every one has a lower half of 0. All elements of
// such a loop are bfloat16, all its other numbers are a Weight or are known to be no NaN, and the processor hands on
// the NaN of an operand or makes the default one.
template <int P>
VAE_FUSED_INLINE void store_even_odd(BFloat16* destination, const VectorOf<float, P>& value) {
  store_halves(destination, rounded_to_bfloat16(value));
}
template <int P>
VAE_FUSED_INLINE void store_even_odd_partial(BFloat16* destination, const VectorOf<float, P>& value, int count) {
  store_halves_partial(destination, rounded_to_bfloat16(value), count);
}
template <int P>
VAE_FUSED_INLINE void stream_even_odd(BFloat16* destination, const VectorOf<float, P>& value) {
  stream_halves(destination, rounded_to_bfloat16(value));
}
template <int P>
VAE_FUSED_INLINE void store_even_odd(float* destination, const VectorOf<float, P>& value) {
  store(destination, in_memory_order(value));
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
