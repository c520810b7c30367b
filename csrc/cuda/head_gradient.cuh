// Pieces of the head's gradient that several kernels share.
#pragma once

#include "cuda/tile.cuh"

namespace gaal::cuda {

// The sum of the rows' weights, the same in every block that asks. Begins and ends with a barrier.
__device__ inline double sum_weights(const float* weights, int rows, double* scratch) {
  double total[1] = {0.0};
  for (int i = static_cast<int>(threadIdx.x); i < rows; i += static_cast<int>(blockDim.x))
    total[0] += global(weights)[i];
  block_sum(total, scratch);
  return total[0];
}

// What a sum over weighted rows is multiplied by to become their mean; the mean of no rows is 0
// here.
__device__ __forceinline__ float inverse_total(double total, int rows) {
  return rows > 0 ? static_cast<float>(1.0 / total) : 0.0f;
}

}  // namespace gaal::cuda
