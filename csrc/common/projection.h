// The coefficient v of g + v g_p, for the host and for the device.
#pragma once

#include <cmath>

#include "common/types.h"

#if defined(__CUDACC__)
#define GAAL_HOST_DEVICE __host__ __device__
#else
#define GAAL_HOST_DEVICE
#endif

namespace gaal {

GAAL_HOST_DEVICE inline bool is_finite(double x) { return x - x == 0.0; }

// v of equation (5), or of the released code:
//   paper     v = max(0, (epsilon - <g, g_p>) / |g_p|^2)
//             with epsilon |g| |g_p| in place of epsilon if `relative`
//   official  v = max(margin, -<g, g_p> / (|g_p|^2 + ridge)) if <g, g_p> < 0, else 0
//   then      v = min(v, max_correction |g| / |g_p|) if there is a bound
// 0 where g_p is 0, NaN where <g, g_p> or |g_p|^2 is not finite: a broken gradient stays visible.
//
// All of it is in float64: the square of a small gradient, and the v that belongs to it, are beyond
// the range of float32. Comparisons are written so that NaN stays NaN: fmin and fmax would drop it.
GAAL_HOST_DEVICE inline double correction(const InnerProducts& products, const Rule& rule) {
  const double dot = products.dot;
  const double guide_norm2 = products.guide_norm2;
  const double grad_norm2 = products.grad_norm2;
  if (!is_finite(dot) || !is_finite(guide_norm2)) return NAN;
  if (guide_norm2 == 0.0) return 0.0;
  double v = 0.0;
  if (rule.official) {
    if (dot < 0.0) {
      v = -dot / (guide_norm2 + rule.ridge);
      if (!(v >= rule.margin)) v = v == v ? rule.margin : v;
    }
  } else {
    const double bound = rule.relative
                             ? rule.epsilon * std::sqrt(grad_norm2) * std::sqrt(guide_norm2)
                             : rule.epsilon;
    v = (bound - dot) / guide_norm2;
    if (v < 0.0) v = 0.0;
  }
  if (rule.max_correction >= 0.0) {
    const double most = rule.max_correction * std::sqrt(grad_norm2) / std::sqrt(guide_norm2);
    if (!(v <= most)) v = v == v ? most : v;
  }
  return v;
}

}  // namespace gaal
