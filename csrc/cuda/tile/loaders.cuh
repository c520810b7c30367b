// Loaders: the elements of one operand of a product, read from memory or computed on the way.
//
// A loader says which of its two indices is contiguous in memory (kAlongK: the summed one), and
// each thread fetches two packs of that direction per step. What lies outside of the matrix must
// come out as 0: the padding of a tile takes part in every sum.
#pragma once

#include "cuda/softmax_core.cuh"
#include "cuda/tile/shape.cuh"

namespace gaal::cuda {

// Rows of one or two matrices stacked: row r is first[r] for r < split, and second[s] for
// s = r - split, or second[index[s]] with an index.
template <typename T>
struct StackedRows {
  const T* first;
  int64_t first_stride;
  const T* second;
  int64_t second_stride;
  const int64_t* index;
  int split;
  int rows;
  bool packs;  // every row begins at a multiple of 16 bytes

  __device__ __forceinline__ const T* row(int r) const {
    if (r >= rows) return nullptr;
    if (r < split) return first + r * first_stride;
    const int64_t s = index == nullptr ? r - split : global(index)[r - split];
    return second + s * second_stride;
  }
};

// Reads pack elements [begin, begin + size) of `row`, 0 from `end` on. `row` may be null: all 0.
template <typename T>
__device__ __forceinline__ Pack<T> load_masked(const T* row, int begin, int end, bool packs) {
  constexpr int size = Pack<T>::kSize;
  Pack<T> pack;
#pragma unroll
  for (int i = 0; i < size; ++i) pack.v[i] = from_float<T>(0.0f);
  if (row == nullptr) return pack;
  row = global(row);
  if (packs && begin + size <= end) return load_pack(row + begin);
#pragma unroll
  for (int i = 0; i < size; ++i) {
    if (begin + i < end) pack.v[i] = row[begin + i];
  }
  return pack;
}

// `size` float32 logits, from logits of any element type.
template <typename Z, int size>
__device__ __forceinline__ void load_logits(float (&out)[size], const Z* row, int begin, int end,
                                            bool packs) {
  constexpr int per_pack = Pack<Z>::kSize < size ? Pack<Z>::kSize : size;
  static_assert(Pack<Z>::kSize <= size, "a thread's share must hold whole packs of the logits");
#pragma unroll
  for (int p = 0; p < size / per_pack; ++p) {
    const Pack<Z> pack = load_masked(row, begin + p * per_pack, end, packs);
#pragma unroll
    for (int i = 0; i < per_pack; ++i) out[p * per_pack + i] = to_float(pack.v[i]);
  }
}

// element(m, k) = rows[m][k]
template <typename T>
struct RowsAlongK {
  static constexpr bool kAlongK = true;
  using Raw = Pack<T>;

  const T* row[kPacksPerThread];
  int depth;
  bool packs;

  __device__ __forceinline__ RowsAlongK(const StackedRows<T>& rows, int tile, int depth_)
      : depth(depth_), packs(rows.packs) {
#pragma unroll
    for (int j = 0; j < kPacksPerThread; ++j)
      row[j] = rows.row(tile * kTile + static_cast<int>(threadIdx.x) / 4 + j * (kTileThreads / 4));
  }
  __device__ __forceinline__ Raw fetch(int j, int k) const {
    return load_masked(row[j], k, depth, packs);
  }
  __device__ __forceinline__ Pack<T> finish(const Raw& raw, int, int) { return raw; }
};

// element(n, k) = base[index ? index[k] : k][n]
template <typename T>
struct RowsAcross {
  static constexpr bool kAlongK = false;
  using Raw = Pack<T>;

  const T* base;
  int64_t stride;
  const int64_t* index;
  int64_t source_rows;
  int depth;
  int begin;
  int columns;
  bool packs;

  __device__ __forceinline__ RowsAcross(const T* base_, int64_t stride_, const int64_t* index_,
                                        int64_t source_rows_, int depth_, int tile, int columns_,
                                        bool packs_)
      : base(base_),
        stride(stride_),
        index(index_),
        source_rows(source_rows_),
        depth(depth_),
        columns(columns_),
        packs(packs_) {
    begin = tile * kTile +
            static_cast<int>(threadIdx.x) % TileShape<T>::kGroupsAcross * TileShape<T>::kPack;
  }
  __device__ __forceinline__ Raw fetch(int, int k) const {
    const T* row = nullptr;
    if (k < depth) {
      const int64_t source = index == nullptr ? k : global(index)[k];
      // An illegal index reads as 0 here; the statistics of that row are NaN, and so is its
      // product.
      if (source >= 0 && source < source_rows) row = base + source * stride;
    }
    return load_masked(row, begin, columns, packs);
  }
  __device__ __forceinline__ Pack<T> finish(const Raw& raw, int, int) { return raw; }
};

// element(m, k) = weight_m (p_mk - onehot_mk), rows of float32 logits stacked like their meta:
// metas below `split`, then `second_metas`.
template <typename T>
struct ResidualsAlongK {
  static constexpr bool kAlongK = true;
  struct Raw {
    float logit[Pack<T>::kSize];
  };

  const float* row[kPacksPerThread];
  RowMeta meta[kPacksPerThread];
  int depth;

  __device__ __forceinline__ ResidualsAlongK(const StackedRows<float>& logits, const RowMeta* metas,
                                             const RowMeta* second_metas, int tile, int depth_)
      : depth(depth_) {
#pragma unroll
    for (int j = 0; j < kPacksPerThread; ++j) {
      const int r = tile * kTile + static_cast<int>(threadIdx.x) / 4 + j * (kTileThreads / 4);
      row[j] = logits.row(r);
      meta[j] = r >= logits.rows   ? RowMeta{0.0f, 0.0f, 0.0f, -1}
                : r < logits.split ? global(metas)[r]
                                   : global(second_metas)[r - logits.split];
    }
  }
  __device__ __forceinline__ Raw fetch(int j, int k) const {
    Raw raw;
    load_logits(raw.logit, row[j], k, depth, true);
    return raw;
  }
  __device__ __forceinline__ Pack<T> finish(const Raw& raw, int j, int k) {
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) {
      const bool inside = row[j] != nullptr && k + i < depth;
      pack.v[i] = from_float<T>(inside ? residual_of(raw.logit[i], meta[j], k + i) : 0.0f);
    }
    return pack;
  }
};

// element(m, k) = weight_k (p_km - onehot_km): the transposed residuals, of rows index[k] (of rows
// k without an index), whose meta is stored by k, times sigma. Keeps this thread's sums over k,
// before rounding, for the gradient of the bias.
template <typename T, typename Z>
struct ResidualsAcross {
  static constexpr bool kAlongK = false;
  struct Raw {
    float logit[Pack<T>::kSize];
    RowMeta meta;
  };

  const Z* base;
  int64_t stride;
  const int64_t* index;
  int64_t source_rows;
  const RowMeta* metas;
  int depth;
  int begin;
  int columns;
  bool packs;
  float sigma;
  float sums[Pack<T>::kSize];

  __device__ __forceinline__ ResidualsAcross(const Z* base_, int64_t stride_, const int64_t* index_,
                                             int64_t source_rows_, const RowMeta* metas_,
                                             int depth_, int tile, int columns_, bool packs_,
                                             float sigma_ = 1.0f)
      : base(base_),
        stride(stride_),
        index(index_),
        source_rows(source_rows_),
        metas(metas_),
        depth(depth_),
        columns(columns_),
        packs(packs_),
        sigma(sigma_) {
    begin = tile * kTile +
            static_cast<int>(threadIdx.x) % TileShape<T>::kGroupsAcross * TileShape<T>::kPack;
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) sums[i] = 0.0f;
  }
  __device__ __forceinline__ Raw fetch(int, int k) const {
    Raw raw;
    const Z* row = nullptr;
    raw.meta = RowMeta{0.0f, 0.0f, 0.0f, -1};
    if (k < depth) {
      raw.meta = scaled(global(metas)[k], sigma);
      const int64_t source = index == nullptr ? k : global(index)[k];
      if (source >= 0 && source < source_rows) row = base + source * stride;
    }
    load_logits(raw.logit, row, begin, columns, packs);
    return raw;
  }
  __device__ __forceinline__ Pack<T> finish(const Raw& raw, int, int) {
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) {
      // 0 past the last row, whose weight is 0. Past the last column it means nothing, and is not
      // stored.
      const float value = residual_of(raw.logit[i], raw.meta, begin + i);
      sums[i] += value;
      pack.v[i] = from_float<T>(value);
    }
    return pack;
  }

  // The block's 64 column sums into `out`, by way of `scratch` (16 * 64 floats). Begins and ends
  // with a barrier.
  __device__ void reduce_sums(float* out, float* scratch) const {
    using Shape = TileShape<T>;
    __syncthreads();
    const int group = static_cast<int>(threadIdx.x) % Shape::kGroupsAcross;
    const int slice = static_cast<int>(threadIdx.x) / Shape::kGroupsAcross;
#pragma unroll
    for (int i = 0; i < Shape::kPack; ++i)
      scratch[slice * kTile + group * Shape::kPack + i] = sums[i];
    __syncthreads();
    if (threadIdx.x < kTile) {
      float total = 0.0f;
#pragma unroll
      for (int s = 0; s < Shape::kDepthStride; ++s) total += scratch[s * kTile + threadIdx.x];
      out[threadIdx.x] = total;
    }
    __syncthreads();
  }
};

}  // namespace gaal::cuda
