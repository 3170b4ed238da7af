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

// The noise of a kernel call. What a key means for the rounds of Philox is worked out once for a key that all share.
template <class T>
class Noise {
 public:
  VAE_FUSED_HOST_DEVICE explicit Noise(const NoiseKey& key)
      : key_(key), rounds_(key.words == nullptr ? 0 : key.words[0]) {}

  // Normals first .. first + count - 1 of the key of an item, until the next call.
  VAE_FUSED_HOST_DEVICE const T* operator()(int64_t item, int64_t first, int64_t count) {
    const uint64_t* words = key_.words + (key_.per_item ? 2 * item : 0);
    if (key_.per_item) rounds_ = RoundKeys(words[0]);
    return fill_normals(rounds_, words[1], first, count, buffer_.values);
  }

 private:
  const NoiseKey key_;
  RoundKeys rounds_;
  NoiseBuffer<T> buffer_;
};

template <class T>
static void standard_normal_tiles(const StandardNormalParams& p, const TilePlan& plan, int64_t first_tile,
                                  int64_t last_tile) {
  Extent extent{1, {p.numel}};
  Operand out{p.out, p.type, {1}};
  Noise<T> noise(p.key);
  for (int64_t tile = first_tile; tile < last_tile; ++tile) {
    const TileRange range(plan, tile);
    for_each_segment(plan, tile, range, [&](const Segment& segment) VAE_FUSED_LAMBDA {
      const T* normals = noise(segment.item, segment.within, segment.count);
      scatter(out, extent, range.begin + segment.start, segment.count, normals);
    });
  }
}

static void standard_normal(const StandardNormalParams& p, const TilePlan& plan, int64_t first, int64_t last) {
  if (p.type == ElementType::kDouble) return standard_normal_tiles<double>(p, plan, first, last);
  standard_normal_tiles<float>(p, plan, first, last);
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
