// Numbers of the kernels: bfloat16 and e^x. Plain arithmetic, so that loops over it become vector code.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/cpu.h"

namespace ettin {

ETTIN_INLINE float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

ETTIN_INLINE uint32_t to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// A bfloat16 is the upper 16 bits of a float.
ETTIN_INLINE float from_bfloat16(uint16_t half) { return from_bits(static_cast<uint32_t>(half) << 16); }

// To the nearest bfloat16, ties to even. Values are finite or the step is dropped, so NaN needs no care.
ETTIN_INLINE uint16_t to_bfloat16(float value) {
  const uint32_t bits = to_bits(value);
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

// Numbers of either type.
ETTIN_INLINE float as_float(float x) { return x; }
ETTIN_INLINE float as_float(uint16_t half) { return from_bfloat16(half); }
ETTIN_INLINE void put(float* to, float x) { *to = x; }
ETTIN_INLINE void put(uint16_t* to, float x) { *to = to_bfloat16(x); }

// e^x for x <= 0 within 2e-7 of its value; 0 below -87.
ETTIN_INLINE float exponential(float x) {
  const float bounded = x > -87.0f ? x : -87.0f;
  const float shifted = bounded * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to the nearest integer
  const float power = shifted - 12582912.0f;
  const float rest = (bounded - power * 0.693359375f) + power * 2.12194440e-4f;
  float value = 1.3888889e-3f;
  value = value * rest + 8.3333333e-3f;
  value = value * rest + 4.1666667e-2f;
  value = value * rest + 1.6666667e-1f;
  value = value * rest + 0.5f;
  value = value * rest + 1.0f;
  value = value * rest + 1.0f;
  const float scale = from_bits((to_bits(shifted) - 0x4B400000u + 127u) << 23);
  return x > -87.0f ? value * scale : 0.0f;
}

}  // namespace ettin
