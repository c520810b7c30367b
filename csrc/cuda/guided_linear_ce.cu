// guided_linear_ce: the whole step of the shared head in one cooperative launch or in three.
//
// Stages, each a set of independent items that blocks take in turn:
//   forward   logits of the stacked rows [features; guide_features], the depth cut into splits
//   rows      sums of the splits, softmax statistics
//   select    one block: order by entropy, loss, totals of the weights
//   features  gradient to the features
//   inner     direct: both head gradients, stored, and the partial inner products of each tile;
//             sample space: split Gram matrices of the stacked residuals and features, and then
//             their products
//   finish    v from the partial sums, and g + v g_p.
//             direct: an update of what is stored;
//             sample space: one product over the stacked rows
// In the cooperative launch the whole grid waits between stages. In three launches the last block
// to finish a row tile continues with the rows, and the last of these blocks with the selection;
// likewise for the Gram matrices and for v. Both ways sum in the same order.
#include <cooperative_groups.h>

#include <algorithm>

#include "cuda/api.h"
#include "cuda/guided/finish.cuh"
#include "cuda/guided/forward.cuh"
#include "cuda/guided/inner.cuh"
#include "cuda/head_gradient.cuh"
#include "cuda/launch.h"

namespace gaal::cuda {
namespace guided {
namespace {

enum class Stage : int { kWhole, kForward, kInner, kFinish };

// --- The kernel ---

// First of three launches: one block per item.
template <typename T>
__device__ void forward_stage(const GuidedArgs& a) {
  GAAL_DYNAMIC_SHARED(shared);
  int* const flag = reinterpret_cast<int*>(shared + kFlag);
  const int all_rows = a.rows + a.guide_rows;
  if (all_rows > 0) {
    const int item = static_cast<int>(blockIdx.x);
    forward_item<T>(a, item);
    const int per_tile = tiles(a.classes) * a.logit_splits;
    const int tile_m = item / per_tile;
    if (!is_last_block(a.tickets + tile_m, static_cast<unsigned>(per_tile), flag)) return;
    const int end = (tile_m + 1) * kTile < all_rows ? (tile_m + 1) * kTile : all_rows;
    for (int row = tile_m * kTile + static_cast<int>(threadIdx.x) / kWarp; row < end;
         row += kTileThreads / kWarp)
      row_item<T>(a, row);
    if (!is_last_block(a.tickets + tiles(all_rows), static_cast<unsigned>(tiles(all_rows)), flag))
      return;
  }
  select_item(a);
}

// Second launch: the gradient to the features, and v.
template <typename T>
__device__ void inner_stage(const GuidedArgs& a) {
  GAAL_DYNAMIC_SHARED(shared);
  int* const flag = reinterpret_cast<int*>(shared + kFlag);
  unsigned* const tickets = a.tickets + row_tickets(a);
  const int inner = a.sample_space ? pairs_of(a.rows + a.k) * gram_splits(a) : head_items(a);
  const int item = static_cast<int>(blockIdx.x);
  if (item >= inner) {
    if (item - inner < feature_items(a)) feature_item<T>(a, item - inner);
    return;
  }
  if (a.sample_space) {
    gram_item<T>(a, item);
    const int pair = item / gram_splits(a);
    if (!is_last_block(tickets + 1 + pair, static_cast<unsigned>(gram_splits(a)), flag)) return;
    for (int strip = 0; strip < kStrips; ++strip) gram_strip(a, pair * kStrips + strip);
    if (!is_last_block(tickets, static_cast<unsigned>(pairs_of(a.rows + a.k)), flag)) return;
  } else {
    direct_item<T>(a, item);
    if (!is_last_block(tickets, static_cast<unsigned>(inner), flag)) return;
  }
  coefficient(a, true);
}

template <typename T>
__device__ void whole_step(const GuidedArgs& a) {
  const cooperative_groups::grid_group grid = cooperative_groups::this_grid();
  const int blocks = static_cast<int>(gridDim.x);
  const int block = static_cast<int>(blockIdx.x);
  for (int item = block; item < forward_items(a); item += blocks) forward_item<T>(a, item);
  grid.sync();
  constexpr int warps = kTileThreads / kWarp;
  for (int row = block * warps + static_cast<int>(threadIdx.x) / kWarp; row < a.rows + a.guide_rows;
       row += blocks * warps)
    row_item<T>(a, row);
  grid.sync();
  // One block sorts while the others compute the gradient to the features, which does not depend on
  // the selection.
  if (block == 0) select_item(a);
  if (blocks == 1 || block > 0) {
    const int workers = blocks == 1 ? 1 : blocks - 1;
    for (int item = blocks == 1 ? 0 : block - 1; item < feature_items(a); item += workers)
      feature_item<T>(a, item);
  }
  grid.sync();
  if (a.sample_space) {
    for (int item = block; item < pairs_of(a.rows + a.k) * gram_splits(a); item += blocks)
      gram_item<T>(a, item);
    grid.sync();
    for (int strip = block; strip < pairs_of(a.rows + a.k) * kStrips; strip += blocks)
      gram_strip(a, strip);
  } else {
    for (int item = block; item < head_items(a); item += blocks) direct_item<T>(a, item);
  }
  grid.sync();
  const double v = coefficient(a, block == 0);
  for (int64_t item = block; item < finish_items(a); item += blocks) finish_item<T>(a, item, v);
}

// One block fewer for the half types: with room for three, bfloat16 spills eight bytes on sm_100.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, sizeof(T) == 2 ? kTileBlocks - 1 : kTileBlocks)
    guided_step(const __grid_constant__ GuidedArgs a, Stage stage) {
  switch (stage) {
    case Stage::kWhole: return whole_step<T>(a);
    case Stage::kForward: return forward_stage<T>(a);
    case Stage::kInner: return inner_stage<T>(a);
    case Stage::kFinish: {
      const double v = a.totals->v;
      for (int64_t item = blockIdx.x; item < finish_items(a); item += gridDim.x)
        finish_item<T>(a, item, v);
    }
  }
}

// --- Host ---

// Places arrays in the workspace, one after the other, each aligned to 256 bytes.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}
  template <typename E>
  E* take(int64_t count) {
    char* const at = base_ + used_;
    used_ += round_up<size_t>(static_cast<size_t>(count) * sizeof(E), 256);
    return reinterpret_cast<E*>(at);
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

// Splits `depth` into about `wanted` parts of at least four steps each: their number and their
// depth, a multiple of the step.
void split_depth(int64_t depth, int64_t wanted, int step, int* splits, int* split_depth_out) {
  const int64_t steps = std::max<int64_t>(1, ceil_div<int64_t>(depth, step));
  const int64_t parts = std::max<int64_t>(1, std::min(wanted, steps / 4));
  *split_depth_out = static_cast<int>(ceil_div(steps, parts) * step);
  *splits = static_cast<int>(std::max<int64_t>(1, ceil_div<int64_t>(depth, *split_depth_out)));
}

// Fills in sizes, splits and the workspace's pointers; returns the workspace's size.
size_t lay_out(int device, DType dtype, const GuidedShape& shape, void* workspace, GuidedArgs& a) {
  const int64_t all_rows = shape.rows + shape.guide_rows;
  const int64_t stacked = shape.rows + shape.k;
  const int64_t multiprocessors = device_info(device).multiprocessors;
  const int step = step_of(dtype);
  if (all_rows > (1 << 20) || shape.classes > INT32_MAX - kTile ||
      shape.width > INT32_MAX - kTile ||
      ceil_div<int64_t>(shape.classes, kTile) *
              (ceil_div<int64_t>(shape.width, kTile) + ceil_div<int64_t>(all_rows, kTile)) >
          INT32_MAX / 32) {
    throw std::runtime_error("guided_linear_ce: too large for one step");
  }
  a.rows = static_cast<int>(shape.rows);
  a.guide_rows = static_cast<int>(shape.guide_rows);
  a.classes = static_cast<int>(shape.classes);
  a.width = static_cast<int>(shape.width);
  a.k = static_cast<int>(shape.k);
  a.sample_space = shape.sample_space;

  // Enough parts for about two blocks on every multiprocessor, few enough that summing them stays
  // cheap.
  const int64_t logit_tiles =
      std::max<int64_t>(1, static_cast<int64_t>(tiles(a.rows + a.guide_rows)) * tiles(a.classes));
  split_depth(a.width, std::min<int64_t>(8, 2 * multiprocessors / logit_tiles), step,
              &a.logit_splits, &a.logit_depth);
  a.logit_stride = round_up<int64_t>(a.classes, 4);
  a.logit_plane = all_rows * a.logit_stride;

  Arena arena(workspace);
  a.tickets = arena.take<unsigned>(ticket_count(a));
  a.logits = arena.take<float>(a.logit_splits * a.logit_plane);
  a.metas = arena.take<RowMeta>(all_rows);
  a.scaled = arena.take<RowMeta>(a.rows);
  a.chosen = arena.take<RowMeta>(a.k);
  a.weights = arena.take<float>(all_rows);
  a.nll = arena.take<float>(a.rows);
  a.entropy = arena.take<float>(a.guide_rows);
  a.totals = arena.take<Totals>(1);
  a.partial = arena.take<double>(3 * static_cast<int64_t>(partial_items(a)));
  if (a.sample_space) {
    const int64_t pairs = std::max(1, pairs_of(static_cast<int>(stacked)));
    const int64_t wanted = std::min<int64_t>(64, std::max<int64_t>(2, 2 * multiprocessors / pairs));
    const int64_t of_residuals =
        std::max<int64_t>(1, wanted * a.classes / (static_cast<int64_t>(a.classes) + a.width));
    split_depth(a.classes, of_residuals, step, &a.residual_splits, &a.residual_depth);
    split_depth(a.width, std::max<int64_t>(1, wanted - of_residuals), step, &a.feature_splits,
                &a.feature_depth);
    a.gram = arena.take<float>(pairs * gram_splits(a) * kTile * kTile);
  } else {
    a.guide_weight = arena.take<float>(static_cast<int64_t>(a.classes) * a.width);
    a.guide_bias = arena.take<float>(a.classes);
  }
  return arena.used();
}

// Blocks of the kernel that are resident on the device at once; queried once per device and type.
template <typename T>
unsigned resident_blocks(int device) {
  static std::array<unsigned, kMaxDevices> known{};
  static std::array<std::once_flag, kMaxDevices> asked;
  std::call_once(asked[device], [device] {
    int per_multiprocessor = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, guided_step<T>,
                                                        kTileThreads, kTileSharedBytes),
          "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
    known[device] = static_cast<unsigned>(per_multiprocessor * device_info(device).multiprocessors);
  });
  return known[device];
}

template <typename T>
void enqueue(const Call& call, const GuidedShape& shape, const GuidedTensors& tensors,
             GuidedArgs& a) {
  const cudaStream_t stream = static_cast<cudaStream_t>(call.stream);
  a.row_packs = in_packs<T>(tensors.features) && in_packs<T>(tensors.guide_features);
  a.weight_packs = in_packs<T>(tensors.weight);
  const int inner = a.sample_space ? pairs_of(a.rows + a.k) * gram_splits(a) : head_items(a);
  const int64_t most = std::max<int64_t>(
      {forward_items(a), inner, feature_items(a) + 1, ceil_div<int64_t>(finish_items(a), 4)});
  const auto run = [&](Stage stage, int64_t blocks) {
    const Launch where{static_cast<unsigned>(std::max<int64_t>(1, blocks)), kTileThreads,
                       kTileSharedBytes, stream, stage == Stage::kWhole};
    launch(guided_step<T>, where, a, stage);
  };
  if (shape.cooperative)
    return run(Stage::kWhole, std::min<int64_t>(most, resident_blocks<T>(call.device)));
  check(cudaMemsetAsync(a.tickets, 0, ticket_count(a) * sizeof(unsigned), stream),
        "cudaMemsetAsync");
  run(Stage::kForward, forward_items(a));
  run(Stage::kInner, inner + feature_items(a));
  const int64_t blocks =
      a.sample_space
          ? finish_items(a)
          : std::min<int64_t>(finish_items(a),
                              16 * static_cast<int64_t>(device_info(call.device).multiprocessors));
  run(Stage::kFinish, blocks);
}

}  // namespace
}  // namespace guided

bool cooperative_launch_supported(int device) { return device_info(device).cooperative; }

size_t guided_linear_ce_workspace(int device, DType dtype, const GuidedShape& shape) {
  guided::GuidedArgs a{};
  return guided::lay_out(device, dtype, shape, nullptr, a);
}

void guided_linear_ce(const Call& call, const GuidedShape& shape, const GuidedTensors& tensors,
                      const DeviceRule& rule, void* workspace) {
  if (shape.guide_rows > kMaxGuideRows)
    throw std::runtime_error("guided_linear_ce: too many guide rows");
  const DeviceGuard guard(call.device);
  guided::GuidedArgs a{};
  guided::lay_out(call.device, call.dtype, shape, workspace, a);
  a.features = tensors.features.data;
  a.features_stride = tensors.features.stride;
  a.guide_features = tensors.guide_features.data;
  a.guide_stride = tensors.guide_features.stride;
  a.weight = tensors.weight.data;
  a.weight_stride = tensors.weight.stride;
  a.bias = tensors.bias;
  a.target = tensors.target;
  a.guide_target = tensors.guide_target;
  a.class_weights = tensors.class_weights;
  a.rule = rule;
  a.grad_features = tensors.grad_features;
  a.grad_weight = tensors.grad_weight;
  a.grad_bias = tensors.grad_bias;
  a.scalars = tensors.scalars;
  a.index = tensors.index;
  with_element_type(call.dtype, [&](auto zero) {
    using T = decltype(zero);
    guided::enqueue<T>(call, shape, tensors, a);
  });
}

}  // namespace gaal::cuda
