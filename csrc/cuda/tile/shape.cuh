// Sizes of a tile, and the shared memory of a block.
#pragma once

#include <mma.h>

#include "cuda/device.cuh"

namespace gaal::cuda {

constexpr int kTile = 64;
constexpr int kTileThreads = 128;
// Blocks that must fit on a multiprocessor, which leaves 168 registers a thread.
constexpr int kTileBlocks = 3;
constexpr int kPacksPerThread = 2;
// Float32 elements; the padding spreads a column over the banks.
constexpr int kDumpStride = kTile + 4;

template <typename T>
struct TileShape {
  static constexpr int kPack = Pack<T>::kSize;
  // Depth of one step: 16 for float32, 32 for half precision.
  static constexpr int kStep = 4 * kPack;
  // Packs that cover the tile's 64 rows or columns.
  static constexpr int kGroupsAcross = kTile / kPack;
  static constexpr int kDepthStride = kTileThreads / kGroupsAcross;
  // Shared memory of one operand in one stage, in elements. float32 keeps [depth][64 + 4]; half
  // precision keeps the direction of memory, [64][depth + 8] or [depth][64 + 8], since wmma reads
  // either.
  static constexpr bool kSimt = sizeof(T) == 4;
  static constexpr int kAlongKStride = kSimt ? kTile + 4 : kStep + 8;
  static constexpr int kAcrossStride = kSimt ? kTile + 4 : kTile + 8;
  static constexpr int kOperand = kSimt ? kStep * (kTile + 4) : kTile * (kStep + 8);
};

// Shared memory of a block, in bytes.
constexpr int kStageArea = 20480;  // two stages of both operands
constexpr int kDumpBytes = kTile * kDumpStride * 4;
constexpr int kFirstDump = kStageArea;  // a finished tile that the next product must not overwrite
constexpr int kSecondDump = 0;          // reuses the stages
constexpr int kColumnSums = kFirstDump + kDumpBytes;  // 2 * 64 floats
// 3 doubles a warp, then the last block's flag.
constexpr int kScratch = kColumnSums + 2 * kTile * 4;
constexpr int kFlag = kScratch + 3 * 8 * kTileThreads / kWarp;
constexpr int kTileSharedBytes = kFlag + 32;
static_assert(4 * TileShape<float>::kOperand * sizeof(float) <= kStageArea,
              "the stages of float32 must fit");
static_assert(4 * TileShape<__half>::kOperand * sizeof(__half) <= kStageArea,
              "the stages of half precision must fit");
static_assert(kDumpBytes <= kStageArea && kScratch % 8 == 0,
              "the second dump must fit, and doubles must be aligned");

}  // namespace gaal::cuda
