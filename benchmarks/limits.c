// What the processor can do at most, beside which the suite sets what the kernels do. Compiled by limits.py.
#include <stdint.h>
#include <time.h>
#include <xmmintrin.h>

// a[i] = b[i] + s c[i] past the caches, on all threads of OpenMP: two streams read and one written, each element moved
// once. The count is a multiple of 4 and the pointers are aligned to 16 bytes.
void triad(float* a /* [count] */, const float* b /* [count] */, const float* c /* [count] */, int64_t count) {
  const __m128 scale = _mm_set1_ps(0.5f);
#pragma omp parallel
  {
#pragma omp for nowait
    for (int64_t i = 0; i < count; i += 4) {
      _mm_stream_ps(a + i, _mm_add_ps(_mm_load_ps(b + i), _mm_mul_ps(scale, _mm_load_ps(c + i))));
    }
    _mm_sfence();
  }
}

// Cycles per second: additions that wait for each other take one cycle each. What is added is in a register, because
// processors since Golden Cove add a constant while they rename registers, several in a cycle.
double clock_rate(int64_t additions) {
  struct timespec start, end;
  uint64_t value = 0;
  const uint64_t one = 1;
  clock_gettime(CLOCK_MONOTONIC, &start);
  for (int64_t i = 0; i < additions; i += 16) {
    __asm__ volatile(
        "add %1, %0\n add %1, %0\n add %1, %0\n add %1, %0\n add %1, %0\n add %1, %0\n add %1, %0\n add %1, %0\n"
        "add %1, %0\n add %1, %0\n add %1, %0\n add %1, %0\n add %1, %0\n add %1, %0\n add %1, %0\n add %1, %0\n"
        : "+r"(value)
        : "r"(one));
  }
  clock_gettime(CLOCK_MONOTONIC, &end);
  return (double)additions / ((double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec));
}
