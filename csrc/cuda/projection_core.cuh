// v of equation 5 and of the released code, from <g, g_p>, |g_p|^2 and |g|^2.
#pragma once

#include "common.cuh"

namespace gaal {

struct ProjectionRule {
  int official;           // 0: the paper's rule, 1: the released code's
  int relative;           // epsilon is a cosine
  double epsilon;
  double margin;
  double ridge;
  double max_correction;  // negative: none
};

struct Projection {
  double v;
  double dot;
  double guide_norm2;
  double grad_norm2;
};

__host__ __device__ inline bool is_finite(double x) { return x - x == 0.0; }

// Comparisons are written so that NaN stays NaN: fmax would drop it.
__host__ __device__ inline Projection project(double dot, double guide_norm2, double grad_norm2, const ProjectionRule& rule) {
  double v = 0.0;
  if (rule.official != 0) {
    if (dot < 0.0) {
      v = -dot / (guide_norm2 + rule.ridge);
      if (v < rule.margin) v = rule.margin;
    }
  } else {
    const double bound = rule.relative != 0 ? rule.epsilon * sqrt(grad_norm2) * sqrt(guide_norm2) : rule.epsilon;
    v = (bound - dot) / guide_norm2;
    if (v < 0.0) v = 0.0;
  }
  if (rule.max_correction >= 0.0) {
    const double most = rule.max_correction * sqrt(grad_norm2 / guide_norm2);
    if (!(v <= most)) v = v == v ? most : v;
  }
  if (guide_norm2 == 0.0) v = 0.0;
  if (!is_finite(dot) || !is_finite(guide_norm2)) v = NAN;
  return {v, dot, guide_norm2, grad_norm2};
}

}  // namespace gaal
