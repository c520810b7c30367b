// Residuals of the cross-entropy, and the work of the guided step between its products.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "cpu/row_stats.h"

namespace gaal::cpu {
namespace {

auto copy_chosen(const Features& features, const int64_t* index, int64_t n) {
  constexpr int64_t kBytes = 32768;
  constexpr int64_t kBytesPerElement = 16;  // copying is cheaper than exponentials
  const int64_t together = std::max<int64_t>(1, kBytes / std::max<int64_t>(1, features.bytes));
  return Tasks{features.chosen ? divide_up(n, together) : 0, n * features.bytes / kBytesPerElement,
               [=](int64_t piece) {
                 const int64_t end = std::min(n, (piece + 1) * together);
                 for (int64_t i = piece * together; i < end; ++i)
                   std::memcpy(static_cast<char*>(features.chosen) + i * features.bytes,
                               static_cast<const char*>(features.data) + index[i] * features.stride,
                               static_cast<size_t>(features.bytes));
               }};
}

// Writes the rows of one residual matrix as their statistics come in.
class ResidualWriter {
 public:
  ResidualWriter(const Run& run, const Logits& logits, const Labels& labels, const int64_t* index,
                 int64_t n, const Matrix& out)
      : run_(run),
        logits_(logits),
        labels_(labels),
        index_(index),
        out_(out),
        losses_(static_cast<size_t>(n)) {
    for (int64_t i = 0; i < n; ++i) weight_sum_ += labels.weight(source(i));
    if (in_segments()) rows_.resize(static_cast<size_t>(n));
  }

  int64_t source(int64_t i) const { return index_ ? index_[i] : i; }

  void take(int64_t i, const RowStats& s) {
    const int64_t r = source(i);
    const double sum = s.ties + s.rest, coefficient = labels_.weight(r) / weight_sum_;
    const double shifted = static_cast<double>(logit(logits_, r, labels_.target[r])) - s.max;
    losses_[static_cast<size_t>(i)] = coefficient * (log_sum(s) - shifted);
    // p - 1 = -rest / sum for the only maximum, without the cancellation.
    const double at_target = shifted == 0.0 && s.ties == 1.0
                                 ? -coefficient * (s.rest / sum)
                                 : coefficient * (std::exp(shifted) / sum - 1.0);
    const Row row{s.max, static_cast<float>(coefficient / sum), at_target};
    if (in_segments())
      rows_[static_cast<size_t>(i)] = row;
    else
      write(i, row, 0, logits_.n_classes);
  }

  // After the last row: writes what is left and returns the loss.
  double finish() {
    if (in_segments()) {
      const int64_t n_segments = divide_up(logits_.n_classes, kSegment);
      parallel_for(run_.threads, n() * n_segments, [&](int64_t piece) {
        const int64_t first = piece % n_segments * kSegment;
        write(piece / n_segments, rows_[static_cast<size_t>(piece / n_segments)], first,
              std::min(kSegment, logits_.n_classes - first));
      });
    }
    if (losses_.empty()) return std::numeric_limits<double>::quiet_NaN();
    double loss = 0.0;
    for (const double term : losses_) loss += term;
    return loss;
  }

  // A task for after finish().
  auto column_sums(void* sums) const {
    return Tasks{divide_up(logits_.n_classes, kColumnPiece), n() * logits_.n_classes / 4,
                 [this, sums](int64_t piece) {
                   const int64_t first = piece * kColumnPiece;
                   run_.kernels->column_sums[static_cast<int>(out_.dtype)](
                       at(out_.data, out_.dtype, first), out_.stride, n(),
                       std::min(kColumnPiece, logits_.n_classes - first),
                       at(sums, out_.dtype, first));
                 }};
  }

  int threads() const { return threads_for(run_, n() * logits_.n_classes); }

 private:
  struct Row {
    float max, scale;
    double at_target;
  };

  int64_t n() const { return static_cast<int64_t>(losses_.size()); }
  bool in_segments() const { return logits_.n_classes > kSegment; }

  void write(int64_t i, const Row& row, int64_t first, int64_t count) const {
    const int64_t r = source(i), y = labels_.target[r];
    run_.kernels->row_exp[static_cast<int>(logits_.dtype)][out_.dtype == DType::kFloat32](
        at(logits_.row(r), logits_.dtype, first),
        logits_.bias ? at(logits_.bias, logits_.dtype, first) : nullptr, count, row.max, row.scale,
        at(out_.data, out_.dtype, i * out_.stride + first));
    if (y >= first && y < first + count)
      set_element(out_.dtype, out_.data, i * out_.stride + y, row.at_target);
  }

  const Run& run_;
  const Logits& logits_;
  const Labels& labels_;
  const int64_t* index_;
  const Matrix& out_;
  double weight_sum_ = 0.0;
  std::vector<double> losses_;
  std::vector<Row> rows_;
};

}  // namespace

double residual(const Run& run, const Logits& logits, const Labels& labels, const int64_t* index,
                int64_t n, const Features& features, const Matrix& out, void* column_sums) {
  ResidualWriter writer(run, logits, labels, index, n, out);
  for_each_row(
      run, logits.dtype, logits.n_classes, logits.bias, n,
      [&](int64_t i) { return logits.row(writer.source(i)); },
      [&](int64_t i, const RowStats& s) { writer.take(i, s); }, copy_chosen(features, index, n));
  const double loss = writer.finish();
  const auto sums = writer.column_sums(column_sums);
  parallel_for(writer.threads(), sums.n, sums.body);
  return loss;
}

double guided_residuals(const Run& run, const Logits& logits, const Labels& labels,
                        const Matrix& out, void* column_sums, const Guide& guide) {
  // Both sets of rows in one parallel region.
  ResidualWriter writer(run, logits, labels, nullptr, logits.n_rows, out);
  std::vector<float> entropy(static_cast<size_t>(guide.logits.n_rows));
  for_each_row(
      run, logits.dtype, logits.n_classes, logits.bias, logits.n_rows + guide.logits.n_rows,
      [&](int64_t i) {
        return i < logits.n_rows ? logits.row(i) : guide.logits.row(i - logits.n_rows);
      },
      [&](int64_t i, const RowStats& s) {
        if (i < logits.n_rows)
          writer.take(i, s);
        else
          entropy[static_cast<size_t>(i - logits.n_rows)] = entropy_of(s, log_sum(s));
      });
  const double loss = writer.finish();
  select(entropy, guide.k, guide.index);

  ResidualWriter guide_writer(run, guide.logits, guide.labels, guide.index, guide.k, guide.out);
  for_each_row(
      run, logits.dtype, logits.n_classes, logits.bias, guide.k,
      [&](int64_t i) { return guide.logits.row(guide.index[i]); },
      [&](int64_t i, const RowStats& s) { guide_writer.take(i, s); },
      writer.column_sums(column_sums), copy_chosen(guide.features, guide.index, guide.k));
  guide_writer.finish();
  const auto sums = guide_writer.column_sums(guide.column_sums);
  parallel_for(guide_writer.threads(), sums.n, sums.body);
  return loss;
}

}  // namespace gaal::cpu
