// From random words to standard normals: uniforms in (0, 1], then Box and Muller (1958).
//
// The formulas are templates. float on a GPU, double anywhere and the SIMD vectors of the CPU kernels bring their own
// log, sqrt and sincos; argument-dependent lookup or the overloads of core/math.h find them.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "core/math.h"
#include "core/philox.h"

namespace vae_fused {

constexpr double kTwoPi = 6.283185307179586;

// The word is rounded to float before the half step is added, as in PyTorch's generator and cuRAND; 1 is reached, 0
// not.
VAE_FUSED_HOST_DEVICE float uniform_from_word(uint32_t word) { return static_cast<float>(word) * 0x1p-32f + 0x1p-33f; }

VAE_FUSED_HOST_DEVICE double uniform_from_words(uint32_t high, uint32_t low) {
  return static_cast<double>((static_cast<uint64_t>(high) << 32) | low) * 0x1p-64 + 0x1p-65;
}

template <class T>
struct NormalPair {
  T first, second;
};

// sqrt(-2 ln u1) * (cos 2 pi u2, sin 2 pi u2); the angle is rounded to T, as PyTorch's generator rounds it.
template <class T>
VAE_FUSED_HOST_DEVICE NormalPair<T> box_muller(T u1, T u2) {
  const T radius = square_root(minus_two_log_of_uniform(u1));
  T sine, cosine;
  sincos_of_turn(T(static_cast<scalar_of<T>>(kTwoPi)) * u2, sine, cosine);
  return {radius * cosine, radius * sine};
}

// The normals of one Philox block: 4 lanes in float, 2 in double.
template <class T>
struct NormalBlock;

template <>
struct NormalBlock<float> {
  static constexpr int kLanes = 4;
  float lane[kLanes];
};

template <>
struct NormalBlock<double> {
  static constexpr int kLanes = 2;
  double lane[kLanes];
};

template <class T>
VAE_FUSED_HOST_DEVICE NormalBlock<T> normals_of_block(const PhiloxBlock& block);

template <>
VAE_FUSED_HOST_DEVICE NormalBlock<double> normals_of_block<double>(const PhiloxBlock& block) {
  const auto pair =
      box_muller(uniform_from_words(block.word[0], block.word[1]), uniform_from_words(block.word[2], block.word[3]));
  return {{pair.first, pair.second}};
}

#if defined(__CUDACC__)
template <>
VAE_FUSED_HOST_DEVICE NormalBlock<float> normals_of_block<float>(const PhiloxBlock& block) {
  const auto front = box_muller(uniform_from_word(block.word[0]), uniform_from_word(block.word[1]));
  const auto back = box_muller(uniform_from_word(block.word[2]), uniform_from_word(block.word[3]));
  return {{front.first, front.second, back.first, back.second}};
}
#endif

}  // namespace vae_fused
