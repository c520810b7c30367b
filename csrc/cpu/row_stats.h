// Softmax statistics of many rows, for every operation that starts from logits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/elements.h"
#include "cpu/ops.h"
#include "cpu/parallel.h"
#include "cpu/pieces.h"

namespace gaal::cpu {

// Logit j of a row, its bias added.
inline float logit(const Logits& logits, int64_t row, int64_t j) {
  const float x = element(logits.dtype, logits.row(row), j);
  return logits.bias ? x + element(logits.dtype, logits.bias, j) : x;
}

// log of the sum of e^{x - max}; the first terms of log1p where 1 + rest would lose rest.
inline double log_sum(const RowStats& s) {
  return s.ties == 1.0 && s.rest < 1e-8 ? s.rest - 0.5 * s.rest * s.rest
                                        : std::log(s.ties + s.rest);
}

// `log_s` is log_sum(s).
inline float entropy_of(const RowStats& s, double log_s) {
  return static_cast<float>(log_s - s.shifted / (s.ties + s.rest));
}

// Writes the k largest of `entropy` to index[0 .. k), largest first; NaN counts as largest, ties go
// to the smaller index.
void select(const std::vector<float>& entropy, int64_t k, int64_t* index);

// Calls use(i, stats) once for each of n rows of n_classes logits, from any thread; the i-th row is
// at data(i). Runs the other tasks in the same parallel region.
template <class Data, class Use, class... Others>
void for_each_row(const Run& run, DType dtype, int64_t n_classes, const void* bias, int64_t n,
                  Data&& data, Use&& use, const Others&... others) {
  const auto row_stats = run.kernels->row_stats[static_cast<int>(dtype)];
  const int64_t cost = n_classes + kRowCost;
  const auto run_all = [&](int64_t n_pieces, auto&& piece_body) {
    parallel_for(threads_for(run, ((n * cost) + ... + others.elements)),
                 (n_pieces + ... + others.n), [&](int64_t i) {
                   if (i < n_pieces) return piece_body(i);
                   i -= n_pieces;
                   ((i >= 0 && i < others.n ? others.body(i) : void(), i -= others.n), ...);
                 });
  };
  const int64_t n_segments = divide_up(n_classes, kSegment);
  if (n_segments <= 1) {
    const int64_t together = std::min(kRowsTogether, divide_up(kPiece, cost));
    run_all(divide_up(n, together), [&](int64_t piece) {
      const void* rows[kRowsTogether] = {};
      RowStats stats[kRowsTogether];
      const int64_t first = piece * together, count = std::min(together, n - first);
      for (int64_t i = 0; i < count; ++i) rows[i] = data(first + i);
      row_stats(rows, bias, count, n_classes, stats);
      for (int64_t i = 0; i < count; ++i) use(first + i, stats[i]);
    });
    return;
  }
  std::unique_ptr<RowStats[]> parts(new RowStats[static_cast<size_t>(n * n_segments)]);
  run_all(n * n_segments, [&](int64_t piece) {
    const int64_t first = piece % n_segments * kSegment;
    const void* row = at(data(piece / n_segments), dtype, first);
    row_stats(&row, bias ? at(bias, dtype, first) : nullptr, 1,
              std::min(kSegment, n_classes - first), &parts[static_cast<size_t>(piece)]);
  });
  for (int64_t i = 0; i < n; ++i) {
    const RowStats* part = &parts[static_cast<size_t>(i * n_segments)];
    RowStats row = part[0];
    for (int64_t s = 1; s < n_segments; ++s) row = merge_stats(row, part[s]);
    use(i, row);
  }
}

template <class Use>
void for_each_row(const Run& run, const Logits& logits, Use&& use) {
  for_each_row(
      run, logits.dtype, logits.n_classes, logits.bias, logits.n_rows,
      [&](int64_t i) { return logits.row(i); }, use);
}

}  // namespace gaal::cpu
