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

// How many launches there were, and the function that made the last one, with its template arguments.
extern int launches;
extern const char* launcher;

}  // namespace emulation

#define VAE_FUSED_LAUNCH(kernel, grid, stream, params)     \
  (emulation::launcher = __PRETTY_FUNCTION__, ++emulation::launches, \
   emulation::run(grid, kBlock, [&] { kernel(params); }))

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
inline unsigned __float_as_uint(float value) { return emulated_bits<unsigned>(value); }
inline float __uint_as_float(unsigned bits) { return emulated_bits<float>(bits); }
inline float __fadd_rn(float a, float b) { return a + b; }

// The approximations have the largest error that CUDA's manuals allow them, upwards or downwards by the argument's bits;
// of 0 the power of two is 1.
inline double largest_error(float argument, double exponent) {
  return (emulated_bits<unsigned>(argument) * 2654435761u >> 31 ? 1.0 : -1.0) * std::exp2(exponent);
}
inline float __sinf(float angle) { return static_cast<float>(std::sin(double{angle}) + largest_error(angle, -21.41)); }
inline float __cosf(float angle) { return static_cast<float>(std::cos(double{angle}) + largest_error(angle, -21.19)); }

#define VAE_FUSED_EMULATED_APPROXIMATIONS
namespace vae_fused {
inline float approximate_log2(float x) {
  const double exact = std::log2(double{x}), error = largest_error(x, -22);
  return static_cast<float>(x > 0.5f && x < 2.0f ? exact + error : exact * (1.0 + error));
}
inline float approximate_exp2(float x) {
  return x == 0.0f ? 1.0f : static_cast<float>(std::exp2(double{x}) * (1.0 + largest_error(x, -22)));
}
inline float approximate_sqrt(float x) {
  return static_cast<float>(std::sqrt(double{x}) * (1.0 + largest_error(x, -23)));
}
inline float approximate_reciprocal(float x) {
  return static_cast<float>(1.0 / double{x} * (1.0 + largest_error(x, -23)));
}
}  // namespace vae_fused

inline void sincospi(double turns, double* sine, double* cosine) {
  *sine = static_cast<double>(sinl(3.14159265358979323846264338327950288L * turns));
  *cosine = static_cast<double>(cosl(3.14159265358979323846264338327950288L * turns));
}
