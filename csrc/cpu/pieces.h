// How work is cut into pieces for the team of threads. Pieces depend on shapes alone, never on the
// number of threads, so results do not depend on it either.
#pragma once

#include <cstdint>

#include "cpu/ops.h"

namespace gaal::cpu {

// A row longer than kSegment is cut, so that a few huge rows use every core. Short rows are grouped
// into pieces of about kPiece elements.
constexpr int64_t kSegment = 16384;
constexpr int64_t kPiece = 4096;
constexpr int64_t kRowsTogether = 64;
// Fixed cost of a row, in elements.
constexpr int64_t kRowCost = 16;
// Break-even of waking the team, in elements.
constexpr int64_t kSerial = 8192;
constexpr int64_t kFlatPiece = 16384;
constexpr int64_t kColumnPiece = 128;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int threads_for(const Run& run, int64_t elements) {
  return elements < kSerial ? 1 : run.threads;
}

// Work that can share one parallel region with other work: body(i) for i < n. All of it costs as
// much as `elements` elements of a row.
template <class Body>
struct Tasks {
  int64_t n;
  int64_t elements;
  Body body;
};
template <class Body>
Tasks(int64_t, int64_t, Body) -> Tasks<Body>;

}  // namespace gaal::cpu
