// How work is cut into pieces for the team of threads. A piece depends on shapes alone, never on
// the number of threads, so that results do not either.
#pragma once

#include <cstdint>

#include "cpu/ops.h"

namespace gaal::cpu {

// A row longer than kSegment is shared out, so that a few huge rows use every core; short rows are
// taken together until they make a piece worth handing to a thread.
constexpr int64_t kSegment = 16384;
constexpr int64_t kPiece = 4096;
constexpr int64_t kRowsTogether = 64;
// Fixed cost of a row, in elements.
constexpr int64_t kRowCost = 16;
// Elements below which waking the team costs more than it saves.
constexpr int64_t kSerial = 8192;
constexpr int64_t kFlatPiece = 16384;
constexpr int64_t kColumnPiece = 128;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int threads_for(const Run& run, int64_t elements) {
  return elements < kSerial ? 1 : run.threads;
}

// Work that can be done beside something else in one go over the team: body(i) for i < n, which
// costs as much as so many elements altogether.
template <class Body>
struct Tasks {
  int64_t n;
  int64_t elements;
  Body body;
};
template <class Body>
Tasks(int64_t, int64_t, Body) -> Tasks<Body>;

}  // namespace gaal::cpu
