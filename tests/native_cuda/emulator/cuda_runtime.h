// A stand-in for CUDA's header, found first on the include path, so that an ordinary C++ compiler
// builds the kernels' own source and a CPU runs it. Every thread of a grid is a fiber with its own
// stack; barriers, shuffles and grid-wide waits are where fibers are switched, in a random order
// that a seed decides. Several blocks are alive at once and start in a random order.
//
// What the real device leaves undefined is made visible: shared memory starts out poisoned, a
// barrier that some thread has left for good or a shuffle that not all lanes take part in is an
// error, and under ThreadSanitizer only barriers, fences around atomics, and the launch order make
// one thread's writes visible to another (see emulator.cpp).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>  // uses the word __noinline__ itself
#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))

#ifndef __clang__
#define __builtin_assume(condition)
#endif
inline bool __isGlobal(const void*) { return true; }

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace emulator {

// Coordinates of the fiber that runs now.
unsigned thread_index();
unsigned block_index();
unsigned block_size();
unsigned grid_size();
unsigned char* shared_memory();

template <unsigned (*read)()>
struct Coordinates {
  struct {
    operator unsigned() const { return read(); }
  } x;
};

void barrier();
void warp_barrier();
void fence();
unsigned atomic_inc(unsigned* address, unsigned bound);
void grid_barrier();

// Every lane of the warp gives `bytes` (at most 16); afterwards lane_value(lane) holds what a lane
// gave, until the next exchange but one.
void exchange(const void* value, size_t bytes, const char* what);
const void* lane_value(unsigned lane);
unsigned lane();

struct Grid {
  unsigned blocks;
  unsigned threads;
  size_t shared_bytes;
  bool cooperative;
};
int launch(const Grid& grid, const std::function<void()>& kernel);

// Counts since the last reset, for the tests.
struct Counters {
  int kernels;
  int cooperative_kernels;
  int memsets;
};
Counters& counters();
void set_seed(uint64_t seed);
// How many multiprocessors the current device pretends to have, and how many blocks fit on each.
void set_device(int multiprocessors, int blocks_per_multiprocessor);
int blocks_per_multiprocessor();

}  // namespace emulator

inline constexpr emulator::Coordinates<emulator::thread_index> threadIdx;
inline constexpr emulator::Coordinates<emulator::block_index> blockIdx;
inline constexpr emulator::Coordinates<emulator::block_size> blockDim;
inline constexpr emulator::Coordinates<emulator::grid_size> gridDim;
#define GAAL_DYNAMIC_SHARED(name) unsigned char* const name = ::emulator::shared_memory()

inline void __syncthreads() { ::emulator::barrier(); }
inline void __syncwarp() { ::emulator::warp_barrier(); }
inline void __threadfence() { ::emulator::fence(); }
inline unsigned atomicInc(unsigned* address, unsigned bound) {
  return ::emulator::atomic_inc(address, bound);
}

template <typename V>
V __shfl_xor_sync(unsigned mask, V value, int offset) {
  static_assert(sizeof(V) <= 16, "an exchange holds 16 bytes");
  ::emulator::exchange(&value, sizeof(V), mask == 0xffffffffu ? "shuffle" : nullptr);
  V other;
  std::memcpy(&other, ::emulator::lane_value(::emulator::lane() ^ static_cast<unsigned>(offset)),
              sizeof(V));
  return other;
}

template <typename V>
V __shfl_sync(unsigned mask, V value, int source) {
  ::emulator::exchange(&value, sizeof(V), mask == 0xffffffffu ? "shuffle" : nullptr);
  V other;
  std::memcpy(&other, ::emulator::lane_value(static_cast<unsigned>(source) % 32), sizeof(V));
  return other;
}

inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// --- The runtime's functions that the host side calls ---

using cudaStream_t = void*;
enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorCooperativeLaunchTooLarge = 720,
  cudaErrorLaunchFailure = 719
};
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrCooperativeLaunch };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaLaunchAttributeID { cudaLaunchAttributeCooperative };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int cooperative;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

const char* cudaGetErrorString(cudaError_t status);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int device);
struct cudaFuncAttributes {};
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function);
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute which, int value);
cudaError_t cudaGetLastError();
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream);

template <typename Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel, int, size_t) {
  *blocks = ::emulator::blocks_per_multiprocessor();
  return cudaSuccess;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const std::tuple<std::decay_t<Parameters>...> copies(std::forward<Arguments>(arguments)...);
  const bool cooperative = config->numAttrs == 1 &&
                           config->attrs[0].id == cudaLaunchAttributeCooperative &&
                           config->attrs[0].val.cooperative;
  const ::emulator::Grid grid{config->gridDim.x, config->blockDim.x, config->dynamicSmemBytes,
                              cooperative};
  return static_cast<cudaError_t>(::emulator::launch(grid, [&] { std::apply(kernel, copies); }));
}
