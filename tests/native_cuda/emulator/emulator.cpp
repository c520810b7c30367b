// The scheduler of the emulated device. Compiled without sanitizers; under ThreadSanitizer it
// announces every switch of fibers, and the only orders between emulated threads are those
// announced here:
//   launch    everything before a launch comes before each of its threads; blocks of one launch are
//   not ordered, not even where one starts
//             after another has ended
//   barrier   __syncthreads, __syncwarp and a grid-wide wait order the threads that meet there
//   fence     a fence before an atomic releases, a fence after an atomic acquires what earlier such
//   pairs on that address released
// Shuffles order nothing, as on the device.
#include "cuda_runtime.h"
#include "mma.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <vector>

#ifndef GAAL_EMULATOR_TSAN
#define GAAL_EMULATOR_TSAN 0
#endif

#if GAAL_EMULATOR_TSAN
extern "C" {
void* __tsan_get_current_fiber(void);
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#else
static void* __tsan_get_current_fiber() { return nullptr; }
static void* __tsan_create_fiber(unsigned) { return nullptr; }
static void __tsan_switch_to_fiber(void*, unsigned) {}
static void __tsan_acquire(void*) {}
static void __tsan_release(void*) {}
#endif

#if defined(__x86_64__)
// Saves the callee-saved registers on the stack, puts the stack pointer in *from, and continues
// where `to` was saved.
extern "C" void gaal_emulator_switch(void** from, void* to);
asm(R"(
.text
.globl gaal_emulator_switch
.hidden gaal_emulator_switch
.type gaal_emulator_switch, @function
gaal_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size gaal_emulator_switch, .-gaal_emulator_switch
)");
#else
#include <ucontext.h>
#endif

namespace emulator {
namespace {

constexpr size_t kStack = 64 * 1024;
constexpr unsigned kWarpSize = 32;

enum class State { kReady, kAtBarrier, kAtWarp, kAtGrid, kDone };

struct Block;

}  // namespace

struct Thread {
#if defined(__x86_64__)
  void* stack_pointer;
#else
  ucontext_t context;
#endif
  char* stack;
  void* fiber;
  Block* block;
  unsigned index;
  State state;
  const char* waits_for;
  // What this lane gave to the last two exchanges of its warp.
  alignas(16) unsigned char slots[2][16];
  unsigned exchanges;
  // Fences, see the top.
  bool fenced;
  unsigned* taken[4];
  int taken_count;
};

namespace {

struct Block {
  unsigned index;
  std::vector<Thread*> threads;
  unsigned char* shared;
  unsigned waiting;
  unsigned done;
  unsigned warp_waiting[32];
  char barrier_order[2];  // addresses that stand for an order; the two of neighbouring barriers
                          // differ
  unsigned barriers;
  char warp_order[32];
};

struct Device {
  std::vector<Thread*> idle;
  std::vector<Thread*> ready;
  std::vector<Block*> blocks;  // alive
  std::vector<Block*> ended;
  Grid grid;
  const std::function<void()>* kernel;
  Thread* running;
#if defined(__x86_64__)
  void* scheduler;
#else
  ucontext_t scheduler;
#endif
  void* scheduler_fiber;
  unsigned grid_waiting;
  uint64_t random = 88172645463325252ull;
  std::string error;
  // Multiprocessors of each device, and blocks that fit on one of them.
  int shapes[3][2] = {{3, 2}, {1, 1}, {132, 4}};
  int current = 0;
  Counters counters;
  char launch_start;
  char launch_end;
  char grid_order;
};

// Never destroyed, and with it the fibers: they lie suspended in the middle of a function.
Device& device = *new Device;

uint64_t next_random() {
  device.random ^= device.random << 13;
  device.random ^= device.random >> 7;
  device.random ^= device.random << 17;
  return device.random;
}

void to_scheduler() {
  Thread* const self = device.running;
  __tsan_switch_to_fiber(device.scheduler_fiber, 1);
#if defined(__x86_64__)
  gaal_emulator_switch(&self->stack_pointer, device.scheduler);
#else
  swapcontext(&self->context, &device.scheduler);
#endif
}

void body() {
  Thread* const self = device.running;
  __tsan_acquire(&device.launch_start);
  (*device.kernel)();
  __tsan_release(&device.launch_end);
  self->state = State::kDone;
  for (;;) to_scheduler();
}

void to_thread(Thread* thread) {
  device.running = thread;
  __tsan_switch_to_fiber(thread->fiber, 1);
#if defined(__x86_64__)
  gaal_emulator_switch(&device.scheduler, thread->stack_pointer);
#else
  swapcontext(&device.scheduler, &thread->context);
#endif
  device.running = nullptr;
}

// A fiber at the beginning of the kernel.
void make_fiber(Thread* thread) {
  if (thread->stack == nullptr) {
    void* const memory = mmap(nullptr, kStack, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    thread->stack = static_cast<char*>(memory);
  }
  if (thread->fiber == nullptr) thread->fiber = __tsan_create_fiber(0);
#if defined(__x86_64__)
  void** top = reinterpret_cast<void**>(thread->stack + kStack);
  *--top = nullptr;  // where body would return to; also aligns the stack as a call does
  *--top = reinterpret_cast<void*>(&body);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  thread->stack_pointer = top;
#else
  getcontext(&thread->context);
  thread->context.uc_stack.ss_sp = thread->stack;
  thread->context.uc_stack.ss_size = kStack;
  makecontext(&thread->context, &body, 0);
#endif
}

void set_ready(Thread* thread) {
  thread->state = State::kReady;
  device.ready.push_back(thread);
}

void start_block(unsigned index) {
  Block* const block = new Block{};
  block->index = index;
  const size_t bytes = device.grid.shared_bytes;
  block->shared = static_cast<unsigned char*>(::operator new(bytes + 1, std::align_val_t{128}));
  std::memset(block->shared, 0xff, bytes + 1);
  for (unsigned i = 0; i < device.grid.threads; ++i) {
    if (device.idle.empty()) device.idle.push_back(new Thread{});
    Thread* const thread = device.idle.back();
    device.idle.pop_back();
    make_fiber(thread);
    thread->block = block;
    thread->index = i;
    thread->exchanges = 0;
    thread->fenced = false;
    thread->taken_count = 0;
    block->threads.push_back(thread);
    set_ready(thread);
  }
  device.blocks.push_back(block);
  __tsan_release(&device.launch_start);  // its memory was just poisoned
}

// The block's memory is kept until the launch ends, and for the race checker its fibers too: used
// again, they would order two blocks that nothing orders. That checker knows some 8000 threads, so
// a launch under it must not have more.
void end_block(Block* block) {
  if (!GAAL_EMULATOR_TSAN)
    device.idle.insert(device.idle.end(), block->threads.begin(), block->threads.end());
  device.blocks.erase(std::find(device.blocks.begin(), device.blocks.end(), block));
  device.ended.push_back(block);
}

void free_blocks(std::vector<Block*>& blocks) {
  for (Block* block : blocks) {
    if (GAAL_EMULATOR_TSAN && &blocks == &device.ended)
      device.idle.insert(device.idle.end(), block->threads.begin(), block->threads.end());
    ::operator delete(block->shared, std::align_val_t{128});
    delete block;
  }
  blocks.clear();
}

void wait(State state, const char* what) {
  device.running->state = state;
  device.running->waits_for = what;
  to_scheduler();
}

void release_waiters(Block* block, State state, unsigned first, unsigned last) {
  for (unsigned i = first; i < last; ++i) {
    if (block->threads[i]->state == state) set_ready(block->threads[i]);
  }
}

}  // namespace

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
