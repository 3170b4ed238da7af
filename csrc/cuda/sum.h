// Units of work, and sums over them in one fixed order.
#pragma once

#include "cuda/vector_access.h"

namespace vae_fused {

// The unit that a thread works on in one step of its block, and its place in the team.
struct Unit {
  int64_t index;  // of all units
  int64_t item;
  int64_t within;  // the first element, counted in its item
  int64_t begin;   // the first element, counted in all
  int count;       // elements; 0 beyond the last unit
  int lane;
  bool exists;
};

__device__ __forceinline__ Unit unit_of(const Work& work, int64_t step) {
  Unit unit;
  unit.lane = threadIdx.x & (work.team - 1);
  unit.index = step * (kBlock / work.team) + threadIdx.x / work.team;
  unit.exists = unit.index < work.units();
  int64_t piece = 0;
  unit.item = work.pieces == 1 ? unit.index : divide(unit.index, work.pieces, piece);
  unit.within = piece * work.piece_numel;
  unit.begin = unit.item * work.item_numel + unit.within;
  const int64_t left = work.item_numel - unit.within;
  unit.count = unit.exists ? static_cast<int>(left < work.piece_numel ? left : work.piece_numel) : 0;
  return unit;
}

// body(cursor, offset in the unit) for the groups of a thread, in order.
template <class Access, class Body>
__device__ __forceinline__ void for_each_group(const Extent& extent, const Work& work, const Unit& unit, Body body) {
  constexpr int kGroup = Access::kGroup;
  if constexpr (!Access::kAligned) {
    for (int at = unit.lane * kGroup; at < unit.count; at += work.team * kGroup) {
      const int left = unit.count - at;
      body(typename Access::Cursor(extent, unit.begin + at, left < kGroup ? left : kGroup), at);
    }
  } else {
    // Vectors begin at multiples of the group in all of the tensor: a unit may begin and end inside of one.
    const int before = static_cast<int>(unit.begin & (kGroup - 1));
    const int first = before == 0 ? 0 : kGroup - before;
    for (int at = first + unit.lane * kGroup; at + kGroup <= unit.count; at += work.team * kGroup) {
      body(typename Access::Cursor(extent, unit.begin + at, kGroup), at);
    }
    const int last = first + (unit.count - first) / kGroup * kGroup;
#pragma unroll 1
    for (int end = unit.lane; end < 2; end += work.team) {
      const int at = end == 0 ? -before : last, left = unit.count - at;
      if (end == 0 ? before == 0 : left <= 0) continue;
      body(typename Access::PartialCursor(unit.begin + at, end == 0 ? before : 0, left < kGroup ? left : kGroup), at);
    }
  }
}

// The sum over a group, in pairs; float is enough for so few.
template <class T, int kGroup>
__device__ __forceinline__ T group_sum(T (&values)[kGroup]) {
#pragma unroll
  for (int half = kGroup / 2; half > 0; half /= 2) {
#pragma unroll
    for (int e = 0; e < half; ++e) values[e] += values[e + half];
  }
  return values[0];
}

// The sum over a team, the same in each of its threads. All threads of the block have to call it.
__device__ __forceinline__ double team_sum(double value, int team) {
  const int width = team < kWarp ? team : kWarp;
  for (int distance = width / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
  if (team <= kWarp) return value;
  __shared__ double of_warp[kBlock / kWarp];
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = 0.0;
#pragma unroll
  for (int warp = 0; warp < kBlock / kWarp; ++warp) value += of_warp[warp];
  __syncthreads();  // before the next sum writes
  return value;
}

__device__ __forceinline__ void write_sum(void* out, bool wide, int64_t item, double value) {
  write_number(out, wide ? ElementType::kDouble : ElementType::kFloat, item, value);
}

// Ticket counters: all zero when a module is loaded, and again after every launch, because atomicInc wraps to 0 at the
// last block. Two launches may share a counter only if they cannot run at the same time; device.cpp hands them out.
static __device__ unsigned tickets[kStreamTickets + kCapturedTickets];

// Whether this block is the last of the grid to come here. What all blocks wrote before is then visible to it.
__device__ __forceinline__ bool is_last_block(const Ticket& ticket) {
  __shared__ bool last;
  __threadfence();  // each thread publishes its own partial sums before the block takes its ticket
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned* counter = ticket.cleared != nullptr ? ticket.cleared : tickets + ticket.slot;
    last = atomicInc(counter, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  __threadfence();
  return last;
}

// The sum of the partials of one item that falls to one lane of a team. Read past the first-level cache, which knows
// nothing of other multiprocessors.
__device__ __forceinline__ double lane_sum(const double* partials, const Work& work, int64_t item, int lane, int team) {
  double sum = 0.0;
  for (int64_t piece = lane; piece < work.pieces; piece += team) sum += __ldcg(partials + item * work.pieces + piece);
  return sum;
}

// body(item, lane, team, exists) for every item, by one block: all of its threads for one item, else as many for each
// as it has pieces at most, so that the few of a small item leave room for other items, and a warp for more.
template <class Body>
__device__ __forceinline__ void for_each_item(int64_t items, int64_t pieces, Body body) {
  int team = items == 1 ? kBlock : 2;
  while (team < kWarp && team < pieces) team *= 2;
  for (int64_t first = 0; first < items; first += kBlock / team) {
    const int64_t item = first + threadIdx.x / team;
    body(item, static_cast<int>(threadIdx.x & (team - 1)), team, item < items);
  }
}

// body(unit) for all units of the grid; what it returns is summed over every item where the launch asks for sums.
template <class Body>
__device__ __forceinline__ void for_each_unit(const Work& work, const Summation& sum, Body body) {
  const int64_t steps = work.steps();
  for (int64_t step = blockIdx.x; step < steps; step += gridDim.x) {
    const Unit unit = unit_of(work, step);
    const double of_thread = body(unit);
    if (sum.out == nullptr) continue;
    const double total = team_sum(of_thread, work.team);
    if (unit.lane != 0 || !unit.exists) continue;
    if (work.pieces == 1) {
      write_sum(sum.out, sum.wide, unit.item, total / sum.divisor);
    } else {
      sum.partials[unit.index] = total;
    }
  }
  if (sum.out == nullptr || work.pieces == 1 || !is_last_block(sum.ticket)) return;
  for_each_item(work.items, work.pieces, [&](int64_t item, int lane, int team, bool exists) {
    const double total = team_sum(exists ? lane_sum(sum.partials, work, item, lane, team) : 0.0, team);
    if (lane == 0 && exists) write_sum(sum.out, sum.wide, item, total / sum.divisor);
  });
}

}  // namespace vae_fused
