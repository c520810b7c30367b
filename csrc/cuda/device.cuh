// What every kernel here shares: element types, 16-byte packs, reductions of fixed order, and the
// ticket of the last block.
//
// The kernels use a small part of CUDA on purpose (one-dimensional grids, barriers, shuffles, one
// atomic, wmma), so that the tests can run this very source on a CPU, thread by thread, under
// address and race checkers.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cfloat>
#include <cmath>
#include <cstdint>

#ifndef GAAL_DYNAMIC_SHARED
#define GAAL_DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#endif

namespace gaal::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// Tells the compiler that a pointer leads to global memory. In a function that is not inlined, or
// where a pointer may be null, it cannot see that and would use slower, generic accesses.
template <typename T>
__device__ __forceinline__ T* global(T* pointer) {
  __builtin_assume(__isGlobal(pointer));
  return pointer;
}

// 16 bytes of one element type: the widest access of a thread.
template <typename T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / static_cast<int>(sizeof(T));
  T v[kSize];
};

template <typename T>
__device__ __forceinline__ Pack<T> load_pack(const T* from) {
  Pack<T> pack;
  *reinterpret_cast<uint4*>(pack.v) = *reinterpret_cast<const uint4*>(from);
  return pack;
}

template <typename T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T>& pack) {
  *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(pack.v);
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

__host__ __device__ inline bool is_aligned16(const void* p) {
  return reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
}

template <typename I>
__host__ __device__ constexpr I ceil_div(I a, I b) {
  return (a + b - 1) / b;
}

template <typename I>
__host__ __device__ constexpr I round_up(I a, I b) {
  return ceil_div(a, b) * b;
}

// Sums `count` doubles over the block; every thread gets the results. The order depends on the
// block size alone. `scratch` holds count * warps doubles. Begins and ends with a barrier.
template <int count>
__device__ void block_sum(double (&values)[count], double* scratch) {
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
#pragma unroll
  for (int i = 0; i < count; ++i) {
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2)
      values[i] += __shfl_xor_sync(kAllLanes, values[i], offset);
  }
  __syncthreads();
  if (threadIdx.x % kWarp == 0) {
#pragma unroll
    for (int i = 0; i < count; ++i) scratch[i * warps + warp] = values[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < count; ++i) {
    values[i] = 0.0;
    for (int w = 0; w < warps; ++w) values[i] += scratch[i * warps + w];
  }
  __syncthreads();
}

// The largest of the threads' numbers, NaN ignored; every thread gets it. `scratch` holds one float
// a warp. Begins and ends with a barrier.
__device__ inline float block_max(float value, float* scratch) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, offset));
  __syncthreads();
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w) value = fmaxf(value, scratch[w]);
  __syncthreads();
  return value;
}

// True for all threads of the last of `blocks` blocks to call this. That block then sees what all
// of them wrote before.
//
// The barrier orders the block's writes before thread 0, whose fence releases them together with
// the ticket; the second fence makes the reads that follow see what the tickets before this one
// released. Without the second one a stale line of the L1 cache may be read. The counter wraps to
// 0, so the workspace can be used again.
__device__ __forceinline__ bool is_last_block(unsigned* ticket, unsigned blocks, int* flag) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    const unsigned taken = atomicInc(ticket, blocks - 1);
    __threadfence();
    *flag = taken == blocks - 1;
  }
  __syncthreads();
  return *flag != 0;
}

}  // namespace gaal::cuda
