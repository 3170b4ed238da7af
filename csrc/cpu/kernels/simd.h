// Vectors of 64 bytes on every instruction set, 16 floats or 8 doubles: one AVX-512 register, two AVX2 registers, or
// four of 128 bits.
//
// The width that the kernels see is always the same, so they are written once and add in the same order everywhere.
#pragma once

#include <cstring>

#include "core/kernel_params.h"
#include "core/macros.h"
#include "cpu/kernels/native.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

constexpr int kLanes = 16;  // of float
constexpr int kParts = kLanes / kNativeLanes;

// Registers of a scalar type, with those of the integers of its size, and its format.
template <class Scalar>
struct NativeOf;
template <>
struct NativeOf<float> {
  using Register = NativeFloat;
  using Bits = NativeInt;
  static constexpr int kMantissaBits = 23;
  static constexpr int kExponentBias = 127;
  static constexpr int32_t kMagnitudeBits = 0x7fffffff;
  static constexpr float kRoundingShift = 12582912.0f;  // 1.5 * 2^23
};
template <>
struct NativeOf<double> {
  using Register = NativeDouble;
  using Bits = NativeWide;
  static constexpr int kMantissaBits = 52;
  static constexpr int kExponentBias = 1023;
  static constexpr uint64_t kMagnitudeBits = 0x7fffffffffffffff;
  static constexpr double kRoundingShift = 6755399441055744.0;  // 1.5 * 2^52
};

template <class S>
struct VectorOf {
  using Scalar = S;
  using Register = typename NativeOf<S>::Register;
  using Bits = typename NativeOf<S>::Bits;
  static constexpr int kCount = 64 / sizeof(S);  // lanes
  static constexpr int kPartCount = sizeof(Register) / sizeof(S);

  Register part[kParts];
  VectorOf() = default;
  VAE_FUSED_HOST_DEVICE explicit VectorOf(S value) {
    for (int i = 0; i < kParts; ++i) part[i] = value - Register{};
  }
};

using Float = VectorOf<float>;
using Double = VectorOf<double>;

template <class S, class Function>
VAE_FUSED_INLINE VectorOf<S> map(VectorOf<S> a, Function function) {
  VectorOf<S> result;
  for (int i = 0; i < kParts; ++i) result.part[i] = function(a.part[i]);
  return result;
}

template <class S, class Function>
VAE_FUSED_INLINE VectorOf<S> map(VectorOf<S> a, VectorOf<S> b, Function function) {
  VectorOf<S> result;
  for (int i = 0; i < kParts; ++i) result.part[i] = function(a.part[i], b.part[i]);
  return result;
}

template <class S>
VAE_FUSED_INLINE VectorOf<S> operator+(VectorOf<S> a, VectorOf<S> b) {
  return map(a, b, [](auto x, auto y) { return x + y; });
}
template <class S>
VAE_FUSED_INLINE VectorOf<S> operator-(VectorOf<S> a, VectorOf<S> b) {
  return map(a, b, [](auto x, auto y) { return x - y; });
}
template <class S>
VAE_FUSED_INLINE VectorOf<S> operator*(VectorOf<S> a, VectorOf<S> b) {
  return map(a, b, [](auto x, auto y) { return x * y; });
}
template <class S>
VAE_FUSED_INLINE VectorOf<S> operator/(VectorOf<S> a, VectorOf<S> b) {
  return map(a, b, [](auto x, auto y) { return x / y; });
}

template <class S>
VAE_FUSED_INLINE VectorOf<S> absolute(VectorOf<S> a) {
  return map(a, [](auto x) { return (decltype(x))((typename VectorOf<S>::Bits)x & NativeOf<S>::kMagnitudeBits); });
}

// a < b ? x : y, lane by lane.
template <class S>
VAE_FUSED_INLINE VectorOf<S> select_less(VectorOf<S> a, VectorOf<S> b, VectorOf<S> x, VectorOf<S> y) {
  for (int i = 0; i < kParts; ++i) y.part[i] = a.part[i] < b.part[i] ? x.part[i] : y.part[i];
  return y;
}

// a * b + c in one rounding where the processor has the instruction, in two on the baseline.
template <class S>
VAE_FUSED_INLINE VectorOf<S> fused_multiply_add(VectorOf<S> a, VectorOf<S> b, VectorOf<S> c) {
  VectorOf<S> result;
  for (int i = 0; i < kParts; ++i) result.part[i] = fused_multiply_add(a.part[i], b.part[i], c.part[i]);
  return result;
}

template <class S>
VAE_FUSED_INLINE VectorOf<S> square_root(VectorOf<S> a) {
  return map(a, [](auto x) { return square_root(x); });
}

// Comparisons are false for NaN, so NaN in x passes through both.
template <class S>
VAE_FUSED_INLINE VectorOf<S> minimum(VectorOf<S> x, VectorOf<S> high) {
  return map(x, high, [](auto a, auto b) { return minimum(a, b); });
}
template <class S>
VAE_FUSED_INLINE VectorOf<S> maximum(VectorOf<S> x, VectorOf<S> low) {
  return map(x, low, [](auto a, auto b) { return maximum(a, b); });
}
template <class S>
VAE_FUSED_INLINE VectorOf<S> clamp(VectorOf<S> x, VectorOf<S> low, VectorOf<S> high) {
  return minimum(maximum(x, low), high);
}

// Adding 1.5 * 2^23, or 2^52, leaves no bits behind the point: right for |x| < 2^22, or 2^51, in the rounding mode of
// the processor.
constexpr float kRoundingShift = NativeOf<float>::kRoundingShift;
template <class S>
VAE_FUSED_INLINE VectorOf<S> round_to_nearest(VectorOf<S> x) {
  const VectorOf<S> shift(NativeOf<S>::kRoundingShift);
  return (x + shift) - shift;
}

// 2^k for an integral k of a normal result, by writing the exponent.
template <class S>
VAE_FUSED_INLINE VectorOf<S> power_of_two(VectorOf<S> k) {
  const VectorOf<S> shifted = k + VectorOf<S>(NativeOf<S>::kRoundingShift + NativeOf<S>::kExponentBias);
  return map(shifted,
             [](auto x) { return (decltype(x))((typename VectorOf<S>::Bits)x << NativeOf<S>::kMantissaBits); });
}

// x = 2^exponent mantissa with the mantissa in [sqrt(1/2), sqrt(2)), for a positive normal x.
VAE_FUSED_INLINE void split_exponent(Float x, Float& mantissa, Float& exponent) {
  for (int i = 0; i < kParts; ++i) {
    const NativeInt bits = (NativeInt)x.part[i];
    const NativeInt power = (bits - 0x3f3504f3) >> 23;
    mantissa.part[i] = (NativeFloat)(bits - (power << 23));
    exponent.part[i] = __builtin_convertvector(power, NativeFloat);
  }
}
// Only AVX-512 has arithmetic shifts and conversions of 64-bit integers: the exponent stays biased, and becomes a
// number as the last bits of one that is 2^52 larger.
VAE_FUSED_INLINE void split_exponent(Double x, Double& mantissa, Double& exponent) {
  constexpr uint64_t kOne = 0x3ff0000000000000, kSqrtHalf = 0x3fe6a09e667f3bcd, kShift = 0x4330000000000000;
  for (int i = 0; i < kParts; ++i) {
    const NativeWide bits = (NativeWide)x.part[i] + (kOne - kSqrtHalf);
    mantissa.part[i] = (NativeDouble)((bits & 0x000fffffffffffff) + kSqrtHalf);
    exponent.part[i] = (NativeDouble)((bits >> 52) | kShift) - (0x1p52 + 1023.0);
  }
}

// ---- memory --------------------------------------------------------------------------------------------------------

template <class S>
VAE_FUSED_INLINE VectorOf<S> load(const S* source) {
  VectorOf<S> result;
  constexpr int step = VectorOf<S>::kPartCount;
  for (int i = 0; i < kParts; ++i) std::memcpy(&result.part[i], source + i * step, sizeof(result.part[i]));
  return result;
}

template <class S>
VAE_FUSED_INLINE void store(S* destination, VectorOf<S> value) {
  constexpr int step = VectorOf<S>::kPartCount;
  for (int i = 0; i < kParts; ++i) std::memcpy(destination + i * step, &value.part[i], sizeof(value.part[i]));
}

// The first count lanes, of which there are more; the others read as 0 and are not written.
template <class S>
VAE_FUSED_INLINE VectorOf<S> load_partial(const S* source, int count) {
#if defined(__AVX512F__)
  VectorOf<S> result;
  result.part[0] = load_masked(source, count);
  return result;
#else
  S lanes[VectorOf<S>::kCount] = {};
  for (int lane = 0; lane < count; ++lane) lanes[lane] = source[lane];
  return load(lanes);
#endif
}

template <class S>
VAE_FUSED_INLINE void store_partial(S* destination, VectorOf<S> value, int count) {
#if defined(__AVX512F__)
  store_masked(destination, value.part[0], count);
#else
  S lanes[VectorOf<S>::kCount];
  store(lanes, value);
  for (int lane = 0; lane < count; ++lane) destination[lane] = lanes[lane];
#endif
}

// Past the caches: worth it for outputs that are larger than they are. destination is 64-byte aligned.
template <class S>
VAE_FUSED_INLINE void stream(S* destination, VectorOf<S> value) {
  for (int i = 0; i < kParts; ++i) stream(destination + i * VectorOf<S>::kPartCount, value.part[i]);
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
