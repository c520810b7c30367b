"""Launch 1: row statistics of both batches, the loss, and the selection of the guide's rows.

``logits_kernel`` makes the logits itself, ``rows_kernel`` reads them. Each program leaves the
statistics of a part of some rows; the last one to arrive finishes (``finish_rows``).
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from gaal_fast.kernels._device import (
    add_tile,
    arrive_last,
    finish_stats,
    label_weight,
    lift,
    log1p,
    target_residual,
)
from gaal_fast.kernels.entropy_topk import key_index, order_keys, sort_descending
from gaal_fast.kernels.softmax_stats import Logits, merge_parts, row_stats, store_parts


class Left(NamedTuple):
    """What launch 1 leaves for the next ones. Rows are the active batch's, then the guide's."""

    row_max_ptr: tl.tensor  # [B + P] float32
    row_scale_ptr: tl.tensor  # 1 / s
    row_residual_ptr: tl.tensor  # p_y - 1
    loss_ptr: tl.tensor  # 0-d float32
    totals_ptr: tl.tensor  # [4] float32: sums of the weights of the active and of the selected
    # rows, then the powers of two for their residuals
    index_ptr: tl.tensor  # [k] int64


@triton.jit
def target_logits(logits, row, present):
    """(logit of each row's label, 0 where that is illegal; the label)."""
    target = tl.load(logits.target_ptr + row, mask=present, other=0)
    inside = present & (target >= 0) & (target < logits.Y)
    place = logits.ptr + row.to(tl.int64) * logits.stride + target
    return tl.load(place, mask=inside, other=0.0).to(tl.float32), target


@triton.jit
def store_rows(m, r, x, row, present, left):
    """Store what the products need of finished rows: (m, 1 / s, p_y - 1). Returns the last."""
    scale = 1.0 / (1.0 + r)
    residual = target_residual(x, m, r, scale)
    tl.store(left.row_max_ptr + row, m, mask=present)
    tl.store(left.row_scale_ptr + row, scale, mask=present)
    tl.store(left.row_residual_ptr + row, residual, mask=present)
    return residual


@triton.jit
def finish_active(parts_ptr, parts, active, left, B, P, COMBINE: tl.constexpr):
    """Finish the rows of the active batch, and the loss."""
    loss = 0.0
    total = 0.0
    peak = tl.zeros((COMBINE,), tl.float32)
    for start in range(0, B, COMBINE):
        row = start + tl.arange(0, COMBINE)
        present = row < B
        m, r, _ = merge_parts(parts_ptr, row, present, B + P, parts, COMBINE)
        x, target = target_logits(active, row, present)
        residual = store_rows(m, r, x, row, present, left)
        weight = label_weight(target, active.class_weights_ptr, present, active.Y)
        nll = log1p(r) - (x - m)
        loss += tl.sum(tl.where(present, weight * nll, 0.0), axis=0)
        total += tl.sum(weight, axis=0)
        peak = tl.maximum(peak, tl.where(present, tl.abs(weight * residual), 0.0))
    tl.store(left.loss_ptr, loss / total)
    tl.store(left.totals_ptr, total)
    tl.store(left.totals_ptr + 2, lift(tl.max(peak, axis=0)))


@triton.jit
def select_guide(parts_ptr, parts, guide, left, B, P, k, N: tl.constexpr, LOG_N: tl.constexpr):
    """Finish the rows of the guide, and select the ``k`` of highest entropy."""
    position = tl.arange(0, N)
    present = position < P
    m, r, t = merge_parts(parts_ptr, B + position, present, B + P, parts, N)
    x, _ = target_logits(guide, position, present)
    store_rows(m, r, x, B + position, present, left)
    entropy, _, _ = finish_stats(m, r, t)
    key = tl.where(present, order_keys(entropy, position), -0x8000000000000000)
    selected = key_index(sort_descending(key, N, LOG_N))
    chosen = position < k
    tl.store(left.index_ptr + position, selected, mask=chosen)
    target = tl.load(guide.target_ptr + selected, mask=chosen, other=0)
    weight = label_weight(target, guide.class_weights_ptr, chosen, guide.Y)
    tl.store(left.totals_ptr + 1, tl.sum(weight, axis=0))
    # Only the selected rows count, and another thread has stored their residuals.
    tl.debug_barrier()
    residual = tl.load(left.row_residual_ptr + B + selected, mask=chosen, other=0.0)
    tl.store(left.totals_ptr + 3, lift(tl.max(tl.abs(weight * residual), axis=0)))


@triton.jit
def finish_rows(
    parts_ptr,  # [3, parts, B + P] float32: m, r, t of parts of the rows
    parts,
    active,  # `Logits`
    guide,  # `Logits`
    left,  # `Left`
    B,
    P,
    k,
    COMBINE: tl.constexpr,
    N: tl.constexpr,  # power of two >= P
    LOG_N: tl.constexpr,
):
    """What the last program of launch 1 does: finish every row, the loss, the selection."""
    finish_active(parts_ptr, parts, active, left, B, P, COMBINE)
    select_guide(parts_ptr, parts, guide, left, B, P, k, N, LOG_N)


@triton.jit
def logits_kernel(
    features_ptr,  # [B, d]
    features_stride,
    guide_features_ptr,  # [P, d]
    guide_features_stride,
    weight_ptr,  # [Y, d]
    weight_stride,
    bias_ptr,  # [Y] or None
    stacked_ptr,  # [B + P, Y] float32, contiguous: the logits
    parts_ptr,  # [3, tiles of classes, B + P] float32
    ticket_ptr,
    target_ptr,  # [B] int64
    guide_target_ptr,  # [P] int64
    class_weights_ptr,  # [Y] or None
    row_max_ptr,  # for this and the next ones see `Left`
    row_scale_ptr,
    row_residual_ptr,
    loss_ptr,
    totals_ptr,
    index_ptr,
    B,
    P,
    Y,
    d,
    k,
    BLOCK_R: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    COMBINE: tl.constexpr,
    N: tl.constexpr,
    LOG_N: tl.constexpr,
):
    """Launch 1, its own logits: z = U W^T + b for a tile of rows of either batch, and its part."""
    tiles_y = tl.cdiv(Y, BLOCK_Y)
    tiles_active = tl.cdiv(B, BLOCK_R)
    tile_r = tl.program_id(0) // tiles_y
    tile_y = tl.program_id(0) % tiles_y
    if tile_r < tiles_active:
        rows = tile_r * BLOCK_R + tl.arange(0, BLOCK_R)
        present = rows < B
        stacked = rows
        u_ptr = features_ptr + rows.to(tl.int64) * features_stride
    else:
        rows = (tile_r - tiles_active) * BLOCK_R + tl.arange(0, BLOCK_R)
        present = rows < P
        stacked = B + rows
        u_ptr = guide_features_ptr + rows.to(tl.int64) * guide_features_stride
    columns = tile_y * BLOCK_Y + tl.arange(0, BLOCK_Y)
    real = columns < Y
    w_ptr = weight_ptr + columns.to(tl.int64) * weight_stride
    z = tl.zeros((BLOCK_R, BLOCK_Y), tl.float32)
    for start in range(0, d, BLOCK_K):
        depth = start + tl.arange(0, BLOCK_K)
        within = (depth < d)[None, :]
        u = tl.load(u_ptr[:, None] + depth[None, :], mask=present[:, None] & within, other=0.0)
        w = tl.load(w_ptr[:, None] + depth[None, :], mask=real[:, None] & within, other=0.0)
        z = tl.dot(u, tl.trans(w), z, input_precision=PRECISION)
    if bias_ptr is not None:
        z += tl.load(bias_ptr + columns, mask=real, other=0.0).to(tl.float32)[None, :]
    inside = present[:, None] & real[None, :]
    place = stacked_ptr + stacked.to(tl.int64)[:, None] * Y + columns[None, :]
    tl.store(place, z, mask=inside)

    # The product has filled the padding with zeros and the bias: only here is it no logit at all.
    z = tl.where(inside, z, float("-inf"))
    nothing = tl.full((BLOCK_R,), float("-inf"), tl.float32)
    m, r, t = add_tile(
        nothing, tl.full((BLOCK_R,), -1.0, tl.float32), tl.zeros((BLOCK_R,), tl.float32), z
    )
    store_parts(parts_ptr, tile_y, tiles_y, B + P, stacked, present, m, r, t)
    if arrive_last(ticket_ptr, tl.num_programs(0)):
        guide_ptr = stacked_ptr + tl.cast(B, tl.int64) * Y
        active = Logits(stacked_ptr, Y, target_ptr, class_weights_ptr, Y)
        guide = Logits(guide_ptr, Y, guide_target_ptr, class_weights_ptr, Y)
        left = Left(row_max_ptr, row_scale_ptr, row_residual_ptr, loss_ptr, totals_ptr, index_ptr)
        finish_rows(parts_ptr, tiles_y, active, guide, left, B, P, k, COMBINE, N, LOG_N)
        tl.store(ticket_ptr, 0)


@triton.jit
def rows_kernel(
    logits_ptr,  # [B, Y]
    logits_stride,
    guide_logits_ptr,  # [P, Y]
    guide_logits_stride,
    parts_ptr,  # [3, splits, B + P] float32
    ticket_ptr,
    target_ptr,  # [B] int64
    guide_target_ptr,  # [P] int64
    class_weights_ptr,  # [Y] or None
    row_max_ptr,  # for this and the next ones see `Left`
    row_scale_ptr,
    row_residual_ptr,
    loss_ptr,
    totals_ptr,
    index_ptr,
    B,
    P,
    Y,
    k,
    splits,
    split_width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    COMBINE: tl.constexpr,
    N: tl.constexpr,
    LOG_N: tl.constexpr,
):
    """Launch 1, logits given: the row statistics of both batches in one read of each."""
    active = Logits(logits_ptr, logits_stride, target_ptr, class_weights_ptr, Y)
    guide = Logits(guide_logits_ptr, guide_logits_stride, guide_target_ptr, class_weights_ptr, Y)
    blocks_active = tl.cdiv(B, ROWS)
    block = tl.program_id(0) // splits
    split = tl.program_id(0) % splits
    first = split * split_width
    end = tl.minimum(first + split_width, Y)
    if block < blocks_active:
        rows = block * ROWS + tl.arange(0, ROWS)
        present = rows < B
        stacked = rows
        m, r, t = row_stats(
            active.ptr, active.stride, rows.to(tl.int64), present, first, end, ROWS, COLUMNS
        )
    else:
        rows = (block - blocks_active) * ROWS + tl.arange(0, ROWS)
        present = rows < P
        stacked = B + rows
        m, r, t = row_stats(
            guide.ptr, guide.stride, rows.to(tl.int64), present, first, end, ROWS, COLUMNS
        )
    store_parts(parts_ptr, split, splits, B + P, stacked, present, m, r, t)
    if arrive_last(ticket_ptr, tl.num_programs(0)):
        left = Left(row_max_ptr, row_scale_ptr, row_residual_ptr, loss_ptr, totals_ptr, index_ptr)
        finish_rows(parts_ptr, splits, active, guide, left, B, P, k, COMBINE, N, LOG_N)
        tl.store(ticket_ptr, 0)
