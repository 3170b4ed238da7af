#pragma once

#include <c10/util/Half.h>

using __half = c10::Half;
inline float __half2float(__half value) { return static_cast<float>(value); }
inline __half __float2half_rn(float value) { return __half(value); }

struct __half2 {
  __half x, y;
};
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline unsigned short __half_as_ushort(__half value) { return value.x; }
inline __half __ushort_as_half(unsigned short bits) { return __half(bits, __half::from_bits()); }
