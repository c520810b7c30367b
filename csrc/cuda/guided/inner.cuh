// Stages features and inner: the gradient to the features, and the partial inner products.
#pragma once

#include "cuda/guided/head.cuh"
#include "cuda/head_gradient.cuh"
#include "cuda/projection.cuh"

namespace gaal::cuda::guided {

// --- features ---

// The residuals of confident rows are beyond the range of half precision. Here each row can have
// its own factor.
template <typename T>
__device__ __forceinline__ float row_sigma(const RowMeta& meta) {
  return sizeof(T) == 2 ? sigma_of(fabsf(meta.at_target)) : 1.0f;
}

template <typename T>
__device__ __noinline__ void feature_item(const GuidedArgs& a, int item) {
  GAAL_DYNAMIC_SHARED(shared);
  const int tile_m = item / tiles(a.width);
  const int tile_n = item % tiles(a.width);
  ResidualsAlongK<T> left(stacked_logits(a, nullptr, 0), a.metas, nullptr, tile_m, a.classes);
#pragma unroll
  for (int j = 0; j < kPacksPerThread; ++j)
    left.meta[j] = scaled(left.meta[j], row_sigma<T>(left.meta[j]));
  RowsAcross<T> right(static_cast<const T*>(a.weight), a.weight_stride, nullptr, a.classes,
                      a.classes, tile_n, a.width, a.weight_packs);
  Product<T> product;
  product.clear();
  multiply<T>(product, left, right, 0, a.classes, shared);
  float* const dump = reinterpret_cast<float*>(shared + kFirstDump);
  product.dump(dump);
  // Another block may still be computing the total of the selection. This one has the same order of
  // summation.
  double total = a.rows;
  if (a.class_weights != nullptr)
    total = sum_weights(a.weights, a.rows, reinterpret_cast<double*>(shared + kScratch));
  __syncthreads();
  const float inverse = inverse_total(total, a.rows);
  T* const out = static_cast<T*>(a.grad_features);
  const bool whole = a.width % 4 == 0;
  for_each_group(tile_m, tile_n, a.rows, a.width, [&](int row, int column, int inside, int at) {
    const Pack<float> sum = load_pack(dump + at);
    const float scale = sizeof(T) == 2 ? inverse / row_sigma<T>(a.metas[row]) : inverse;
    const float value[4] = {sum.v[0] * scale, sum.v[1] * scale, sum.v[2] * scale, sum.v[3] * scale};
    store_group(out + static_cast<int64_t>(row) * a.width + column, value, inside, whole);
  });
}

// --- inner ---

// Stores sums of products of parts of the gradients as partial inner products.
__device__ __forceinline__ void store_partial(const GuidedArgs& a, int item, double (&sums)[3]) {
  GAAL_DYNAMIC_SHARED(shared);
  const HeadScales scale = head_scales(a);
  sums[0] *= scale.grad * scale.guide;
  sums[1] *= scale.guide * scale.guide;
  sums[2] *= scale.grad * scale.grad;
  block_sum(sums, reinterpret_cast<double*>(shared + kScratch));
  if (threadIdx.x == 0) {
    for (int i = 0; i < 3; ++i) a.partial[item * 3 + i] = sums[i];
  }
}

// --- inner, direct ---

template <typename T>
__device__ void direct_item(const GuidedArgs& a, int item) {
  GAAL_DYNAMIC_SHARED(shared);
  const int tiles_n = head_items(a) / tiles(a.classes);
  const int tile_m = item / tiles_n;
  const int tile_n = item % tiles_n;
  head_products<T>(a, tile_m, tile_n, true);
  const float* const grad_dump = reinterpret_cast<const float*>(shared + kFirstDump);
  const float* const guide_dump = reinterpret_cast<const float*>(shared + kSecondDump);
  const float* const column_sums = reinterpret_cast<const float*>(shared + kColumnSums);
  const float scale = static_cast<float>(head_scales(a).grad);
  ProductSums products;
  T* const out = static_cast<T*>(a.grad_weight);
  const bool whole = a.width % 4 == 0;
  for_each_group(tile_m, tile_n, a.classes, a.width, [&](int row, int column, int inside, int at) {
    const Pack<float> grad = load_pack(grad_dump + at);
    const Pack<float> guide = load_pack(guide_dump + at);
    // Both are 0 past the last column: features there are read as 0.
    products.add(grad.v, guide.v);
    const float value[4] = {grad.v[0] * scale, grad.v[1] * scale, grad.v[2] * scale,
                            grad.v[3] * scale};
    const int64_t to = static_cast<int64_t>(row) * a.width + column;
    store_group(out + to, value, inside, whole);
    store_group(a.guide_weight + to, guide.v, inside, whole);
  });
  int row;
  if (holds_bias(a, tile_m, tile_n, &row)) {
    const float grad[1] = {column_sums[threadIdx.x]};
    const float guide[1] = {column_sums[kTile + threadIdx.x]};
    products.add(grad, guide);
    static_cast<T*>(a.grad_bias)[row] = from_float<T>(grad[0] * scale);
    a.guide_bias[row] = guide[0];
  }
  double sums[3] = {products.dot, products.guide_norm2, products.grad_norm2};
  store_partial(a, item, sums);
}

// --- inner, sample space: Gram matrices ---

// Pairs (i, j) of tiles with i <= j, row by row.
__device__ __forceinline__ void tiles_of_pair(int pair, int count, int* tile_i, int* tile_j) {
  int i = 0;
  while (pair >= count - i) {
    pair -= count - i;
    ++i;
  }
  *tile_i = i;
  *tile_j = i + pair;
}

// A part of a tile of one Gram matrix: item = pair * splits + split; the first splits are of the
// residuals, the others of the features.
template <typename T>
__device__ __noinline__ void gram_item(const GuidedArgs& a, int item) {
  GAAL_DYNAMIC_SHARED(shared);
  const int pair = item / gram_splits(a);
  const int split = item % gram_splits(a);
  int tile_i;
  int tile_j;
  tiles_of_pair(pair, tiles(a.rows + a.k), &tile_i, &tile_j);
  Product<T> product;
  product.clear();
  if (split < a.residual_splits) {
    const StackedRows<float> logits = stacked_logits(a, a.index, a.k);
    ResidualsAlongK<T> left(logits, a.scaled, a.chosen, tile_i, a.classes);
    ResidualsAlongK<T> right(logits, a.scaled, a.chosen, tile_j, a.classes);
    const int begin = split * a.residual_depth;
    multiply<T>(product, left, right, begin,
                begin + a.residual_depth < a.classes ? begin + a.residual_depth : a.classes,
                shared);
  } else {
    const StackedRows<T> features = stacked_features<T>(a, a.index, a.k);
    RowsAlongK<T> left(features, tile_i, a.width);
    RowsAlongK<T> right(features, tile_j, a.width);
    const int begin = (split - a.residual_splits) * a.feature_depth;
    multiply<T>(product, left, right, begin,
                begin + a.feature_depth < a.width ? begin + a.feature_depth : a.width, shared);
  }
  float* const dump = reinterpret_cast<float*>(shared + kFirstDump);
  product.dump(dump);
  __syncthreads();
  float* const out = global(a.gram + static_cast<int64_t>(item) * kTile * kTile);
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kTile; i += kTileThreads)
    out[i] = dump[i / kTile * kDumpStride + i % kTile];
}

// Sums of (residual Gram) * (feature Gram + 1 for a bias) over a strip of a pair's tile. A pair of
// rows i < j stands for (j, i) too.
__device__ __noinline__ inline void gram_strip(const GuidedArgs& a, int strip_of_pair) {
  GAAL_DYNAMIC_SHARED(shared);
  const int pair = strip_of_pair / kStrips;
  const int strip = strip_of_pair % kStrips;
  const int stacked = a.rows + a.k;
  int tile_i;
  int tile_j;
  tiles_of_pair(pair, tiles(stacked), &tile_i, &tile_j);
  const float* const parts =
      global(a.gram + static_cast<int64_t>(pair) * gram_splits(a) * kTile * kTile);
  const float bias_feature = a.bias != nullptr ? 1.0f : 0.0f;
  double dot = 0.0;
  double guide_norm2 = 0.0;
  double grad_norm2 = 0.0;
  constexpr int elements = kTile * kTile / kStrips;
  for (int e = static_cast<int>(threadIdx.x); e < elements; e += kTileThreads) {
    const int at = strip * elements + e;
    const int i = tile_i * kTile + at / kTile;
    const int j = tile_j * kTile + at % kTile;
    if (i > j) continue;  // each pair once; past the last row there are zeros
    float residuals = 0.0f;
    for (int s = 0; s < a.residual_splits; ++s) residuals += parts[s * kTile * kTile + at];
    float features = bias_feature;
    for (int s = a.residual_splits; s < gram_splits(a); ++s)
      features += parts[s * kTile * kTile + at];
    const double term = static_cast<double>(residuals) * features;
    const double twice = i == j ? term : 2.0 * term;
    if (j < a.rows) {
      grad_norm2 += twice;
    } else if (i >= a.rows) {
      guide_norm2 += twice;
    } else {
      dot += term;
    }
  }
  double sums[3] = {dot, guide_norm2, grad_norm2};
  store_partial(a, strip_of_pair, sums);
}

}  // namespace gaal::cuda::guided
