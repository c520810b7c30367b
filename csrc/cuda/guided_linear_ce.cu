// guided_linear_ce: the whole step of the shared head in one cooperative launch or in three.
//
// Stages, each a set of independent items that blocks take in turn:
//   forward   logits of the stacked rows [features; guide_features], the depth cut into splits
//   rows      sums of the splits, softmax statistics
//   select    one block: order by entropy, loss, totals of the weights
//   features  gradient to the features
//   inner     direct: both head gradients, stored, and the partial inner products of each tile;
//             sample space: split Gram matrices of the stacked residuals and features, and then
//             their products
//   finish    v from the partial sums, and g + v g_p.
//             direct: an update of what is stored;
//             sample space: one product over the stacked rows
// In the cooperative launch the whole grid waits between stages. In three launches the last block
// to finish a row tile goes on with the rows, the last of those with the selection; likewise for
// the Gram matrices and for v. Both orders of work add in the same order.
#include <cooperative_groups.h>

#include <algorithm>

#include "api.h"
#include "head_gradient.cuh"
#include "launch.h"
#include "projection_core.cuh"

namespace gaal {
namespace {

enum class Stage : int { kWhole, kForward, kInner, kFinish };

constexpr int kStrips = 4;  // a tile of the Gram matrices is combined in strips of 16 rows
constexpr int kScalarLoss = 0;
constexpr int kScalarV = 1;

// What a launch leaves for the next in float64.
struct Totals {
  double weights;        // of the batch
  double guide_weights;  // of the selected rows
  double sigma;          // what `scaled` and `chosen` are multiplied by
  double guide_sigma;
  double v;
};

struct GuidedArgs {
  // Inputs, strides in elements.
  const void* features;
  const void* guide_features;
  const void* weight;
  const void* bias;
  int64_t features_stride;
  int64_t guide_stride;
  int64_t weight_stride;
  const int64_t* target;
  const int64_t* guide_target;
  const float* class_weights;
  int rows;
  int guide_rows;
  int classes;
  int width;
  int k;
  bool sample_space;
  bool row_packs;     // rows of both features begin at multiples of 16 bytes
  bool weight_packs;  // likewise for the weight
  ProjectionRule rule;
  // Outputs.
  void* grad_features;
  void* grad_weight;
  void* grad_bias;
  float* scalars;  // [5]
  int64_t* index;
  // Workspace.
  float* logits;  // [logit_splits, rows + guide_rows, logit_stride]
  int64_t logit_stride;
  int64_t logit_plane;
  int logit_splits;
  int logit_depth;  // of a split
  RowMeta* metas;   // [rows + guide_rows]
  RowMeta* scaled;  // [rows], those of the batch times its sigma
  RowMeta* chosen;  // [k], those of the selected rows times theirs
  float* weights;   // [rows + guide_rows]
  float* nll;       // [rows]
  float* entropy;   // [guide_rows]
  Totals* totals;
  double* partial;      // [items, 3]
  float* guide_weight;  // [classes, width], direct only: the products as they come, not yet a mean
  float* guide_bias;    // [classes]
  float* gram;          // [pairs, gram_splits, 64 * 64], sample space only
  int residual_splits;
  int residual_depth;
  int feature_splits;
  int feature_depth;
  unsigned* tickets;  // [ticket_count]
};

__host__ __device__ constexpr int tiles(int n) { return ceil_div(n, kTile); }
__host__ __device__ constexpr int pairs_of(int n) { return tiles(n) * (tiles(n) + 1) / 2; }

// --- forward ---

template <typename T>
__device__ StackedRows<T> stacked_features(const GuidedArgs& a, const int64_t* index,
                                           int second_rows) {
  return {static_cast<const T*>(a.features),
          a.features_stride,
          static_cast<const T*>(a.guide_features),
          a.guide_stride,
          index,
          a.rows,
          a.rows + second_rows,
          a.row_packs};
}

__device__ StackedRows<float> stacked_logits(const GuidedArgs& a, const int64_t* index,
                                             int second_rows) {
  return {a.logits,
          a.logit_stride,
          a.logits + a.rows * a.logit_stride,
          a.logit_stride,
          index,
          a.rows,
          a.rows + second_rows,
          true};
}

__host__ __device__ inline int forward_items(const GuidedArgs& a) {
  return tiles(a.rows + a.guide_rows) * tiles(a.classes) * a.logit_splits;
}

// Items of one row tile are neighbours: item = (tile_m * tiles_n + tile_n) * splits + split.
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
      // What pads the row was never written.
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

__device__ __noinline__ void select_item(const GuidedArgs& a) {
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

// --- features ---

__host__ __device__ inline int feature_items(const GuidedArgs& a) {
  return tiles(a.rows) * tiles(a.width);
}

// Half precision has no room for the residuals of confident rows; here each row can have a factor
// of its own.
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
  // Not the total of the selection, which another block may be making right now. The order of the
  // sum is the same.
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

// --- inner and finish: the head's gradients ---

__host__ __device__ inline int head_items(const GuidedArgs& a) {
  return tiles(a.classes) * (a.width > 0 ? tiles(a.width) : 1);
}

// Leaves the sums of the batch in the first dump and in the first 64 column sums, those of the
// selected rows in the second ones. Ends with a barrier.
template <typename T>
__device__ __noinline__ void head_products(const GuidedArgs& a, int tile_m, int tile_n,
                                           bool with_guide) {
  GAAL_DYNAMIC_SHARED(shared);
  float* const column_sums = reinterpret_cast<float*>(shared + kColumnSums);
  for (int guide = 0; guide < (with_guide ? 2 : 1); ++guide) {
    const StackedRows<float> logits = stacked_logits(a, nullptr, 0);
    const int64_t* const index = guide == 0 ? nullptr : a.index;
    const int count = guide == 0 ? a.rows : a.k;
    const int source_rows = guide == 0 ? a.rows : a.guide_rows;
    ResidualsAcross<T, float> left(guide == 0 ? logits.first : logits.second, a.logit_stride, index,
                                   source_rows, guide == 0 ? a.scaled : a.chosen, count, tile_m,
                                   a.classes, true);
    RowsAcross<T> right(static_cast<const T*>(guide == 0 ? a.features : a.guide_features),
                        guide == 0 ? a.features_stride : a.guide_stride, index, source_rows, count,
                        tile_n, a.width, a.row_packs);
    Product<T> product;
    product.clear();
    multiply<T>(product, left, right, 0, count, shared);
    left.reduce_sums(column_sums + guide * kTile, reinterpret_cast<float*>(shared));
    product.dump(reinterpret_cast<float*>(shared + (guide == 0 ? kFirstDump : kSecondDump)));
    __syncthreads();
  }
}

// What the products are multiplied by to become gradients.
struct HeadScales {
  double grad;
  double guide;
};

__device__ __forceinline__ HeadScales head_scales(const GuidedArgs& a) {
  const Totals& t = *a.totals;
  return {a.rows > 0 ? 1.0 / (t.weights * t.sigma) : 0.0,
          a.k > 0 ? 1.0 / (t.guide_weights * t.guide_sigma) : 0.0};
}

// Sums of products of parts of the gradients, as the partial inner products they are.
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

// True for the thread that holds class `row` of the bias's gradient.
__device__ __forceinline__ bool holds_bias(const GuidedArgs& a, int tile_m, int tile_n, int* row) {
  *row = tile_m * kTile + static_cast<int>(threadIdx.x);
  return a.bias != nullptr && tile_n == 0 && threadIdx.x < kTile && *row < a.classes;
}

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
    // Past the last column both are 0: features there are read as 0.
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

// --- inner: Gram matrices ---

__host__ __device__ inline int gram_splits(const GuidedArgs& a) {
  return a.residual_splits + a.feature_splits;
}

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

// Sums of (residual Gram) * (feature Gram + 1 for a bias) over a strip of a pair's tile. A pair i <
// j of rows stands for (j, i) too.
__device__ __noinline__ void gram_strip(const GuidedArgs& a, int strip_of_pair) {
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

// --- finish ---

// How many partial inner products there are.
__host__ __device__ inline int partial_items(const GuidedArgs& a) {
  return a.sample_space ? pairs_of(a.rows + a.k) * kStrips : head_items(a);
}

// v, for every thread of the block; any block gets the same. Begins and ends with a barrier.
__device__ double correction(const GuidedArgs& a, bool write) {
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
  // No guide at all differs from a guide of zeros: whether g is finite is then not looked at.
  const Projection p =
      a.k == 0 ? Projection{0.0, 0.0, 0.0, sums[2]} : project(sums[0], sums[1], sums[2], a.rule);
  if (write && threadIdx.x == 0) {
    a.totals->v = p.v;
    a.scalars[kScalarV] = static_cast<float>(p.v);
    a.scalars[kScalarV + 1] = static_cast<float>(p.dot);
    a.scalars[kScalarV + 2] = static_cast<float>(p.guide_norm2);
    a.scalars[kScalarV + 3] = static_cast<float>(p.grad_norm2);
  }
  return p.v;
}

constexpr int kUpdate = 4 * kTileThreads;  // elements of an item of the update

__host__ __device__ inline int64_t finish_items(const GuidedArgs& a) {
  if (a.sample_space) return head_items(a);
  return ceil_div<int64_t>(static_cast<int64_t>(a.classes) * a.width, kUpdate) +
         (a.bias != nullptr ? ceil_div(a.classes, kUpdate) : 0);
}

// g += v g_p for up to kUpdate elements from `first`.
template <typename T>
__device__ void update(T* grad, const float* guide, int64_t first, int64_t end, const Factor& v) {
  grad = global(grad);
  guide = global(guide);
  const int64_t begin = first + 4 * static_cast<int64_t>(threadIdx.x);
  const int inside = end - begin < 4 ? static_cast<int>(end - begin)
                                     : 4;  // none or less: nothing is read or stored
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

// --- The kernel ---

// Tickets: one per row tile and one for all of them; one per pair of tiles and one for the partial
// sums.
__host__ __device__ inline int row_tickets(const GuidedArgs& a) {
  return tiles(a.rows + a.guide_rows) + 1;
}
__host__ __device__ inline int ticket_count(const GuidedArgs& a) {
  return row_tickets(a) + (a.sample_space ? pairs_of(a.rows + a.k) : 0) + 1;
}

// First of three launches, a block per item.
template <typename T>
__device__ void forward_stage(const GuidedArgs& a) {
  GAAL_DYNAMIC_SHARED(shared);
  int* const flag = reinterpret_cast<int*>(shared + kFlag);
  const int all_rows = a.rows + a.guide_rows;
  if (all_rows > 0) {
    const int item = static_cast<int>(blockIdx.x);
    forward_item<T>(a, item);
    const int per_tile = tiles(a.classes) * a.logit_splits;
    const int tile_m = item / per_tile;
    if (!is_last_block(a.tickets + tile_m, static_cast<unsigned>(per_tile), flag)) return;
    const int end = (tile_m + 1) * kTile < all_rows ? (tile_m + 1) * kTile : all_rows;
    for (int row = tile_m * kTile + static_cast<int>(threadIdx.x) / kWarp; row < end;
         row += kTileThreads / kWarp)
      row_item<T>(a, row);
    if (!is_last_block(a.tickets + tiles(all_rows), static_cast<unsigned>(tiles(all_rows)), flag))
      return;
  }
  select_item(a);
}

// Second launch: the gradient to the features, and everything that v needs.
template <typename T>
__device__ void inner_stage(const GuidedArgs& a) {
  GAAL_DYNAMIC_SHARED(shared);
  int* const flag = reinterpret_cast<int*>(shared + kFlag);
  unsigned* const tickets = a.tickets + row_tickets(a);
  const int inner = a.sample_space ? pairs_of(a.rows + a.k) * gram_splits(a) : head_items(a);
  const int item = static_cast<int>(blockIdx.x);
  if (item >= inner) {
    if (item - inner < feature_items(a)) feature_item<T>(a, item - inner);
    return;
  }
  if (a.sample_space) {
    gram_item<T>(a, item);
    const int pair = item / gram_splits(a);
    if (!is_last_block(tickets + 1 + pair, static_cast<unsigned>(gram_splits(a)), flag)) return;
    for (int strip = 0; strip < kStrips; ++strip) gram_strip(a, pair * kStrips + strip);
    if (!is_last_block(tickets, static_cast<unsigned>(pairs_of(a.rows + a.k)), flag)) return;
  } else {
    direct_item<T>(a, item);
    if (!is_last_block(tickets, static_cast<unsigned>(inner), flag)) return;
  }
  correction(a, true);
}

template <typename T>
__device__ void whole_step(const GuidedArgs& a) {
  const cooperative_groups::grid_group grid = cooperative_groups::this_grid();
  const int blocks = static_cast<int>(gridDim.x);
  const int block = static_cast<int>(blockIdx.x);
  for (int item = block; item < forward_items(a); item += blocks) forward_item<T>(a, item);
  grid.sync();
  constexpr int warps = kTileThreads / kWarp;
  for (int row = block * warps + static_cast<int>(threadIdx.x) / kWarp; row < a.rows + a.guide_rows;
       row += blocks * warps)
    row_item<T>(a, row);
  grid.sync();
  // One block sorts while the others, which need no selection for it, make the gradient to the
  // features.
  if (block == 0) select_item(a);
  if (blocks == 1 || block > 0) {
    const int workers = blocks == 1 ? 1 : blocks - 1;
    for (int item = blocks == 1 ? 0 : block - 1; item < feature_items(a); item += workers)
      feature_item<T>(a, item);
  }
  grid.sync();
  if (a.sample_space) {
    for (int item = block; item < pairs_of(a.rows + a.k) * gram_splits(a); item += blocks)
      gram_item<T>(a, item);
    grid.sync();
    for (int strip = block; strip < pairs_of(a.rows + a.k) * kStrips; strip += blocks)
      gram_strip(a, strip);
  } else {
    for (int item = block; item < head_items(a); item += blocks) direct_item<T>(a, item);
  }
  grid.sync();
  const double v = correction(a, block == 0);
  for (int64_t item = block; item < finish_items(a); item += blocks) finish_item<T>(a, item, v);
}

// One block fewer for the half types: with room for three, bfloat16 spills eight bytes on sm_100.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, sizeof(T) == 2 ? kTileBlocks - 1 : kTileBlocks)
    guided_step(const __grid_constant__ GuidedArgs a, Stage stage) {
  switch (stage) {
    case Stage::kWhole: return whole_step<T>(a);
    case Stage::kForward: return forward_stage<T>(a);
    case Stage::kInner: return inner_stage<T>(a);
    case Stage::kFinish: {
      const double v = a.totals->v;
      for (int64_t item = blockIdx.x; item < finish_items(a); item += gridDim.x)
        finish_item<T>(a, item, v);
    }
  }
}

// --- Host ---

// Places arrays in the workspace, one after the other, each on its own 256 bytes.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}
  template <typename E>
  E* take(int64_t count) {
    char* const at = base_ + used_;
    used_ += round_up<size_t>(static_cast<size_t>(count) * sizeof(E), 256);
    return reinterpret_cast<E*>(at);
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

// `splits` parts of `depth` each, a multiple of the step, for about `wanted` parts of at least four
// steps.
void split_depth(int64_t depth, int64_t wanted, int step, int* splits, int* split_depth_out) {
  const int64_t steps = std::max<int64_t>(1, ceil_div<int64_t>(depth, step));
  const int64_t parts = std::max<int64_t>(1, std::min(wanted, steps / 4));
  *split_depth_out = static_cast<int>(ceil_div(steps, parts) * step);
  *splits = static_cast<int>(std::max<int64_t>(1, ceil_div<int64_t>(depth, *split_depth_out)));
}

// Fills in sizes, splits and the workspace's pointers; returns the workspace's size.
size_t lay_out(int device, DType dtype, const GuidedShape& shape, void* workspace, GuidedArgs& a) {
  const int64_t all_rows = shape.rows + shape.guide_rows;
  const int64_t stacked = shape.rows + shape.k;
  const int64_t multiprocessors = device_info(device).multiprocessors;
  const int step = dtype == DType::kFloat32 ? TileShape<float>::kStep : TileShape<__half>::kStep;
  if (all_rows > (1 << 20) || shape.classes > INT32_MAX - kTile ||
      shape.width > INT32_MAX - kTile ||
      ceil_div<int64_t>(shape.classes, kTile) *
              (ceil_div<int64_t>(shape.width, kTile) + ceil_div<int64_t>(all_rows, kTile)) >
          INT32_MAX / 32) {
    throw std::runtime_error("guided_linear_ce: too large for one step");
  }
  a.rows = static_cast<int>(shape.rows);
  a.guide_rows = static_cast<int>(shape.guide_rows);
  a.classes = static_cast<int>(shape.classes);
  a.width = static_cast<int>(shape.width);
  a.k = static_cast<int>(shape.k);
  a.sample_space = shape.sample_space;

  // Parts for about two blocks on every multiprocessor, few enough that adding the parts up stays
  // cheap.
  const int64_t logit_tiles =
      std::max<int64_t>(1, static_cast<int64_t>(tiles(a.rows + a.guide_rows)) * tiles(a.classes));
  split_depth(a.width, std::min<int64_t>(8, 2 * multiprocessors / logit_tiles), step,
              &a.logit_splits, &a.logit_depth);
  a.logit_stride = round_up<int64_t>(a.classes, 4);
  a.logit_plane = all_rows * a.logit_stride;

  Arena arena(workspace);
  a.tickets = arena.take<unsigned>(ticket_count(a));
  a.logits = arena.take<float>(a.logit_splits * a.logit_plane);
  a.metas = arena.take<RowMeta>(all_rows);
  a.scaled = arena.take<RowMeta>(a.rows);
  a.chosen = arena.take<RowMeta>(a.k);
  a.weights = arena.take<float>(all_rows);
  a.nll = arena.take<float>(a.rows);
  a.entropy = arena.take<float>(a.guide_rows);
  a.totals = arena.take<Totals>(1);
  a.partial = arena.take<double>(3 * static_cast<int64_t>(partial_items(a)));
  if (a.sample_space) {
    const int64_t pairs = std::max(1, pairs_of(static_cast<int>(stacked)));
    const int64_t wanted = std::min<int64_t>(64, std::max<int64_t>(2, 2 * multiprocessors / pairs));
    const int64_t of_residuals =
        std::max<int64_t>(1, wanted * a.classes / (static_cast<int64_t>(a.classes) + a.width));
    split_depth(a.classes, of_residuals, step, &a.residual_splits, &a.residual_depth);
    split_depth(a.width, std::max<int64_t>(1, wanted - of_residuals), step, &a.feature_splits,
                &a.feature_depth);
    a.gram = arena.take<float>(pairs * gram_splits(a) * kTile * kTile);
  } else {
    a.guide_weight = arena.take<float>(static_cast<int64_t>(a.classes) * a.width);
    a.guide_bias = arena.take<float>(a.classes);
  }
  return arena.used();
}

template <typename T>
bool packs(const Matrix& m) {
  return is_aligned16(m.data) && m.stride % Pack<T>::kSize == 0;
}

// Blocks of the kernel that fit on the device at once; asked once per device and element type.
template <typename T>
unsigned resident_blocks(int device) {
  static std::array<unsigned, kMaxDevices> known{};
  static std::array<std::once_flag, kMaxDevices> asked;
  std::call_once(asked[device], [device] {
    int per_multiprocessor = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, guided_step<T>,
                                                        kTileThreads, kTileSharedBytes),
          "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
    known[device] = static_cast<unsigned>(per_multiprocessor * device_info(device).multiprocessors);
  });
  return known[device];
}

template <typename T>
void enqueue(const Call& call, const GuidedShape& shape, const GuidedTensors& tensors,
             GuidedArgs& a) {
  const cudaStream_t stream = static_cast<cudaStream_t>(call.stream);
  a.row_packs = packs<T>(tensors.features) && packs<T>(tensors.guide_features);
  a.weight_packs = packs<T>(tensors.weight);
  const int inner = a.sample_space ? pairs_of(a.rows + a.k) * gram_splits(a) : head_items(a);
  const int64_t most = std::max<int64_t>(
      {forward_items(a), inner, feature_items(a) + 1, ceil_div<int64_t>(finish_items(a), 4)});
  const auto run = [&](Stage stage, int64_t blocks) {
    const Launch where{static_cast<unsigned>(std::max<int64_t>(1, blocks)), kTileThreads,
                       kTileSharedBytes, stream, stage == Stage::kWhole};
    launch(guided_step<T>, where, a, stage);
  };
  if (shape.cooperative)
    return run(Stage::kWhole, std::min<int64_t>(most, resident_blocks<T>(call.device)));
  check(cudaMemsetAsync(a.tickets, 0, ticket_count(a) * sizeof(unsigned), stream),
        "cudaMemsetAsync");
  run(Stage::kForward, forward_items(a));
  run(Stage::kInner, inner + feature_items(a));
  const int64_t blocks =
      a.sample_space
          ? finish_items(a)
          : std::min<int64_t>(finish_items(a),
                              16 * static_cast<int64_t>(device_info(call.device).multiprocessors));
  run(Stage::kFinish, blocks);
}

}  // namespace

bool cooperative_launch_supported(int device) { return device_info(device).cooperative; }

size_t guided_linear_ce_workspace(int device, DType dtype, const GuidedShape& shape) {
  GuidedArgs a{};
  return lay_out(device, dtype, shape, nullptr, a);
}

void guided_linear_ce(const Call& call, const GuidedShape& shape, const GuidedTensors& tensors,
                      const ProjectionOptions& options, void* workspace) {
  if (shape.guide_rows > kMaxGuideRows)
    throw std::runtime_error("guided_linear_ce: too many guide rows");
  const DeviceGuard guard(call.device);
  GuidedArgs a{};
  lay_out(call.device, call.dtype, shape, workspace, a);
  a.features = tensors.features.data;
  a.features_stride = tensors.features.stride;
  a.guide_features = tensors.guide_features.data;
  a.guide_stride = tensors.guide_features.stride;
  a.weight = tensors.weight.data;
  a.weight_stride = tensors.weight.stride;
  a.bias = tensors.bias;
  a.target = tensors.target;
  a.guide_target = tensors.guide_target;
  a.class_weights = tensors.class_weights;
  a.rule = rule_of(options);
  a.grad_features = tensors.grad_features;
  a.grad_weight = tensors.grad_weight;
  a.grad_bias = tensors.grad_bias;
  a.scalars = tensors.scalars;
  a.index = tensors.index;
  switch (call.dtype) {
    case DType::kFloat32: return enqueue<float>(call, shape, tensors, a);
    case DType::kFloat16: return enqueue<__half>(call, shape, tensors, a);
    case DType::kBFloat16: return enqueue<__nv_bfloat16>(call, shape, tensors, a);
  }
}

}  // namespace gaal
