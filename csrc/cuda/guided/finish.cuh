// Stage finish: v from the partial inner products, and g + v g_p.
#pragma once

#include "common/projection.h"
#include "cuda/guided/head.cuh"
#include "cuda/projection.cuh"

namespace gaal::cuda::guided {

// v, for every thread of the block, equal in all blocks. Begins and ends with a barrier.
__device__ inline double coefficient(const GuidedArgs& a, bool write) {
  GAAL_DYNAMIC_SHARED(shared);
  double sums[3] = {0.0, 0.0, 0.0};
  for (int i = static_cast<int>(threadIdx.x); i < partial_items(a); i += kTileThreads) {
    sums[0] += a.partial[i * 3];
    sums[1] += a.partial[i * 3 + 1];
    sums[2] += a.partial[i * 3 + 2];
  }
  block_sum(sums, reinterpret_cast<double*>(shared + kScratch));
  // Rounding may leave the norm of a gradient of 0 slightly below it in sample space. NaN stays.
  if (sums[1] < 0.0) sums[1] = 0.0;
  if (sums[2] < 0.0) sums[2] = 0.0;
  // Without a guide (as opposed to a guide of zeros), v = 0 even where g is not finite.
  const InnerProducts products =
      a.k == 0 ? InnerProducts{0.0, 0.0, sums[2]} : InnerProducts{sums[0], sums[1], sums[2]};
  const double v = a.k == 0 ? 0.0 : correction(products, read_rule(a.rule));
  if (write && threadIdx.x == 0) {
    a.totals->v = v;
    store_scalars(a.scalars + kScalarV, v, products);
  }
  return v;
}

// g += v g_p for up to kUpdate elements from `first`.
template <typename T>
__device__ void update(T* grad, const float* guide, int64_t first, int64_t end, const Factor& v) {
  grad = global(grad);
  guide = global(guide);
  const int64_t begin = first + 4 * static_cast<int64_t>(threadIdx.x);
  // 0 or less: nothing is read or stored.
  const int inside = end - begin < 4 ? static_cast<int>(end - begin) : 4;
  float value[4];
#pragma unroll
  for (int i = 0; i < 4; ++i)
    value[i] = i < inside ? v.times_plus(guide[begin + i], to_float(grad[begin + i])) : 0.0f;
  store_group(grad + begin, value, inside, true);
}

template <typename T>
__device__ void finish_item(const GuidedArgs& a, int64_t item, double v) {
  GAAL_DYNAMIC_SHARED(shared);
  const HeadScales scales = head_scales(a);
  const Factor of_guide(v * scales.guide);
  T* const grad_weight = static_cast<T*>(a.grad_weight);
  T* const grad_bias = static_cast<T*>(a.grad_bias);
  if (!a.sample_space) {
    if (v == 0.0) return;  // adding 0 would turn -0 into 0
    const int64_t elements = static_cast<int64_t>(a.classes) * a.width;
    const int64_t of_weight = ceil_div<int64_t>(elements, kUpdate);
    if (item < of_weight) {
      update(grad_weight, a.guide_weight, item * kUpdate, elements, of_guide);
    } else {
      update(grad_bias, a.guide_bias, (item - of_weight) * kUpdate, a.classes, of_guide);
    }
    return;
  }
  const int tiles_n = head_items(a) / tiles(a.classes);
  const int tile_m = static_cast<int>(item) / tiles_n;
  const int tile_n = static_cast<int>(item) % tiles_n;
  const bool with_guide = v != 0.0;  // true for NaN
  head_products<T>(a, tile_m, tile_n, with_guide);
  const float* const grad_dump = reinterpret_cast<const float*>(shared + kFirstDump);
  const float* const guide_dump = reinterpret_cast<const float*>(shared + kSecondDump);
  const float* const column_sums = reinterpret_cast<const float*>(shared + kColumnSums);
  const float scale = static_cast<float>(scales.grad);
  const bool whole = a.width % 4 == 0;
  for_each_group(tile_m, tile_n, a.classes, a.width, [&](int row, int column, int inside, int at) {
    const Pack<float> grad = load_pack(grad_dump + at);
    float value[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) value[i] = grad.v[i] * scale;
    if (with_guide) {
      const Pack<float> guide = load_pack(guide_dump + at);
#pragma unroll
      for (int i = 0; i < 4; ++i) value[i] = of_guide.times_plus(guide.v[i], value[i]);
    }
    store_group(grad_weight + static_cast<int64_t>(row) * a.width + column, value, inside, whole);
  });
  int row;
  if (holds_bias(a, tile_m, tile_n, &row)) {
    float value = column_sums[threadIdx.x] * scale;
    if (with_guide) value = of_guide.times_plus(column_sums[kTile + threadIdx.x], value);
    grad_bias[row] = from_float<T>(value);
  }
}

}  // namespace gaal::cuda::guided
