// Statistics of rows, and their order by entropy.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "cpu/row_stats.h"

namespace gaal::cpu {
namespace {

// Larger for larger entropy, NaN largest, equal entropies ordered by smaller index.
uint64_t sort_key(float entropy, int64_t index) {
  uint32_t bits = 0xffffffffu;
  if (!std::isnan(entropy)) {
    std::memcpy(&bits, &entropy, 4);  // a difference, so never -0
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  }
  return static_cast<uint64_t>(bits) << 32 | static_cast<uint32_t>(~static_cast<uint32_t>(index));
}

}  // namespace

void select(const std::vector<float>& entropy, int64_t k, int64_t* index) {
  std::vector<uint64_t> keys(entropy.size());
  for (size_t i = 0; i < keys.size(); ++i) keys[i] = sort_key(entropy[i], static_cast<int64_t>(i));
  if (k < static_cast<int64_t>(keys.size()))
    std::nth_element(keys.begin(), keys.begin() + k, keys.end(), std::greater<>());
  std::sort(keys.begin(), keys.begin() + k, std::greater<>());
  for (int64_t i = 0; i < k; ++i)
    index[i] = static_cast<int64_t>(~static_cast<uint32_t>(keys[static_cast<size_t>(i)]));
}

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

}  // namespace gaal::cpu
