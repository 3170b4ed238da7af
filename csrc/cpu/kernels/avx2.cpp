// The CPU kernels for AVX2 with FMA and F16C.
#define KERNEL_TABLE kAvx2Kernels
#include "cpu/kernels/table.inc"
