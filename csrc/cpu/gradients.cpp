// Gradients as flat vectors, and products too small for BLAS.
#include <algorithm>
#include <memory>
#include <vector>

#include "cpu/elements.h"
#include "cpu/ops.h"
#include "cpu/parallel.h"
#include "cpu/pieces.h"

namespace gaal::cpu {
namespace {

// A part of one pair.
struct Piece {
  size_t pair;
  int64_t first;
};
struct Sums {
  double values[3];
};

std::vector<Piece> pieces_of(const std::vector<Pair>& pairs) {
  std::vector<Piece> pieces;
  for (size_t p = 0; p < pairs.size(); ++p)
    for (int64_t first = 0; first < pairs[p].n; first += kFlatPiece) pieces.push_back({p, first});
  return pieces;
}

template <class Use>
void for_each_piece(const Run& run, const std::vector<Pair>& pairs,
                    const std::vector<Piece>& pieces, Use&& use) {
  int64_t n = 0;
  for (const Pair& pair : pairs) n += pair.n;
  parallel_for_static(threads_for(run, n), static_cast<int64_t>(pieces.size()), [&](int64_t i) {
    const Piece& piece = pieces[static_cast<size_t>(i)];
    const Pair& pair = pairs[piece.pair];
    use(static_cast<size_t>(i), static_cast<int>(pair.dtype),
        at(pair.grad, pair.dtype, piece.first), at(pair.guide, pair.dtype, piece.first),
        std::min(kFlatPiece, pair.n - piece.first));
  });
}

}  // namespace

InnerProducts inner_products(const Run& run, const std::vector<Pair>& pairs) {
  const std::vector<Piece> pieces = pieces_of(pairs);
  std::unique_ptr<Sums[]> sums(new Sums[pieces.size()]);
  for_each_piece(run, pairs, pieces, [&](size_t i, int d, void* g, const void* h, int64_t n) {
    run.kernels->dot_norms[d](g, h, n, sums[i].values);
  });
  Sums total = {};
  for (size_t i = 0; i < pieces.size(); ++i)
    for (int j = 0; j < 3; ++j) total.values[j] += sums[i].values[j];
  return {total.values[0], total.values[1], total.values[2]};
}

void add_scaled(const Run& run, const std::vector<Pair>& pairs, double v) {
  if (v == 0.0) return;
  for_each_piece(
      run, pairs, pieces_of(pairs),
      [&](size_t, int d, void* g, const void* h, int64_t n) { run.kernels->axpy[d](g, h, n, v); });
}

void small_matmul(const Run& run, const float* a, int64_t a_stride, const float* w,
                  int64_t w_stride, int64_t n_rows, int64_t n_inner, int64_t n, float* out,
                  int64_t out_stride) {
  constexpr int64_t kRows = 8;
  parallel_for(threads_for(run, n_rows * n), divide_up(n_rows, kRows), [&](int64_t piece) {
    const int64_t first = piece * kRows;
    run.kernels->small_matmul(a + first * a_stride, a_stride, w, w_stride,
                              std::min(kRows, n_rows - first), n_inner, n, out + first * out_stride,
                              out_stride);
  });
}

}  // namespace gaal::cpu
