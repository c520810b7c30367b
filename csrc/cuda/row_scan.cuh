// One read of a row in global memory, wherever it begins.
#pragma once

#include "cuda/softmax_core.cuh"

namespace gaal::cuda {

// Packs of a row that may begin at any element. Which thread adds which elements, and in which
// order, depends on their columns alone and not on the row's address. Equal rows so have equal
// entropies to the bit; otherwise addresses would decide between them.
template <typename T>
struct RowPacks {
  static constexpr int kSize = Pack<T>::kSize;
  const T* row;
  int64_t columns;
  int shift;  // elements of the row's start past a 16-byte boundary

  __device__ __forceinline__ RowPacks(const T* row_, int64_t columns_)
      : row(row_),
        columns(columns_),
        shift(static_cast<int>(reinterpret_cast<std::uintptr_t>(row_) % 16 / sizeof(T))) {}

  // Columns [i kSize, (i + 1) kSize), all inside the row.
  __device__ __forceinline__ Pack<T> load(int64_t i) const {
    const T* const first = row + i * kSize;
    if (shift == 0) return load_pack(first);
    // Two aligned accesses cover it, if both stay inside the row.
    if (i > 0 && (i + 2) * kSize - shift <= columns)
      return join(load_pack(first - shift), load_pack(first - shift + kSize));
    Pack<T> pack;
#pragma unroll
    for (int j = 0; j < kSize; ++j) pack.v[j] = first[j];
    return pack;
  }

  // The pack that begins `shift` elements into `low`, and ends in `high`.
  __device__ __forceinline__ Pack<T> join(const Pack<T>& low, const Pack<T>& high) const {
    uint32_t word[8];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      word[i] = reinterpret_cast<const uint32_t*>(low.v)[i];
      word[4 + i] = reinterpret_cast<const uint32_t*>(high.v)[i];
    }
    const int bytes = shift * static_cast<int>(sizeof(T));
    if (bytes & 8) {
#pragma unroll
      for (int i = 0; i < 6; ++i) word[i] = word[i + 2];
    }
    if (bytes & 4) {
#pragma unroll
      for (int i = 0; i < 5; ++i) word[i] = word[i + 1];
    }
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      reinterpret_cast<uint32_t*>(pack.v)[i] =
          sizeof(T) == 2 && (bytes & 2) ? word[i] >> 16 | word[i + 1] << 16 : word[i];
    }
    return pack;
  }
};

template <typename T, int packs>
__device__ __forceinline__ void accumulate_packs(RowStats& stats, const RowPacks<T>& row,
                                                 int64_t first, int64_t step) {
  constexpr int size = Pack<T>::kSize;
  Pack<T> pack[packs];
#pragma unroll
  for (int i = 0; i < packs; ++i) pack[i] = row.load(first + i * step);
  float value[packs * size];
#pragma unroll
  for (int i = 0; i < packs; ++i) {
#pragma unroll
    for (int j = 0; j < size; ++j) value[i * size + j] = to_float(pack[i].v[j]);
  }
  accumulate(stats, value);
}

// x[0 .. n) by `lanes` threads.
template <typename T>
__device__ RowStats scan_row(const T* x, int64_t n, int lane, int lanes) {
  constexpr int size = Pack<T>::kSize;
  constexpr int packs = 16 / size;  // 16 values in flight
  const RowPacks<T> row(x, n);
  const int64_t count = n / size;
  RowStats stats;
  int64_t i = lane;
  for (; i + (packs - 1) * static_cast<int64_t>(lanes) < count;
       i += static_cast<int64_t>(packs) * lanes) {
    accumulate_packs<T, packs>(stats, row, i, lanes);
  }
  for (; i < count; i += lanes) accumulate_packs<T, 1>(stats, row, i, 0);
  for (int64_t j = count * size + lane; j < n; j += lanes) {
    const float value[1] = {to_float(x[j])};
    accumulate(stats, value);
  }
  return stats;
}

}  // namespace gaal::cuda
