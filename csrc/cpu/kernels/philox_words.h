// Philox on 64-bit lanes.
//
// A 32 x 32 -> 64 bit multiplication reads the low half of a 64-bit lane, so the words of a block stay in the low
// halves through all rounds and whatever stands in the high halves is never looked at.
#pragma once

#include "core/philox.h"
#include "cpu/kernels/simd.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

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

// Blocks in the order 0, n/2, 1, n/2 + 1, ...: unpacking cosines and sines then leaves the normals in order. For even
// and odd normals apart, which are the cosines and the sines as they come, the blocks are in order.
VAE_FUSED_INLINE NativeWide first_of_lanes([[maybe_unused]] bool even_odd) {
#if VAE_FUSED_NATIVE_LANES == 16
  return even_odd ? NativeWide{0, 1, 2, 3, 4, 5, 6, 7} : NativeWide{0, 4, 1, 5, 2, 6, 3, 7};
#elif VAE_FUSED_NATIVE_LANES == 8
  return NativeWide{0, 2, 1, 3};
#else
  return NativeWide{0, 1};
#endif
}

// The words of kGroups registers of blocks, in the low halves.
template <int kGroups>
struct PhiloxWords {
  NativeWide word0[kGroups], word1[kGroups], word2[kGroups], word3[kGroups];
};

template <int kGroups>
VAE_FUSED_INLINE void philox_round(int round, const RoundKeys& keys, PhiloxWords<kGroups>& words) {
  repeat<kGroups>([&](int i) VAE_FUSED_LAMBDA {
    const NativeWide product0 = multiply_low_halves(words.word0[i], NativeWide{} + kPhiloxMultiplier0);
    const NativeWide product1 = multiply_low_halves(words.word2[i], NativeWide{} + kPhiloxMultiplier1);
    words.word0[i] = (product1 >> 32) ^ words.word1[i] ^ keys.key0[round];
    words.word1[i] = product1;
    words.word2[i] = (product0 >> 32) ^ words.word3[i] ^ keys.key1[round];
    words.word3[i] = product0;
  });
}

// The first two rounds on the blocks from counter on, whose words 2 and 3 are 0.
template <int kGroups>
VAE_FUSED_INLINE void first_philox_rounds(uint64_t counter, bool even_odd, const RoundKeys& keys,
                                          PhiloxWords<kGroups>& words) {
  repeat<kGroups>([&](int i) VAE_FUSED_LAMBDA {
    const NativeWide counters = first_of_lanes(even_odd) + (counter + i * kWideLanes);
    const NativeWide product = multiply_low_halves(counters, NativeWide{} + kPhiloxMultiplier0);
    words.word0[i] = (counters >> 32) ^ keys.key0[0];
    words.word1[i] = NativeWide{};
    words.word2[i] = (product >> 32) ^ keys.key1[0];
    words.word3[i] = product;
  });
  philox_round(1, keys, words);
}

// The same where all counters have one high word: half of what two rounds multiply is then one number for all lanes.
template <int kGroups>
VAE_FUSED_INLINE void first_philox_rounds_of_one_high_word(uint64_t counter, bool even_odd, const RoundKeys& keys,
                                                           PhiloxWords<kGroups>& words) {
  const uint64_t product0 = ((counter >> 32) ^ keys.key0[0]) * kPhiloxMultiplier0;
  repeat<kGroups>([&](int i) VAE_FUSED_LAMBDA {
    const NativeWide counters = first_of_lanes(even_odd) + (counter + i * kWideLanes);
    const NativeWide product = multiply_low_halves(counters, NativeWide{} + kPhiloxMultiplier0);
    const NativeWide product1 = multiply_low_halves((product >> 32) ^ keys.key1[0], NativeWide{} + kPhiloxMultiplier1);
    words.word0[i] = (product1 >> 32) ^ keys.key0[1];
    words.word1[i] = product1;
    words.word2[i] = product ^ ((product0 >> 32) ^ keys.key1[1]);
    words.word3[i] = NativeWide{} + product0;
  });
}

// Those of the blocks from counter on.
template <int kGroups>
VAE_FUSED_INLINE void philox_words(uint64_t counter, bool even_odd, const RoundKeys& keys,
                                   PhiloxWords<kGroups>& words) {
  constexpr uint32_t kLastWithoutCarry = UINT32_MAX - (kGroups * kWideLanes - 1);
  if (__builtin_expect(static_cast<uint32_t>(counter) <= kLastWithoutCarry, 1)) {
    first_philox_rounds_of_one_high_word(counter, even_odd, keys, words);
  } else {
    first_philox_rounds(counter, even_odd, keys, words);
  }
#pragma GCC unroll 10
  for (int round = 2; round < kPhiloxRounds; ++round) philox_round(round, keys, words);
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
