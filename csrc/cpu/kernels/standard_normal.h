// The noise itself.
#pragma once

#include "cpu/kernels/noise.h"
#include "cpu/kernels/tile.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

// Room for the noise of a tile; fill_normals works in whole steps.
template <class T>
struct alignas(64) NoiseBuffer {
  T values[kTile + kNoiseSlack];
};

VAE_FUSED_INLINE const uint64_t* words_of_key(const NoiseKey& key, int64_t item) {
  return key.words + (key.per_item ? 2 * item : 0);
}

// Normals first .. first + count - 1 of the key of an item.
template <class T>
VAE_FUSED_INLINE const T* noise_of_key(const NoiseKey& key, int64_t item, int64_t first, int count,
                                       NoiseBuffer<T>& buffer) {
  const uint64_t* words = words_of_key(key, item);
  return fill_normals(words[0], words[1], first, count, buffer.values);
}

template <class T>
static void standard_normal_tiles(const StandardNormalParams& p, const TilePlan& plan, int64_t first_tile,
                                  int64_t last_tile) {
  Extent extent{1, {p.numel}};
  Operand out{p.out, p.type, {1}};
  NoiseBuffer<T> buffer;
  for (int64_t tile = first_tile; tile < last_tile; ++tile) {
    const TileRange range(plan, tile);
    for_each_segment(plan, tile, range, [&](const Segment& segment) VAE_FUSED_LAMBDA {
      const T* noise = noise_of_key(p.key, segment.item, segment.within, segment.count, buffer);
      scatter(out, extent, range.begin + segment.start, segment.count, noise);
    });
  }
}

static void standard_normal(const StandardNormalParams& p, const TilePlan& plan, int64_t first, int64_t last) {
  if (p.type == ElementType::kDouble) return standard_normal_tiles<double>(p, plan, first, last);
  standard_normal_tiles<float>(p, plan, first, last);
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
