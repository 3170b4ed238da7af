// 16 bytes of elements as the words that one load or store moves, and the floats in them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace vae_fused {

template <class S>
struct alignas(16) Pack {
  static constexpr int kCount = 16 / sizeof(S);
  uint32_t word[4];  // [kCount] of S, the first in the lowest bits
};

// Eight bytes, half as many.
struct alignas(8) HalfPack {
  uint32_t word[2];
};

__device__ __forceinline__ void unpack(const Pack<float>& pack, float* values) {
#pragma unroll
  for (int i = 0; i < 4; ++i) values[i] = __uint_as_float(pack.word[i]);
}

// A bfloat16 is the upper half of a float: no conversion.
__device__ __forceinline__ void unpack(const Pack<__nv_bfloat16>& pack, float* values) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    values[2 * i] = __uint_as_float(pack.word[i] << 16);
    values[2 * i + 1] = __uint_as_float(pack.word[i] & 0xffff0000u);
  }
}

__device__ __forceinline__ void unpack(const Pack<__half>& pack, float* values) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    values[2 * i] = __half2float(__ushort_as_half(static_cast<unsigned short>(pack.word[i])));
    values[2 * i + 1] = __half2float(__ushort_as_half(static_cast<unsigned short>(pack.word[i] >> 16)));
  }
}

__device__ __forceinline__ void unpack(const Pack<uint8_t>& pack, float* values) {
#pragma unroll
  for (int i = 0; i < 16; ++i) values[i] = static_cast<float>(pack.word[i / 4] >> (i % 4 * 8) & 0xffu);
}

__device__ __forceinline__ void pack_into(Pack<float>& pack, const float* values) {
#pragma unroll
  for (int i = 0; i < 4; ++i) pack.word[i] = __float_as_uint(values[i]);
}

// Two conversions are one instruction on sm_80 and later.
__device__ __forceinline__ void pack_into(Pack<__nv_bfloat16>& pack, const float* values) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
    pack.word[i] = __bfloat16_as_ushort(pair.x) | static_cast<uint32_t>(__bfloat16_as_ushort(pair.y)) << 16;
  }
}

__device__ __forceinline__ void pack_into(Pack<__half>& pack, const float* values) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __half2 pair = __floats2half2_rn(values[2 * i], values[2 * i + 1]);
    pack.word[i] = __half_as_ushort(pair.x) | static_cast<uint32_t>(__half_as_ushort(pair.y)) << 16;
  }
}

}  // namespace vae_fused
