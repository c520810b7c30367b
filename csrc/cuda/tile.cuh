// A 64 x 64 tile of a matrix product by one block of 128 threads, with operands that a loader makes
// on the fly.
//
// float32 goes through the ordinary multiply-add units, in IEEE arithmetic; bfloat16 and float16
// through the tensor cores. Both sum in float32 and in an order that depends on the shape alone.
// Global memory is read one step ahead into registers, shared memory is double buffered, and one
// barrier separates two steps.
//
// A loader gives the elements of one operand. It says which of its two indices is contiguous in
// memory (kAlongK: the summed one), and each thread fetches two packs of that direction per step.
// What lies outside of the matrix must come out as 0: the padding of a tile takes part in every
// sum.
#pragma once

#include <mma.h>

#include "softmax_core.cuh"

namespace gaal {

constexpr int kTile = 64;
constexpr int kTileThreads = 128;
constexpr int kTileBlocks =
    3;  // at least so many on a multiprocessor: up to 168 registers a thread
constexpr int kPacksPerThread = 2;
constexpr int kDumpStride =
    kTile + 4;  // float32 elements; the padding spreads a column over the banks

template <typename T>
struct TileShape {
  static constexpr int kPack = Pack<T>::kSize;
  static constexpr int kStep =
      4 * kPack;  // depth of one step: 16 for float32, 32 for half precision
  static constexpr int kGroupsAcross =
      kTile / kPack;  // packs that cover the tile's 64 rows or columns
  static constexpr int kDepthStride = kTileThreads / kGroupsAcross;
  // Shared memory of one operand in one stage, in elements. float32 keeps [depth][64 + 4]; half
  // precision keeps the direction of memory, [64][depth + 8] or [depth][64 + 8], since wmma reads
  // either.
  static constexpr bool kSimt = sizeof(T) == 4;
  static constexpr int kAlongKStride = kSimt ? kTile + 4 : kStep + 8;
  static constexpr int kAcrossStride = kSimt ? kTile + 4 : kTile + 8;
  static constexpr int kOperand = kSimt ? kStep * (kTile + 4) : kTile * (kStep + 8);
};

// Shared memory of a block, in bytes.
constexpr int kStageArea = 20480;  // two stages of both operands
constexpr int kDumpBytes = kTile * kDumpStride * 4;
constexpr int kFirstDump = kStageArea;  // a finished tile that the next product must not overwrite
constexpr int kSecondDump = 0;          // reuses the stages
constexpr int kColumnSums = kFirstDump + kDumpBytes;  // 2 * 64 floats
constexpr int kScratch =
    kColumnSums + 2 * kTile * 4;  // 3 doubles a warp, then the last block's flag
constexpr int kFlag = kScratch + 3 * 8 * kTileThreads / kWarp;
constexpr int kTileSharedBytes = kFlag + 32;
static_assert(4 * TileShape<float>::kOperand * sizeof(float) <= kStageArea,
              "the stages of float32 must fit");
static_assert(4 * TileShape<__half>::kOperand * sizeof(__half) <= kStageArea,
              "the stages of half precision must fit");
static_assert(kDumpBytes <= kStageArea && kScratch % 8 == 0,
              "the second dump must fit, and doubles must be aligned");

// --- Loaders ---

// Rows of one or two matrices stacked: row r is first[r] below `split`, then second[index ? index[r
// - split] : r - split].
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
// k without an index), whose meta is stored by k, times sigma. Keeps the sums over k of what this
// thread made, before rounding: the gradient of the bias.
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

// --- Products ---

// The depth at which this thread's j-th pack of a step lies.
template <typename T, bool along_k>
__device__ __forceinline__ int pack_depth(int j) {
  using Shape = TileShape<T>;
  if (along_k) return static_cast<int>(threadIdx.x) % 4 * Shape::kPack;
  return static_cast<int>(threadIdx.x) / Shape::kGroupsAcross + j * Shape::kDepthStride;
}

template <typename T, bool along_k>
__device__ __forceinline__ void stage_pack(T* operand, int j, const Pack<T>& pack) {
  using Shape = TileShape<T>;
  const int thread = static_cast<int>(threadIdx.x);
  if (!along_k) {
    store_pack(operand + pack_depth<T, false>(j) * Shape::kAcrossStride +
                   thread % Shape::kGroupsAcross * Shape::kPack,
               pack);
    return;
  }
  const int across = thread / 4 + j * (kTileThreads / 4);
  const int depth = thread % 4 * Shape::kPack;
  if (Shape::kSimt) {
#pragma unroll
    for (int i = 0; i < Shape::kPack; ++i)
      operand[(depth + i) * Shape::kAlongKStride + across] = pack.v[i];
  } else {
    store_pack(operand + across * Shape::kAlongKStride + depth, pack);
  }
}

// Each thread owns 8 x 4 elements of the tile.
struct SimtProduct {
  static constexpr int kRows = 8;
  static constexpr int kColumns = 4;
  float sum[kRows][kColumns];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) sum[i][j] = 0.0f;
    }
  }
  static __device__ __forceinline__ int first_row() {
    return static_cast<int>(threadIdx.x) / 16 * kRows;
  }
  static __device__ __forceinline__ int first_column() {
    return static_cast<int>(threadIdx.x) % 16 * kColumns;
  }

  template <bool, bool>
  __device__ __forceinline__ void step(const float* a, const float* b) {
    using Shape = TileShape<float>;
    a += first_row();
    b += first_column();
#pragma unroll 8
    for (int k = 0; k < Shape::kStep; ++k) {
      const Pack<float> a0 = load_pack(a + k * Shape::kAcrossStride);
      const Pack<float> a1 = load_pack(a + k * Shape::kAcrossStride + 4);
      const Pack<float> b0 = load_pack(b + k * Shape::kAcrossStride);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const float left = i < 4 ? a0.v[i % 4] : a1.v[i % 4];
#pragma unroll
        for (int j = 0; j < kColumns; ++j) sum[i][j] = fmaf(left, b0.v[j], sum[i][j]);
      }
    }
  }
  __device__ __forceinline__ void dump(float* tile) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      Pack<float> row;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) row.v[j] = sum[i][j];
      store_pack(tile + (first_row() + i) * kDumpStride + first_column(), row);
    }
  }
};

// Each of the four warps owns 32 x 32 elements: 2 x 2 fragments of 16 x 16.
template <typename T>
struct TensorProduct {
  static constexpr int kFragment = 16;
  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float> sum[2][2];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) nvcuda::wmma::fill_fragment(sum[i][j], 0.0f);
    }
  }
  static __device__ __forceinline__ int first_row() {
    return static_cast<int>(threadIdx.x) / kWarp / 2 * 32;
  }
  static __device__ __forceinline__ int first_column() {
    return static_cast<int>(threadIdx.x) / kWarp % 2 * 32;
  }

  template <bool a_along_k, bool b_along_k>
  __device__ __forceinline__ void step(const T* a, const T* b) {
    namespace wmma = nvcuda::wmma;
    using Shape = TileShape<T>;
    // [64][depth] is A by rows and B by columns; [depth][64] is A by columns and B by rows.
    using A = wmma::fragment<wmma::matrix_a, 16, 16, 16, T,
                             std::conditional_t<a_along_k, wmma::row_major, wmma::col_major>>;
    using B = wmma::fragment<wmma::matrix_b, 16, 16, 16, T,
                             std::conditional_t<b_along_k, wmma::col_major, wmma::row_major>>;
#pragma unroll
    for (int k = 0; k < Shape::kStep; k += kFragment) {
      A left[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int m = first_row() + i * kFragment;
        if (a_along_k) {
          wmma::load_matrix_sync(left[i], a + m * Shape::kAlongKStride + k, Shape::kAlongKStride);
        } else {
          wmma::load_matrix_sync(left[i], a + k * Shape::kAcrossStride + m, Shape::kAcrossStride);
        }
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int n = first_column() + j * kFragment;
        B right;
        if (b_along_k) {
          wmma::load_matrix_sync(right, b + n * Shape::kAlongKStride + k, Shape::kAlongKStride);
        } else {
          wmma::load_matrix_sync(right, b + k * Shape::kAcrossStride + n, Shape::kAcrossStride);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) wmma::mma_sync(sum[i][j], left[i], right, sum[i][j]);
      }
    }
  }
  __device__ __forceinline__ void dump(float* tile) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        nvcuda::wmma::store_matrix_sync(
            tile + (first_row() + i * kFragment) * kDumpStride + first_column() + j * kFragment,
            sum[i][j], kDumpStride, nvcuda::wmma::mem_row_major);
      }
    }
  }
};

template <typename T>
struct ProductOf {
  using type = TensorProduct<T>;
};
template <>
struct ProductOf<float> {
  using type = SimtProduct;
};
template <typename T>
using Product = typename ProductOf<T>::type;

// product += sum over k in [begin, end) of a(m, k) b(n, k). `begin` is a multiple of the step.
// Begins and ends with a barrier.
template <typename T, typename LoaderA, typename LoaderB>
__device__ __forceinline__ void multiply(Product<T>& product, LoaderA& a, LoaderB& b, int begin,
                                         int end, unsigned char* shared) {
  using Shape = TileShape<T>;
  T* const operands = reinterpret_cast<T*>(shared);
  typename LoaderA::Raw next_a[kPacksPerThread];
  typename LoaderB::Raw next_b[kPacksPerThread];
  const auto fetch = [&](int k) {
#pragma unroll
    for (int j = 0; j < kPacksPerThread; ++j) {
      next_a[j] = a.fetch(j, k + pack_depth<T, LoaderA::kAlongK>(j));
      next_b[j] = b.fetch(j, k + pack_depth<T, LoaderB::kAlongK>(j));
    }
  };
  const auto stage = [&](int k, int which) {
    T* const to = operands + which * 2 * Shape::kOperand;
#pragma unroll
    for (int j = 0; j < kPacksPerThread; ++j) {
      stage_pack<T, LoaderA::kAlongK>(
          to, j, a.finish(next_a[j], j, k + pack_depth<T, LoaderA::kAlongK>(j)));
      stage_pack<T, LoaderB::kAlongK>(
          to + Shape::kOperand, j, b.finish(next_b[j], j, k + pack_depth<T, LoaderB::kAlongK>(j)));
    }
  };
  __syncthreads();  // whoever used this memory before is done with it
  // Step k is staged, then k + 1 is fetched while k is multiplied. The turn before the first only
  // fetches: written this way the loaders are compiled once. What a turn stages was last read two
  // turns ago, before the barrier of the turn between.
  int which = 0;
#pragma unroll 1
  for (int k = begin - Shape::kStep; k < end; k += Shape::kStep) {
    const bool first = k < begin;
    if (!first) {
      stage(k, which);
      __syncthreads();
    }
    if (k + Shape::kStep < end) fetch(k + Shape::kStep);
    if (!first) {
      const T* const from = operands + which * 2 * Shape::kOperand;
      product.template step<LoaderA::kAlongK, LoaderB::kAlongK>(from, from + Shape::kOperand);
      which ^= 1;
    }
  }
  __syncthreads();
}

// --- Results ---

// Visits the tile's elements in groups of four columns: visit(row in the matrix, first column in
// the matrix, how many lie inside, offset of the group in a dump). Neighbouring threads visit
// neighbouring columns.
template <typename Visit>
__device__ __forceinline__ void for_each_group(int tile_m, int tile_n, int rows, int columns,
                                               Visit&& visit) {
  for (int group = static_cast<int>(threadIdx.x); group < kTile * kTile / 4;
       group += kTileThreads) {
    const int m = group / (kTile / 4);
    const int n = group % (kTile / 4) * 4;
    const int row = tile_m * kTile + m;
    const int column = tile_n * kTile + n;
    if (row < rows && column < columns)
      visit(row, column, columns - column < 4 ? columns - column : 4, m * kDumpStride + n);
  }
}

// Stores 1 to 4 elements. `whole`: the rows of the matrix begin at multiples of four elements, so
// that four fit one access.
template <typename T>
__device__ __forceinline__ void store_group(T* to, const float (&value)[4], int count, bool whole) {
  struct alignas(4 * sizeof(T)) Group {
    T v[4];
  };
  to = global(to);
  if (whole && count == 4) {
    Group group;
#pragma unroll
    for (int i = 0; i < 4; ++i) group.v[i] = from_float<T>(value[i]);
    *reinterpret_cast<Group*>(to) = group;
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i < count) to[i] = from_float<T>(value[i]);
  }
}

}  // namespace gaal
