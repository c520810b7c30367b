// The kernels between the library's matrix products, for shapes large enough for those: residuals
// from logits, and v from Gram matrices.
#include <algorithm>

#include "common/projection.h"
#include "cuda/head_gradient.cuh"
#include "cuda/projection.cuh"
#include "cuda/row_stats.cuh"

namespace gaal::cuda {
namespace {

constexpr int kThreads = 256;
constexpr size_t kScratchBytes = 3 * sizeof(double) * kThreads / kWarp;

struct ResidualArgs {
  const void* logits;
  int64_t stride;
  int64_t source_rows;
  const int64_t* index;
  const RowMeta* metas;
  const double* total;
  const double* sigma;
  int64_t count;
  int64_t classes;
  int blocks_per_row;
  void* out;
  int64_t out_stride;
};

template <typename T>
__global__ void __launch_bounds__(kThreads)
    write_residuals(const __grid_constant__ ResidualArgs a) {
  const int64_t position = blockIdx.x / a.blocks_per_row;
  const int64_t source = a.index == nullptr ? position : a.index[position];
  const RowMeta meta = scaled(
      a.metas[position], static_cast<float>(static_cast<double>(a.count) / *a.total * *a.sigma));
  const bool legal = source >= 0 && source < a.source_rows;
  const T* const from = static_cast<const T*>(a.logits) + (legal ? source : 0) * a.stride;
  T* const to = static_cast<T*>(a.out) + position * a.out_stride;
  // meta is NaN for an illegal source
  const int first =
      static_cast<int>(blockIdx.x % a.blocks_per_row) * kThreads + static_cast<int>(threadIdx.x);
  const int step = a.blocks_per_row * kThreads;
  const int classes = static_cast<int>(a.classes);
  const int packs = is_aligned16(from) && is_aligned16(to) ? classes / Pack<T>::kSize : 0;
  for (int i = first; i < packs; i += step) {
    Pack<T> pack = load_pack(from + i * static_cast<int64_t>(Pack<T>::kSize));
#pragma unroll
    for (int j = 0; j < Pack<T>::kSize; ++j) {
      pack.v[j] = from_float<T>(residual_of(to_float(pack.v[j]), meta, i * Pack<T>::kSize + j));
    }
    store_pack(to + i * static_cast<int64_t>(Pack<T>::kSize), pack);
  }
  for (int c = packs * Pack<T>::kSize + first; c < classes; c += step)
    to[c] = from_float<T>(residual_of(to_float(from[c]), meta, c));
}

struct GramArgs {
  const float* residual_gram;
  const float* feature_gram;
  float bias_feature;  // the bias is a feature that is always 1
  int64_t rows;
  int64_t k;
  const double* sigmas;
  double* partial;  // [3, blocks]
  unsigned* ticket;
  double* v;
  float* scalars;
  DeviceRule rule;
};

__global__ void __launch_bounds__(kThreads)
    gram_inner_products(const __grid_constant__ GramArgs a) {
  GAAL_DYNAMIC_SHARED(shared);
  double* const scratch = reinterpret_cast<double*>(shared);
  int* const flag = reinterpret_cast<int*>(shared + kScratchBytes);
  const int64_t all = a.rows + a.k;
  double sums[3] = {0.0, 0.0, 0.0};
  for (int64_t i = blockIdx.x; i < all; i += gridDim.x) {
    for (int64_t j = threadIdx.x; j < all; j += kThreads) {
      const double term = static_cast<double>(a.residual_gram[i * all + j]) *
                          (a.feature_gram[i * all + j] + a.bias_feature);
      if (i < a.rows && j >= a.rows) sums[0] += term;
      if (i >= a.rows && j >= a.rows) sums[1] += term;
      if (i < a.rows && j < a.rows) sums[2] += term;
    }
  }
  block_sum(sums, scratch);
  const int blocks = static_cast<int>(gridDim.x);
  if (threadIdx.x == 0) {
    for (int i = 0; i < 3; ++i) a.partial[i * blocks + blockIdx.x] = sums[i];
  }
  if (!is_last_block(a.ticket, gridDim.x, flag)) return;
  for (int i = 0; i < 3; ++i) {
    sums[i] = 0.0;
    for (int block = static_cast<int>(threadIdx.x); block < blocks; block += kThreads)
      sums[i] += a.partial[i * blocks + block];
  }
  block_sum(sums, scratch);
  if (threadIdx.x == 0) {
    const double rows = static_cast<double>(a.rows) * a.sigmas[0];
    const double k = static_cast<double>(a.k) * a.sigmas[1];
    // Rounding may leave a norm of 0 slightly below it. NaN stays.
    const double guide_norm2 = sums[1] < 0.0 ? 0.0 : sums[1] / (k * k);
    const double grad_norm2 = sums[2] < 0.0 ? 0.0 : sums[2] / (rows * rows);
    const InnerProducts products{sums[0] / (rows * k), guide_norm2, grad_norm2};
    const double v = correction(products, read_rule(a.rule));
    *a.v = v;
    store_scalars(a.scalars, v, products);
  }
}

template <typename T>
__device__ void multiply_all(T* data, int64_t count, const Factor& factor) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    data[i] = from_float<T>(factor.times(to_float(data[i])));
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    unscale_all(T* data, int64_t count, const double* sigma) {
  if (*sigma != 1.0) multiply_all(data, count, Factor(1.0 / *sigma));
}

// Scales the residuals of the batch, then those of the guide, for one product over both.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    scale_residuals(T* residuals, int64_t of_batch, int64_t of_guide, double factor,
                    const double* v, const double* sigmas) {
  if (sigmas[0] != 1.0) multiply_all(residuals, of_batch, Factor(1.0 / sigmas[0]));
  multiply_all(residuals + of_batch, of_guide, Factor(*v * factor / sigmas[1]));
}

struct ResidualWorkspace {
  RowsPlan rows;
  size_t metas;
  size_t weights;
  size_t nll;
  size_t partial;
  size_t bytes;
};

ResidualWorkspace lay_out(int device, int64_t count, int64_t classes) {
  ResidualWorkspace at{};
  at.rows = plan_rows(device, count, classes);
  at.metas = 256;
  at.weights = at.metas + round_up<size_t>(count * sizeof(RowMeta), 256);
  at.nll = at.weights + round_up<size_t>(count * sizeof(float), 256);
  at.partial = at.nll + round_up<size_t>(count * sizeof(float), 256);
  at.bytes =
      at.partial +
      (at.rows.parts > 1 ? static_cast<size_t>(count) * at.rows.parts * sizeof(RowStats) : 0);
  return at;
}

unsigned gram_blocks(int device, int64_t all) {
  return static_cast<unsigned>(
      std::min<int64_t>(all, 2 * static_cast<int64_t>(device_info(device).multiprocessors)));
}

// The launch of a kernel that loops over `count` elements.
Launch walk(const Call& call, int64_t count) {
  const int64_t wanted = std::max<int64_t>(1, ceil_div<int64_t>(count, 4 * kThreads));
  const int64_t most = 8 * static_cast<int64_t>(device_info(call.device).multiprocessors);
  return {static_cast<unsigned>(std::min(wanted, most)), kThreads, 0,
          static_cast<cudaStream_t>(call.stream)};
}

constexpr size_t kTotalAt = 8;  // in a workspace, after the ticket

}  // namespace

size_t ce_residual_workspace(int device, int64_t count, int64_t classes) {
  return lay_out(device, count, classes).bytes;
}

void ce_residual(const Call& call, const Matrix& logits, const int64_t* target,
                 const int64_t* index, int64_t count, const float* class_weights, void* out,
                 int64_t out_stride, double* sigma, float* loss, void* workspace) {
  const DeviceGuard guard(call.device);
  const cudaStream_t stream = static_cast<cudaStream_t>(call.stream);
  const ResidualWorkspace at = lay_out(call.device, count, logits.columns);
  char* const base = static_cast<char*>(workspace);

  RowsArgs rows{};
  rows.logits = logits.data;
  rows.stride = logits.stride;
  rows.source_rows = logits.rows;
  rows.columns = logits.columns;
  rows.index = index;
  rows.rows = count;
  rows.target = target;
  rows.class_weights = class_weights;
  rows.meta = reinterpret_cast<RowMeta*>(base + at.metas);
  rows.weights = reinterpret_cast<float*>(base + at.weights);
  rows.nll = reinterpret_cast<float*>(base + at.nll);
  rows.total = reinterpret_cast<double*>(base + kTotalAt);
  rows.sigma = sigma;
  rows.loss = loss;
  rows.k = -1;
  rows.ticket = reinterpret_cast<unsigned*>(base);
  rows.partial = reinterpret_cast<RowStats*>(base + at.partial);
  check(cudaMemsetAsync(rows.ticket, 0, sizeof(unsigned), stream), "cudaMemsetAsync");
  enqueue_row_stats(call.dtype, at.rows, rows, stream);

  ResidualArgs args{};
  args.logits = logits.data;
  args.stride = logits.stride;
  args.source_rows = logits.rows;
  args.index = index;
  args.metas = rows.meta;
  args.total = rows.total;
  args.sigma = sigma;
  args.count = count;
  args.classes = logits.columns;
  args.blocks_per_row = static_cast<int>(ceil_div<int64_t>(logits.columns, 16 * kThreads));
  args.out = out;
  args.out_stride = out_stride;
  const Launch shape{static_cast<unsigned>(count * args.blocks_per_row), kThreads, 0, stream};
  with_element_type(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch(write_residuals<T>, shape, args);
  });
}

void unscale(const Call& call, void* data, int64_t count, const double* sigma) {
  const DeviceGuard guard(call.device);
  const Launch shape = walk(call, count);
  with_element_type(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch(unscale_all<T>, shape, static_cast<T*>(data), count, sigma);
  });
}

size_t gram_project_workspace(int device, int64_t rows, int64_t k) {
  return 256 + 3 * sizeof(double) * gram_blocks(device, rows + k);
}

void gram_project(const Call& call, int64_t rows, int64_t k, const float* residual_gram,
                  const float* feature_gram, bool has_bias, const double* sigmas, void* residuals,
                  int64_t classes, const DeviceRule& rule, float* scalars, void* workspace) {
  const DeviceGuard guard(call.device);
  const cudaStream_t stream = static_cast<cudaStream_t>(call.stream);
  GramArgs args{};
  args.residual_gram = residual_gram;
  args.feature_gram = feature_gram;
  args.bias_feature = has_bias ? 1.0f : 0.0f;
  args.rows = rows;
  args.k = k;
  args.ticket = static_cast<unsigned*>(workspace);
  args.partial = reinterpret_cast<double*>(static_cast<char*>(workspace) + 256);
  args.sigmas = sigmas;
  args.v = reinterpret_cast<double*>(static_cast<char*>(workspace) + kTotalAt);
  args.scalars = scalars;
  args.rule = rule;
  check(cudaMemsetAsync(args.ticket, 0, sizeof(unsigned), stream), "cudaMemsetAsync");
  launch(gram_inner_products,
         {gram_blocks(call.device, rows + k), kThreads, kScratchBytes + 16, stream}, args);

  const double factor = static_cast<double>(rows) / static_cast<double>(k);
  const Launch shape = walk(call, k * classes);
  const double* const v = args.v;
  with_element_type(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch(scale_residuals<T>, shape, static_cast<T*>(residuals), rows * classes, k * classes,
           factor, v, sigmas);
  });
}

}  // namespace gaal::cuda
