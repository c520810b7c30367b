// The operations on raw host pointers: strides and sizes in elements, the last dimension
// contiguous, outputs disjoint from inputs unless said otherwise. Results do not depend on
// `threads`. The only exception is for lack of memory.
#pragma once

#include <cstdint>
#include <vector>

#include "common/types.h"
#include "cpu/kernels.h"

namespace gaal::cpu {

// The least and the greatest of n numbers, n at least 1.
struct Extent {
  int64_t least, greatest;
};
Extent extent(const int64_t* numbers, int64_t n);

struct Run {
  int threads;
  const Kernels* kernels;
};

// The kernels of `isa`, or null where this machine or this build lacks it.
const Kernels* kernels_for(Isa isa);
// The widest available.
Isa best_isa();

// A matrix of logits [n_rows, n_classes] = data + bias.
struct Logits {
  DType dtype;
  const void* data;
  int64_t stride;
  const void* bias;  // [n_classes] of the same dtype, or null
  int64_t n_rows;
  int64_t n_classes;

  const void* row(int64_t i) const;
};

// Labels in [0, n_classes), one for each row of logits, and the weights of the classes.
struct Labels {
  const int64_t* target;
  const float* class_weights;  // [n_classes], or null for equal weights

  double weight(int64_t row) const { return class_weights ? class_weights[target[row]] : 1.0; }
};

struct Matrix {
  DType dtype;
  void* data;
  int64_t stride;
};

// Float32 [n_rows] each; target and nll may both be null.
void softmax_stats(const Run& run, const Logits& logits, const int64_t* target, float* entropy,
                   float* lse, float* nll);

// The k rows of highest entropy, highest first; NaN counts as highest, ties go to the smaller
// index.
void entropy_topk(const Run& run, const Logits& logits, int64_t k, float* entropy, int64_t* index);

// Rows of `bytes` bytes, `stride` bytes apart. The chosen ones are copied to `chosen`, one after
// the other, unless it is null.
struct Features {
  const void* data;
  int64_t stride;
  int64_t bytes;
  void* chosen;
};

// Rows of the gradient of the mean cross-entropy with respect to the logits:
//   out_i = c_i / sum(c) (softmax(logits_r) - onehot(target_r)),
//   r = index[i] (i where index is null), c_i = weight of row r
// out [n, n_classes] has the dtype of the logits or float32 and, without an index, may be
// logits.data itself; column_sums [n_classes] has out's dtype. Copies the features of the rows in
// `index`. Returns the loss sum(c nll) / sum(c), NaN for n = 0.
double residual(const Run& run, const Logits& logits, const Labels& labels, const int64_t* index,
                int64_t n, const Features& features, const Matrix& out, void* column_sums);

// The guiding rows, and the results for the k of highest entropy.
struct Guide {
  Logits logits;
  Labels labels;
  Features features;
  int64_t k;
  int64_t* index;     // [k], out
  Matrix out;         // [k, n_classes], their residual
  void* column_sums;  // [n_classes] of it
};

// What the guided step does between its products: residual() of every row of `logits`, and of the k
// rows of the guide of highest entropy. Both logits have one dtype, one bias and one
// n_classes. Returns the loss of `logits`.
double guided_residuals(const Run& run, const Logits& logits, const Labels& labels,
                        const Matrix& out, void* column_sums, const Guide& guide);

struct Pair {
  DType dtype;
  void* grad;
  const void* guide;
  int64_t n;
};

// With g = (pairs' grads) and h = (pairs' guides), each seen as one flat vector: <g, h>, <h, h> and
// <g, g>.
InnerProducts inner_products(const Run& run, const std::vector<Pair>& pairs);

// g += v h, unless v is zero.
void add_scaled(const Run& run, const std::vector<Pair>& pairs, double v);

// out [n_rows, n] = a [n_rows, n_inner] w [n_inner, n], float32, n_inner <= kSmallInner. For
// n_inner = 2, BLAS takes ten times as long as the writes alone.
constexpr int64_t kSmallInner = 8;
void small_matmul(const Run& run, const float* a, int64_t a_stride, const float* w,
                  int64_t w_stride, int64_t n_rows, int64_t n_inner, int64_t n, float* out,
                  int64_t out_stride);

}  // namespace gaal::cpu
