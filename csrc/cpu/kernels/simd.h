// Vectors of several registers: two of AVX-512, which hold 32 floats, two of AVX2 or four of 128 bits, which hold 16.
//
// A kernel is written once over them. Every operation is done on all registers before the next one, so that the chains
// of operations of several registers run side by side: one alone would wait for its own results.
#pragma once

#include <cstring>
#include <utility>

#include "core/kernel_params.h"
#include "core/macros.h"
#include "cpu/kernels/native.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

// The registers of a vector. Four of AVX-512 would be a tenth faster in the caches, but up to twice as slow beyond
// them, where two cache lines of every stream at a time are enough.
constexpr int kParts = kNativeLanes == 4 ? 4 : 2;

// Whether vectors of T can have their elements in another order than memory: of every pair of registers the even ones
// in the first and the odd ones in the second, as AVX-512 has those of bfloat16.
template <class T>
constexpr bool kHasEvenOdd = sizeof(T) == sizeof(float) && kNativeLanes == 16;

#define VAE_FUSED_LAMBDA __attribute__((always_inline))

// body(0) ... body(kCount - 1). Not a loop: the compiler unrolls those after it has decided what to keep in registers.
template <class Body, int... kIndex>
VAE_FUSED_INLINE void for_each_index(Body body, std::integer_sequence<int, kIndex...>) {
  (body(kIndex), ...);
}
template <int kCount, class Body>
VAE_FUSED_INLINE void repeat(Body body) {
  for_each_index(body, std::make_integer_sequence<int, kCount>());
}

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

// kRegisters registers of S.
template <class S, int kRegisters = kParts>
struct VectorOf {
  using Scalar = S;
  using Register = typename NativeOf<S>::Register;
  using Bits = typename NativeOf<S>::Bits;
  static constexpr int kPartCount = sizeof(Register) / sizeof(S);
  static constexpr int kCount = kRegisters * kPartCount;  // lanes

  Register part[kRegisters];
  VectorOf() = default;
  // Register by register: the compiler copies a structure of 64 bytes and more through memory, 16 bytes at a time.
  VAE_FUSED_HOST_DEVICE VectorOf(const VectorOf& other) { *this = other; }
  VAE_FUSED_HOST_DEVICE VectorOf& operator=(const VectorOf& other) {
    repeat<kRegisters>([&](int i) VAE_FUSED_LAMBDA { part[i] = other.part[i]; });
    return *this;
  }
  VAE_FUSED_HOST_DEVICE explicit VectorOf(S value) {
    repeat<kRegisters>([&](int i) VAE_FUSED_LAMBDA { part[i] = value - Register{}; });
  }
};

using Float = VectorOf<float>;
using Double = VectorOf<double>;

template <class S, int P, class Function>
VAE_FUSED_INLINE VectorOf<S, P> map(VectorOf<S, P> a, Function function) {
  repeat<P>([&](int i) VAE_FUSED_LAMBDA { a.part[i] = function(a.part[i]); });
  return a;
}

template <class S, int P, class Function>
VAE_FUSED_INLINE VectorOf<S, P> map(VectorOf<S, P> a, VectorOf<S, P> b, Function function) {
  repeat<P>([&](int i) VAE_FUSED_LAMBDA { a.part[i] = function(a.part[i], b.part[i]); });
  return a;
}

template <class S, int P>
VAE_FUSED_INLINE VectorOf<S, P> operator+(VectorOf<S, P> a, VectorOf<S, P> b) {
  return map(a, b, [](auto x, auto y) { return x + y; });
}
template <class S, int P>
VAE_FUSED_INLINE VectorOf<S, P> operator-(VectorOf<S, P> a, VectorOf<S, P> b) {
  return map(a, b, [](auto x, auto y) { return x - y; });
}
template <class S, int P>
VAE_FUSED_INLINE VectorOf<S, P> operator*(VectorOf<S, P> a, VectorOf<S, P> b) {
  return map(a, b, [](auto x, auto y) { return x * y; });
}
template <class S, int P>
VAE_FUSED_INLINE VectorOf<S, P> operator/(VectorOf<S, P> a, VectorOf<S, P> b) {
  return map(a, b, [](auto x, auto y) { return x / y; });
}

template <class S, int P>
VAE_FUSED_INLINE VectorOf<S, P> absolute(VectorOf<S, P> a) {
  return map(a, [](auto x) { return (decltype(x))((typename VectorOf<S, P>::Bits)x & NativeOf<S>::kMagnitudeBits); });
}

// 1 with the sign of a; 0 where a is 0 or NaN.
template <class S, int P>
VAE_FUSED_INLINE VectorOf<S, P> sign_of(VectorOf<S, P> a) {
  return map(a, [](auto x) {
    using Bits = typename VectorOf<S, P>::Bits;
    using Register = decltype(x);
    const Register one = S(1) - Register{};
    const auto magnitude = (Bits)x & NativeOf<S>::kMagnitudeBits;
    const Register signed_one = (Register)(((Bits)x ^ magnitude) | (Bits)one);
    return (Register)magnitude > Register{} ? signed_one : Register{};
  });
}

// a < b ? x : y, lane by lane.
template <class S, int P>
VAE_FUSED_INLINE VectorOf<S, P> select_less(VectorOf<S, P> a, VectorOf<S, P> b, VectorOf<S, P> x, VectorOf<S, P> y) {
  repeat<P>([&](int i) VAE_FUSED_LAMBDA { y.part[i] = a.part[i] < b.part[i] ? x.part[i] : y.part[i]; });
  return y;
}

// a * b + c in one rounding where the processor has the instruction, in two on the baseline.
template <class S, int P>
VAE_FUSED_INLINE VectorOf<S, P> fused_multiply_add(VectorOf<S, P> a, VectorOf<S, P> b, VectorOf<S, P> c) {
  repeat<P>([&](int i) VAE_FUSED_LAMBDA { a.part[i] = fused_multiply_add(a.part[i], b.part[i], c.part[i]); });
  return a;
}

// The same under the name that the formulas have for it where one rounding or two make no difference.
template <class S, int P>
VAE_FUSED_INLINE VectorOf<S, P> product_and_sum(VectorOf<S, P> a, VectorOf<S, P> b, VectorOf<S, P> c) {
  return fused_multiply_add(a, b, c);
}

template <class S, int P>
VAE_FUSED_INLINE VectorOf<S, P> square_root(VectorOf<S, P> a) {
  return map(a, [](auto x) { return square_root(x); });
}

// Comparisons are false for NaN, so NaN in x passes through both.
template <class S, int P>
VAE_FUSED_INLINE VectorOf<S, P> minimum(VectorOf<S, P> x, VectorOf<S, P> high) {
  return map(x, high, [](auto a, auto b) { return minimum(a, b); });
}
template <class S, int P>
VAE_FUSED_INLINE VectorOf<S, P> maximum(VectorOf<S, P> x, VectorOf<S, P> low) {
  return map(x, low, [](auto a, auto b) { return maximum(a, b); });
}
template <class S, int P>
VAE_FUSED_INLINE VectorOf<S, P> clamp(VectorOf<S, P> x, VectorOf<S, P> low, VectorOf<S, P> high) {
  return minimum(maximum(x, low), high);
}

// Adding 1.5 * 2^23, or 2^52, leaves no bits behind the point: right for |x| < 2^22, or 2^51, in the rounding mode of
// the processor.
constexpr float kRoundingShift = NativeOf<float>::kRoundingShift;
template <class S, int P>
VAE_FUSED_INLINE VectorOf<S, P> round_to_nearest(VectorOf<S, P> x) {
  const VectorOf<S, P> shift(NativeOf<S>::kRoundingShift);
  return (x + shift) - shift;
}

// 2^k for an integral k of a normal result, by writing the exponent.
template <class S, int P>
VAE_FUSED_INLINE VectorOf<S, P> power_of_two(VectorOf<S, P> k) {
  const VectorOf<S, P> shifted = k + VectorOf<S, P>(NativeOf<S>::kRoundingShift + NativeOf<S>::kExponentBias);
  return map(shifted,
             [](auto x) { return (decltype(x))((typename VectorOf<S, P>::Bits)x << NativeOf<S>::kMantissaBits); });
}

// x = 2^exponent mantissa with the mantissa in [sqrt(1/2), sqrt(2)), for a positive normal x.
template <int P>
VAE_FUSED_INLINE void split_exponent(VectorOf<float, P> x, VectorOf<float, P>& mantissa, VectorOf<float, P>& exponent) {
  repeat<P>([&](int i) VAE_FUSED_LAMBDA {
    const NativeInt bits = (NativeInt)x.part[i];
    const NativeInt power = (bits - 0x3f3504f3) >> 23;
    mantissa.part[i] = (NativeFloat)(bits - (power << 23));
    exponent.part[i] = __builtin_convertvector(power, NativeFloat);
  });
}
// Only AVX-512 has arithmetic shifts and conversions of 64-bit integers: the exponent stays biased, and becomes a
// number as the last bits of one that is 2^52 larger.
template <int P>
VAE_FUSED_INLINE void split_exponent(VectorOf<double, P> x, VectorOf<double, P>& mantissa,
                                     VectorOf<double, P>& exponent) {
  constexpr uint64_t kOne = 0x3ff0000000000000, kSqrtHalf = 0x3fe6a09e667f3bcd, kShift = 0x4330000000000000;
  repeat<P>([&](int i) VAE_FUSED_LAMBDA {
    const NativeWide bits = (NativeWide)x.part[i] + (kOne - kSqrtHalf);
    mantissa.part[i] = (NativeDouble)((bits & 0x000fffffffffffff) + kSqrtHalf);
    exponent.part[i] = (NativeDouble)((bits >> 52) | kShift) - (0x1p52 + 1023.0);
  });
}

// ---- memory --------------------------------------------------------------------------------------------------------

template <class S, int P = kParts>
VAE_FUSED_INLINE VectorOf<S, P> load(const S* source) {
  VectorOf<S, P> result;
  repeat<P>([&](int i) VAE_FUSED_LAMBDA {
    std::memcpy(&result.part[i], source + i * VectorOf<S>::kPartCount, sizeof(result.part[i]));
  });
  return result;
}

template <class S, int P>
VAE_FUSED_INLINE void store(S* destination, VectorOf<S, P> value) {
  repeat<P>([&](int i) VAE_FUSED_LAMBDA {
    std::memcpy(destination + i * VectorOf<S>::kPartCount, &value.part[i], sizeof(value.part[i]));
  });
}

// How many of the first count lanes of a vector are in its register i.
template <class S>
VAE_FUSED_INLINE int lanes_of_part(int count, int i) {
  const int left = count - i * VectorOf<S>::kPartCount;
  return left < 0 ? 0 : left < VectorOf<S>::kPartCount ? left : VectorOf<S>::kPartCount;
}

// The first count lanes, of which there are more; the others read as 0 and are not written.
template <class S, int P = kParts>
VAE_FUSED_INLINE VectorOf<S, P> load_partial(const S* source, int count) {
#if defined(__AVX512F__)
  VectorOf<S, P> result;
  repeat<P>([&](int i) VAE_FUSED_LAMBDA {
    result.part[i] = load_masked(source + i * VectorOf<S>::kPartCount, lanes_of_part<S>(count, i));
  });
  return result;
#else
  S lanes[VectorOf<S, P>::kCount] = {};
  for (int lane = 0; lane < count; ++lane) lanes[lane] = source[lane];
  return load<S, P>(lanes);
#endif
}

template <class S, int P>
VAE_FUSED_INLINE void store_partial(S* destination, VectorOf<S, P> value, int count) {
#if defined(__AVX512F__)
  repeat<P>([&](int i) VAE_FUSED_LAMBDA {
    store_masked(destination + i * VectorOf<S>::kPartCount, value.part[i], lanes_of_part<S>(count, i));
  });
#else
  S lanes[VectorOf<S, P>::kCount];
  store(lanes, value);
  for (int lane = 0; lane < count; ++lane) destination[lane] = lanes[lane];
#endif
}

// Past the caches: worth it for outputs that are larger than they are. destination is aligned to a register.
template <class S, int P>
VAE_FUSED_INLINE void stream(S* destination, VectorOf<S, P> value) {
  repeat<P>([&](int i) VAE_FUSED_LAMBDA { stream(destination + i * VectorOf<S>::kPartCount, value.part[i]); });
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
