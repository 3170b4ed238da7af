// Sums of the lanes of vectors in float64, in an order that no instruction set changes.
#pragma once

#include <cmath>
#include <type_traits>

#include "core/compensated_sum.h"
#include "cpu/kernels/simd.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

// Sixteen float64 sums of floats: that of lane l has the elements l, l + 16, l + 32, ... of a run, added in turn and
// without contraction, and a fixed tree adds up the lanes. The same bits on every instruction set.
class LaneSum {
 public:
  static constexpr int kLanes = 16;

  VAE_FUSED_HOST_DEVICE LaneSum() {
    repeat<kRegisters>([&](int i) VAE_FUSED_LAMBDA { sums_[i] = NativeDouble{}; });
  }

  template <int P>
  VAE_FUSED_HOST_DEVICE void add(const VectorOf<float, P>& value) {
    widened(value, [&](NativeDouble wide, int i) VAE_FUSED_LAMBDA { sums_[i] += wide; });
  }

  // The square of a float is exact in a double: one rounding or two give the same.
  template <int P>
  VAE_FUSED_HOST_DEVICE void add_square(const VectorOf<float, P>& value) {
    widened(value,
            [&](NativeDouble wide, int i) VAE_FUSED_LAMBDA { sums_[i] = fused_multiply_add(wide, wide, sums_[i]); });
  }

#if defined(__AVX512F__)
  // Elements l and l + 16 of 32 added first, in float32: the even ones in one register and the odd ones in the other. A
  // sum is of such pairs alone.
  VAE_FUSED_HOST_DEVICE void add_even_odd(const VectorOf<float, 2>& pair) {
    repeat<2>([&](int i) VAE_FUSED_LAMBDA {
      const __m256 later = _mm512_extractf32x8_ps(pair.part[i], 1);
      sums_[i] += _mm512_cvtps_pd(_mm512_castps512_ps256(pair.part[i]) + later);
    });
  }

  // The lanes put in order first: registers of the even and the odd ones become one of the first eight and one of the
  // others.
  VAE_FUSED_HOST_DEVICE double total_of_even_odd() const {
    LaneSum in_order;
    in_order.sums_[0] = _mm512_permutex2var_pd(sums_[0], _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0), sums_[1]);
    in_order.sums_[1] = _mm512_permutex2var_pd(sums_[0], _mm512_set_epi64(15, 7, 14, 6, 13, 5, 12, 4), sums_[1]);
    return in_order.total();
  }
#endif

  VAE_FUSED_HOST_DEVICE double total() const {
    NativeDouble sums[kRegisters];
    repeat<kRegisters>([&](int i) VAE_FUSED_LAMBDA { sums[i] = sums_[i]; });
    for (int half = kRegisters / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
    }
    return folded_sum(sums[0]);
  }

 private:
  static constexpr int kRegisters = kLanes / kWideLanes;

  // body(two registers of doubles for each of floats, the index of the sums that they belong to)
  template <int P, class Body>
  VAE_FUSED_HOST_DEVICE static void widened(const VectorOf<float, P>& value, Body body) {
    repeat<P>([&](int i) VAE_FUSED_LAMBDA {
      const NativeFloat part = value.part[i];
#if defined(__AVX512F__)
      const NativeDouble low = _mm512_cvtps_pd(_mm512_castps512_ps256(part));
      const NativeDouble high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(part, 1));
#elif defined(__AVX2__)
      const NativeDouble low = _mm256_cvtps_pd(_mm256_castps256_ps128(part));
      const NativeDouble high = _mm256_cvtps_pd(_mm256_extractf128_ps(part, 1));
#else
      const NativeDouble low = {part[0], part[1]}, high = {part[2], part[3]};
#endif
      body(low, 2 * i % kRegisters);
      body(high, (2 * i + 1) % kRegisters);
    });
  }

  NativeDouble sums_[kRegisters];  // [16] lanes
};

// Eight sums of doubles with what their additions lost, so that the error does not grow with the number of terms, then
// a fixed tree of the same: as exact as the data, and the same bits on every instruction set.
class CompensatedLaneSum {
 public:
  static constexpr int kLanes = 8;

  VAE_FUSED_HOST_DEVICE CompensatedLaneSum() {
    repeat<kRegisters>([&](int i) VAE_FUSED_LAMBDA { sums_[i] = lost_[i] = NativeDouble{}; });
  }

  template <int P>
  VAE_FUSED_HOST_DEVICE void add(const VectorOf<double, P>& value) {
    repeat<P>([&](int part) VAE_FUSED_LAMBDA {
      const int i = part % kRegisters;
      const TwoSum<NativeDouble> next(sums_[i], value.part[part]);
      sums_[i] = next.sum;
      lost_[i] += next.lost;
    });
  }

  template <int P>
  VAE_FUSED_HOST_DEVICE void add_square(const VectorOf<double, P>& value) {
    add(value * value);
  }

  // Of an infinite sum nothing finite was lost, and inf - inf must not make it NaN.
  VAE_FUSED_HOST_DEVICE double total() const {
    double sums[kLanes], lost[kLanes];
    std::memcpy(sums, sums_, sizeof(sums));
    std::memcpy(lost, lost_, sizeof(lost));
    for (int half = kLanes / 2; half > 0; half /= 2) {
      for (int lane = 0; lane < half; ++lane) {
        const TwoSum<double> next(sums[lane], sums[lane + half]);
        sums[lane] = next.sum;
        lost[lane] += lost[lane + half] + next.lost;
      }
    }
    return std::isfinite(lost[0]) ? sums[0] + lost[0] : sums[0];
  }

 private:
  static constexpr int kRegisters = kLanes / kWideLanes;

  NativeDouble sums_[kRegisters], lost_[kRegisters];  // [8] lanes
};

// What sums vectors of T.
template <class T>
using SumOf = std::conditional_t<std::is_same_v<T, double>, CompensatedLaneSum, LaneSum>;

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
