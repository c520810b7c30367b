// The scheduler of the emulated device: threads as fibers, blocks, and the order in which they run.
// A part of emulator.cpp, which alone includes it.
#pragma once

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "cuda_runtime.h"

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

constexpr size_t kStack = 64 * 1024;
constexpr unsigned kWarpSize = 32;

enum class State { kReady, kAtBarrier, kAtWarp, kAtGrid, kDone };

struct Block;

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

// Never destroyed, nor are its fibers: they are suspended in the middle of a function.
inline Device& device = *new Device;

inline uint64_t next_random() {
  device.random ^= device.random << 13;
  device.random ^= device.random >> 7;
  device.random ^= device.random << 17;
  return device.random;
}

inline void to_scheduler() {
  Thread* const self = device.running;
  __tsan_switch_to_fiber(device.scheduler_fiber, 1);
#if defined(__x86_64__)
  gaal_emulator_switch(&self->stack_pointer, device.scheduler);
#else
  swapcontext(&self->context, &device.scheduler);
#endif
}

inline void body() {
  Thread* const self = device.running;
  __tsan_acquire(&device.launch_start);
  (*device.kernel)();
  __tsan_release(&device.launch_end);
  self->state = State::kDone;
  for (;;) to_scheduler();
}

inline void to_thread(Thread* thread) {
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
inline void make_fiber(Thread* thread) {
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

inline void set_ready(Thread* thread) {
  thread->state = State::kReady;
  device.ready.push_back(thread);
}

inline void start_block(unsigned index) {
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
inline void end_block(Block* block) {
  if (!GAAL_EMULATOR_TSAN)
    device.idle.insert(device.idle.end(), block->threads.begin(), block->threads.end());
  device.blocks.erase(std::find(device.blocks.begin(), device.blocks.end(), block));
  device.ended.push_back(block);
}

inline void free_blocks(std::vector<Block*>& blocks) {
  for (Block* block : blocks) {
    if (GAAL_EMULATOR_TSAN && &blocks == &device.ended)
      device.idle.insert(device.idle.end(), block->threads.begin(), block->threads.end());
    ::operator delete(block->shared, std::align_val_t{128});
    delete block;
  }
  blocks.clear();
}

inline void wait(State state, const char* what) {
  device.running->state = state;
  device.running->waits_for = what;
  to_scheduler();
}

inline void release_waiters(Block* block, State state, unsigned first, unsigned last) {
  for (unsigned i = first; i < last; ++i) {
    if (block->threads[i]->state == state) set_ready(block->threads[i]);
  }
}

}  // namespace emulator
