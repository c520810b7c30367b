#include "cpu/parallel.h"

#include <system_error>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#endif

namespace gaal::cpu {
namespace {

// libgomp's entry points, which LLVM's and Intel's runtimes export too. They are looked up in the
// process instead of being linked: torch brings its own copy of the runtime, and a second one would
// start a second set of threads, which fight with torch's for the cores because both spin for a
// while after each region.
struct OpenMp {
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
  int (*thread_num)() = nullptr;
  int (*num_threads)() = nullptr;

  OpenMp() {
#if defined(__unix__) || defined(__APPLE__)
    const auto find = [](auto& target, const char* name) {
      target =
          reinterpret_cast<std::remove_reference_t<decltype(target)>>(dlsym(RTLD_DEFAULT, name));
      return target != nullptr;
    };
    if (!find(thread_num, "omp_get_thread_num") || !find(num_threads, "omp_get_num_threads") ||
        !find(parallel, "GOMP_parallel"))
      parallel = nullptr;
#endif
  }
};

}  // namespace

void run_team(int threads, void (*body)(void*, int, int), void* context) {
  if (threads <= 1) return body(context, 0, 1);
  static const OpenMp omp;
  if (omp.parallel) {
    struct Job {
      void (*body)(void*, int, int);
      void* context;
    } job{body, context};
    // The whole team even for little work: libgomp ends the threads a smaller team leaves over, and
    // torch would have to start them again.
    omp.parallel(
        [](void* p) {
          const Job& j = *static_cast<Job*>(p);
          j.body(j.context, omp.thread_num(), omp.num_threads());
        },
        &job, static_cast<unsigned>(threads), 0);
    return;
  }
  std::vector<std::thread> helpers;
  helpers.reserve(static_cast<size_t>(threads));
  int started = 1;
  try {
    for (; started < threads; ++started) helpers.emplace_back(body, context, started, threads);
  } catch (const std::system_error&) {
    // No more threads are available: the remaining ranks run here.
  }
  body(context, 0, threads);
  for (int rank = started; rank < threads; ++rank) body(context, rank, threads);
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace gaal::cpu
