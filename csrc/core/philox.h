// Philox4x32-10: four random 32-bit words as a pure function of a 64-bit counter and a 64-bit seed.
// Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace vae_fused {

constexpr int kPhiloxRounds = 10;
constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u;
constexpr uint32_t kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u;
constexpr uint32_t kPhiloxWeyl1 = 0xBB67AE85u;

struct PhiloxBlock {
  uint32_t word[4];
};

// Both halves of a 64-bit product: one instruction on a GPU, where nvcc makes two of the plain expression.
struct WideProduct {
  uint32_t high, low;
};

VAE_FUSED_HOST_DEVICE WideProduct wide_product(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
  WideProduct product;
  asm("{ .reg .b64 wide; mul.wide.u32 wide, %2, %3; mov.b64 {%1, %0}, wide; }"
      : "=r"(product.high), "=r"(product.low)
      : "r"(a), "r"(b));
  return product;
#else
  const uint64_t product = static_cast<uint64_t>(a) * b;
  return {static_cast<uint32_t>(product >> 32), static_cast<uint32_t>(product)};
#endif
}

// The keys of all rounds, which many blocks of one seed share.
struct PhiloxKeys {
  uint32_t low[kPhiloxRounds], high[kPhiloxRounds];
};

VAE_FUSED_HOST_DEVICE PhiloxKeys philox_keys(uint64_t seed) {
  PhiloxKeys keys;
  VAE_FUSED_UNROLL
  for (int round = 0; round < kPhiloxRounds; ++round) {
    keys.low[round] = static_cast<uint32_t>(seed) + round * kPhiloxWeyl0;
    keys.high[round] = static_cast<uint32_t>(seed >> 32) + round * kPhiloxWeyl1;
  }
  return keys;
}

// Counter words 2 and 3 are zero: the layout of PyTorch's stateless generator.
VAE_FUSED_HOST_DEVICE PhiloxBlock philox4x32_10(uint64_t counter, const PhiloxKeys& keys) {
  uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32), c2 = 0, c3 = 0;
  VAE_FUSED_UNROLL
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const WideProduct product0 = wide_product(kPhiloxMultiplier0, c0);
    const WideProduct product1 = wide_product(kPhiloxMultiplier1, c2);
    c0 = product1.high ^ c1 ^ keys.low[round];
    c1 = product1.low;
    c2 = product0.high ^ c3 ^ keys.high[round];
    c3 = product0.low;
  }
  return {{c0, c1, c2, c3}};
}

}  // namespace vae_fused
