// Stands in for the CUDA runtime where csrc/cuda is compiled for the host: what its kernels use of the language.
//
// A block is 256 fibers that run in turn and switch at barriers and shuffles; blocks run one after the other, in a
// shuffled order. So every index, layout, sum and formula of a kernel is really executed. What only a GPU can show
// stays open: the memory model between blocks, the error of its intrinsics, and the driver.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

using cudaStream_t = void*;

#define __global__ static
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static  // blocks do not overlap

struct EmulatedIndex {
  unsigned x;
};
extern EmulatedIndex threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

// Runs the body as every thread of every block.
void run(int grid, int block, const std::function<void()>& body);

// All threads of a block, or of the caller's warp, have to come here before one goes on.
void wait_for_block();
void wait_for_warp();

// One double per thread, twice: a thread may already write the next while its neighbour still reads the last.
double* exchange_slots();

// Empty, or what went wrong in the last launch.
const char* last_error();

// Larger grids are cut to this.
extern int largest_grid;

}  // namespace emulation

#define VAE_FUSED_LAUNCH(kernel, grid, stream, params) emulation::run(grid, kBlock, [&] { kernel(params); })

inline void __syncthreads() { emulation::wait_for_block(); }
inline void __threadfence() {}

inline double __shfl_xor_sync(unsigned, double value, int distance) {
  double* slots = emulation::exchange_slots();
  slots[threadIdx.x] = value;
  emulation::wait_for_warp();
  return slots[threadIdx.x ^ distance];
}

inline unsigned atomicInc(unsigned* counter, unsigned limit) {
  const unsigned old = *counter;
  *counter = old >= limit ? 0 : old + 1;
  return old;
}

inline double __ldcg(const double* address) { return *address; }

template <class To, class From>
inline To emulated_bits(From from) {
  To to;
  static_assert(sizeof to == sizeof from);
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline int __float_as_int(float value) { return emulated_bits<int>(value); }
inline float __int_as_float(int bits) { return emulated_bits<float>(bits); }
inline float __fsqrt_rn(float value) { return sqrtf(value); }
inline float __sinf(float angle) { return sinf(angle); }
inline float __cosf(float angle) { return cosf(angle); }
inline void sincospi(double turns, double* sine, double* cosine) {
  *sine = static_cast<double>(sinl(3.14159265358979323846264338327950288L * turns));
  *cosine = static_cast<double>(cosl(3.14159265358979323846264338327950288L * turns));
}
