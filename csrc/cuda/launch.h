// What the launchers of this folder share. Plain structs: no torch, and nothing that only nvcc understands but the
// launch.
//
// Notation of the shape comments: core/kernel_params.h.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "core/kernel_params.h"

namespace vae_fused {

constexpr int kBlock = 256;
constexpr int kWarp = 32;
// Far more than fit at once, so that the hardware hands the next block to whichever multiprocessor is free.
constexpr int kBlocksPerMultiprocessor = 64;

// tests/cuda_emulation defines this first, to run the kernels on the host.
#ifndef VAE_FUSED_LAUNCH
#define VAE_FUSED_LAUNCH(kernel, grid, stream, params) kernel<<<grid, kBlock, 0, stream>>>(params)
#endif

struct LaunchSite {
  cudaStream_t stream;
  int multiprocessors;

  int grid(int64_t steps) const {
    const int64_t largest = int64_t{multiprocessors} * kBlocksPerMultiprocessor;
    return static_cast<int>(std::clamp<int64_t>(steps, 1, largest));
  }
};

// How a kernel cuts its elements, by the shape alone: no result depends on the grid.
//
// Every item is cut into pieces, and an item's piece is a unit, which a team of threads works on: part of a warp for
// small items, so that a block holds many, else the block. A sum over a unit has one order; so has the sum over the
// pieces.
struct Work {
  int64_t items = 0;  // 1 where items do not matter
  int64_t item_numel = 0;
  int64_t pieces = 1;  // of an item
  int64_t piece_numel = 0;
  int team = kBlock;  // threads: a power of two up to a warp, or the block

  Work() = default;
  Work(int64_t item_count, int64_t numel_of_item) : items(item_count), item_numel(numel_of_item) {
    constexpr int64_t kSmallItem = 1024, kSmallestPiece = 4096, kLargestPiece = 65536, kManyPieces = 8192;
    if (items > 1 && item_numel <= kSmallItem) {
      team = 1;
      while (team < kWarp && int64_t{4} * team < item_numel) team *= 2;
      piece_numel = item_numel;
      return;
    }
    // Small pieces fill the machine early; more than a few thousand of them would make their own sum long.
    piece_numel = kSmallestPiece;
    while (piece_numel < kLargestPiece && items * item_numel / piece_numel > kManyPieces) piece_numel *= 2;
    pieces = std::max<int64_t>(1, (item_numel + piece_numel - 1) / piece_numel);
  }

  constexpr int64_t units() const { return items * pieces; }
  // Rounds of one block: each takes a unit for every team.
  constexpr int64_t steps() const { return (units() + kBlock / team - 1) / (kBlock / team); }
};

// The counter by which the blocks of a launch find the last of them. Slots: one for each stream, then one for each
// captured launch.
constexpr int kStreamTickets = 1024, kCapturedTickets = 15360;
struct Ticket {
  int slot;
  unsigned* cleared;  // [1] zero, takes the place of the slot where not null
};

// Sums over items: out[item] = sum / divisor. Nothing is summed where out is null.
struct Summation {
  void* out;         // [items] float, or double where wide
  double* partials;  // [items, pieces], or null for one piece an item
  bool wide;
  double divisor;
  Ticket ticket;
};

// The Philox keys of a launch: given as words in device memory, or drawn from a generator. Under graph capture the
// generator's seed and offset are only known when the graph runs, and come as pointers.
struct KeySource {
  NoiseKey given;  // words null where drawn
  bool captured;
  uint64_t seed;
  uint64_t offset;                 // in random words, four to a block; added to *captured_offset where captured
  const int64_t* captured_seed;    // [1]
  const int64_t* captured_offset;  // [1]
  uint64_t* used;                  // [2] the key that was drawn is written here for the backward
};

}  // namespace vae_fused
