// softmax_stats and entropy_topk: one read of the logits; the block that finishes last selects.
#include "cuda/row_scan.cuh"
#include "cuda/row_stats.cuh"

namespace gaal::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSelectThreads = 512;  // the last block sorts alone, so it gets more threads
constexpr size_t kFlagBytes = 16;
// The flag, then one RowStats per warp. The keys to sort follow.
constexpr size_t kStatsBytes = 256;
static_assert(kFlagBytes + kSelectThreads / kWarp * sizeof(RowStats) <= kStatsBytes,
              "the warps' statistics must fit");

// The source row of a position, -1 for an illegal index.
__device__ __forceinline__ int64_t source_row(const RowsArgs& a, int64_t position) {
  if (a.index == nullptr) return position;
  const int64_t row = a.index[position];
  return row >= 0 && row < a.source_rows ? row : -1;
}

template <typename T>
__device__ void write_row(const RowsArgs& a, int64_t position, RowStats stats) {
  const int64_t row = source_row(a, position);
  if (a.entropy != nullptr) a.entropy[position] = entropy_of(stats);
  if (a.lse != nullptr) a.lse[position] = stats.max + log_sum(stats);
  if (a.target == nullptr) return;
  const int64_t target = row < 0 ? -1 : a.target[row];
  const bool legal = target >= 0 && target < a.columns;
  const float logit =
      legal ? to_float(static_cast<const T*>(a.logits)[row * a.stride + target]) : NAN;
  // log s - (x_y - m): lse - x_y would cancel where the logits are large.
  if (a.nll != nullptr) a.nll[position] = log_sum(stats) - (logit - stats.max);
  if (a.meta == nullptr) return;
  const float weight = weight_of(target, a.columns, a.class_weights);
  a.weights[position] = weight;
  a.meta[position] = meta_of(stats, target, a.columns, logit, weight);
}

// One block: the total weight, the factor of the residuals and the loss.
__device__ inline void summarize(const RowsArgs& a, double* scratch) {
  double sums[2] = {0.0, 0.0};
  float largest = 0.0f;
  for (int64_t i = threadIdx.x; i < a.rows; i += blockDim.x) {
    const double weight = a.weights[i];
    sums[0] += weight;
    sums[1] += weight * a.nll[i];
    largest = fmaxf(largest, fabsf(a.meta[i].at_target));
  }
  block_sum(sums, scratch);
  largest = block_max(largest, reinterpret_cast<float*>(scratch));
  if (threadIdx.x != 0) return;
  // Without class weights an illegal label makes only its own row NaN.
  const double rows = static_cast<double>(a.rows);
  const double total = a.class_weights != nullptr ? sums[0] : rows;
  *a.total = total;
  *a.sigma = sigma_of(static_cast<float>(largest * (rows / total)));
  if (a.loss != nullptr) *a.loss = static_cast<float>(sums[1] / total);
}

// The work of the last block to arrive, which needs every row.
template <typename T>
__device__ void finish(const RowsArgs& a, unsigned char* shared) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < a.clear_count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    a.clear[i] = 0;
  }
  if (a.parts == 1 && a.k < 0 && a.total == nullptr) return;
  if (!is_last_block(a.ticket, gridDim.x, reinterpret_cast<int*>(shared))) return;
  if (a.parts > 1) {
    for (int64_t position = threadIdx.x; position < a.rows; position += blockDim.x) {
      RowStats stats = a.partial[position * a.parts];
      for (int part = 1; part < a.parts; ++part)
        stats = merge(stats, a.partial[position * a.parts + part]);
      write_row<T>(a, position, stats);
    }
    __syncthreads();
  }
  if (a.total != nullptr) summarize(a, reinterpret_cast<double*>(shared + kFlagBytes));
  if (a.k < 0) return;
  uint64_t* keys = reinterpret_cast<uint64_t*>(shared + kStatsBytes);
  sort_by_entropy(a.entropy, static_cast<int>(a.rows), keys);
  for (int i = static_cast<int>(threadIdx.x); i < a.k; i += static_cast<int>(blockDim.x)) {
    const uint32_t row = row_of_key(keys[i]);
    a.top_entropy[i] = a.entropy[row];
    a.top_index[i] = row;
  }
}

// `lanes` lanes of a warp per row: rows of up to a few thousand columns.
template <typename T>
__global__ void __launch_bounds__(kSelectThreads, 2)
    rows_by_lanes(const __grid_constant__ RowsArgs a, int lanes) {
  GAAL_DYNAMIC_SHARED(shared);
  const int64_t position =
      static_cast<int64_t>(blockIdx.x) * (blockDim.x / lanes) + threadIdx.x / lanes;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  RowStats stats;
  if (position < a.rows) {
    const int64_t row = source_row(a, position);
    if (row >= 0)
      stats = scan_row(static_cast<const T*>(a.logits) + row * a.stride, a.columns, lane, lanes);
  }
  stats = merge_lanes(stats, lanes);
  if (lane == 0 && position < a.rows) write_row<T>(a, position, stats);
  finish<T>(a, shared);
}

// One block, or `parts` blocks, per row.
template <typename T>
__global__ void __launch_bounds__(kSelectThreads, 2)
    rows_by_blocks(const __grid_constant__ RowsArgs a) {
  GAAL_DYNAMIC_SHARED(shared);
  const int64_t position = blockIdx.x / a.parts;
  const int part = static_cast<int>(blockIdx.x % a.parts);
  const int64_t begin = part * a.part_columns;
  const int64_t end = begin + a.part_columns < a.columns ? begin + a.part_columns : a.columns;
  const int64_t row = source_row(a, position);
  RowStats stats;
  if (row >= 0) {
    stats = scan_row(static_cast<const T*>(a.logits) + row * a.stride + begin, end - begin,
                     static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x));
  }
  stats = merge_lanes(stats, kWarp);
  RowStats* of_warp = reinterpret_cast<RowStats*>(shared + kFlagBytes);
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = stats;
  __syncthreads();
  if (threadIdx.x < kWarp) {
    stats = threadIdx.x < blockDim.x / kWarp ? of_warp[threadIdx.x] : RowStats{};
    stats = merge_lanes(stats, kWarp);
    if (threadIdx.x == 0) {
      if (a.parts == 1) {
        write_row<T>(a, position, stats);
      } else {
        a.partial[blockIdx.x] = stats;
      }
    }
  }
  finish<T>(a, shared);
}

template <typename T>
void enqueue(const RowsPlan& plan, const RowsArgs& args, cudaStream_t stream) {
  const bool select = args.k >= 0;
  const unsigned threads = select && args.rows > kSelectThreads ? kSelectThreads : kThreads;
  const size_t keys =
      select ? power_of_two_from(static_cast<int>(args.rows)) * sizeof(uint64_t) : 0;
  const size_t shared_bytes = kStatsBytes + keys;
  if (plan.lanes > 0) {
    const int64_t rows_per_block = threads / plan.lanes;
    const unsigned blocks = static_cast<unsigned>(ceil_div(args.rows, rows_per_block));
    launch(rows_by_lanes<T>, {blocks, threads, shared_bytes, stream}, args, plan.lanes);
  } else {
    const unsigned blocks = static_cast<unsigned>(args.rows * plan.parts);
    launch(rows_by_blocks<T>, {blocks, threads, shared_bytes, stream}, args);
  }
}

// The workspace: a ticket, the entropies if they are no output, the statistics of the parts.
struct RowsWorkspace {
  size_t entropy;
  size_t partial;
  size_t bytes;
};

RowsWorkspace lay_out(const RowsPlan& plan, int64_t rows, bool select) {
  RowsWorkspace at{};
  at.entropy = 256;
  at.partial = at.entropy + round_up<size_t>(select ? rows * sizeof(float) : 0, 256);
  at.bytes =
      at.partial + (plan.parts > 1 ? static_cast<size_t>(rows) * plan.parts * sizeof(RowStats) : 0);
  return at;
}

}  // namespace

// A lane for every two to four 16-byte packs of a float32 row; a block for a longer row; several
// blocks per row where there are fewer rows than multiprocessors, each part long enough to pay for
// the merge.
RowsPlan plan_rows(int device, int64_t rows, int64_t columns) {
  if (columns <= 1024) {
    int lanes = 1;
    while (lanes < kWarp && lanes * 4 < columns) lanes *= 2;
    return {lanes, 1, columns};
  }
  constexpr int64_t shortest = 8192;
  const int64_t wanted = 2 * static_cast<int64_t>(device_info(device).multiprocessors);
  int64_t parts = ceil_div<int64_t>(wanted, rows > 0 ? rows : 1);
  if (parts > columns / shortest) parts = columns / shortest;
  if (parts < 2) return {0, 1, columns};
  const int64_t part_columns = round_up<int64_t>(ceil_div(columns, parts), 1024);
  return {0, static_cast<int>(ceil_div(columns, part_columns)), part_columns};
}

void enqueue_row_stats(DType dtype, const RowsPlan& plan, RowsArgs args, cudaStream_t stream) {
  if (args.rows == 0) return;
  args.parts = plan.parts;
  args.part_columns = plan.part_columns;
  with_element_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    enqueue<T>(plan, args, stream);
  });
}

size_t softmax_stats_workspace(int device, int64_t rows, int64_t columns) {
  const RowsPlan plan = plan_rows(device, rows, columns);
  return plan.parts > 1 ? lay_out(plan, rows, false).bytes : 0;
}

void softmax_stats(const Call& call, const Matrix& logits, const int64_t* target, float* entropy,
                   float* lse, float* nll, void* workspace) {
  const DeviceGuard guard(call.device);
  const cudaStream_t stream = static_cast<cudaStream_t>(call.stream);
  const RowsPlan plan = plan_rows(call.device, logits.rows, logits.columns);
  RowsArgs args{};
  args.logits = logits.data;
  args.stride = logits.stride;
  args.source_rows = args.rows = logits.rows;
  args.columns = logits.columns;
  args.target = target;
  args.entropy = entropy;
  args.lse = lse;
  args.nll = nll;
  args.k = -1;
  if (plan.parts > 1) {
    char* const base = static_cast<char*>(workspace);
    args.ticket = reinterpret_cast<unsigned*>(base);
    args.partial = reinterpret_cast<RowStats*>(base + lay_out(plan, logits.rows, false).partial);
    check(cudaMemsetAsync(args.ticket, 0, sizeof(unsigned), stream), "cudaMemsetAsync");
  }
  enqueue_row_stats(call.dtype, plan, args, stream);
}

size_t entropy_topk_workspace(int device, int64_t rows, int64_t columns) {
  return lay_out(plan_rows(device, rows, columns), rows, true).bytes;
}

// The ticket lies in the call's own workspace and is cleared in the stream's order. A counter per
// device or stream would save that memset, but a graph replayed on another stream than the one it
// was captured on would share it with other work there.
void entropy_topk(const Call& call, const Matrix& logits, int k, float* entropy, int64_t* index,
                  void* workspace) {
  if (logits.rows > kMaxSelection) throw std::runtime_error("entropy_topk: too many rows");
  const DeviceGuard guard(call.device);
  const cudaStream_t stream = static_cast<cudaStream_t>(call.stream);
  const RowsPlan plan = plan_rows(call.device, logits.rows, logits.columns);
  const RowsWorkspace at = lay_out(plan, logits.rows, true);
  char* const base = static_cast<char*>(workspace);
  RowsArgs args{};
  args.logits = logits.data;
  args.stride = logits.stride;
  args.source_rows = args.rows = logits.rows;
  args.columns = logits.columns;
  args.entropy = reinterpret_cast<float*>(base + at.entropy);
  args.partial = reinterpret_cast<RowStats*>(base + at.partial);
  args.ticket = reinterpret_cast<unsigned*>(base);
  args.k = k;
  args.top_entropy = entropy;
  args.top_index = index;
  check(cudaMemsetAsync(args.ticket, 0, sizeof(unsigned), stream), "cudaMemsetAsync");
  enqueue_row_stats(call.dtype, plan, args, stream);
}

std::string obstacle(int device) {
  try {
    const DeviceGuard guard(device);
    cudaFuncAttributes attributes{};
    check(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(rows_by_blocks<float>)),
          "loading the kernels");
  } catch (const std::runtime_error& error) {
    // The failure is reported here and must not surface in a later call.
    static_cast<void>(cudaGetLastError());
    return error.what();
  }
  return {};
}

}  // namespace gaal::cuda
