// Softmax statistics of rows in global memory, for any kernel that starts from logits.
#pragma once

#include "cuda/api.h"
#include "cuda/launch.h"
#include "cuda/softmax_core.cuh"

namespace gaal::cuda {

struct RowsArgs {
  const void* logits;  // [source_rows, columns]
  int64_t stride;
  int64_t source_rows;
  int64_t columns;
  const int64_t* index;        // position -> source row, or null
  int64_t rows;                // positions
  const int64_t* target;       // [source_rows] or null
  const float* class_weights;  // [columns] or null
  // Outputs by position, each may be null.
  float* entropy;
  float* lse;
  float* nll;
  RowMeta* meta;
  float* weights;
  // A row in several parts, one block each.
  int parts;
  int64_t part_columns;
  RowStats* partial;  // [rows, parts]
  unsigned* ticket;
  // The last block sorts the entropies, if k >= 0.
  int k;
  float* top_entropy;
  int64_t* top_index;
  // What the last block computes from all rows, if `total` is not null: the sum of the weights, the
  // mean loss (may be null), and the factor of the residuals w_i a_i rows / total.
  // Needs meta, weights and nll.
  double* total;
  float* loss;
  double* sigma;
  // Counters to clear for a later kernel.
  unsigned* clear;
  int clear_count;
};

// How rows are assigned to threads.
struct RowsPlan {
  int lanes;  // lanes of a warp per row; 0: whole blocks per row
  int parts;
  int64_t part_columns;
};

RowsPlan plan_rows(int device, int64_t rows, int64_t columns);

// Enqueues the statistics. `args.parts` and `args.part_columns` are filled in from the plan.
void enqueue_row_stats(DType dtype, const RowsPlan& plan, RowsArgs args, cudaStream_t stream);

}  // namespace gaal::cuda
