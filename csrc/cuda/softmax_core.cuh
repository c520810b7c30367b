// The arithmetic of a softmax row read once, and the order of rows by entropy.
//
// With m the maximum, s = sum e^(x-m) and t = sum e^(x-m) (x-m), the entropy is H = log s - t/s. When the maximum moves from m to m' and
// delta = m - m' then e^(x-m') = e^delta e^(x-m), so that s' = e^delta s and t' = e^delta (t + delta s).
#pragma once

#include "common.cuh"

namespace gaal {

constexpr float kLog2E = 1.4426950408889634f;
// Stands in for -inf where a weight of 0 meets it, because 0 * -inf is NaN. Times any count of classes it stays finite.
constexpr float kFloor = -1e30f;

struct RowStats {
  float max = -INFINITY;
  float sum = 0.0f;
  float moment = 0.0f;
};

// What the residual p - onehot of a row needs. `inverse_sum` is NaN for a row without a softmax, `target` is -1 and `weight` NaN for
// an illegal label, so that every gradient such a row enters becomes NaN.
struct alignas(16) RowMeta {
  float max;
  float inverse_sum;
  float weight;
  int target;
};

__device__ __forceinline__ void move_max(RowStats& a, float max) {
  const float delta = a.max - max;
  const float factor = exp2f(delta * kLog2E);
  a.moment = factor * fmaf(fmaxf(delta, kFloor), a.sum, a.moment);
  a.sum *= factor;
  a.max = max;
}

// NaN never becomes the maximum (fmaxf drops it) but enters the sum, where it stays. +inf becomes the maximum, and inf - inf is NaN.
template <int count>
__device__ __forceinline__ void accumulate(RowStats& a, const float (&x)[count]) {
  float max = x[0];
#pragma unroll
  for (int i = 1; i < count; ++i) max = fmaxf(max, x[i]);
  if (max > a.max) move_max(a, max);
  // Only -inf and NaN so far: -inf - (-inf) would be NaN where 0 is meant.
  const float base = a.max == -INFINITY ? 0.0f : a.max;
#pragma unroll
  for (int i = 0; i < count; ++i) {
    const float shifted = x[i] - base;
    const float exponential = exp2f(shifted * kLog2E);
    a.sum += exponential;
    a.moment = fmaf(exponential, fmaxf(shifted, kFloor), a.moment);
  }
}

__device__ __forceinline__ RowStats merge(RowStats a, RowStats b) {
  const float max = fmaxf(a.max, b.max);
  if (max == -INFINITY) {
    a.sum += b.sum;
    a.moment += b.moment;
    return a;
  }
  move_max(a, max);
  move_max(b, max);
  a.sum += b.sum;
  a.moment += b.moment;
  return a;
}

// Merges over aligned groups of `lanes` lanes. The first lane of a group holds the result.
__device__ __forceinline__ RowStats merge_lanes(RowStats a, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
    RowStats b;
    b.max = __shfl_xor_sync(kAllLanes, a.max, offset);
    b.sum = __shfl_xor_sync(kAllLanes, a.sum, offset);
    b.moment = __shfl_xor_sync(kAllLanes, a.moment, offset);
    a = merge(a, b);
  }
  return a;
}

// False for a row with NaN or +inf (the sum is NaN) and for a row of -inf only (the sum is 0).
__device__ __forceinline__ bool is_distribution(const RowStats& a) { return a.sum > 0.0f; }

__device__ __forceinline__ float log_sum(const RowStats& a) { return is_distribution(a) ? logf(a.sum) : NAN; }

__device__ __forceinline__ float entropy_of(const RowStats& a) { return log_sum(a) - a.moment / a.sum; }

__device__ __forceinline__ RowMeta meta_of(const RowStats& a, int64_t target, int64_t classes, const float* class_weights) {
  const bool legal = target >= 0 && target < classes;
  RowMeta meta;
  meta.max = a.max;
  meta.inverse_sum = is_distribution(a) ? 1.0f / a.sum : NAN;
  meta.weight = !legal ? NAN : class_weights == nullptr ? 1.0f : class_weights[target];
  meta.target = legal ? static_cast<int>(target) : -1;
  return meta;
}

// weight (p_c - onehot_c): subtracted in float32 before any rounding, because p_y - 1 cancels for a row that is nearly learnt.
__device__ __forceinline__ float residual_of(float logit, const RowMeta& meta, int column) {
  const float p = exp2f((logit - meta.max) * kLog2E) * meta.inverse_sum;
  return (column == meta.target ? p - 1.0f : p) * meta.weight;
}

// A key whose unsigned order is the order of selection: entropy descending, NaN first (entropy_of makes positive ones only), then the
// smaller row. Never 0.
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

// Bitonic sort, descending, of a power of two of keys in shared memory by one block. Ends with a barrier.
__device__ inline void sort_descending(uint64_t* keys, int count) {
  for (int size = 2; size <= count; size *= 2) {
    for (int stride = size / 2; stride > 0; stride /= 2) {
      __syncthreads();
      for (int pair = static_cast<int>(threadIdx.x); pair < count / 2; pair += static_cast<int>(blockDim.x)) {
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

// One block sorts rows by entropy into `keys` (power_of_two_from(rows) of them, the order at the front). Ends with a barrier.
__device__ inline void sort_by_entropy(const float* entropy, int rows, uint64_t* keys) {
  const int count = power_of_two_from(rows);
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
    keys[i] = i < rows ? selection_key(entropy[i], static_cast<uint32_t>(i)) : 0;
  }
  sort_descending(keys, count);
}

}  // namespace gaal
