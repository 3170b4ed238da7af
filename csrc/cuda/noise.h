// Standard normals of a key, a group at a time: element i is lane i % 4 of Philox block offset + i / 4 (float64: 2
// lanes).
#pragma once

#include "core/normal.h"
#include "cuda/launch.h"

namespace vae_fused {

// Blocks that have to fit a multiprocessor together, which bounds the registers: as many as spill nothing. Two Philox
// blocks at a time, or layouts computed element by element, need up to 104.
template <class Access>
constexpr int kBlocksWithNoise = Access::kAligned && Access::kGroup == 4 ? 3 : 2;

struct Key {
  uint64_t seed, offset;  // offset in Philox blocks
};

__device__ __forceinline__ Key key_of(const KeySource& source, int64_t item) {
  if (source.given.words != nullptr) {
    const uint64_t* words = source.given.words + (source.given.per_item ? 2 * item : 0);
    return {words[0], words[1]};
  }
  if (!source.captured) return {source.seed, source.offset / 4};
  return {static_cast<uint64_t>(*source.captured_seed),
          (static_cast<uint64_t>(*source.captured_offset) + source.offset) / 4};
}

// The key that a generator gave goes to the backward, which has to draw the same noise.
__device__ __forceinline__ void record_key(const KeySource& source) {
  if (source.used == nullptr || blockIdx.x != 0 || threadIdx.x != 0) return;
  const Key key = key_of(source, 0);
  source.used[0] = key.seed;
  source.used[1] = key.offset;
}

// The noise of one key, with the round keys that all of its blocks share.
struct NoiseStream {
  PhiloxKeys keys;
  uint64_t offset;  // in Philox blocks
};

__device__ __forceinline__ NoiseStream stream_of(const Key& key) { return {philox_keys(key.seed), key.offset}; }

// Normals first .. first + kGroup - 1 of a stream, each block drawn once where first begins one.
// kAligned says that it always does.
template <bool kAligned, class T, int kGroup>
__device__ __forceinline__ void fill_normals(const NoiseStream& stream, int64_t first, T (&normals)[kGroup]) {
  constexpr int kLanes = NormalBlock<T>::kLanes;
  const uint64_t counter = stream.offset + static_cast<uint64_t>(first) / kLanes;
#pragma unroll
  for (int b = 0; b < kGroup / kLanes; ++b) {
    const NormalBlock<T> block = normals_of_block<T>(philox4x32_10(counter + b, stream.keys));
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) normals[b * kLanes + lane] = block.lane[lane];
  }
  if constexpr (kAligned) return;
  const int shift = static_cast<int>(first & (kLanes - 1));
  if (shift == 0) return;
  // The group ends inside a further block. Constant indices alone: a run-time one would put the array in memory.
  const NormalBlock<T> next = normals_of_block<T>(philox4x32_10(counter + kGroup / kLanes, stream.keys));
#pragma unroll
  for (int e = 0; e < kGroup; ++e) {
    const auto normal = [&](int i) { return i < kGroup ? normals[i] : next.lane[i - kGroup]; };
    T value = normal(e + 1);
#pragma unroll
    for (int by = 2; by < kLanes; ++by) value = shift == by ? normal(e + by) : value;
    normals[e] = value;
  }
}

}  // namespace vae_fused
