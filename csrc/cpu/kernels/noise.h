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

// A round waits for the multiplication of the one before, and a logarithm for its own terms: several vectors of blocks
// at a time keep the units busy. Where a register holds a whole vector there is room for four of them.
constexpr int kVectorsPerStep = kParts == 1 ? 4 : 1;
constexpr int kNormalsPerVector = 2 * kLanes;

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

// Blocks in the order 0, n/2, 1, n/2 + 1, ...: unpacking cosines and sines then leaves the normals in order.
VAE_FUSED_INLINE NativeWide first_of_lanes() {
#if VAE_FUSED_NATIVE_LANES == 16
  return NativeWide{0, 4, 1, 5, 2, 6, 3, 7};
#elif VAE_FUSED_NATIVE_LANES == 8
  return NativeWide{0, 2, 1, 3};
#else
  return NativeWide{0, 1};
#endif
}

// Part i of cosines and sines, in turn.
VAE_FUSED_INLINE void store_interleaved(float* out, const NormalPair<Float>& pair, int i) {
  const NativeFloat cosine = pair.first.part[i], sine = pair.second.part[i];
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

// The kVectors * kNormalsPerVector normals of the blocks from counter on, in order.
template <int kVectors>
VAE_FUSED_INLINE void normals_of_step(uint64_t counter, const RoundKeys& keys, float* out) {
  constexpr int kGroups = kVectors * kParts;
  NativeWide word0[kGroups], word1[kGroups], word2[kGroups], word3[kGroups];
  for (int i = 0; i < kGroups; ++i) {
    // The first round on words 2 = 3 = 0.
    const NativeWide counters = first_of_lanes() + (counter + i * kWideLanes);
    const NativeWide product = multiply_low_halves(counters, NativeWide{} + kPhiloxMultiplier0);
    word0[i] = (counters >> 32) ^ keys.key0[0];
    word1[i] = NativeWide{};
    word2[i] = (product >> 32) ^ keys.key1[0];
    word3[i] = product;
  }
#pragma GCC unroll 10
  for (int round = 1; round < kPhiloxRounds; ++round) {
    for (int i = 0; i < kGroups; ++i) {
      const NativeWide product0 = multiply_low_halves(word0[i], NativeWide{} + kPhiloxMultiplier0);
      const NativeWide product1 = multiply_low_halves(word2[i], NativeWide{} + kPhiloxMultiplier1);
      word0[i] = (product1 >> 32) ^ word1[i] ^ keys.key0[round];
      word1[i] = product1;
      word2[i] = (product0 >> 32) ^ word3[i] ^ keys.key1[round];
      word3[i] = product0;
    }
  }
  for (int vector = 0; vector < kVectors; ++vector) {
    Float u1, u2;
    for (int i = 0; i < kParts; ++i) {
      const int group = vector * kParts + i;
      u1.part[i] = uniforms(word0[group], word2[group]);
      u2.part[i] = uniforms(word1[group], word3[group]);
    }
    const NormalPair<Float> pair = box_muller(u1, u2);
    for (int i = 0; i < kParts; ++i) store_interleaved(out + 2 * (vector * kLanes + i * kNativeLanes), pair, i);
  }
}

// Normals first .. first + count - 1 of a key. They are written into buffer, which has room for count + kNoiseSlack
// elements, and begin where the returned pointer points.
constexpr int kNoiseSlack = kNormalsPerVector + 4;

VAE_FUSED_INLINE const float* fill_normals(uint64_t seed, uint64_t offset, int64_t first, int64_t count,
                                           float* buffer) {
  const RoundKeys keys(seed);
  const int skip = static_cast<int>(first % 4);
  uint64_t counter = offset + static_cast<uint64_t>(first / 4);
  constexpr int kStep = kVectorsPerStep * kNormalsPerVector;
  int64_t done = 0;
  if constexpr (kVectorsPerStep > 1) {
    for (; done + kStep <= count + skip; done += kStep, counter += kStep / 4) {
      normals_of_step<kVectorsPerStep>(counter, keys, buffer + done);
    }
  }
  for (; done < count + skip; done += kNormalsPerVector, counter += kNormalsPerVector / 4) {
    normals_of_step<1>(counter, keys, buffer + done);
  }
  return buffer + skip;
}

VAE_FUSED_INLINE const double* fill_normals(uint64_t seed, uint64_t offset, int64_t first, int64_t count,
                                            double* buffer) {
  const int skip = static_cast<int>(first % 2);
  uint64_t counter = offset + static_cast<uint64_t>(first / 2);
  for (int64_t done = 0; done < count + skip; done += 2, ++counter) {
    const NormalBlock<double> block = normals_of_block<double>(philox4x32_10(counter, philox_keys(seed)));
    buffer[done] = block.lane[0];
    buffer[done + 1] = block.lane[1];
  }
  return buffer + skip;
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
