// A 64 x 64 tile of a matrix product by one block of 128 threads, with operands that loaders read
// or compute.
//
// float32 goes through the ordinary multiply-add units, in IEEE arithmetic; bfloat16 and float16
// through the tensor cores. Both sum in float32 and in an order that depends on the shape alone.
// Global memory is read one step ahead into registers, shared memory is double buffered, and one
// barrier separates two steps.
#pragma once

#include "cuda/tile/loaders.cuh"
#include "cuda/tile/products.cuh"
#include "cuda/tile/shape.cuh"

namespace gaal::cuda {

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
  // Step k is staged, then k + 1 is fetched while k is multiplied. One extra turn before the first
  // only fetches, so that the loaders are compiled once. The memory that a turn stages into was
  // last read two turns ago, before the barrier of the turn between.
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
// the matrix, how many lie inside, offset of the group in a dump). Neighboring threads visit
// neighboring columns.
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

}  // namespace gaal::cuda
