// Tiles over threads, and partial sums in a fixed order.
#pragma once

#include <ATen/Parallel.h>
#include <c10/util/SmallVector.h>

#include <algorithm>

#include "core/compensated_sum.h"
#include "cpu/kernels/kernel_table.h"

namespace vae_fused {

// Elements a thread has to have before it pays to start it: measured against the cost of waking one.
constexpr int64_t kGrainMemory = 1 << 15;
constexpr int64_t kGrainNoise = 1 << 13;

// Outputs beyond this are written past the caches. An operator has five to seven tensors of the size of an output, which
// together no longer fit: a store into the caches would first read what it overwrites, and evict what is still to be
// read.
constexpr int64_t kStreamedBytes = 6 << 20;

using Partials = c10::SmallVector<double, 256>;

inline int64_t tiles_of(const TilePlan& plan, int64_t elements) {
  const int64_t elements_per_tile = std::min(kTile, plan.items_per_tile * plan.item_numel);
  return std::max<int64_t>(1, elements / elements_per_tile);
}

// Whether this process was forked from one whose kernels had run on several threads. OpenMP would wait for those
// threads, which a fork does not copy.
bool threads_lost_in_fork();
void note_threads_used();

// body(first tile, one past the last) for parts of the tiles, on as many threads as have a grain of elements each.
template <class Body>
void parallel_over_tiles(int64_t tiles, int64_t tiles_of_grain, const Body& body) {
  if (tiles <= tiles_of_grain || at::get_num_threads() == 1 || threads_lost_in_fork()) {
    if (tiles > 0) body(0, tiles);
    return;
  }
  note_threads_used();
  at::parallel_for(0, tiles, tiles_of_grain, body);
}

template <class Params>
void run_tiles(TileKernel<Params> kernel, const Params& params, const TilePlan& plan, int64_t grain) {
  parallel_over_tiles(plan.tiles, tiles_of(plan, grain),
                      [&](int64_t first, int64_t last) { kernel(params, plan, first, last); });
}

inline double sum_of(const double* partials, int64_t count) {
  CompensatedSum sum;
  for (int64_t i = 0; i < count; ++i) sum.add(partials[i]);
  return sum.total();
}

}  // namespace vae_fused
