// The products of the head's gradients, which the stages inner and finish share.
#pragma once

#include "cuda/guided/args.cuh"

namespace gaal::cuda::guided {

// Leaves the sums of the batch in the first dump and in the first 64 column sums, those of the
// selected rows in the second ones. Ends with a barrier.
template <typename T>
__device__ __noinline__ void head_products(const GuidedArgs& a, int tile_m, int tile_n,
                                           bool with_guide) {
  GAAL_DYNAMIC_SHARED(shared);
  float* const column_sums = reinterpret_cast<float*>(shared + kColumnSums);
  for (int guide = 0; guide < (with_guide ? 2 : 1); ++guide) {
    const StackedRows<float> logits = stacked_logits(a, nullptr, 0);
    const int64_t* const index = guide == 0 ? nullptr : a.index;
    const int count = guide == 0 ? a.rows : a.k;
    const int source_rows = guide == 0 ? a.rows : a.guide_rows;
    ResidualsAcross<T, float> left(guide == 0 ? logits.first : logits.second, a.logit_stride, index,
                                   source_rows, guide == 0 ? a.scaled : a.chosen, count, tile_m,
                                   a.classes, true);
    RowsAcross<T> right(static_cast<const T*>(guide == 0 ? a.features : a.guide_features),
                        guide == 0 ? a.features_stride : a.guide_stride, index, source_rows, count,
                        tile_n, a.width, a.row_packs);
    Product<T> product;
    product.clear();
    multiply<T>(product, left, right, 0, count, shared);
    left.reduce_sums(column_sums + guide * kTile, reinterpret_cast<float*>(shared));
    product.dump(reinterpret_cast<float*>(shared + (guide == 0 ? kFirstDump : kSecondDump)));
    __syncthreads();
  }
}

// Factors that turn the products into gradients.
struct HeadScales {
  double grad;
  double guide;
};

__device__ __forceinline__ HeadScales head_scales(const GuidedArgs& a) {
  const Totals& t = *a.totals;
  return {a.rows > 0 ? 1.0 / (t.weights * t.sigma) : 0.0,
          a.k > 0 ? 1.0 / (t.guide_weights * t.guide_sigma) : 0.0};
}

// True for the thread that holds class `row` of the bias's gradient.
__device__ __forceinline__ bool holds_bias(const GuidedArgs& a, int tile_m, int tile_n, int* row) {
  *row = tile_m * kTile + static_cast<int>(threadIdx.x);
  return a.bias != nullptr && tile_n == 0 && threadIdx.x < kTile && *row < a.classes;
}

}  // namespace gaal::cuda::guided
