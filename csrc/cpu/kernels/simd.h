// Vectors of 16 floats on every instruction set: one AVX-512 register, two AVX2 registers, or four of 128 bits.
//
// The width that the kernels see is always 16, so they are written once and add in the same order everywhere. The
// native registers are GCC / Clang vector types: operators come from the compiler, and only what they cannot express is
// intrinsics. Everything lives in a namespace per instruction set: no symbol of one can stand in for another's.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/kernel_params.h"
#include "core/macros.h"

#if defined(__AVX512F__)
#define VAE_FUSED_ISA avx512
#define VAE_FUSED_NATIVE_LANES 16
#elif defined(__AVX2__)
#define VAE_FUSED_ISA avx2
#define VAE_FUSED_NATIVE_LANES 8
#else
#define VAE_FUSED_ISA baseline
#define VAE_FUSED_NATIVE_LANES 4
#endif

#define VAE_FUSED_INLINE static inline __attribute__((always_inline))

namespace vae_fused {
namespace VAE_FUSED_ISA {

constexpr int kLanes = 16;
constexpr int kNativeLanes = VAE_FUSED_NATIVE_LANES;
constexpr int kParts = kLanes / kNativeLanes;

typedef float NativeFloat __attribute__((vector_size(kNativeLanes * 4)));
typedef int32_t NativeInt __attribute__((vector_size(kNativeLanes * 4)));
typedef uint32_t NativeWord __attribute__((vector_size(kNativeLanes * 4)));
typedef double NativeDouble __attribute__((vector_size(kNativeLanes * 4)));

struct Float {
  using Scalar = float;
  NativeFloat part[kParts];
  Float() = default;
  VAE_FUSED_HOST_DEVICE explicit Float(float value) {
    for (int i = 0; i < kParts; ++i) part[i] = value - NativeFloat{};
  }
};

struct Int {
  NativeInt part[kParts];
};

template <class Function>
VAE_FUSED_INLINE Float map(Float a, Function function) {
  Float result;
  for (int i = 0; i < kParts; ++i) result.part[i] = function(a.part[i]);
  return result;
}

template <class Function>
VAE_FUSED_INLINE Float map(Float a, Float b, Function function) {
  Float result;
  for (int i = 0; i < kParts; ++i) result.part[i] = function(a.part[i], b.part[i]);
  return result;
}

VAE_FUSED_INLINE Float operator+(Float a, Float b) {
  return map(a, b, [](NativeFloat x, NativeFloat y) { return x + y; });
}
VAE_FUSED_INLINE Float operator-(Float a, Float b) {
  return map(a, b, [](NativeFloat x, NativeFloat y) { return x - y; });
}
VAE_FUSED_INLINE Float operator*(Float a, Float b) {
  return map(a, b, [](NativeFloat x, NativeFloat y) { return x * y; });
}
VAE_FUSED_INLINE Float operator/(Float a, Float b) {
  return map(a, b, [](NativeFloat x, NativeFloat y) { return x / y; });
}

// a < b ? x : y, lane by lane.
VAE_FUSED_INLINE Float select_less(Float a, Float b, Float x, Float y) {
  for (int i = 0; i < kParts; ++i) y.part[i] = a.part[i] < b.part[i] ? x.part[i] : y.part[i];
  return y;
}

// a * b + c in one rounding where the processor has the instruction, in two on the baseline.
VAE_FUSED_INLINE Float fused_multiply_add(Float a, Float b, Float c) {
  Float result;
  for (int i = 0; i < kParts; ++i) {
#if defined(__AVX512F__)
    result.part[i] = _mm512_fmadd_ps(a.part[i], b.part[i], c.part[i]);
#elif defined(__AVX2__)
    result.part[i] = _mm256_fmadd_ps(a.part[i], b.part[i], c.part[i]);
#else
    result.part[i] = a.part[i] * b.part[i] + c.part[i];
#endif
  }
  return result;
}

VAE_FUSED_INLINE Float square_root(Float a) {
  return map(a, [](NativeFloat x) {
#if defined(__AVX512F__)
    return NativeFloat(_mm512_sqrt_ps(x));
#elif defined(__AVX2__)
    return NativeFloat(_mm256_sqrt_ps(x));
#else
    for (int lane = 0; lane < kNativeLanes; ++lane) x[lane] = __builtin_sqrtf(x[lane]);
    return x;
#endif
  });
}

// Comparisons are false for NaN, so NaN in x passes through both.
VAE_FUSED_INLINE Float minimum(Float x, Float high) {
  return map(x, high, [](NativeFloat a, NativeFloat b) { return a > b ? b : a; });
}
VAE_FUSED_INLINE Float clamp(Float x, Float low, Float high) {
  const Float raised = map(x, low, [](NativeFloat a, NativeFloat b) { return a < b ? b : a; });
  return minimum(raised, high);
}

// Adding 1.5 * 2^23 leaves no bits behind the point: right for |x| < 2^22, in the rounding mode of the processor.
constexpr float kRoundingShift = 12582912.0f;
VAE_FUSED_INLINE Float round_to_nearest(Float x) { return (x + Float(kRoundingShift)) - Float(kRoundingShift); }

// 2^k for an integral k in [-126, 127], by writing the exponent.
VAE_FUSED_INLINE Float power_of_two(Float k) {
  const Float shifted = k + Float(kRoundingShift + 127.0f);
  return map(shifted, [](NativeFloat x) { return (NativeFloat)((NativeInt)x << 23); });
}

VAE_FUSED_INLINE void split_exponent(Float x, Float& mantissa, Float& exponent) {
  for (int i = 0; i < kParts; ++i) {
    const NativeInt bits = (NativeInt)x.part[i];
    const NativeInt power = (bits - 0x3f3504f3) >> 23;
    mantissa.part[i] = (NativeFloat)(bits - (power << 23));
    exponent.part[i] = __builtin_convertvector(power, NativeFloat);
  }
}

// ---- memory --------------------------------------------------------------------------------------------------------

VAE_FUSED_INLINE Float load(const float* source) {
  Float result;
  for (int i = 0; i < kParts; ++i) std::memcpy(&result.part[i], source + i * kNativeLanes, sizeof(NativeFloat));
  return result;
}

VAE_FUSED_INLINE void store(float* destination, Float value) {
  for (int i = 0; i < kParts; ++i) std::memcpy(destination + i * kNativeLanes, &value.part[i], sizeof(NativeFloat));
}

// The first count < 16 lanes; the others read as 0 and are not written.
VAE_FUSED_INLINE Float load_partial(const float* source, int count) {
#if defined(__AVX512F__)
  Float result;
  result.part[0] = _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), source);
  return result;
#else
  float lanes[kLanes] = {};
  for (int lane = 0; lane < count; ++lane) lanes[lane] = source[lane];
  return load(lanes);
#endif
}

VAE_FUSED_INLINE void store_partial(float* destination, Float value, int count) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(destination, static_cast<__mmask16>((1u << count) - 1), value.part[0]);
#else
  float lanes[kLanes];
  store(lanes, value);
  for (int lane = 0; lane < count; ++lane) destination[lane] = lanes[lane];
#endif
}

// Past the caches: worth it for outputs that are larger than they are. destination is 64-byte aligned.
VAE_FUSED_INLINE void stream(float* destination, Float value) {
#if defined(__AVX512F__)
  _mm512_stream_ps(destination, value.part[0]);
#elif defined(__AVX2__)
  for (int i = 0; i < kParts; ++i) _mm256_stream_ps(destination + i * kNativeLanes, value.part[i]);
#else
  store(destination, value);
#endif
}

// ---- sums ----------------------------------------------------------------------------------------------------------

// Sixteen float64 sums, lane by lane, without contraction, then a fixed tree: the same bits on every instruction set.
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

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
