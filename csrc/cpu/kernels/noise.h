// Standard normals by the tile: Philox on 64-bit lanes, Box-Muller on 32-bit lanes.
//
// A 32 x 32 -> 64 bit multiplication reads the low half of a 64-bit lane, so the words of a block stay in the low
// halves through all rounds and whatever stands in the high halves is never looked at.
#pragma once

#include "core/normal.h"
#include "core/philox.h"
#include "cpu/kernels/simd_math.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

typedef uint64_t NativeWide __attribute__((vector_size(kNativeLanes * 4)));
constexpr int kWideLanes = kNativeLanes / 2;

constexpr int kNormalsPerStep = 2 * kLanes;  // of 8 Philox blocks
constexpr int kBlocksPerStep = kNormalsPerStep / 4;

VAE_FUSED_INLINE NativeWide multiply_low_halves(NativeWide a, NativeWide b) {
#if defined(__AVX512F__)
  return (NativeWide)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (NativeWide)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (NativeWide)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

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
  const NativeWord words = (NativeWord)((even & 0xffffffffu) | (odd << 32));
  return float_of_words(words) * 0x1p-32f + 0x1p-33f;
}

struct RoundKeys {
  uint64_t key0[kPhiloxRounds], key1[kPhiloxRounds];

  explicit RoundKeys(uint64_t seed) {
    uint32_t low = static_cast<uint32_t>(seed), high = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < kPhiloxRounds; ++round, low += kPhiloxWeyl0, high += kPhiloxWeyl1) {
      key0[round] = low;
      key1[round] = high;
    }
  }
};

// The 32 normals of blocks counter .. counter + 7, in order.
VAE_FUSED_INLINE void normals_of_step(uint64_t counter, const RoundKeys& keys, Float& front, Float& back) {
  NativeWide word0[kParts], word1[kParts], word2[kParts], word3[kParts];
  for (int i = 0; i < kParts; ++i) {
    // Lanes in the order 0, n/2, 1, n/2 + 1, ...: unpacking cosines and sines below then leaves the blocks in order.
    NativeWide counters;
    for (int lane = 0; lane < kWideLanes; ++lane) {
      counters[lane] = counter + i * kWideLanes + lane / 2 + (lane % 2) * (kWideLanes / 2);
    }
    // The first round on words 2 = 3 = 0.
    const NativeWide product = multiply_low_halves(counters, NativeWide{} + kPhiloxMultiplier0);
    word0[i] = (counters >> 32) ^ keys.key0[0];
    word1[i] = NativeWide{};
    word2[i] = (product >> 32) ^ keys.key1[0];
    word3[i] = product;
  }
#pragma GCC unroll 10
  for (int round = 1; round < kPhiloxRounds; ++round) {
    for (int i = 0; i < kParts; ++i) {
      const NativeWide product0 = multiply_low_halves(word0[i], NativeWide{} + kPhiloxMultiplier0);
      const NativeWide product1 = multiply_low_halves(word2[i], NativeWide{} + kPhiloxMultiplier1);
      word0[i] = (product1 >> 32) ^ word1[i] ^ keys.key0[round];
      word1[i] = product1;
      word2[i] = (product0 >> 32) ^ word3[i] ^ keys.key1[round];
      word3[i] = product0;
    }
  }
  Float u1, u2;
  for (int i = 0; i < kParts; ++i) {
    u1.part[i] = uniforms(word0[i], word2[i]);
    u2.part[i] = uniforms(word1[i], word3[i]);
  }
  const NormalPair<Float> pair = box_muller(u1, u2);
  for (int i = 0; i < kParts; ++i) {
    NativeFloat low, high;
#if defined(__AVX512F__)
    low = _mm512_unpacklo_ps(pair.first.part[i], pair.second.part[i]);
    high = _mm512_unpackhi_ps(pair.first.part[i], pair.second.part[i]);
#elif defined(__AVX2__)
    low = _mm256_unpacklo_ps(pair.first.part[i], pair.second.part[i]);
    high = _mm256_unpackhi_ps(pair.first.part[i], pair.second.part[i]);
#else
    const NativeFloat cosine = pair.first.part[i], sine = pair.second.part[i];
    low = NativeFloat{cosine[0], sine[0], cosine[1], sine[1]};
    high = NativeFloat{cosine[2], sine[2], cosine[3], sine[3]};
#endif
    (2 * i < kParts ? front : back).part[(2 * i) % kParts] = low;
    (2 * i + 1 < kParts ? front : back).part[(2 * i + 1) % kParts] = high;
  }
}

// Normals first .. first + count - 1 of a key. They are written into buffer, which has room for count + kNoiseSlack
// elements, and begin where the returned pointer points.
constexpr int kNoiseSlack = kNormalsPerStep + 4;

VAE_FUSED_INLINE const float* fill_normals(uint64_t seed, uint64_t offset, int64_t first, int64_t count,
                                           float* buffer) {
  const RoundKeys keys(seed);
  const int skip = static_cast<int>(first % 4);
  uint64_t counter = offset + static_cast<uint64_t>(first / 4);
  for (int64_t done = 0; done < count + skip; done += kNormalsPerStep, counter += kBlocksPerStep) {
    Float front, back;
    normals_of_step(counter, keys, front, back);
    store(buffer + done, front);
    store(buffer + done + kLanes, back);
  }
  return buffer + skip;
}

VAE_FUSED_INLINE const double* fill_normals(uint64_t seed, uint64_t offset, int64_t first, int64_t count,
                                            double* buffer) {
  const int skip = static_cast<int>(first % 2);
  uint64_t counter = offset + static_cast<uint64_t>(first / 2);
  for (int64_t done = 0; done < count + skip; done += 2, ++counter) {
    const NormalBlock<double> block = normals_of_block<double>(philox4x32_10(counter, seed));
    buffer[done] = block.lane[0];
    buffer[done + 1] = block.lane[1];
  }
  return buffer + skip;
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
