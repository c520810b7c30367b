// Fork-join over the thread team that torch uses.
#pragma once

#include <atomic>
#include <cstdint>

namespace gaal::cpu {

// Calls body(context, rank, size) on every rank of a team of at most `threads`; returns when all
// are done. body must not throw.
void run_team(int threads, void (*body)(void* context, int rank, int size), void* context);

// Both loops call body(i) for every i in [0, n). Callers sum per i and add these sums in the order
// of i, so results depend neither on the number of threads nor on which thread takes which i.

// Thread t takes the t-th of equal contiguous ranges: two loops over the same n find the same data
// in the same cache.
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

// Each thread takes the next i as soon as it is free: for pieces of unequal length, and for cores
// shared with other programs.
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
