// The emulated device. Compiled without sanitizers; under ThreadSanitizer it announces every switch
// of fibers, and the only orders between emulated threads are those announced here:
//   launch    everything before a launch comes before each of its threads; blocks of one launch are
//             not ordered, not even where one starts after another has ended
//   barrier   __syncthreads, __syncwarp and a grid-wide wait order the threads that meet there
//   fence     a fence before an atomic releases, a fence after an atomic acquires what earlier such
//             pairs on that address released
// Shuffles order nothing, as on the device.
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "cuda_runtime.h"
#include "mma.h"
#include "scheduler.h"

namespace emulator {

void fail(const char* what) {
  device.error = what;
  device.running->state = State::kDone;
  for (;;) to_scheduler();
}

unsigned thread_index() { return device.running->index; }
unsigned block_index() { return device.running->block->index; }
unsigned block_size() { return device.grid.threads; }
unsigned grid_size() { return device.grid.blocks; }
unsigned char* shared_memory() { return device.running->block->shared; }
unsigned lane() { return device.running->index % kWarpSize; }

// The last to arrive wakes the others and goes on.
void barrier() {
  Thread* const self = device.running;
  Block* const block = self->block;
  char* const order = &block->barrier_order[block->barriers % 2];
  __tsan_release(order);
  if (++block->waiting == block->threads.size()) {
    block->waiting = 0;
    ++block->barriers;
    for (Thread* thread : block->threads) {
      if (thread != self) set_ready(thread);
    }
    set_ready(self);
    to_scheduler();
  } else {
    wait(State::kAtBarrier, "__syncthreads");
  }
  __tsan_acquire(order);
}

static void meet(const char* what) {
  Thread* const self = device.running;
  Block* const block = self->block;
  const unsigned warp = self->index / kWarpSize;
  for (unsigned i = warp * kWarpSize; i < (warp + 1) * kWarpSize; ++i) {
    const Thread* const other = block->threads[i];
    if (other->state == State::kAtWarp && std::strcmp(other->waits_for, what) != 0)
      fail("lanes of a warp meet at different operations");
  }
  if (++block->warp_waiting[warp] == kWarpSize) {
    block->warp_waiting[warp] = 0;
    release_waiters(block, State::kAtWarp, warp * kWarpSize, (warp + 1) * kWarpSize);
    set_ready(self);
    to_scheduler();
  } else {
    wait(State::kAtWarp, what);
  }
}

void warp_barrier() {
  char* const order = &device.running->block->warp_order[device.running->index / kWarpSize];
  __tsan_release(order);
  meet("__syncwarp");
  __tsan_acquire(order);
}

void exchange(const void* value, size_t bytes, const char* what) {
  if (what == nullptr) fail("only shuffles of whole warps are emulated");
  Thread* const self = device.running;
  ++self->exchanges;
  for (size_t i = 0; i < bytes; ++i)
    self->slots[self->exchanges % 2][i] = static_cast<const unsigned char*>(value)[i];
  meet(what);
}

const void* lane_value(unsigned from) {
  const Thread* const self = device.running;
  return self->block->threads[self->index / kWarpSize * kWarpSize + from]
      ->slots[self->exchanges % 2];
}

void multiply_fragments(const float* a, const float* b, float* sum) {
  const float* const mine[2] = {a, b};
  exchange(mine, sizeof(mine), "mma_sync");
  const float* of_a[kWarpSize];
  const float* of_b[kWarpSize];
  for (unsigned i = 0; i < kWarpSize; ++i) {
    const float* both[2];
    const unsigned char* const slot = static_cast<const unsigned char*>(lane_value(i));
    for (size_t byte = 0; byte < sizeof(both); ++byte)
      reinterpret_cast<unsigned char*>(both)[byte] = slot[byte];
    of_a[i] = both[0];
    of_b[i] = both[1];
  }
  for (unsigned i = 0; i < 8; ++i) {
    const unsigned element = lane() * 8 + i;
    for (unsigned k = 0; k < 16; ++k) {
      const unsigned left = element / 16 * 16 + k;
      const unsigned right = k * 16 + element % 16;
      sum[i] += of_a[left / 8][left % 8] * of_b[right / 8][right % 8];
    }
  }
  // Nobody may go on to change its fragments before all have read them.
  const char done = 0;
  exchange(&done, 1, "mma_sync");
}

void fence() {
  Thread* const self = device.running;
  self->fenced = true;
  for (int i = 0; i < self->taken_count; ++i) __tsan_acquire(self->taken[i]);
  self->taken_count = 0;
}

unsigned atomic_inc(unsigned* address, unsigned bound) {
  Thread* const self = device.running;
  if (self->fenced) __tsan_release(address);
  self->fenced = false;
  if (self->taken_count == 4) fail("more atomics between two fences than the emulator remembers");
  self->taken[self->taken_count++] = address;
  const unsigned old = *address;
  *address = old >= bound ? 0 : old + 1;
  return old;
}

void grid_barrier() {
  if (!device.grid.cooperative) fail("a grid-wide wait in a launch that is not cooperative");
  Thread* const self = device.running;
  __tsan_release(&device.grid_order);
  if (++device.grid_waiting == device.grid.blocks * device.grid.threads) {
    device.grid_waiting = 0;
    for (Block* block : device.blocks)
      release_waiters(block, State::kAtGrid, 0, static_cast<unsigned>(block->threads.size()));
    set_ready(self);
    to_scheduler();
  } else {
    wait(State::kAtGrid, "grid.sync");
  }
  __tsan_acquire(&device.grid_order);
}

int launch(const Grid& grid, const std::function<void()>& kernel) {
  const unsigned most =
      static_cast<unsigned>(device.shapes[device.current][0] * device.shapes[device.current][1]);
  if (grid.blocks == 0 || grid.threads == 0 || grid.threads > 1024 || grid.threads % kWarpSize != 0)
    return cudaErrorInvalidValue;
  if (grid.cooperative && grid.blocks > most) return cudaErrorCooperativeLaunchTooLarge;
  ++device.counters.kernels;
  if (grid.cooperative) ++device.counters.cooperative_kernels;
  device.grid = grid;
  device.kernel = &kernel;
  device.error.clear();
  device.ready.clear();
  device.grid_waiting = 0;
  if (device.scheduler_fiber == nullptr) device.scheduler_fiber = __tsan_get_current_fiber();
  __tsan_release(&device.launch_start);

  std::vector<unsigned> order(grid.blocks);
  for (unsigned i = 0; i < grid.blocks; ++i) order[i] = i;
  for (unsigned i = grid.blocks; i > 1; --i) std::swap(order[i - 1], order[next_random() % i]);
  const unsigned alive =
      grid.cooperative ? grid.blocks : 1 + static_cast<unsigned>(next_random() % most);
  unsigned started = 0;
  while (started < grid.blocks || !device.blocks.empty()) {
    while (started < grid.blocks && device.blocks.size() < alive) start_block(order[started++]);
    if (device.ready.empty()) {
      device.error = "threads wait for each other:";
      for (const Block* block : device.blocks) {
        for (const Thread* thread : block->threads) {
          if (thread->state == State::kDone) continue;
          device.error += " thread " + std::to_string(thread->index) + " of block " +
                          std::to_string(block->index) + " at " + thread->waits_for;
          break;
        }
      }
      break;
    }
    const size_t pick = next_random() % device.ready.size();
    Thread* const thread = device.ready[pick];
    device.ready[pick] = device.ready.back();
    device.ready.pop_back();
    to_thread(thread);
    if (!device.error.empty()) break;
    if (thread->state == State::kDone && ++thread->block->done == grid.threads)
      end_block(thread->block);
  }
  __tsan_acquire(&device.launch_end);
  free_blocks(device.ended);
  // The fibers of a failed launch are stuck in the middle of a kernel: never used again.
  free_blocks(device.blocks);
  return device.error.empty() ? cudaSuccess : cudaErrorLaunchFailure;
}

Counters& counters() { return device.counters; }
void set_seed(uint64_t seed) { device.random = seed * 2654435769u + 88172645463325252ull; }
void set_device(int multiprocessors, int blocks_per_multiprocessor) {
  device.shapes[device.current][0] = multiprocessors;
  device.shapes[device.current][1] = blocks_per_multiprocessor;
}
int blocks_per_multiprocessor() { return device.shapes[device.current][1]; }

}  // namespace emulator

const char* cudaGetErrorString(cudaError_t status) {
  if (status == cudaErrorLaunchFailure) return emulator::device.error.c_str();
  return status == cudaSuccess             ? "success"
         : status == cudaErrorInvalidValue ? "invalid value"
                                           : "too many blocks to be resident";
}

cudaError_t cudaGetDevice(int* device) {
  *device = emulator::device.current;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device > 2) return cudaErrorInvalidValue;
  emulator::device.current = device;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int device) {
  if (device < 0 || device > 2) return cudaErrorInvalidValue;
  switch (which) {
    case cudaDevAttrMultiProcessorCount: *value = emulator::device.shapes[device][0]; break;
    case cudaDevAttrCooperativeLaunch: *value = 1; break;
  }
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, const void*) { return cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int value) {
  return value <= 99 * 1024 ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  ++emulator::device.counters.memsets;
  std::memset(to, value, bytes);
  return cudaSuccess;
}

// For tests that hold the library by ctypes.
extern "C" {
__attribute__((visibility("default"))) void gaal_emulator_seed(unsigned long long seed) {
  emulator::set_seed(seed);
}
__attribute__((visibility("default"))) int gaal_emulator_current_device() {
  return emulator::device.current;
}
__attribute__((visibility("default"))) void gaal_emulator_counts(int* kernels, int* cooperative,
                                                                 int* memsets) {
  *kernels = emulator::device.counters.kernels;
  *cooperative = emulator::device.counters.cooperative_kernels;
  *memsets = emulator::device.counters.memsets;
  emulator::device.counters = {};
}
}
