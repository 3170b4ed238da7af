// What lets one formula compile for the host, for a GPU, and once per CPU instruction set.
#pragma once

#if defined(__CUDACC__)
// Device alone: what a .cu file has for the host only starts kernels, and host functions may not call intrinsics.
#define VAE_FUSED_HOST_DEVICE __device__ __forceinline__
#define VAE_FUSED_UNROLL _Pragma("unroll")
#else
// Always inlined: the same function is compiled with different instruction sets, and an out-of-line copy of one of
// them must never be picked by the linker for the others.
#define VAE_FUSED_HOST_DEVICE inline __attribute__((always_inline))
#define VAE_FUSED_UNROLL
#endif
