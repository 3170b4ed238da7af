// The CPU kernels for any processor: SSE2 on x86-64, 128-bit vectors elsewhere.
#define KERNEL_TABLE kBaselineKernels
#include "cpu/kernels/table.inc"
