// The CPU kernels for AVX-512 (F, BW, DQ, VL) with FMA and F16C.
#define KERNEL_TABLE kAvx512Kernels
#include "cpu/kernels/table.inc"
