// IEEE half precision in 16 bits, rounded to nearest even as the device does.
#pragma once

#include <cstdint>
#include <cstring>

struct __half {
  uint16_t bits;
};

inline float __half2float(__half h) {
  const uint32_t sign = static_cast<uint32_t>(h.bits & 0x8000u) << 16;
  const uint32_t exponent = h.bits >> 10 & 0x1fu;
  const uint32_t mantissa = h.bits & 0x3ffu;
  float value;
  if (exponent == 0) {
    value = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // 2^-24
    return sign != 0 ? -value : value;
  }
  const uint32_t bits =
      sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline __half __float2half_rn(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (bits >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};
  if (bits < 0x38800000u) {  // subnormal: a multiple of 2^-24, which the addition rounds to
    float shifted;
    std::memcpy(&shifted, &bits, 4);
    shifted += 0.5f;
    std::memcpy(&bits, &shifted, 4);
    return {static_cast<uint16_t>(sign | (bits - 0x3f000000u))};
  }
  const uint32_t odd = bits >> 13 & 1u;
  bits += 0xfffu + odd - (112u << 23);
  return {static_cast<uint16_t>(sign | bits >> 13)};
}
