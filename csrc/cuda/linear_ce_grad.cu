// linear_ce_grad: statistics of the chosen rows, then one product A^T U whose left operand is
// computed from the logits as they are read.
#include <algorithm>

#include "cuda/head_gradient.cuh"
#include "cuda/row_stats.cuh"

namespace gaal::cuda {
namespace {

struct GradArgs {
  const void* features;
  int64_t features_stride;
  const void* logits;
  int64_t logits_stride;
  int64_t source_rows;
  const int64_t* index;
  const RowMeta* metas;
  const float* weights;
  bool weighted;
  int count;
  int classes;
  int width;
  bool features_packs;
  bool logits_packs;
  void* grad_weight;
  void* grad_bias;
  // The rows are cut into `splits` of `split_rows`, one block each. The last block of a tile sums
  // them in order.
  int splits;
  int split_rows;
  float* partial;     // [tiles, splits, 64 * 64 + 64]
  unsigned* tickets;  // [tiles]
};

constexpr int kPartial = kTile * kTile + kTile;

template <typename T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks)
    head_gradient(const __grid_constant__ GradArgs a) {
  GAAL_DYNAMIC_SHARED(shared);
  const int tiles_n = a.width > 0 ? ceil_div(a.width, kTile) : 1;
  const int tile = static_cast<int>(blockIdx.x / a.splits);
  const int split = static_cast<int>(blockIdx.x % a.splits);
  const int tile_m = tile / tiles_n;
  const int tile_n = tile % tiles_n;
  const bool with_bias = tile_n == 0;
  float* const dump = reinterpret_cast<float*>(shared + kFirstDump);
  float* const sums = reinterpret_cast<float*>(shared + kColumnSums);
  double* const scratch = reinterpret_cast<double*>(shared + kScratch);

  const int begin = split * a.split_rows;
  const int end = begin + a.split_rows < a.count ? begin + a.split_rows : a.count;
  // The residuals of confident rows are beyond the range of float16.
  float sigma = 1.0f;
  if constexpr (sizeof(T) == 2) {
    float largest = 0.0f;
    for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += kTileThreads) {
      largest = fmaxf(largest, fabsf(global(a.metas)[i].at_target));
    }
    sigma = sigma_of(block_max(largest, reinterpret_cast<float*>(scratch)));
  }
  ResidualsAcross<T, T> left(static_cast<const T*>(a.logits), a.logits_stride, a.index,
                             a.source_rows, a.metas, a.count, tile_m, a.classes, a.logits_packs,
                             sigma);
  RowsAcross<T> right(static_cast<const T*>(a.features), a.features_stride, a.index, a.source_rows,
                      a.count, tile_n, a.width, a.features_packs);
  Product<T> product;
  product.clear();
  multiply<T>(product, left, right, begin, end, shared);
  product.dump(dump);
  left.reduce_sums(sums, reinterpret_cast<float*>(shared));

  float scale = 1.0f / sigma;
  if (a.splits > 1) {
    float* const mine = a.partial + (static_cast<int64_t>(tile) * a.splits + split) * kPartial;
    for (int i = static_cast<int>(threadIdx.x); i < kTile * kTile; i += kTileThreads)
      mine[i] = dump[i / kTile * kDumpStride + i % kTile] * scale;
    if (threadIdx.x < kTile) mine[kTile * kTile + threadIdx.x] = sums[threadIdx.x] * scale;
    scale = 1.0f;
    if (!is_last_block(a.tickets + tile, static_cast<unsigned>(a.splits),
                       reinterpret_cast<int*>(shared + kFlag)))
      return;
    const float* const all = a.partial + static_cast<int64_t>(tile) * a.splits * kPartial;
    for (int i = static_cast<int>(threadIdx.x); i < kPartial; i += kTileThreads) {
      float total = 0.0f;
      for (int s = 0; s < a.splits; ++s) total += all[static_cast<int64_t>(s) * kPartial + i];
      if (i < kTile * kTile) {
        dump[i / kTile * kDumpStride + i % kTile] = total;
      } else {
        sums[i - kTile * kTile] = total;
      }
    }
    __syncthreads();
  }

  const double total = a.weighted ? sum_weights(a.weights, a.count, scratch) : a.count;
  scale *= inverse_total(total, a.count);
  T* const out = static_cast<T*>(a.grad_weight);
  const bool whole = a.width % 4 == 0;
  for_each_group(tile_m, tile_n, a.classes, a.width, [&](int row, int column, int inside, int at) {
    const Pack<float> sum = load_pack(dump + at);
    const float value[4] = {sum.v[0] * scale, sum.v[1] * scale, sum.v[2] * scale, sum.v[3] * scale};
    store_group(out + static_cast<int64_t>(row) * a.width + column, value, inside, whole);
  });
  if (with_bias && threadIdx.x < kTile &&
      tile_m * kTile + static_cast<int>(threadIdx.x) < a.classes) {
    static_cast<T*>(a.grad_bias)[tile_m * kTile + threadIdx.x] =
        from_float<T>(sums[threadIdx.x] * scale);
  }
}

struct GradPlan {
  int tiles;
  int splits;
  int split_rows;
  RowsPlan rows;
  size_t metas;
  size_t weights;
  size_t tickets;
  size_t row_ticket;
  size_t row_partial;
  size_t partial;
  size_t bytes;
};

GradPlan plan(int device, DType dtype, int64_t count, int64_t classes, int64_t width) {
  GradPlan p{};
  // One tile even for a width of 0: the bias still has a gradient.
  const int64_t tiles =
      ceil_div<int64_t>(classes, kTile) * std::max<int64_t>(1, ceil_div<int64_t>(width, kTile));
  const int64_t steps = ceil_div<int64_t>(count, step_of(dtype));
  // Enough blocks for two on every multiprocessor, but at least eight steps for each.
  const int64_t wanted = 2 * static_cast<int64_t>(device_info(device).multiprocessors) / tiles;
  const int64_t splits = std::max<int64_t>(1, std::min(wanted, steps / 8));
  if (tiles * splits > INT32_MAX) throw std::runtime_error("linear_ce_grad: too many tiles");
  p.tiles = static_cast<int>(tiles);
  p.split_rows = static_cast<int>(ceil_div(std::max<int64_t>(steps, 1), splits) * step_of(dtype));
  p.splits = static_cast<int>(std::max<int64_t>(1, ceil_div<int64_t>(count, p.split_rows)));
  p.rows = plan_rows(device, count, classes);
  p.row_ticket = 0;
  p.metas = 256;
  p.weights = p.metas + round_up<size_t>(count * sizeof(RowMeta), 256);
  p.tickets = p.weights + round_up<size_t>(count * sizeof(float), 256);
  p.row_partial = p.tickets + (p.splits > 1 ? round_up<size_t>(tiles * sizeof(unsigned), 256) : 0);
  p.partial =
      p.row_partial +
      (p.rows.parts > 1 ? round_up<size_t>(count * p.rows.parts * sizeof(RowStats), 256) : 0);
  p.bytes = p.partial +
            (p.splits > 1 ? static_cast<size_t>(tiles) * p.splits * kPartial * sizeof(float) : 0);
  return p;
}

template <typename T>
void enqueue(const GradPlan& p, GradArgs args, const Matrix& features, const Matrix& logits,
             cudaStream_t stream) {
  args.features_packs = in_packs<T>(features);
  args.logits_packs = in_packs<T>(logits);
  launch(head_gradient<T>,
         {static_cast<unsigned>(p.tiles * p.splits), kTileThreads, kTileSharedBytes, stream}, args);
}

}  // namespace

size_t linear_ce_grad_workspace(int device, DType dtype, int64_t count, int64_t classes,
                                int64_t width) {
  return plan(device, dtype, count, classes, width).bytes;
}

void linear_ce_grad(const Call& call, const Matrix& features, const Matrix& logits,
                    const int64_t* target, const int64_t* index, int64_t count,
                    const float* class_weights, void* grad_weight, void* grad_bias,
                    void* workspace) {
  const DeviceGuard guard(call.device);
  const cudaStream_t stream = static_cast<cudaStream_t>(call.stream);
  const GradPlan p = plan(call.device, call.dtype, count, logits.columns, features.columns);
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
  rows.meta = reinterpret_cast<RowMeta*>(base + p.metas);
  rows.weights = reinterpret_cast<float*>(base + p.weights);
  rows.k = -1;
  rows.ticket = reinterpret_cast<unsigned*>(base + p.row_ticket);
  rows.partial = reinterpret_cast<RowStats*>(base + p.row_partial);
  // The tickets of the product are cleared on the way, which saves a memset.
  rows.clear = reinterpret_cast<unsigned*>(base + p.tickets);
  rows.clear_count = p.splits > 1 ? p.tiles : 0;
  if (p.rows.parts > 1)
    check(cudaMemsetAsync(rows.ticket, 0, sizeof(unsigned), stream), "cudaMemsetAsync");
  enqueue_row_stats(call.dtype, p.rows, rows, stream);

  GradArgs args{};
  args.features = features.data;
  args.features_stride = features.stride;
  args.logits = logits.data;
  args.logits_stride = logits.stride;
  args.source_rows = logits.rows;
  args.index = index;
  args.metas = rows.meta;
  args.weights = rows.weights;
  args.weighted = class_weights != nullptr;
  args.count = static_cast<int>(count);
  args.classes = static_cast<int>(logits.columns);
  args.width = static_cast<int>(features.columns);
  args.grad_weight = grad_weight;
  args.grad_bias = grad_bias;
  args.splits = p.splits;
  args.split_rows = p.split_rows;
  args.partial = reinterpret_cast<float*>(base + p.partial);
  args.tickets = rows.clear;
  with_element_type(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    enqueue<T>(p, args, features, logits, stream);
  });
}

}  // namespace gaal::cuda
