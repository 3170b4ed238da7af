// The CPU kernels for AVX-512 (F, BW, DQ, VL, BF16) with FMA and F16C.
#define KERNEL_TABLE kAvx512BF16Kernels
#include "cpu/kernels/table.inc"
