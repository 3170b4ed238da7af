// Standard normals by the tile: Philox, and Box-Muller on lanes of the normals' own type.
#pragma once

#include "core/normal.h"
#include "cpu/kernels/double_math.h"
#include "cpu/kernels/half.h"
#include "cpu/kernels/philox_words.h"
#include "cpu/kernels/simd_math.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

// A round waits for the multiplication of the one before, and a logarithm for its own terms: several registers of
// blocks at a time keep the units busy, as many as there is room for.
constexpr int kRegistersPerStep = kNativeLanes == 8 ? 2 : 4;
template <class T>
constexpr int kNormalsPerRegister = 2 * VectorOf<T>::kPartCount;

VAE_FUSED_INLINE NativeFloat float_of_words(NativeWord words) {
#if defined(__AVX512F__)
  return _mm512_cvtepu32_ps((__m512i)words);
#else
  // Both halves are exact, so the one addition rounds as a direct conversion would.
  const NativeFloat high = __builtin_convertvector((NativeInt)(words >> 16), NativeFloat);
  const NativeFloat low = __builtin_convertvector((NativeInt)(words & 0xffffu), NativeFloat);
  return high * 65536.0f + low;
#endif
}

// Uniforms in (0, 1] from the low halves of even and odd, interleaved.
VAE_FUSED_INLINE NativeFloat uniforms(NativeWide even, NativeWide odd) {
#if defined(__AVX512F__)
  const NativeWord words = (NativeWord)_mm512_mask_shuffle_epi32((__m512i)even, 0xaaaa, (__m512i)odd, _MM_PERM_CCAA);
#else
  const NativeWord words = (NativeWord)((even & 0xffffffffu) | (odd << 32));
#endif
  // The product is exact, so that one rounding or two give the same.
  return fused_multiply_add(float_of_words(words), 0x1p-32f - NativeFloat{}, 0x1p-33f - NativeFloat{});
}

// 2^52 + word, whose last bits are those of the word, less 2^52.
VAE_FUSED_INLINE NativeDouble double_of_low_halves(NativeWide words) {
  return (NativeDouble)((words & 0xffffffffu) | 0x4330000000000000u) - 0x1p52;
}

// Uniforms in (0, 1] from 64 bits, of which the low halves of high and low have 32 each.
VAE_FUSED_INLINE NativeDouble wide_uniforms(NativeWide high, NativeWide low) {
#if defined(__AVX512F__)
  const NativeDouble words = _mm512_cvtepu64_pd((__m512i)((high << 32) | (low & 0xffffffffu)));
#else
  // Both halves are exact, so the one addition rounds as a direct conversion would.
  const NativeDouble words = double_of_low_halves(high) * 0x1p32 + double_of_low_halves(low);
#endif
  return words * 0x1p-64 + 0x1p-65;
}

// Cosines and sines, in turn.
VAE_FUSED_INLINE void store_interleaved(float* out, NativeFloat cosine, NativeFloat sine) {
#if defined(__AVX512F__)
  const NativeFloat low = _mm512_unpacklo_ps(cosine, sine), high = _mm512_unpackhi_ps(cosine, sine);
#elif defined(__AVX2__)
  const NativeFloat low = _mm256_unpacklo_ps(cosine, sine), high = _mm256_unpackhi_ps(cosine, sine);
#else
  const NativeFloat low = {cosine[0], sine[0], cosine[1], sine[1]}, high = {cosine[2], sine[2], cosine[3], sine[3]};
#endif
  std::memcpy(out, &low, sizeof(low));
  std::memcpy(out + kNativeLanes, &high, sizeof(high));
}
VAE_FUSED_INLINE void store_interleaved(double* out, NativeDouble cosine, NativeDouble sine) {
#if defined(__AVX512F__)
  const NativeDouble low = _mm512_unpacklo_pd(cosine, sine), high = _mm512_unpackhi_pd(cosine, sine);
#elif defined(__AVX2__)
  const NativeDouble low = _mm256_unpacklo_pd(cosine, sine), high = _mm256_unpackhi_pd(cosine, sine);
#else
  const NativeDouble low = {cosine[0], sine[0]}, high = {cosine[1], sine[1]};
#endif
  std::memcpy(out, &low, sizeof(low));
  std::memcpy(out + kWideLanes, &high, sizeof(high));
}

// Both uniforms of the pairs of a group: floats take a word each, doubles two.
template <int kGroups>
VAE_FUSED_INLINE void uniforms_of_group(const PhiloxWords<kGroups>& words, int group, NativeFloat& u1,
                                        NativeFloat& u2) {
  u1 = uniforms(words.word0[group], words.word2[group]);
  u2 = uniforms(words.word1[group], words.word3[group]);
}
template <int kGroups>
VAE_FUSED_INLINE void uniforms_of_group(const PhiloxWords<kGroups>& words, int group, NativeDouble& u1,
                                        NativeDouble& u2) {
  u1 = wide_uniforms(words.word0[group], words.word1[group]);
  u2 = wide_uniforms(words.word2[group], words.word3[group]);
}

// The normals of kRegisters registers of blocks from counter on, in order or the even and the odd ones apart.
template <int kRegisters, class T>
VAE_FUSED_INLINE void normals_of_step(uint64_t counter, bool even_odd, const RoundKeys& keys, T* out) {
  PhiloxWords<kRegisters> words;
  philox_words(counter, even_odd, keys, words);
  VectorOf<T, kRegisters> u1, u2;
  repeat<kRegisters>([&](int i) VAE_FUSED_LAMBDA { uniforms_of_group(words, i, u1.part[i], u2.part[i]); });
  const NormalPair<VectorOf<T, kRegisters>> pair = box_muller(u1, u2);
  repeat<kRegisters>([&](int i) VAE_FUSED_LAMBDA {
    T* of_register = out + i * kNormalsPerRegister<T>;
    if (kHasEvenOdd<T> && even_odd) {
      std::memcpy(of_register, &pair.first.part[i], sizeof(pair.first.part[i]));
      std::memcpy(of_register + VectorOf<T>::kPartCount, &pair.second.part[i], sizeof(pair.second.part[i]));
    } else {
      store_interleaved(of_register, pair.first.part[i], pair.second.part[i]);
    }
  });
}

// Puts the even and the odd ones of every register of normals apart, up to the end of the last.
template <class T>
VAE_FUSED_INLINE void put_even_odd_apart([[maybe_unused]] T* normals, [[maybe_unused]] int64_t count) {
  if constexpr (kHasEvenOdd<T>) {
    for (int64_t i = 0; i < count; i += kNormalsPerRegister<T>) store(normals + i, load_even_odd<2>(normals + i));
  }
}

// Normals first .. first + count - 1 of a key, in order or the even and the odd ones of every register of them apart.
// They are written into buffer, which has room for count + kNoiseSlack elements, and begin where the returned pointer
// points. meanwhile(done, next) goes before every step, which makes the next normals after those that are done.
constexpr int kNoiseSlack = kRegistersPerStep * kNormalsPerRegister<float> + 4;

template <class T, class Meanwhile>
VAE_FUSED_INLINE const T* fill_normals(const RoundKeys& keys, uint64_t offset, int64_t first, int64_t count,
                                       bool even_odd, T* buffer, Meanwhile meanwhile) {
  constexpr int kOfBlock = NormalBlock<T>::kLanes, kOfRegister = kNormalsPerRegister<T>;
  constexpr int kStep = kRegistersPerStep * kOfRegister;
  const int skip = static_cast<int>(first % kOfBlock);
  const bool as_they_come = even_odd && skip == 0;
  uint64_t counter = offset + static_cast<uint64_t>(first / kOfBlock);
  int64_t done = 0;
  // One register after the other waits for its own results: a step that makes up to twice as many as are left takes no
  // longer.
  for (; done + kStep / 2 < count + skip; done += kStep, counter += kStep / kOfBlock) {
    meanwhile(static_cast<int>(done), kStep);
    normals_of_step<kRegistersPerStep>(counter, as_they_come, keys, buffer + done);
  }
  for (; done < count + skip; done += kOfRegister, counter += kOfRegister / kOfBlock) {
    meanwhile(static_cast<int>(done), kOfRegister);
    normals_of_step<1>(counter, as_they_come, keys, buffer + done);
  }
  if (even_odd && !as_they_come) put_even_odd_apart(buffer + skip, count);
  return buffer + skip;
}

// Room for the noise of a tile; fill_normals works in whole steps.
template <class T>
struct alignas(64) NoiseBuffer {
  T values[kTile + kNoiseSlack];
};

// The noise of a kernel call. What a key means for the rounds of Philox is worked out once for a key that all share.
template <class T>
class Noise {
 public:
  VAE_FUSED_HOST_DEVICE explicit Noise(const NoiseKey& key)
      : key_(key), rounds_(key.words == nullptr ? 0 : key.words[0]) {}

  // Normals first .. first + count - 1 of the key of an item, until the next call; even_odd and meanwhile as above.
  template <class Meanwhile>
  VAE_FUSED_HOST_DEVICE const T* operator()(int64_t item, int64_t first, int64_t count, bool even_odd,
                                            Meanwhile meanwhile) {
    const uint64_t* words = key_.words + (key_.per_item ? 2 * item : 0);
    if (key_.per_item) rounds_ = RoundKeys(words[0]);
    return fill_normals(rounds_, words[1], first, count, even_odd, buffer_.values, meanwhile);
  }

 private:
  const NoiseKey key_;
  RoundKeys rounds_;
  NoiseBuffer<T> buffer_;
};

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
