// The table of kernels that every instruction set fills in, and the types of its arguments.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace gaal::cpu {

enum class Isa : int { portable = 0, avx2 = 1, avx512 = 2 };

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

// Softmax statistics of a row (or of a part of it), relative to its maximum m. The entries equal to
// m are counted, not summed: the sum of the others then keeps its relative precision for a
// confident row, where 1 + rest would swallow it in float32.
//   sum_j e^{x_j - m} = ties + rest,   shifted = sum_j e^{x_j - m} (x_j - m)
// A NaN or +inf entry leaves NaN in `rest` and `shifted`; a row of -inf has max = -inf and zeros.
struct RowStats {
  float max;
  double ties;
  double rest;
  double shifted;
};

// The statistics of a row from those of its two parts.
RowStats merge_stats(const RowStats& a, const RowStats& b);

// The vectorized kernels of one instruction set; the first index of an array is the DType of the
// input. Pointers need the alignment of their element only; lengths may be anything, zero included.
struct Kernels {
  // stats[r] of rows[r][0 .. n) for r < n_rows; bias[0 .. n) of the same dtype is added first
  // unless it is null.
  void (*row_stats[kDTypes])(const void* const* rows, const void* bias, int64_t n_rows, int64_t n,
                             RowStats* stats);
  // out_j = e^{x_j + bias_j - max} * scale for one row; [input dtype][0: same dtype out, 1: float32
  // out]. out == x is allowed for equal dtypes.
  void (*row_exp[kDTypes][2])(const void* x, const void* bias, int64_t n, float max, float scale,
                              void* out);
  // out_j = sum_r a[r * stride + j] for j < n, summed in double in the order of r.
  void (*column_sums[kDTypes])(const void* a, int64_t stride, int64_t n_rows, int64_t n, void* out);
  // sums = {<g, h>, <h, h>, <g, g>}; every product and sum in double.
  void (*dot_norms[kDTypes])(const void* g, const void* h, int64_t n, double* sums);
  // g += v h, in double where v is not a normal number of float32.
  void (*axpy[kDTypes])(void* g, const void* h, int64_t n, double v);
  // out[r, j] = sum_y a[r, y] w[y, j] for n_inner <= 8, float32.
  void (*small_matmul)(const float* a, int64_t a_stride, const float* w, int64_t w_stride,
                       int64_t n_rows, int64_t n_inner, int64_t n, float* out, int64_t out_stride);
};

const Kernels* portable_kernels();
const Kernels* avx2_kernels();    // null where the compiler or the target has no AVX2
const Kernels* avx512_kernels();  // likewise

}  // namespace gaal::cpu
