// Arguments of the stages of guided_linear_ce, and the number of items of work of each.
#pragma once

#include "cuda/api.h"
#include "cuda/tile.cuh"

namespace gaal::cuda::guided {

constexpr int kStrips = 4;  // a tile of the Gram matrices is combined in strips of 16 rows
constexpr int kScalarLoss = 0;
constexpr int kScalarV = 1;

// What a launch passes to the next, in float64.
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
  DeviceRule rule;
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
  float* guide_weight;  // [classes, width], direct only: sums, not yet a mean
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

// --- Items of the stages ---

__host__ __device__ inline int forward_items(const GuidedArgs& a) {
  return tiles(a.rows + a.guide_rows) * tiles(a.classes) * a.logit_splits;
}

__host__ __device__ inline int feature_items(const GuidedArgs& a) {
  return tiles(a.rows) * tiles(a.width);
}

__host__ __device__ inline int head_items(const GuidedArgs& a) {
  return tiles(a.classes) * (a.width > 0 ? tiles(a.width) : 1);
}

__host__ __device__ inline int gram_splits(const GuidedArgs& a) {
  return a.residual_splits + a.feature_splits;
}

// The number of partial inner products.
__host__ __device__ inline int partial_items(const GuidedArgs& a) {
  return a.sample_space ? pairs_of(a.rows + a.k) * kStrips : head_items(a);
}

constexpr int kUpdate = 4 * kTileThreads;  // elements of an item of the update

__host__ __device__ inline int64_t finish_items(const GuidedArgs& a) {
  if (a.sample_space) return head_items(a);
  return ceil_div<int64_t>(static_cast<int64_t>(a.classes) * a.width, kUpdate) +
         (a.bias != nullptr ? ceil_div(a.classes, kUpdate) : 0);
}

// Tickets: one per row tile and one for all of them; one per pair of tiles and one for the partial
// sums.
__host__ __device__ inline int row_tickets(const GuidedArgs& a) {
  return tiles(a.rows + a.guide_rows) + 1;
}
__host__ __device__ inline int ticket_count(const GuidedArgs& a) {
  return row_tickets(a) + (a.sample_space ? pairs_of(a.rows + a.k) : 0) + 1;
}

// --- Operands ---

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

__device__ inline StackedRows<float> stacked_logits(const GuidedArgs& a, const int64_t* index,
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

}  // namespace gaal::cuda::guided
