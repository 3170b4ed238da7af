// The samples of a launch, the noise of a run of their elements, and the loop over that run.
#pragma once

#include <cstring>

#include "cpu/kernels/noise.h"
#include "cpu/kernels/tile.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

inline __attribute__((always_inline)) Operand sample_of(Operand operand, int64_t sample, int64_t sample_stride) {
  if (operand.data == nullptr) return operand;
  operand.data = static_cast<char*>(operand.data) + sample * sample_stride * size_of(operand.type);
  return operand;
}

// Noise is drawn for a run of elements that are worked on at once. While that of a run is drawn, memory catches up with
// the stores of the run before; those of a whole tile would come in one burst. The backward of 8192 x 512 elements
// takes 1.45 ms instead of 1.58 on two cores; shorter runs lose more at their ends.
constexpr int kNoiseRun = 512;

VAE_FUSED_INLINE int noise_run(const NoiseKey& key, const TileRange& range) {
  return key.per_item || range.count < kNoiseRun ? range.count : kNoiseRun;
}

// The noise of elements first .. first + count - 1 of a tile, for a loop over tiles of these types: load_noise takes it
// from there. With a key for every item they are the whole tile, which is put together from the noise of several.
//
// Operands that lie beyond the caches are fetched a few lines at a time between the steps that make the noise. The
// processor's own prefetching stops where a loop over a run ends, and a whole run asked for at once would fill the
// queue of misses, where the instructions behind it wait.
template <class T, class Params>
VAE_FUSED_INLINE const T* noise_of_run(const Params& p, const TilePlan& plan, int64_t tile, const TileRange& range,
                                       int first, int count, int64_t sample, auto types, Noise<T>& noise,
                                       TileBuffer<T>& of_items, const auto&... operands) {
  const auto fetch = [&p, ... prefetch = operands.prefetch()](int begin, int of_step) VAE_FUSED_LAMBDA {
    if (p.streamed) (prefetch(begin, of_step), ...);
  };
  if (!p.key.per_item) {
    return noise(0, sample * p.numel + range.begin + first, count, even_odd<T>(types),
                 [&](int done, int next) VAE_FUSED_LAMBDA { fetch(first + done, next); });
  }
  const bool whole_items = plan.items_per_tile > 1;
  const T* normals = nullptr;
  for_each_segment(plan, tile, range, [&](const Segment& segment) VAE_FUSED_LAMBDA {
    normals =
        noise(segment.item, sample * p.item_numel + segment.within, segment.count, !whole_items && even_odd<T>(types),
              [&](int done, int next) VAE_FUSED_LAMBDA { fetch(segment.start + done, next); });
    if (whole_items) std::memcpy(of_items.values + segment.start, normals, segment.count * sizeof(T));
  });
  if (!whole_items) return normals;
  if (even_odd<T>(types)) put_even_odd_apart(of_items.values, range.count);
  return of_items.values;
}

// The noise of a vector, with something beyond the lanes of a partial one.
template <class T, class Lanes>
VAE_FUSED_INLINE VectorIn<T, Lanes> load_noise(const T* normals, Lanes lanes) {
  if constexpr (Lanes::kEvenOdd) {
    return load<T, Lanes::kRegisters>(normals);
  } else {
    return load(normals, lanes);
  }
}

// The two stages of a loop over the elements of a run, which comes after its noise. Small models, of which a tile has
// several items, call these kernels with other code in between, and theirs comes from the second cache each time: there
// a loop of half types has half as many registers and is half as long. One that goes on would be a fiftieth slower.
template <class T, class Begin, class Finish>
VAE_FUSED_INLINE void for_each_vector_of_run(const TilePlan& plan, int count, auto types, Begin begin, Finish finish) {
  if constexpr (kHasEvenOdd<T> && !std::is_same_v<decltype(types), AskedTypes>) {
    if (plan.items_per_tile > 1 && of_half_type<T>(types)) {
      if (even_odd<T>(types)) return for_each_vector_of<T, BFloat16, kParts>(count, begin, finish);
      return for_each_vector_of<T, Half, kParts>(count, begin, finish);
    }
  }
  for_each_vector<T>(count, types, begin, finish);
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
