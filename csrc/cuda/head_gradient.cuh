// Pieces of the head's gradient that several kernels share.
#pragma once

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

}  // namespace gaal::cuda
