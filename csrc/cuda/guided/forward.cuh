// Stages forward, rows and select: logits, their statistics, and the rows of the guide.
#pragma once

#include "cuda/guided/args.cuh"

namespace gaal::cuda::guided {

// --- forward ---

// Items of one row tile are neighbors: item = (tile_m * tiles_n + tile_n) * splits + split.
template <typename T>
__device__ __noinline__ void forward_item(const GuidedArgs& a, int item) {
  GAAL_DYNAMIC_SHARED(shared);
  const int split = item % a.logit_splits;
  const int tile_n = item / a.logit_splits % tiles(a.classes);
  const int tile_m = item / a.logit_splits / tiles(a.classes);
  RowsAlongK<T> left(stacked_features<T>(a, nullptr, a.guide_rows), tile_m, a.width);
  const StackedRows<T> weight{static_cast<const T*>(a.weight),
                              a.weight_stride,
                              nullptr,
                              0,
                              nullptr,
                              a.classes,
                              a.classes,
                              a.weight_packs};
  RowsAlongK<T> right(weight, tile_n, a.width);
  Product<T> product;
  product.clear();
  const int begin = split * a.logit_depth;
  multiply<T>(product, left, right, begin,
              begin + a.logit_depth < a.width ? begin + a.logit_depth : a.width, shared);
  float* const dump = reinterpret_cast<float*>(shared + kFirstDump);
  product.dump(dump);
  __syncthreads();
  float* const out = a.logits + split * a.logit_plane;
  for_each_group(tile_m, tile_n, a.rows + a.guide_rows, a.classes,
                 [&](int row, int column, int inside, int at) {
                   const Pack<float> sum = load_pack(dump + at);
                   store_group(out + row * a.logit_stride + column, sum.v, inside, true);
                 });
}

// --- rows ---

// One warp: the logits of a row from their splits and the bias, in place of the first split, and
// its statistics.
template <typename T>
__device__ __noinline__ void row_item(const GuidedArgs& a, int row) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const bool guide = row >= a.rows;
  const int64_t target = guide ? global(a.guide_target)[row - a.rows] : global(a.target)[row];
  float* const logits = global(a.logits + row * a.logit_stride);
  const T* const bias = static_cast<const T*>(a.bias);
  const bool changed = a.logit_splits > 1 || bias != nullptr;
  RowStats stats;
  float at_target = 0.0f;
  for (int begin = lane * 4; begin < a.classes; begin += kWarp * 4) {
    Pack<float> sum = load_pack(logits + begin);
    for (int split = 1; split < a.logit_splits; ++split) {
      const Pack<float> part = load_pack(global(logits + split * a.logit_plane + begin));
#pragma unroll
      for (int i = 0; i < 4; ++i) sum.v[i] += part.v[i];
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = begin + i;
      // The padding of the row was never written.
      if (column >= a.classes) {
        sum.v[i] = -INFINITY;
        continue;
      }
      if (bias != nullptr) sum.v[i] += to_float(global(bias)[column]);
      if (column == target) at_target = sum.v[i];
    }
    if (changed) store_pack(logits + begin, sum);
    accumulate(stats, sum.v);
  }
  stats = merge_lanes(stats, kWarp);
  const bool legal = target >= 0 && target < a.classes;
  at_target = __shfl_sync(kAllLanes, at_target, legal ? static_cast<int>(target / 4 % kWarp) : 0);
  if (lane != 0) return;
  const float weight = weight_of(target, a.classes, a.class_weights);
  a.weights[row] = weight;
  a.metas[row] = meta_of(stats, target, a.classes, at_target, weight);
  if (guide) {
    a.entropy[row - a.rows] = entropy_of(stats);
  } else {
    a.nll[row] = legal ? log_sum(stats) - (at_target - stats.max) : NAN;
  }
}

// --- select ---

__device__ __noinline__ inline void select_item(const GuidedArgs& a) {
  GAAL_DYNAMIC_SHARED(shared);
  uint64_t* const keys = reinterpret_cast<uint64_t*>(shared);
  double* const scratch = reinterpret_cast<double*>(shared + kScratch);
  __syncthreads();
  if (a.k > 0) sort_by_entropy(a.entropy, a.guide_rows, keys);
  double sums[3] = {0.0, 0.0, 0.0};
  float largest = 0.0f;
  float largest_guide = 0.0f;
  for (int i = static_cast<int>(threadIdx.x); i < a.k; i += kTileThreads) {
    const int row = a.rows + static_cast<int>(row_of_key(keys[i]));
    a.index[i] = row - a.rows;
    sums[0] += a.weights[row];
    largest_guide = fmaxf(largest_guide, fabsf(a.metas[row].at_target));
  }
  for (int i = static_cast<int>(threadIdx.x); i < a.rows; i += kTileThreads) {
    const float weight = a.weights[i];
    sums[1] += weight;
    sums[2] += static_cast<double>(weight) * a.nll[i];
    largest = fmaxf(largest, fabsf(a.metas[i].at_target));
  }
  block_sum(sums, scratch);
  const float sigma = sigma_of(block_max(largest, reinterpret_cast<float*>(scratch)));
  const float guide_sigma = sigma_of(block_max(largest_guide, reinterpret_cast<float*>(scratch)));
  for (int i = static_cast<int>(threadIdx.x); i < a.k; i += kTileThreads) {
    a.chosen[i] = scaled(a.metas[a.rows + row_of_key(keys[i])], guide_sigma);
  }
  for (int i = static_cast<int>(threadIdx.x); i < a.rows; i += kTileThreads)
    a.scaled[i] = scaled(a.metas[i], sigma);
  if (threadIdx.x == 0) {
    *a.totals = {sums[1], sums[0], sigma, guide_sigma, 0.0};
    a.scalars[kScalarLoss] = static_cast<float>(sums[2] / sums[1]);
  }
}

}  // namespace gaal::cuda::guided
