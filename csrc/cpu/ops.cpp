#include "ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "parallel.h"

namespace gaal {
namespace {

// Fixed pieces of work, never a function of the number of threads. A row longer than kSegment is
// shared out, so that a few huge rows use every core; short rows are taken together until they make
// a piece worth handing to a thread.
constexpr int64_t kSegment = 16384;
constexpr int64_t kPiece = 4096;
constexpr int64_t kRowsTogether = 64;
// What a row costs beside its elements, in elements.
constexpr int64_t kRowCost = 16;
// Elements below which waking the team costs more than it saves.
constexpr int64_t kSerial = 8192;
constexpr int64_t kFlatPiece = 16384;
constexpr int64_t kColumnPiece = 128;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int threads_for(const Run& run, int64_t elements) { return elements < kSerial ? 1 : run.threads; }
int64_t element_size(DType dtype) { return dtype == DType::f32 ? 4 : 2; }
const void* at(const void* base, DType dtype, int64_t i) {
  return static_cast<const char*>(base) + i * element_size(dtype);
}
void* at(void* base, DType dtype, int64_t i) {
  return static_cast<char*>(base) + i * element_size(dtype);
}

float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

float element(DType dtype, const void* base, int64_t i) {
  if (dtype == DType::f32) return static_cast<const float*>(base)[i];
  const uint32_t bits = static_cast<const uint16_t*>(base)[i];
  if (dtype == DType::bf16) return from_bits(bits << 16);
  const uint32_t exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  const float magnitude = exponent == 31  ? from_bits(0x7f800000u | mantissa << 13)
                          : exponent == 0 ? static_cast<float>(mantissa) * 0x1p-24f
                                          : from_bits((exponent + 112) << 23 | mantissa << 13);
  return bits & 0x8000u ? -magnitude : magnitude;
}

uint16_t round_to_half(double x, DType dtype) {
  const float f = static_cast<float>(x);
  uint32_t u;
  std::memcpy(&u, &f, 4);
  if (dtype == DType::bf16) return static_cast<uint16_t>((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
  const uint32_t sign = u >> 16 & 0x8000u, magnitude = u & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x47800000u) {
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {
    half = static_cast<uint32_t>(std::nearbyint(from_bits(magnitude) * 0x1p24f));
  } else {
    half = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
  return static_cast<uint16_t>(sign | half);
}

void set_element(DType dtype, void* base, int64_t i, double x) {
  if (dtype == DType::f32)
    static_cast<float*>(base)[i] = static_cast<float>(x);
  else
    static_cast<uint16_t*>(base)[i] = round_to_half(x, dtype);
}

float logit(const Logits& logits, int64_t row, int64_t j) {
  const float x = element(logits.dtype, logits.row(row), j);
  return logits.bias ? x + element(logits.dtype, logits.bias, j) : x;
}

// log of the sum; the first terms of log1p where 1 + rest would lose rest.
double log_sum(const RowStats& s) {
  return s.ties == 1.0 && s.rest < 1e-8 ? s.rest - 0.5 * s.rest * s.rest
                                        : std::log(s.ties + s.rest);
}

float entropy_of(const RowStats& s, double log_s) {
  return static_cast<float>(log_s - s.shifted / (s.ties + s.rest));
}

// Work that can be done beside something else in one go over the team: body(i) for i < n, which
// costs as much as so many elements altogether.
template <class Body>
struct Tasks {
  int64_t n;
  int64_t elements;
  Body body;
};
template <class Body>
Tasks(int64_t, int64_t, Body) -> Tasks<Body>;

// Calls use(i, stats) once for each of n rows of n_classes logits, from any thread; the i-th row is
// at data(i). Does the other tasks too.
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

// Larger for larger entropy, NaN largest, equal entropies ordered by smaller index.
uint64_t sort_key(float entropy, int64_t index) {
  uint32_t bits = 0xffffffffu;
  if (!std::isnan(entropy)) {
    std::memcpy(&bits, &entropy, 4);  // a difference, so never -0
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  }
  return static_cast<uint64_t>(bits) << 32 | static_cast<uint32_t>(~static_cast<uint32_t>(index));
}

// k largest of entropy[0 .. n), largest first.
void select(const std::vector<float>& entropy, int64_t k, int64_t* index) {
  std::vector<uint64_t> keys(entropy.size());
  for (size_t i = 0; i < keys.size(); ++i) keys[i] = sort_key(entropy[i], static_cast<int64_t>(i));
  if (k < static_cast<int64_t>(keys.size()))
    std::nth_element(keys.begin(), keys.begin() + k, keys.end(), std::greater<>());
  std::sort(keys.begin(), keys.begin() + k, std::greater<>());
  for (int64_t i = 0; i < k; ++i)
    index[i] = static_cast<int64_t>(~static_cast<uint32_t>(keys[static_cast<size_t>(i)]));
}

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

  // After the last row: what is left to write, and the loss.
  double finish() {
    if (in_segments()) {
      const int64_t n_segments = divide_up(logits_.n_classes, kSegment);
      parallel_for(run_.threads, n() * n_segments, [&](int64_t piece) {
        const int64_t first = piece % n_segments * kSegment;
        write(piece / n_segments, rows_[static_cast<size_t>(piece / n_segments)], first,
              std::min(kSegment, logits_.n_classes - first));
      });
    }
    if (losses_.empty()) return kNaN;
    double loss = 0.0;
    for (const double term : losses_) loss += term;
    return loss;
  }

  // After finish().
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
    run_.kernels->row_exp[static_cast<int>(logits_.dtype)][out_.dtype == DType::f32](
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

// A fixed part of one of the pairs of a flat vector.
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

RowStats merge_stats(const RowStats& a, const RowStats& b) {
  const RowStats& high = a.max > b.max ? a : b;
  const RowStats& low = a.max > b.max ? b : a;
  // e^{-inf} (-inf) would be NaN; a NaN among the entries is in the sums already.
  if (low.max == -std::numeric_limits<float>::infinity())
    return {high.max, high.ties, high.rest + low.rest, high.shifted + low.shifted};
  const double delta = static_cast<double>(low.max) - static_cast<double>(high.max);
  const double factor = std::exp(delta), sum = low.ties + low.rest;
  // e^{x - M} (x - M) = e^{delta} e^{x - m} ((x - m) + delta); factor * delta first, which cannot
  // overflow.
  return {high.max, high.ties, high.rest + factor * sum,
          high.shifted + factor * low.shifted + factor * delta * sum};
}

const Kernels* kernels_for(Isa isa) {
#if defined(__x86_64__) || defined(__i386__)
  if (isa == Isa::avx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                   kernels_for(Isa::avx2)
               ? avx512_kernels()
               : nullptr;
  // Every processor with AVX2 and FMA converts half floats too; the name "f16c" is unknown to older
  // compilers.
  if (isa == Isa::avx2)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? avx2_kernels()
                                                                           : nullptr;
#else
  if (isa != Isa::portable) return nullptr;
#endif
  return portable_kernels();
}

Isa best_isa() {
  if (kernels_for(Isa::avx512)) return Isa::avx512;
  if (kernels_for(Isa::avx2)) return Isa::avx2;
  return Isa::portable;
}

const void* Logits::row(int64_t i) const { return at(data, dtype, i * stride); }

Extent extent(const int64_t* numbers, int64_t n) {
  Extent found{numbers[0], numbers[0]};
  for (int64_t i = 1; i < n; ++i) {
    found.least = std::min(found.least, numbers[i]);
    found.greatest = std::max(found.greatest, numbers[i]);
  }
  return found;
}

void softmax_stats(const Run& run, const Logits& logits, const int64_t* target, float* entropy,
                   float* lse, float* nll) {
  for_each_row(run, logits, [&](int64_t i, const RowStats& s) {
    const double log_s = log_sum(s);
    entropy[i] = entropy_of(s, log_s);
    lse[i] = static_cast<float>(s.max + log_s);
    if (nll)
      nll[i] =
          static_cast<float>(log_s - (static_cast<double>(logit(logits, i, target[i])) - s.max));
  });
}

void entropy_topk(const Run& run, const Logits& logits, int64_t k, float* entropy, int64_t* index) {
  std::vector<float> all(static_cast<size_t>(logits.n_rows));
  for_each_row(run, logits, [&](int64_t i, const RowStats& s) {
    all[static_cast<size_t>(i)] = entropy_of(s, log_sum(s));
  });
  select(all, k, index);
  for (int64_t i = 0; i < k; ++i) entropy[i] = all[static_cast<size_t>(index[i])];
}

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
  // Both sets of rows in one go over the team.
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

double correction(const InnerProducts& products, const Rule& rule) {
  const double dot = products.dot, guide_norm2 = products.guide_norm2;
  if (!std::isfinite(dot) || !std::isfinite(guide_norm2)) return kNaN;
  if (guide_norm2 == 0.0) return 0.0;
  const double guide_norm = std::sqrt(guide_norm2), grad_norm = std::sqrt(products.grad_norm2);
  double v;
  if (rule.official) {
    v = dot < 0.0 ? std::max(rule.margin, -dot / (guide_norm2 + rule.ridge)) : 0.0;
  } else {
    const double epsilon = rule.relative ? rule.epsilon * grad_norm * guide_norm : rule.epsilon;
    v = (epsilon - dot) / guide_norm2;
    if (v < 0.0) v = 0.0;  // a NaN stays
  }
  if (rule.max_correction >= 0.0) {
    const double limit = rule.max_correction * grad_norm / guide_norm;
    if (v > limit) v = limit;
  }
  return v;
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

}  // namespace gaal
