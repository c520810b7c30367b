// Single elements of an array whose element type is known at run time only.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/types.h"

namespace gaal::cpu {

inline int64_t element_size(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }
inline const void* at(const void* base, DType dtype, int64_t i) {
  return static_cast<const char*>(base) + i * element_size(dtype);
}
inline void* at(void* base, DType dtype, int64_t i) {
  return static_cast<char*>(base) + i * element_size(dtype);
}

inline float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline float element(DType dtype, const void* base, int64_t i) {
  if (dtype == DType::kFloat32) return static_cast<const float*>(base)[i];
  const uint32_t bits = static_cast<const uint16_t*>(base)[i];
  if (dtype == DType::kBFloat16) return from_bits(bits << 16);
  const uint32_t exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  const float magnitude = exponent == 31  ? from_bits(0x7f800000u | mantissa << 13)
                          : exponent == 0 ? static_cast<float>(mantissa) * 0x1p-24f
                                          : from_bits((exponent + 112) << 23 | mantissa << 13);
  return bits & 0x8000u ? -magnitude : magnitude;
}

// Nearest, ties to even.
inline uint16_t round_to_half(double x, DType dtype) {
  const float f = static_cast<float>(x);
  uint32_t u;
  std::memcpy(&u, &f, 4);
  if (dtype == DType::kBFloat16) return static_cast<uint16_t>((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
  const uint32_t sign = u >> 16 & 0x8000u, magnitude = u & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x47800000u) {
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {
    half = static_cast<uint32_t>(std::nearbyint(from_bits(magnitude) * 0x1p24f));
  } else {
    half = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
  return static_cast<uint16_t>(sign | half);
}

inline void set_element(DType dtype, void* base, int64_t i, double x) {
  if (dtype == DType::kFloat32)
    static_cast<float*>(base)[i] = static_cast<float>(x);
  else
    static_cast<uint16_t*>(base)[i] = round_to_half(x, dtype);
}

}  // namespace gaal::cpu
