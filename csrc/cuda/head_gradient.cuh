// Pieces of the head's gradient that several kernels share.
#pragma once

#include "cuda/api.h"
#include "cuda/tile.cuh"

namespace gaal::cuda {

// The sum of the rows' weights, equal in all blocks. Begins and ends with a barrier.
__device__ inline double sum_weights(const float* weights, int rows, double* scratch) {
  double total[1] = {0.0};
  for (int i = static_cast<int>(threadIdx.x); i < rows; i += static_cast<int>(blockDim.x))
    total[0] += global(weights)[i];
  block_sum(total, scratch);
  return total[0];
}

// The factor that turns a sum over weighted rows into their mean; 0 for no rows.
__device__ __forceinline__ float inverse_total(double total, int rows) {
  return rows > 0 ? static_cast<float>(1.0 / total) : 0.0f;
}

// Depth of one step of a product.
inline int step_of(DType dtype) {
  return dtype == DType::kFloat32 ? TileShape<float>::kStep : TileShape<__half>::kStep;
}

// Whether every row begins at a multiple of 16 bytes, so that it can be read in packs.
template <typename T>
bool in_packs(const Matrix& m) {
  return is_aligned16(m.data) && m.stride % Pack<T>::kSize == 0;
}

}  // namespace gaal::cuda
