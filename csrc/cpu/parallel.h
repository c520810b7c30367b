// Fork-join over the thread team that torch uses.
#pragma once

#include <atomic>
#include <cstdint>

namespace gaal::cpu {

// Calls body(context, rank, size) on every rank of a team of at most `threads`; returns when all
// are done. body must not throw.
void run_team(int threads, void (*body)(void* context, int rank, int size), void* context);

// body(i) for every i in [0, n). Whatever is summed is summed per i and joined in the order of i:
// the result does not depend on the number of threads nor on which of them does what.

// Thread t takes the t-th of equal contiguous ranges, so that two loops over the same n find the
// same data in the same cache.
template <class Body>
void parallel_for_static(int threads, int64_t n, Body&& body) {
  struct Context {
    Body& body;
    int64_t n;
  } context{body, n};
  run_team(
      n <= 1 ? 1 : threads,
      [](void* p, int rank, int size) {
        const Context& c = *static_cast<Context*>(p);
        const int64_t end = c.n * (rank + 1) / size;
        for (int64_t i = c.n * rank / size; i < end; ++i) c.body(i);
      },
      &context);
}

// Threads take the next i when they are done with one: for pieces of unequal length, and for cores
// that others use too.
template <class Body>
void parallel_for(int threads, int64_t n, Body&& body) {
  struct Context {
    Body& body;
    int64_t n;
    std::atomic<int64_t> next;
  } context{body, n, {0}};
  run_team(
      n <= 1 ? 1 : threads,
      [](void* p, int, int) {
        Context& c = *static_cast<Context*>(p);
        for (int64_t i; (i = c.next.fetch_add(1, std::memory_order_relaxed)) < c.n;) c.body(i);
      },
      &context);
}

}  // namespace gaal::cpu
