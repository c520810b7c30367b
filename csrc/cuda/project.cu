// project_: inner products of two lists of tensors seen as flat vectors, then g += v g_p. Two
// launches; v stays on the device.
#include <algorithm>

#include "common/projection.h"
#include "cuda/api.h"
#include "cuda/launch.h"
#include "cuda/projection.cuh"

namespace gaal::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kChunk = 8192;  // elements; a multiple of every pack
// Pairs in one launch: the table must fit the 4 KB of kernel arguments.
constexpr int kMaxTensors = 96;
constexpr int kBlocksPerMultiprocessor = 4;

struct TensorTable {
  int count;
  int first_chunk[kMaxTensors + 1];  // running total of chunks
  int64_t size[kMaxTensors];
  void* grad[kMaxTensors];
  const void* guide[kMaxTensors];
};
static_assert(sizeof(TensorTable) <= 3584, "kernel arguments are limited to 4 KB");

struct Chunk {
  int tensor;
  int64_t begin;
  int64_t end;
  bool aligned;
};

__device__ __forceinline__ Chunk chunk_at(const TensorTable& table, int chunk) {
  int low = 0;
  int high = table.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.first_chunk[middle] <= chunk) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  Chunk found;
  found.tensor = low;
  found.begin = static_cast<int64_t>(chunk - table.first_chunk[low]) * kChunk;
  found.end = found.begin + kChunk < table.size[low] ? found.begin + kChunk : table.size[low];
  // A chunk begins at a multiple of 16 bytes from the tensor's start.
  found.aligned = is_aligned16(table.grad[low]) && is_aligned16(table.guide[low]);
  return found;
}

// The loads of a group come before its arithmetic and its stores, so that all are in flight at
// once: the compiler cannot move a load across a store that might alias it. Tensors that are not
// aligned are read element by element, in the same order, so that the sums do not depend on
// addresses.
template <typename T, int packs>
__device__ __forceinline__ void load_group(Pack<T> (&group)[packs], const T* from, int64_t first,
                                           bool aligned) {
#pragma unroll
  for (int i = 0; i < packs; ++i) {
    const T* const at = from + (first + i * kThreads) * Pack<T>::kSize;
    if (aligned) {
      group[i] = load_pack(at);
    } else {
#pragma unroll
      for (int j = 0; j < Pack<T>::kSize; ++j) group[i].v[j] = at[j];
    }
  }
}

template <typename T, int packs>
__device__ __forceinline__ void add_packs(ProductSums& sums, const T* grad, const T* guide,
                                          int64_t first, bool aligned) {
  Pack<T> g[packs];
  Pack<T> p[packs];
  load_group(g, grad, first, aligned);
  load_group(p, guide, first, aligned);
  constexpr int size = Pack<T>::kSize;
  constexpr int together = size < 8 ? 16 / size : 1;  // packs; more at once take too many registers
  constexpr int part = packs < together ? packs : together;
#pragma unroll
  for (int i = 0; i < packs; i += part) {
    float grads[part * size];
    float guides[part * size];
#pragma unroll
    for (int j = 0; j < part * size; ++j) {
      grads[j] = to_float(g[i + j / size].v[j % size]);
      guides[j] = to_float(p[i + j / size].v[j % size]);
    }
    sums.add(grads, guides);
  }
}

// g / sigma + v g_p
struct Update {
  float inverse_sigma;
  Factor v;

  template <typename T>
  __device__ __forceinline__ T operator()(T g, T p) const {
    return from_float<T>(v.times_plus(to_float(p), to_float(g) * inverse_sigma));
  }
};

template <typename T, int packs>
__device__ __forceinline__ void update_packs(const Update& update, T* grad, const T* guide,
                                             int64_t first, bool aligned) {
  Pack<T> g[packs];
  Pack<T> p[packs];
  load_group(g, static_cast<const T*>(grad), first, aligned);
  load_group(p, guide, first, aligned);
#pragma unroll
  for (int i = 0; i < packs; ++i) {
#pragma unroll
    for (int j = 0; j < Pack<T>::kSize; ++j) g[i].v[j] = update(g[i].v[j], p[i].v[j]);
    T* const at = grad + (first + i * kThreads) * Pack<T>::kSize;
    if (aligned) {
      store_pack(at, g[i]);
    } else {
#pragma unroll
      for (int j = 0; j < Pack<T>::kSize; ++j) at[j] = g[i].v[j];
    }
  }
}

struct ReduceArgs {
  double* partial;  // [3, blocks of all launches]
  int first_block;  // of this launch
  int all_blocks;
  bool last_launch;
  unsigned* ticket;
  double* v;
  const double* sigmas;  // or null
  float* scalars;
  DeviceRule rule;
};

template <typename T>
__global__ void __launch_bounds__(kThreads)
    inner_products(const __grid_constant__ TensorTable table,
                   const __grid_constant__ ReduceArgs a) {
  GAAL_DYNAMIC_SHARED(shared);
  constexpr int size = Pack<T>::kSize;
  ProductSums part;
  const int chunks = table.first_chunk[table.count];
  for (int c = static_cast<int>(blockIdx.x); c < chunks; c += static_cast<int>(gridDim.x)) {
    const Chunk chunk = chunk_at(table, c);
    const T* const grad = static_cast<const T*>(table.grad[chunk.tensor]);
    const T* const guide = static_cast<const T*>(table.guide[chunk.tensor]);
    const int64_t count = (chunk.end - chunk.begin) / size;
    int64_t i = threadIdx.x;
    for (; i + 3 * kThreads < count; i += 4 * kThreads)
      add_packs<T, 4>(part, grad + chunk.begin, guide + chunk.begin, i, chunk.aligned);
    for (; i < count; i += kThreads)
      add_packs<T, 1>(part, grad + chunk.begin, guide + chunk.begin, i, chunk.aligned);
    for (i = chunk.begin + count * size + threadIdx.x; i < chunk.end; i += kThreads) {
      const float g[1] = {to_float(grad[i])};
      const float p[1] = {to_float(guide[i])};
      part.add(g, p);
    }
  }
  double sums[3] = {part.dot, part.guide_norm2, part.grad_norm2};
  int* const flag = reinterpret_cast<int*>(shared);
  double* const scratch = reinterpret_cast<double*>(shared + 16);
  block_sum(sums, scratch);
  if (threadIdx.x == 0) {
    for (int i = 0; i < 3; ++i) a.partial[i * a.all_blocks + a.first_block + blockIdx.x] = sums[i];
  }
  // Earlier launches are done: the stream keeps their order.
  if (!a.last_launch || !is_last_block(a.ticket, gridDim.x, flag)) return;
  for (int i = 0; i < 3; ++i) {
    sums[i] = 0.0;
    for (int block = static_cast<int>(threadIdx.x); block < a.all_blocks; block += kThreads)
      sums[i] += a.partial[i * a.all_blocks + block];
  }
  block_sum(sums, scratch);
  if (threadIdx.x == 0) {
    const double of_grad = a.sigmas != nullptr ? 1.0 / a.sigmas[0] : 1.0;
    const double of_guide = a.sigmas != nullptr ? 1.0 / a.sigmas[1] : 1.0;
    const InnerProducts products{sums[0] * (of_grad * of_guide), sums[1] * (of_guide * of_guide),
                                 sums[2] * (of_grad * of_grad)};
    const double v = correction(products, read_rule(a.rule));
    *a.v = v;
    store_scalars(a.scalars, v, products);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    add_scaled(const __grid_constant__ TensorTable table, const double* v, const double* sigmas) {
  constexpr int size = Pack<T>::kSize;
  const double of_grad = sigmas != nullptr ? sigmas[0] : 1.0;
  const double of_guide = sigmas != nullptr ? sigmas[1] : 1.0;
  if (*v == 0.0 && of_grad == 1.0) return;  // adding 0 would turn -0 into 0
  const Update update{static_cast<float>(1.0 / of_grad), Factor(*v / of_guide)};
  const int chunks = table.first_chunk[table.count];
  for (int c = static_cast<int>(blockIdx.x); c < chunks; c += static_cast<int>(gridDim.x)) {
    // From the end, which may still be in the cache: the inner products read it last.
    const Chunk chunk = chunk_at(table, chunks - 1 - c);
    T* const grad = static_cast<T*>(table.grad[chunk.tensor]);
    const T* const guide = static_cast<const T*>(table.guide[chunk.tensor]);
    const int64_t count = (chunk.end - chunk.begin) / size;
    int64_t i = threadIdx.x;
    for (; i + 3 * kThreads < count; i += 4 * kThreads)
      update_packs<T, 4>(update, grad + chunk.begin, guide + chunk.begin, i, chunk.aligned);
    for (; i < count; i += kThreads)
      update_packs<T, 1>(update, grad + chunk.begin, guide + chunk.begin, i, chunk.aligned);
    for (i = chunk.begin + count * size + threadIdx.x; i < chunk.end; i += kThreads) {
      grad[i] = update(grad[i], guide[i]);
    }
  }
}

int64_t chunks_of(int64_t size) { return ceil_div<int64_t>(size, kChunk); }

unsigned blocks_for(int device, int64_t chunks) {
  const int64_t most =
      static_cast<int64_t>(device_info(device).multiprocessors) * kBlocksPerMultiprocessor;
  return static_cast<unsigned>(std::max<int64_t>(1, std::min(chunks, most)));
}

// Calls visit(first tensor, number of tensors, blocks) for each launch.
template <typename Visit>
void for_each_launch(int device, int count, const int64_t* sizes, Visit&& visit) {
  for (int first = 0; first == 0 || first < count; first += kMaxTensors) {
    const int here = std::min(kMaxTensors, count - first);
    int64_t chunks = 0;
    for (int i = 0; i < here; ++i) chunks += chunks_of(sizes[first + i]);
    if (chunks > INT32_MAX) throw std::runtime_error("project: too many elements");
    visit(first, here, blocks_for(device, chunks));
  }
}

int all_blocks(int device, int count, const int64_t* sizes) {
  int total = 0;
  for_each_launch(device, count, sizes,
                  [&](int, int, unsigned blocks) { total += static_cast<int>(blocks); });
  return total;
}

template <typename T>
void enqueue(const Call& call, int count, void* const* grads, const void* const* guides,
             const int64_t* sizes, ReduceArgs args) {
  const cudaStream_t stream = static_cast<cudaStream_t>(call.stream);
  TensorTable table{};
  const auto fill = [&](int first, int here) {
    table.count = here;
    for (int i = 0; i < here; ++i) {
      table.grad[i] = grads[first + i];
      table.guide[i] = guides[first + i];
      table.size[i] = sizes[first + i];
      table.first_chunk[i + 1] =
          table.first_chunk[i] + static_cast<int>(chunks_of(sizes[first + i]));
    }
  };
  for_each_launch(call.device, count, sizes, [&](int first, int here, unsigned blocks) {
    fill(first, here);
    args.last_launch = first + here == count;
    launch(inner_products<T>,
           {blocks, kThreads, 16 + 3 * sizeof(double) * kThreads / kWarp, stream}, table, args);
    args.first_block += static_cast<int>(blocks);
  });
  for_each_launch(call.device, count, sizes, [&](int first, int here, unsigned blocks) {
    if (here < count) fill(first, here);
    launch(add_scaled<T>, {blocks, kThreads, 0, stream}, table, static_cast<const double*>(args.v),
           args.sigmas);
  });
}

}  // namespace

size_t project_workspace(int device, DType, int count, const int64_t* sizes) {
  return 256 + 3 * sizeof(double) * static_cast<size_t>(all_blocks(device, count, sizes));
}

void project(const Call& call, int count, void* const* grads, const void* const* guides,
             const int64_t* sizes, const DeviceRule& rule, const double* sigmas, float* scalars,
             void* workspace) {
  const DeviceGuard guard(call.device);
  char* const base = static_cast<char*>(workspace);
  ReduceArgs args{};
  args.partial = reinterpret_cast<double*>(base + 256);
  args.all_blocks = all_blocks(call.device, count, sizes);
  args.ticket = reinterpret_cast<unsigned*>(base);
  args.v = reinterpret_cast<double*>(base + 8);
  args.sigmas = sigmas;
  args.scalars = scalars;
  args.rule = rule;
  check(cudaMemsetAsync(args.ticket, 0, sizeof(unsigned), static_cast<cudaStream_t>(call.stream)),
        "cudaMemsetAsync");
  with_element_type(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    enqueue<T>(call, count, grads, guides, sizes, args);
  });
}

}  // namespace gaal::cuda
