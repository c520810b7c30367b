// Warp-wide matrix products. Which lane holds which element of a fragment is the device's secret;
// here lane l holds elements 8 l to 8 l + 7 of the 16 x 16 in row-major order. Loads check the
// alignment that the device demands.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace emulator {

inline float widen(float x) { return x; }
inline float widen(__half x) { return __half2float(x); }
inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

[[noreturn]] void fail(const char* what);

// sum += a b, elements of each of the 32 lanes' fragments given by exchange. Reads other lanes'
// registers, so no checker looks at it.
void multiply_fragments(const float* a, const float* b, float* sum);

}  // namespace emulator

namespace nvcuda::wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };

template <typename Use, int m, int n, int k, typename T, typename Layout = void>
struct fragment {
  static_assert(m == 16 && n == 16 && k == 16, "one shape");
  float x[8];
};

inline unsigned element(int i) { return emulator::lane() * 8 + static_cast<unsigned>(i); }

template <typename Use, typename T, typename Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, Layout>& into, const T* from, unsigned stride) {
  if (reinterpret_cast<std::uintptr_t>(from) % 32 != 0 || stride * sizeof(T) % 16 != 0)
    emulator::fail("load_matrix_sync: misaligned");
  const char kind = 'l';
  emulator::exchange(&kind, 1, "load_matrix_sync");
  for (int i = 0; i < 8; ++i) {
    const unsigned row = element(i) / 16;
    const unsigned column = element(i) % 16;
    into.x[i] = emulator::widen(std::is_same_v<Layout, row_major> ? from[row * stride + column]
                                                                  : from[column * stride + row]);
  }
}

inline void fill_fragment(fragment<accumulator, 16, 16, 16, float>& into, float value) {
  for (float& x : into.x) x = value;
}

template <typename T, typename LayoutA, typename LayoutB>
void mma_sync(fragment<accumulator, 16, 16, 16, float>& d,
              const fragment<matrix_a, 16, 16, 16, T, LayoutA>& a,
              const fragment<matrix_b, 16, 16, 16, T, LayoutB>& b,
              const fragment<accumulator, 16, 16, 16, float>& c) {
  float sum[8];
  for (int i = 0; i < 8; ++i) sum[i] = c.x[i];
  emulator::multiply_fragments(a.x, b.x, sum);
  for (int i = 0; i < 8; ++i) d.x[i] = sum[i];
}

inline void store_matrix_sync(float* to, const fragment<accumulator, 16, 16, 16, float>& from,
                              unsigned stride, layout_t layout) {
  if (reinterpret_cast<std::uintptr_t>(to) % 32 != 0 || stride * sizeof(float) % 16 != 0 ||
      layout != mem_row_major) {
    emulator::fail("store_matrix_sync: misaligned");
  }
  const char kind = 's';
  emulator::exchange(&kind, 1, "store_matrix_sync");
  for (int i = 0; i < 8; ++i) to[element(i) / 16 * stride + element(i) % 16] = from.x[i];
}

}  // namespace nvcuda::wmma
