// Runs of elements between memory of any type and float or double.
#pragma once

#include "cpu/kernels/simd.h"

namespace vae_fused {
namespace VAE_FUSED_ISA {

// IEEE binary16 and bfloat16 by their bits: torch's own types are not known here.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};
template <class Stored>
concept HalfPrecision = __is_same(Stored, Half) || __is_same(Stored, BFloat16);

VAE_FUSED_INLINE float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
VAE_FUSED_INLINE uint32_t bits_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

VAE_FUSED_INLINE float widen(BFloat16 value) { return float_of_bits(static_cast<uint32_t>(value.bits) << 16); }

VAE_FUSED_INLINE BFloat16 narrow_bfloat16(float value) {
  const uint32_t bits = bits_of_float(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
  const uint32_t quiet_nan = (bits >> 16) | 0x40u;
  return {static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded)};
}

VAE_FUSED_INLINE float widen(Half value) {
#if defined(__F16C__)
  return _cvtsh_ss(value.bits);
#else
  const uint32_t sign = (value.bits & 0x8000u) << 16, magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return float_of_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // The exponent is moved by 127 - 15 in a multiplication, which also makes subnormals normal.
  return float_of_bits(sign | bits_of_float(float_of_bits(magnitude << 13) * 0x1p112f));
#endif
}

VAE_FUSED_INLINE Half narrow_half(float value) {
#if defined(__F16C__)
  return {static_cast<uint16_t>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))};
#else
  const uint32_t bits = bits_of_float(value), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // rounds past 65504
  if (magnitude < 0x38800000u) {
    // Subnormal: adding 1/2 leaves the bits of the result, rounded, at the end of the mantissa.
    const uint32_t shifted = bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000u;
    return {static_cast<uint16_t>(sign | shifted)};
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u;
  return {static_cast<uint16_t>(sign | rounded >> 13)};
#endif
}

VAE_FUSED_INLINE float widen(uint8_t value) { return static_cast<float>(value); }
VAE_FUSED_INLINE float widen(float value) { return value; }
VAE_FUSED_INLINE double widen(double value) { return value; }

VAE_FUSED_INLINE void narrow(double value, Half* out) { *out = narrow_half(static_cast<float>(value)); }
VAE_FUSED_INLINE void narrow(double value, BFloat16* out) { *out = narrow_bfloat16(static_cast<float>(value)); }
VAE_FUSED_INLINE void narrow(double value, float* out) { *out = static_cast<float>(value); }
VAE_FUSED_INLINE void narrow(double value, double* out) { *out = value; }
VAE_FUSED_INLINE void narrow(float value, Half* out) { *out = narrow_half(value); }
VAE_FUSED_INLINE void narrow(float value, BFloat16* out) { *out = narrow_bfloat16(value); }
VAE_FUSED_INLINE void narrow(float value, float* out) { *out = value; }
VAE_FUSED_INLINE void narrow(float value, double* out) { *out = value; }

// source [count] at stride -> out [count]
template <class Stored, class T>
VAE_FUSED_INLINE void widen_run(const Stored* source, int64_t stride, int count, T* out) {
  int i = 0;
  if (stride == 1) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4 && sizeof(Stored) == 2) {
      for (; i + kNativeLanes <= count; i += kNativeLanes) {
        const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + i));
        __m512 wide;
        if constexpr (__is_same(Stored, Half)) {
          wide = _mm512_cvtph_ps(bits);
        } else {
          wide = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
        }
        _mm512_storeu_ps(out + i, wide);
      }
    }
#endif
    for (; i < count; ++i) out[i] = widen(source[i]);
  } else {
    for (; i < count; ++i) out[i] = widen(source[i * stride]);
  }
}

// values [count] -> destination [count] at stride
template <class Stored, class T>
VAE_FUSED_INLINE void narrow_run(const T* values, int64_t stride, int count, Stored* destination) {
  int i = 0;
  if (stride == 1) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4 && __is_same(Stored, Half)) {
      for (; i + kNativeLanes <= count; i += kNativeLanes) {
        const __m256i bits =
            _mm512_cvtps_ph(_mm512_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(destination + i), bits);
      }
    }
#endif
    for (; i < count; ++i) narrow(values[i], destination + i);
  } else {
    for (; i < count; ++i) narrow(values[i], destination + i * stride);
  }
}

// Calls body with a pointer of the stored floating type.
template <class Body>
VAE_FUSED_INLINE void with_floating_type(ElementType type, void* data, Body body) {
  switch (type) {
    case ElementType::kFloat: return body(static_cast<float*>(data));
    case ElementType::kHalf: return body(static_cast<Half*>(data));
    case ElementType::kBFloat16: return body(static_cast<BFloat16*>(data));
    default: return body(static_cast<double*>(data));
  }
}

// The same for memory that is only read, which may hold bytes.
template <class Body>
VAE_FUSED_INLINE void with_type(ElementType type, const void* data, Body body) {
  if (type == ElementType::kByte) return body(static_cast<const uint8_t*>(data));
  with_floating_type(type, const_cast<void*>(data), body);
}

}  // namespace VAE_FUSED_ISA
}  // namespace vae_fused
