// Before and after v (common/projection.h) on the device: how <g, g_p>, |g_p|^2 and |g|^2 are
// summed, and how v is applied.
//
// All of it is in float64, or in float32 after exact scaling: the square of a small gradient, and
// the v that belongs to it, are beyond the range of float32 although the step v g_p is not.
#pragma once

#include "cuda/api.h"
#include "cuda/device.cuh"

namespace gaal::cuda {

// The rule with its numbers from the device's memory.
__device__ inline Rule read_rule(const DeviceRule& given) {
  Rule rule = given.rule;
  if (given.epsilon_at != nullptr) rule.epsilon = *given.epsilon_at;
  if (given.margin_at != nullptr) rule.margin = *given.margin_at;
  return rule;
}

// scalars[4] = v, <g, g_p>, |g_p|^2, |g|^2
__device__ inline void store_scalars(float* scalars, double v, const InnerProducts& products) {
  scalars[0] = static_cast<float>(v);
  scalars[1] = static_cast<float>(products.dot);
  scalars[2] = static_cast<float>(products.guide_norm2);
  scalars[3] = static_cast<float>(products.grad_norm2);
}

// --- Sums of products ---

// A power of two that brings a number near 1, and its inverse. 0 counts as the smallest number, inf
// and NaN as the largest.
struct NearOne {
  float factor;
  float inverse;

  __device__ __forceinline__ explicit NearOne(float largest) {
    unsigned exponent = __float_as_uint(largest) >> 23 & 255u;
    if (exponent > 253u) exponent = 253u;
    factor = __uint_as_float((254u - exponent) << 23);
    inverse = __uint_as_float(exponent == 0u ? 0x00400000u : exponent << 23);
  }
};

// Products of a few elements are summed in float32, these sums in float64.
struct ProductSums {
  double dot = 0.0;
  double guide_norm2 = 0.0;
  double grad_norm2 = 0.0;

  template <int count>
  __device__ __forceinline__ void add(const float (&g)[count], const float (&p)[count]) {
    float largest_g = 0.0f;
    float largest_p = 0.0f;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      largest_g = fmaxf(largest_g, fabsf(g[i]));
      largest_p = fmaxf(largest_p, fabsf(p[i]));
    }
    const NearOne of_g(largest_g);
    const NearOne of_p(largest_p);
    float gp = 0.0f;
    float pp = 0.0f;
    float gg = 0.0f;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const float grad = g[i] * of_g.factor;
      const float guide = p[i] * of_p.factor;
      gp = fmaf(grad, guide, gp);
      pp = fmaf(guide, guide, pp);
      gg = fmaf(grad, grad, gg);
    }
    const double back_g = of_g.inverse;
    const double back_p = of_p.inverse;
    dot += gp * (back_g * back_p);
    guide_norm2 += pp * (back_p * back_p);
    grad_norm2 += gg * (back_g * back_g);
  }
};

// --- The step ---

// A float64 number as a product of float32 numbers. The first two are powers of two, and 1 for v in
// the usual range. p a b c overflows or vanishes on the way only where the result does. Beyond
// 2^379 it is infinite for every p but 0, which stays 0.
struct Factor {
  float a;
  float b;
  float c;

  __device__ __forceinline__ explicit Factor(double v) {
    if (v > 0x1p379) v = 0x1p379;
    a = power_out_of(v);
    b = power_out_of(v);
    c = static_cast<float>(v);
  }
  static __device__ __forceinline__ float power_out_of(double& v) {
    if (v > 0x1p126) {
      v *= 0x1p-126;
      return 0x1p126f;
    }
    if (v < 0x1p-126) {
      v *= 0x1p126;
      return 0x1p-126f;
    }
    return 1.0f;
  }
  __device__ __forceinline__ float times(float p) const { return p * a * b * c; }
  __device__ __forceinline__ float times_plus(float p, float g) const {
    return fmaf(p * a * b, c, g);
  }
};

}  // namespace gaal::cuda
