// The kernels, written once. A source file per instruction set defines GAAL_ISA_NAMESPACE (and
// GAAL_AVX512 or GAAL_AVX2), includes this file and is compiled with the flags of that set.

#include <stddef.h>
#include <stdint.h>

#if defined(GAAL_AVX512) || defined(GAAL_AVX2)
#include <immintrin.h>
#endif

#include "cpu/kernels.h"

namespace gaal::cpu::GAAL_ISA_NAMESPACE {
namespace {

#include "cpu/vec.h"

// Elements of a row that stay in the first-level cache between the pass for the maximum and the
// pass for the sums: the logits are read from memory once, and the sums need no rescaling inside a
// block.
constexpr int64_t kBlock = 4096;
// Terms that a lane sums in float32 before the sum moves to double: a longer sum of like terms
// loses a bit each time it doubles.
constexpr int64_t kTerms = 32;

template <bool kBias, class T>
inline vf load_logits(const T* x, const T* bias, int64_t j) {
  if constexpr (kBias) return load(x + j) + load(bias + j);
  return load(x + j);
}
template <bool kBias, class T>
inline vf load_logits_tail(const T* x, const T* bias, int64_t j, int count, float fill) {
  const vf v = load_tail(x + j, count, fill);
  if constexpr (kBias) return v + load_tail(bias + j, count, 0.0f);
  return v;
}

struct Sums {
  vf rest = {};
  vf shifted = {};
  vi ties = {};
};

// take() adds the float32 sums and resets them to zero.
struct WideSums {
  vd rest = {};
  vd shifted = {};

  inline void take(Sums (&sums)[kTogether]) {
    for (int i = 1; i < kTogether; ++i) {
      sums[0].rest += sums[i].rest;
      sums[0].shifted += sums[i].shifted;
    }
    add(rest, sums[0].rest);
    add(shifted, sums[0].shifted);
    for (int i = 0; i < kTogether; ++i) sums[i].rest = sums[i].shifted = vf{};
  }

 private:
  static inline void add(vd& total, vf sum) {
    vd low, high;
    widen(sum, low, high);
    total += low + high;
  }
};

// Adds N vectors of logits to as many sums, from the i-th on.
template <int N, class Origin, int M>
inline void add_logits(Sums (&sums)[M], const vf (&x)[N], Origin origin) {
  vf d[N], clamped[N], e[N];
  for (int i = 0; i < N; ++i) d[i] = x[i] - origin;
  for (int i = 0; i < N; ++i) clamped[i] = max_or_second(splat(kExpFloor), d[i]);
  exp_nonpositive(clamped, e);
  for (int i = 0; i < N; ++i) {
    const vmask tie = is_zero(d[i]);
    sums[i].ties = count_if(tie, sums[i].ties);
    sums[i].rest = add_unless(tie, sums[i].rest, e[i]);
    sums[i].shifted += e[i] * clamped[i];
  }
}

template <bool kBias, class T>
inline RowStats block_stats(const T* x, const T* bias, int64_t n) {
  const float lowest = -__builtin_inff();
  vf m0 = splat(lowest), m1 = m0, m2 = m0, m3 = m0;
  int64_t j = 0;
  for (; j + 4 * kLanes <= n; j += 4 * kLanes) {
    m0 = max_or_second(load_logits<kBias>(x, bias, j), m0);
    m1 = max_or_second(load_logits<kBias>(x, bias, j + kLanes), m1);
    m2 = max_or_second(load_logits<kBias>(x, bias, j + 2 * kLanes), m2);
    m3 = max_or_second(load_logits<kBias>(x, bias, j + 3 * kLanes), m3);
  }
  for (; j + kLanes <= n; j += kLanes) m0 = max_or_second(load_logits<kBias>(x, bias, j), m0);
  const int tail = (int)(n - j);
  // Lanes past the end hold -inf: e^{-inf - m} adds zero to both sums.
  const vf last = tail ? load_logits_tail<kBias>(x, bias, j, tail, lowest) : splat(lowest);
  m0 = max_or_second(last, m0);
  const float max = max_lanes(max_or_second(max_or_second(m0, m1), max_or_second(m2, m3)));
  // -inf - -inf would make a block of -inf look like one with a NaN.
  const float origin = max == lowest ? 0.0f : max;

  constexpr int64_t kStep = kTogether * kLanes;
  Sums sums[kTogether];
  WideSums total;
  vf v[kTogether];
  for (j = 0;;) {
    const int64_t end = n - j > kTerms * kStep ? j + kTerms * kStep : n;
    // Prefetches the next block, or the next row: rows are mostly contiguous.
    for (; j + kStep <= end; j += kStep) {
      prefetch<kTogether>(x + n + j);
      for (int i = 0; i < kTogether; ++i) v[i] = load_logits<kBias>(x, bias, j + i * kLanes);
      add_logits(sums, v, origin);
    }
    if (end == n) break;
    total.take(sums);
  }
  for (; j + kLanes <= n; j += kLanes) add_logits(sums, {load_logits<kBias>(x, bias, j)}, origin);
  if (tail) add_logits(sums, {last}, origin);
  total.take(sums);

  for (int i = 1; i < kTogether; ++i) sums[0].ties += sums[i].ties;
  const vf ties = __builtin_convertvector(sums[0].ties, vf);
  return {max, sum_lanes(ties), sum_lanes(total.rest), sum_lanes(total.shifted)};
}

template <bool kBias, class T>
RowStats one_row_stats(const T* x, const T* bias, int64_t n) {
  RowStats row = block_stats<kBias>(x, bias, n < kBlock ? n : kBlock);
  for (int64_t j = kBlock; j < n; j += kBlock)
    row = merge_stats(
        row, block_stats<kBias>(x + j, kBias ? bias + j : bias, n - j < kBlock ? n - j : kBlock));
  return row;
}

// Up to this many classes, a vector holds one class of many rows instead of many classes of one
// row, which avoids sums over lanes.
constexpr int64_t kFew = 8;

template <class T>
void few_classes_stats(const T* const* rows, const T* bias, int64_t n_rows, int64_t n,
                       RowStats* stats) {
  T lane[kLanes];
  vf offset[kFew] = {}, x[kFew];
  for (int64_t j = 0; bias && j < n; ++j) {
    for (int i = 0; i < kLanes; ++i) lane[i] = bias[j];
    offset[j] = load(lane);
  }
  for (int64_t first = 0; first < n_rows; first += kLanes) {
    const int64_t count = n_rows - first < kLanes ? n_rows - first : kLanes;
    vf max = splat(-__builtin_inff());
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t i = 0; i < kLanes; ++i) lane[i] = rows[first + (i < count ? i : 0)][j];
      x[j] = load(lane);
      if (bias) x[j] += offset[j];
      max = max_or_second(x[j], max);
    }
    const vf origin = max == -__builtin_inff() ? vf{} : max;
    Sums sums[1];
    for (int64_t j = 0; j < n; ++j) add_logits(sums, {x[j]}, origin);
    for (int64_t i = 0; i < count; ++i)
      stats[first + i] = {max[i], (double)sums[0].ties[i], (double)sums[0].rest[i],
                          (double)sums[0].shifted[i]};
  }
}

template <class T>
void row_stats(const void* const* rows, const void* bias, int64_t n_rows, int64_t n,
               RowStats* stats) {
  const T* b = static_cast<const T*>(bias);
  if (n <= kFew)
    return few_classes_stats(reinterpret_cast<const T* const*>(rows), b, n_rows, n, stats);
  for (int64_t r = 0; r < n_rows; ++r) {
    const T* row = static_cast<const T*>(rows[r]);
    stats[r] = b ? one_row_stats<true>(row, b, n) : one_row_stats<false>(row, b, n);
  }
}

template <int N>
inline void exp_below(vf (&x)[N], float max, float scale) {
  vf e[N];
  for (int i = 0; i < N; ++i) x[i] = max_or_second(splat(kExpFloor), x[i] - max);
  exp_nonpositive(x, e);
  for (int i = 0; i < N; ++i) x[i] = e[i] * scale;
}

template <bool kBias, class T, class Out>
void row_exp_impl(const T* x, const T* bias, int64_t n, float max, float scale, Out* out) {
  int64_t j = 0;
  vf v[kTogether], one[1];
  for (; j + kTogether * kLanes <= n; j += kTogether * kLanes) {
    for (int i = 0; i < kTogether; ++i) v[i] = load_logits<kBias>(x, bias, j + i * kLanes);
    exp_below(v, max, scale);
    for (int i = 0; i < kTogether; ++i) store(out + j + i * kLanes, v[i]);
  }
  for (; j + kLanes <= n; j += kLanes) {
    one[0] = load_logits<kBias>(x, bias, j);
    exp_below(one, max, scale);
    store(out + j, one[0]);
  }
  const int tail = (int)(n - j);
  if (tail) {
    one[0] = load_logits_tail<kBias>(x, bias, j, tail, max);
    exp_below(one, max, scale);
    store_tail(out + j, one[0], tail);
  }
}
template <class T, class Out>
void row_exp(const void* x, const void* bias, int64_t n, float max, float scale, void* out) {
  const T* row = static_cast<const T*>(x);
  const T* b = static_cast<const T*>(bias);
  Out* o = static_cast<Out*>(out);
  b ? row_exp_impl<true>(row, b, n, max, scale, o) : row_exp_impl<false>(row, b, n, max, scale, o);
}

template <class T>
void column_sums(const void* a, int64_t stride, int64_t n_rows, int64_t n, void* out) {
  const T* first = static_cast<const T*>(a);
  T* o = static_cast<T*>(out);
  const auto add = [](const T* p, vd& low, vd& high) {
    vd l, h;
    load_wide(p, l, h);
    low += l;
    high += h;
  };
  int64_t j = 0;
  for (; j + 2 * kLanes <= n; j += 2 * kLanes) {
    vd s0 = {}, s1 = {}, s2 = {}, s3 = {};
    const T* p = first + j;
    for (int64_t r = 0; r < n_rows; ++r, p += stride) {
      add(p, s0, s1);
      add(p + kLanes, s2, s3);
    }
    store(o + j, narrow(s0, s1));
    store(o + j + kLanes, narrow(s2, s3));
  }
  for (; j + kLanes <= n; j += kLanes) {
    vd s0 = {}, s1 = {};
    const T* p = first + j;
    for (int64_t r = 0; r < n_rows; ++r, p += stride) add(p, s0, s1);
    store(o + j, narrow(s0, s1));
  }
  const int tail = (int)(n - j);
  if (tail) {
    vd s0 = {}, s1 = {}, low, high;
    const T* p = first + j;
    for (int64_t r = 0; r < n_rows; ++r, p += stride) {
      widen(load_tail(p, tail, 0.0f), low, high);
      s0 += low;
      s1 += high;
    }
    store_tail(o + j, narrow(s0, s1), tail);
  }
}

struct DotNorms {
  vd gh = {}, hh = {}, gg = {};

  inline void add(vd g, vd h) {
    gh += g * h;
    hh += h * h;
    gg += g * g;
  }
};

template <class T>
void dot_norms(const void* g_, const void* h_, int64_t n, double* sums) {
  const T* g = static_cast<const T*>(g_);
  const T* h = static_cast<const T*>(h_);
  DotNorms a, b;
  vd g0, g1, h0, h1;
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    load_wide(g + j, g0, g1);
    load_wide(h + j, h0, h1);
    a.add(g0, h0);
    b.add(g1, h1);
  }
  const int tail = (int)(n - j);
  if (tail) {
    widen(load_tail(g + j, tail, 0.0f), g0, g1);
    widen(load_tail(h + j, tail, 0.0f), h0, h1);
    a.add(g0, h0);
    b.add(g1, h1);
  }
  sums[0] = sum_lanes(a.gh + b.gh);
  sums[1] = sum_lanes(a.hh + b.hh);
  sums[2] = sum_lanes(a.gg + b.gg);
}

inline vf add_product(vf g, vf h, float v) { return g + h * v; }
inline vf add_product(vf g, vf h, double v) {
  vd g0, g1, h0, h1;
  widen(g, g0, g1);
  widen(h, h0, h1);
  return narrow(g0 + h0 * v, g1 + h1 * v);
}

template <class T, class Factor>
void axpy_impl(T* g, const T* h, int64_t n, Factor v) {
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) store(g + j, add_product(load(g + j), load(h + j), v));
  const int tail = (int)(n - j);
  if (tail) {
    const vf g_tail = load_tail(g + j, tail, 0.0f);
    store_tail(g + j, add_product(g_tail, load_tail(h + j, tail, 0.0f), v), tail);
  }
}
template <class T>
void axpy(void* g, const void* h, int64_t n, double v) {
  // v h can be a normal number of float32 where v is not.
  if (v >= __FLT_MIN__ && v <= __FLT_MAX__)
    return axpy_impl(static_cast<T*>(g), static_cast<const T*>(h), n, (float)v);
  axpy_impl(static_cast<T*>(g), static_cast<const T*>(h), n, v);
}

template <int kInner>
void small_matmul_impl(const float* a, int64_t a_stride, const float* w, int64_t w_stride,
                       int64_t n_rows, int64_t n, float* out, int64_t out_stride) {
  for (int64_t r = 0; r < n_rows; ++r, a += a_stride, out += out_stride) {
    vf factor[kInner];
    for (int y = 0; y < kInner; ++y) factor[y] = splat(a[y]);
    int64_t j = 0;
    for (; j + kLanes <= n; j += kLanes) {
      vf sum = factor[0] * load(w + j);
      for (int y = 1; y < kInner; ++y) sum += factor[y] * load(w + y * w_stride + j);
      store(out + j, sum);
    }
    const int tail = (int)(n - j);
    if (tail) {
      vf sum = factor[0] * load_tail(w + j, tail, 0.0f);
      for (int y = 1; y < kInner; ++y)
        sum += factor[y] * load_tail(w + y * w_stride + j, tail, 0.0f);
      store_tail(out + j, sum, tail);
    }
  }
}

void small_matmul(const float* a, int64_t a_stride, const float* w, int64_t w_stride,
                  int64_t n_rows, int64_t n_inner, int64_t n, float* out, int64_t out_stride) {
  using Impl =
      void (*)(const float*, int64_t, const float*, int64_t, int64_t, int64_t, float*, int64_t);
  constexpr Impl impl[8] = {small_matmul_impl<1>, small_matmul_impl<2>, small_matmul_impl<3>,
                            small_matmul_impl<4>, small_matmul_impl<5>, small_matmul_impl<6>,
                            small_matmul_impl<7>, small_matmul_impl<8>};
  impl[n_inner - 1](a, a_stride, w, w_stride, n_rows, n, out, out_stride);
}

// The order of DType: float32, float16, bfloat16.
constexpr Kernels kTable = {
    {row_stats<float>, row_stats<float16>, row_stats<bfloat16>},
    {{row_exp<float, float>, row_exp<float, float>},
     {row_exp<float16, float16>, row_exp<float16, float>},
     {row_exp<bfloat16, bfloat16>, row_exp<bfloat16, float>}},
    {column_sums<float>, column_sums<float16>, column_sums<bfloat16>},
    {dot_norms<float>, dot_norms<float16>, dot_norms<bfloat16>},
    {axpy<float>, axpy<float16>, axpy<bfloat16>},
    small_matmul,
};

}  // namespace
}  // namespace gaal::cpu::GAAL_ISA_NAMESPACE
