// The entry points of the CUDA kernels, in plain C++ types: device pointers, sizes, strides in
// elements, and a stream.
//
// Every function enqueues work on the stream of its Call and returns; none waits for the device or
// allocates memory. What a call's kernels pass on to each other lies in a workspace of the caller,
// which need not be cleared and may be reused as soon as the stream's order allows. No state
// outlives a call, so calls on several streams, from several threads and in captured graphs cannot
// disturb each other. Errors of the CUDA runtime are thrown as std::runtime_error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "common/types.h"

namespace gaal::cuda {

struct Call {
  int device;
  void* stream;
  DType dtype;  // of logits, features, weights and gradients
};

struct Matrix {
  const void* data;
  int64_t rows;
  int64_t columns;
  int64_t stride;  // elements from row to row; 1 from column to column
};

// Rows that one block can sort in shared memory.
constexpr int kMaxSelection = 8192;
// The same inside the head step, where shared memory holds tiles too.
constexpr int kMaxGuideRows = 4096;

// entropy[rows], lse[rows], nll[rows] of the rows of `logits`; each output and `target` may be
// null.
size_t softmax_stats_workspace(int device, int64_t rows, int64_t columns);
void softmax_stats(const Call& call, const Matrix& logits, const int64_t* target, float* entropy,
                   float* lse, float* nll, void* workspace);

// The k rows of highest entropy, by entropy descending, then by row; rows <= kMaxSelection, k >= 1.
size_t entropy_topk_workspace(int device, int64_t rows, int64_t columns);
void entropy_topk(const Call& call, const Matrix& logits, int k, float* entropy, int64_t* index,
                  void* workspace);

// grad_weight[Y, d] and grad_bias[Y] of the mean cross-entropy of the rows index[0 .. count) (of
// all rows if index is null).
size_t linear_ce_grad_workspace(int device, DType dtype, int64_t count, int64_t classes,
                                int64_t width);
void linear_ce_grad(const Call& call, const Matrix& features, const Matrix& logits,
                    const int64_t* target, const int64_t* index, int64_t count,
                    const float* class_weights, void* grad_weight, void* grad_bias,
                    void* workspace);

// out[count, Y] = sigma w_i (p_i - onehot_i) of the rows index[0 .. count), with w_i = 1, or with
// class weights c: w_i = c[y_i] / mean_j c[y_j]. `sigma` gets a power of two that brings the
// largest of them near 1, or 1 where it is near enough: the residuals of confident rows are beyond
// the range of float16, and their products beyond that of float32. It is positive and finite for
// any logits. `loss`, if not null, gets the mean cross-entropy of those rows. `out`
// may be the logits themselves where index is null. count >= 1.
size_t ce_residual_workspace(int device, int64_t count, int64_t classes);
void ce_residual(const Call& call, const Matrix& logits, const int64_t* target,
                 const int64_t* index, int64_t count, const float* class_weights, void* out,
                 int64_t out_stride, double* sigma, float* loss, void* workspace);

// data[i] /= *sigma for i < count; nothing is read or written where sigma is 1.
void unscale(const Call& call, void* data, int64_t count, const double* sigma);

// A rule whose epsilon and margin may be numbers in the device's memory, which the kernels read
// when they run.
struct DeviceRule {
  Rule rule;
  const double* epsilon_at;  // in the place of rule.epsilon, or null
  const double* margin_at;   // in the place of rule.margin, or null
};

// grads[i] += v guides[i] for i < count, each contiguous with sizes[i] elements. scalars[4] = v,
// <g, g_p>, |g_p|^2, |g|^2. Where these overflow, they become infinite, but the step does not.
// `sigmas`, if not null, are two powers of two: the gradients given are multiplied by the first,
// the guides by the second, and the results by neither.
size_t project_workspace(int device, DType dtype, int count, const int64_t* sizes);
void project(const Call& call, int count, void* const* grads, const void* const* guides,
             const int64_t* sizes, const DeviceRule& rule, const double* sigmas, float* scalars,
             void* workspace);

// v from the Gram matrices of stacked rows, `rows` of the batch and then k of the guide:
// residual_gram and feature_gram, both [rows + k, rows + k] float32 and contiguous. The inner
// products are sums of residual_gram * (feature_gram + has_bias), each residual divided by its
// number of rows and by the sigma of its part, sigmas[0] or sigmas[1]. Then `residuals`
// [rows + k, classes] are divided by the sigmas, and the last k rows are multiplied by v rows / k.
// rows >= 1 and k >= 1.
size_t gram_project_workspace(int device, int64_t rows, int64_t k);
void gram_project(const Call& call, int64_t rows, int64_t k, const float* residual_gram,
                  const float* feature_gram, bool has_bias, const double* sigmas, void* residuals,
                  int64_t classes, const DeviceRule& rule, float* scalars, void* workspace);

// The whole head step. `sample_space` takes the inner products from Gram matrices, so that the
// guide's gradient is never formed. `cooperative` does it in one launch whose blocks wait for each
// other, otherwise in three.
struct GuidedShape {
  int64_t rows;
  int64_t guide_rows;
  int64_t classes;
  int64_t width;
  int64_t k;
  bool sample_space;
  bool cooperative;
};

struct GuidedTensors {
  Matrix features;        // [rows, width]
  Matrix guide_features;  // [guide_rows, width]
  Matrix weight;          // [classes, width]
  const void* bias;       // [classes] or null
  const int64_t* target;
  const int64_t* guide_target;
  const float* class_weights;  // [classes] or null
  void* grad_features;         // [rows, width]
  void* grad_weight;           // [classes, width]
  void* grad_bias;             // [classes], null without a bias
  float* scalars;              // [5] = loss, v, <g, g_p>, |g_p|^2, |g|^2
  int64_t* index;              // [k]
};

bool cooperative_launch_supported(int device);
size_t guided_linear_ce_workspace(int device, DType dtype, const GuidedShape& shape);
void guided_linear_ce(const Call& call, const GuidedShape& shape, const GuidedTensors& tensors,
                      const DeviceRule& rule, void* workspace);

// Empty where the kernels can run on `device`, otherwise why not: no such device, a driver too old,
// no code for its architecture.
std::string obstacle(int device);

}  // namespace gaal::cuda
