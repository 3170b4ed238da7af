// How a CPU kernel cuts its work: into tiles that depend on the shape alone, never on the number of threads.
//
// A tile is a run of consecutive logical elements small enough for its operands to sit in the L1 cache. It holds whole
// batch items, or one piece of one item, so every partial sum belongs to one item and the order of all additions is
// fixed.
#pragma once

#include <algorithm>
#include <cstdint>

namespace vae_fused {

constexpr int64_t kTile = 1024;

struct TilePlan {
  int64_t items;           // 1 where items do not matter
  int64_t item_numel;      // > 0
  int64_t pieces;          // of an item that is larger than a tile, else 1
  int64_t items_per_tile;  // 1 where pieces > 1
  int64_t tiles;

  TilePlan(int64_t item_count, int64_t numel_of_item)
      : items(item_count),
        item_numel(std::max<int64_t>(numel_of_item, 1)),
        pieces((item_numel + kTile - 1) / kTile),
        items_per_tile(std::max<int64_t>(1, kTile / item_numel)),
        tiles(numel_of_item == 0 ? 0 : (items + items_per_tile - 1) / items_per_tile * pieces) {}

  int64_t partials() const { return items * pieces; }
};

// The elements [begin, begin + count) of one tile, and the item in which they begin.
struct TileRange {
  int64_t item, begin;
  int count;

  TileRange(const TilePlan& plan, int64_t tile) {
    item = tile / plan.pieces * plan.items_per_tile;
    const int64_t within = tile % plan.pieces * kTile;
    begin = item * plan.item_numel + within;
    const int64_t items = std::min(plan.items_per_tile, plan.items - item);
    count = static_cast<int>(std::min(kTile, items * plan.item_numel - within));
  }
};

// The part of a tile that belongs to one item.
struct Segment {
  int64_t item, within;  // the item, and the index in it of the first element
  int start, count;      // in the tile
  int64_t partial;       // index of the segment's partial sum
};

template <class Body>
inline __attribute__((always_inline)) void for_each_segment(const TilePlan& plan, int64_t tile, const TileRange& range,
                                                            Body body) {
  if (plan.items_per_tile == 1) {
    const int64_t within = range.begin - range.item * plan.item_numel;
    body(Segment{range.item, within, 0, range.count, tile});
    return;
  }
  const int length = static_cast<int>(plan.item_numel);
  int64_t item = range.item;
  for (int start = 0; start < range.count; start += length, ++item) body(Segment{item, 0, start, length, item});
}

}  // namespace vae_fused
