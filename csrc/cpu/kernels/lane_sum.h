// Sums of the lanes of vectors in float64, in an order that no instruction set changes.
#pragma once

#include <cmath>
#include <type_traits>

#include "core/compensated_sum.h"
#include "cpu/kernels/simd.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

// Sixteen float64 sums of floats, lane by lane, without contraction, then a fixed tree: the same bits on every
// instruction set.
class LaneSum {
 public:
  VAE_FUSED_HOST_DEVICE LaneSum() {
    for (int i = 0; i < 2 * kParts; ++i) sums_[i] = NativeDouble{};
  }

  VAE_FUSED_HOST_DEVICE void add(Float value) {
    NativeDouble wide[2 * kParts];
    widen(value, wide);
    for (int i = 0; i < 2 * kParts; ++i) sums_[i] += wide[i];
  }

  VAE_FUSED_HOST_DEVICE void add_square(Float value) {
    NativeDouble wide[2 * kParts];
    widen(value, wide);
    for (int i = 0; i < 2 * kParts; ++i) sums_[i] += wide[i] * wide[i];
  }

  VAE_FUSED_HOST_DEVICE double total() const {
    double lanes[kLanes];
    std::memcpy(lanes, sums_, sizeof(lanes));
    for (int half = kLanes / 2; half > 0; half /= 2) {
      for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
    }
    return lanes[0];
  }

 private:
  VAE_FUSED_HOST_DEVICE static void widen(Float value, NativeDouble* wide) {
    for (int i = 0; i < kParts; ++i) {
#if defined(__AVX512F__)
      wide[0] = _mm512_cvtps_pd(_mm512_castps512_ps256(value.part[i]));
      wide[1] = _mm512_cvtps_pd(_mm512_extractf32x8_ps(value.part[i], 1));
#elif defined(__AVX2__)
      wide[2 * i] = _mm256_cvtps_pd(_mm256_castps256_ps128(value.part[i]));
      wide[2 * i + 1] = _mm256_cvtps_pd(_mm256_extractf128_ps(value.part[i], 1));
#else
      for (int lane = 0; lane < kNativeLanes; ++lane) wide[2 * i + lane / 2][lane % 2] = value.part[i][lane];
#endif
    }
  }

  NativeDouble sums_[2 * kParts];  // [16] lanes
};

// Eight sums of doubles with what their additions lost, so that the error does not grow with the number of terms, then
// a fixed tree of the same: as exact as the data, and the same bits on every instruction set.
class CompensatedLaneSum {
 public:
  VAE_FUSED_HOST_DEVICE CompensatedLaneSum() : sums_(0.0), lost_(0.0) {}

  VAE_FUSED_HOST_DEVICE void add(Double value) {
    const TwoSum<Double> next(sums_, value);
    sums_ = next.sum;
    lost_ = lost_ + next.lost;
  }

  VAE_FUSED_HOST_DEVICE void add_square(Double value) { add(value * value); }

  // Of an infinite sum nothing finite was lost, and inf - inf must not make it NaN.
  VAE_FUSED_HOST_DEVICE double total() const {
    double sums[Double::kCount], lost[Double::kCount];
    store(sums, sums_);
    store(lost, lost_);
    for (int half = Double::kCount / 2; half > 0; half /= 2) {
      for (int lane = 0; lane < half; ++lane) {
        const TwoSum<double> next(sums[lane], sums[lane + half]);
        sums[lane] = next.sum;
        lost[lane] += lost[lane + half] + next.lost;
      }
    }
    return std::isfinite(lost[0]) ? sums[0] + lost[0] : sums[0];
  }

 private:
  Double sums_, lost_;
};

// What sums vectors of T.
template <class T>
using SumOf = std::conditional_t<std::is_same_v<T, double>, CompensatedLaneSum, LaneSum>;

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
