// The product of two staged operands, in registers: SimtProduct for float32, TensorProduct for half
// precision.
#pragma once

#include <mma.h>

#include <type_traits>

#include "cuda/tile/shape.cuh"

namespace gaal::cuda {

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

}  // namespace gaal::cuda
