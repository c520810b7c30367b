// The arithmetic of a softmax row read once, and the order of rows by entropy.
//
// The largest logit m is kept apart from the rest, because in the sum of a confident row the rest
// would be lost: with r = sum e^(x-m) over all classes but one copy of the largest, and t = sum
// e^(x-m) (x-m) <= 0, the entropy is H = log1p(r) - t/(1+r), both terms >= 0. When the maximum
// moves from m to m' and delta = m - m', the old maximum joins the rest: r' = e^delta (1+r), t' =
// e^delta (t + delta (1+r)).
#pragma once

#include "cuda/device.cuh"

namespace gaal::cuda {

constexpr float kLog2E = 1.4426950408889634f;
// Stands in for -inf where a weight of 0 meets it, because 0 * -inf is NaN. Times any count of
// classes it stays finite.
constexpr float kFloor = -1e30f;

// A maximum of -inf means that there are no terms yet. `rest` is then ignored, or NaN after a NaN.
struct RowStats {
  float max = -INFINITY;
  float rest = 0.0f;
  float moment = 0.0f;
};

// What the residual p - onehot of a row needs, each times the row's weight. `inverse_sum` and
// `at_target`, the residual of the target, are NaN for a row without a softmax and for an illegal
// label (whose `target` is -1), so that every gradient such a row enters becomes NaN.
struct alignas(16) RowMeta {
  float max;
  float inverse_sum;
  float at_target;
  int target;
};

__device__ __forceinline__ float exponential_of(float shifted) { return exp2f(shifted * kLog2E); }

// The sums of `a` relative to a larger maximum. Without terms the factor is 0.
__device__ __forceinline__ RowStats seen_from(const RowStats& a, float max) {
  const float delta = a.max - max;
  const float factor = exponential_of(delta);
  const float sum = 1.0f + a.rest;
  return {max, factor * sum, factor * fmaf(fmaxf(delta, kFloor), sum, a.moment)};
}

// NaN never becomes the maximum (fmaxf drops it) but enters the rest, where it stays. A maximum of
// +inf stays too.
template <int count>
__device__ __forceinline__ void accumulate(RowStats& a, const float (&x)[count]) {
  float max = x[0];
#pragma unroll
  for (int i = 1; i < count; ++i) max = fmaxf(max, x[i]);
  int ties = 0;
  if (max > a.max) {
    a = seen_from(a, max);
    ties = -1;  // one copy of the largest is not of the rest
  }
  float rest = 0.0f;
#pragma unroll
  for (int i = 0; i < count; ++i) {
    const float shifted = x[i] - a.max;
    const float exponential = exponential_of(shifted);
    if (x[i] == a.max) {
      ++ties;
    } else {
      rest += exponential;
      a.moment = fmaf(exponential, fmaxf(shifted, kFloor), a.moment);
    }
  }
  a.rest += rest + static_cast<float>(ties);
}

__device__ __forceinline__ RowStats merge(const RowStats& a, const RowStats& b) {
  const bool first = a.max >= b.max;
  RowStats high = first ? a : b;
  RowStats low = first ? b : a;
  // The maxima of two empty parts have no difference.
  if (high.max > -INFINITY) low = seen_from(low, high.max);
  high.rest += low.rest;
  high.moment += low.moment;
  return high;
}

// Merges over aligned groups of `lanes` lanes. The first lane of a group holds the result.
__device__ __forceinline__ RowStats merge_lanes(RowStats a, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
    RowStats b;
    b.max = __shfl_xor_sync(kAllLanes, a.max, offset);
    b.rest = __shfl_xor_sync(kAllLanes, a.rest, offset);
    b.moment = __shfl_xor_sync(kAllLanes, a.moment, offset);
    a = merge(a, b);
  }
  return a;
}

// False for a row with NaN (so is its rest), with +inf, and of -inf only.
__device__ __forceinline__ bool is_distribution(const RowStats& a) {
  return a.rest >= 0.0f && fabsf(a.max) < INFINITY;
}

__device__ __forceinline__ float log_sum(const RowStats& a) {
  return is_distribution(a) ? log1pf(a.rest) : NAN;
}

// Always the same NaN: the selection must not tell one from another.
__device__ __forceinline__ float entropy_of(const RowStats& a) {
  return is_distribution(a) ? log1pf(a.rest) - a.moment / (1.0f + a.rest) : NAN;
}

// NaN for an illegal label.
__device__ __forceinline__ float weight_of(int64_t target, int64_t classes,
                                           const float* class_weights) {
  const bool legal = target >= 0 && target < classes;
  return !legal ? NAN : class_weights == nullptr ? 1.0f : class_weights[target];
}

// `logit` is the target's.
__device__ __forceinline__ RowMeta meta_of(const RowStats& a, int64_t target, int64_t classes,
                                           float logit, float weight) {
  const float inverse = is_distribution(a) ? 1.0f / (1.0f + a.rest) : NAN;
  // p_y - 1 would cancel where the target is the largest: it is minus the sum of the others.
  const float at_target =
      logit == a.max ? -a.rest * inverse : exponential_of(logit - a.max) * inverse - 1.0f;
  RowMeta meta;
  meta.max = a.max;
  meta.inverse_sum = inverse * weight;
  meta.at_target = at_target * weight;
  meta.target = target >= 0 && target < classes ? static_cast<int>(target) : -1;
  return meta;
}

// weight (p_c - onehot_c), in float32 before any rounding.
__device__ __forceinline__ float residual_of(float logit, const RowMeta& meta, int column) {
  return column == meta.target ? meta.at_target
                               : exponential_of(logit - meta.max) * meta.inverse_sum;
}

// --- Small residuals ---
//
// Residuals of confident rows are as small as e^-gap, which is beyond the range of float16; their
// products are beyond that of float32. So they are multiplied by a power of two, the same one for
// all rows of a sum, and the result is divided by it. The target's residual is the largest of a
// row.

// 1 for ordinary sizes, so that ordinary gradients keep their bits.
__device__ __forceinline__ float sigma_of(float largest) {
  const int exponent = static_cast<int>(__float_as_uint(largest) >> 23 & 255u) - 127;
  if (largest == 0.0f || (exponent >= -8 && exponent <= 8)) return 1.0f;
  const int power = exponent < -120 ? 120 : exponent > 120 ? -120 : -exponent;
  return __uint_as_float(static_cast<unsigned>(127 + power) << 23);
}

// The factor fits the largest residual of a sum. A row whose residuals are all 0 may have an
// inverse sum too large for it, times its weight.
__device__ __forceinline__ RowMeta scaled(RowMeta meta, float factor) {
  meta.inverse_sum *= factor;
  if (meta.inverse_sum > FLT_MAX) meta.inverse_sum = FLT_MAX;
  meta.at_target *= factor;
  return meta;
}

// A key whose unsigned order is the order of selection: entropy descending, NaN first (entropy_of
// makes positive ones only), then the smaller row. Never 0.
__device__ __forceinline__ uint64_t selection_key(float entropy, uint32_t row) {
  uint32_t bits = __float_as_uint(entropy);
  bits = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(bits) << 32 | static_cast<uint32_t>(~row);
}

__device__ __forceinline__ uint32_t row_of_key(uint64_t key) { return ~static_cast<uint32_t>(key); }

__host__ __device__ constexpr int power_of_two_from(int n) {
  int power = 1;
  while (power < n) power *= 2;
  return power;
}

// Bitonic sort, descending, of a power of two of keys in shared memory by one block. Ends with a
// barrier.
__device__ inline void sort_descending(uint64_t* keys, int count) {
  for (int size = 2; size <= count; size *= 2) {
    for (int stride = size / 2; stride > 0; stride /= 2) {
      __syncthreads();
      for (int pair = static_cast<int>(threadIdx.x); pair < count / 2;
           pair += static_cast<int>(blockDim.x)) {
        const int low = 2 * pair - (pair & (stride - 1));
        const int high = low + stride;
        const bool descending = (low & size) == 0;
        const uint64_t a = keys[low];
        const uint64_t b = keys[high];
        if ((a < b) == descending) {
          keys[low] = b;
          keys[high] = a;
        }
      }
    }
  }
  __syncthreads();
}

// One block sorts rows by entropy into `keys` (power_of_two_from(rows) of them, the order at the
// front). Ends with a barrier.
__device__ inline void sort_by_entropy(const float* entropy, int rows, uint64_t* keys) {
  const int count = power_of_two_from(rows);
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
    keys[i] = i < rows ? selection_key(entropy[i], static_cast<uint32_t>(i)) : 0;
  }
  sort_descending(keys, count);
}

}  // namespace gaal::cuda
