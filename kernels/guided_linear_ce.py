"""One whole step of the shared head, lines 8 to 15 of Algorithm 1, in three launches.

With the active modality's features U [B, d], the guide's features U_p [P, d] and the head (W, b):

1. Logits of both, row statistics, the loss, and the k guide rows of highest entropy (equations (1), (6), (7)). While both batches and Y
   are small the logits come from a kernel that also reduces each tile to partial row statistics; beyond (`own_logits`) PyTorch's matrix
   product makes them and the launch reads them once. The last program to arrive merges the statistics and selects.
2. <g, g_p>, |g_p|^2, |g|^2 and v (equation (5)), and beside them grad_features = A W, which needs no v.
3. The corrected head gradient g + v g_p.

With a_i = c_i (p_i - onehot(y_i)) (see ``linear_ce_grad``), C = sum c_i over the active rows and C_p over the selected guide rows,
g = A^T U / C and g_p = A_p^T U_p / C_p. Launches 2 and 3 come in two forms:

direct   2 forms a tile of g and the same tile of g_p, adds their products up and stores both; 3 reads both back: g + v g_p.
gram     2 works in sample space. With the bias as a feature that is always 1,

             <g, g_p> = sum_ij (A A_p^T)_ij ((U U_p^T)_ij + 1) / (C C_p)

         and likewise for the norms, so that no gradient is formed. 3 is one product over the B + k stacked rows: it accumulates the
         guide's rows first, scales the accumulator by v C / C_p, and goes on with the active rows.

`use_gram` chooses from the shapes and the precision of the products, on the host. A workspace belongs to one call.

Residuals of confident rows are as small as e^-80. Launch 1 leaves, per batch, the power of two that brings the largest |c_i (p_y - 1)|
near 1 (``_common.lift``); the products of launches 2 and 3 take a_i times that, so that neither their squares nor a float16 operand
underflows, and what comes out is divided by it: sums in float64, gradients on the accumulator. The direct form keeps g_p multiplied.
Traffic of launch 1 beside the logits: 3 floats per row and part written and read, 3 per row written.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ._common import (
    add_tile,
    arrive_last,
    dot_precision,
    finish_stats,
    inverse,
    label_weight,
    launch,
    lift,
    log1p,
    next_power_of_2,
    rows_contiguous,
    target_residual,
    ticket,
)
from .entropy_topk import key_index, order_keys, sort_descending, sort_warps
from .linear_ce_grad import (
    head_grad_tile,
    load_rows,
    product_options,
    product_tiles,
    residual_tile,
    store_head_grad,
)
from .project import (
    SUM_BLOCK,
    add_guide,
    finish_projection,
    rule_arguments,
    scalar_outputs,
    store_partials,
)
from .softmax_stats import COMBINE_ROWS, merge_partials, row_stats, split_columns, tile_shape

LOGIT_ROWS, LOGIT_COLUMNS = 32, 64  # tile of the logits kernel
GRAM_TILE = 32
GRAD_TILE = 64  # head gradient: classes by features; feature gradient: rows by features
UPDATE_BLOCK = 1024

# Multiply-adds that pay for one byte of traffic, by precision of the products: half of the H200's data sheet (67, 494 and 989 TFLOP/s,
# two per multiply-add, over 4.8 TB/s).
_BALANCE = {"float32": 3.5, "tf32": 25.0, "half": 50.0}


def own_logits(n_active: int, n_guide: int, n_cols: int) -> bool:
    """Whether launch 1 computes the logits itself: where one launch less matters more than the speed of the product."""
    return n_active <= 256 and n_guide <= 256 and n_cols <= 1024


def use_gram(n_active: int, k: int, n_cols: int, dim: int, dtype: torch.dtype, precision: str) -> bool:
    """Whether launches 2 and 3 take the sample-space form.

    It costs (B + k)^2 / 2 * (Y + d) multiply-adds (the upper triangle of the stacked Gram matrices) and saves four passes over the
    gradient's Y * d elements in float32 (g and g_p written and read), so it wins while

        (B + k)^2 (Y + d) / 2 < 16 bytes * Y d * (multiply-adds per byte)
    """
    kind = "half" if dtype != torch.float32 else "tf32" if precision == "tf32" else "float32"
    if n_active == 0 or k == 0:
        return False
    return (n_active + k) ** 2 * (n_cols + dim) / 2 < 16 * n_cols * dim * _BALANCE[kind]


@triton.jit
def finish_rows(
    partial_ptr,  # [3, parts, n_active + n_guide] float32: m, r, t of parts of the rows; the guide's rows come last
    parts,
    logits_ptr,  # [n_active, n_cols]
    logits_stride,
    guide_logits_ptr,  # [n_guide, n_cols]
    guide_logits_stride,
    target_ptr,  # [n_active] int64
    guide_target_ptr,  # [n_guide] int64
    class_weights_ptr,  # [n_cols] or None
    row_max_ptr,  # [n_active + n_guide] float32
    row_scale_ptr,
    row_residual_ptr,
    loss_ptr,  # 0-d float32
    totals_ptr,  # [4] float32: sums of the row weights, active and selected; powers of two for their residuals
    index_ptr,  # [k] int64
    n_active,
    n_guide,
    n_cols,
    k,
    COMBINE: tl.constexpr,
    N: tl.constexpr,  # power of two >= n_guide
    LOG_N: tl.constexpr,
):
    """What the last program of launch 1 does: finish every row, the loss, the selection."""
    n_rows = n_active + n_guide
    loss = 0.0
    total = 0.0
    peak = tl.zeros((COMBINE,), tl.float32)
    for start in range(0, n_active, COMBINE):
        row = start + tl.arange(0, COMBINE)
        present = row < n_active
        m, r, _ = merge_partials(partial_ptr, row, present, n_rows, parts, COMBINE)
        x, target = target_logits(logits_ptr, logits_stride, target_ptr, row, present, n_cols)
        residual = store_rows(m, r, x, row, present, row_max_ptr, row_scale_ptr, row_residual_ptr)
        weight = label_weight(target, class_weights_ptr, present, n_cols)
        nll = log1p(r) - (x - m)
        loss += tl.sum(tl.where(present, weight * nll, 0.0), axis=0)
        total += tl.sum(weight, axis=0)
        peak = tl.maximum(peak, tl.where(present, tl.abs(weight * residual), 0.0))
    tl.store(loss_ptr, loss / total)
    tl.store(totals_ptr, total)
    tl.store(totals_ptr + 2, lift(tl.max(peak, axis=0)))

    position = tl.arange(0, N)
    guide = position < n_guide
    m, r, t = merge_partials(partial_ptr, n_active + position, guide, n_rows, parts, N)
    x, _ = target_logits(guide_logits_ptr, guide_logits_stride, guide_target_ptr, position, guide, n_cols)
    store_rows(m, r, x, n_active + position, guide, row_max_ptr, row_scale_ptr, row_residual_ptr)
    entropy, _, _ = finish_stats(m, r, t)
    key = sort_descending(tl.where(guide, order_keys(entropy, position), -0x8000000000000000), N, LOG_N)
    selected = key_index(key)
    chosen = position < k
    tl.store(index_ptr + position, selected, mask=chosen)
    target = tl.load(guide_target_ptr + selected, mask=chosen, other=0)
    weight = label_weight(target, class_weights_ptr, chosen, n_cols)
    tl.store(totals_ptr + 1, tl.sum(weight, axis=0))
    # Only the selected rows count, and another thread has stored their residuals.
    tl.debug_barrier()
    residual = tl.load(row_residual_ptr + n_active + selected, mask=chosen, other=0.0)
    tl.store(totals_ptr + 3, lift(tl.max(tl.abs(weight * residual), axis=0)))


@triton.jit
def target_logits(logits_ptr, logits_stride, target_ptr, row, present, n_cols):
    """(logit of each row's label, 0 where that is illegal; the label)."""
    target = tl.load(target_ptr + row, mask=present, other=0)
    inside = present & (target >= 0) & (target < n_cols)
    x = tl.load(logits_ptr + row.to(tl.int64) * logits_stride + target, mask=inside, other=0.0).to(tl.float32)
    return x, target


@triton.jit
def store_rows(m, r, x, row, present, row_max_ptr, row_scale_ptr, row_residual_ptr):
    """Store the row results that the products need: (m, 1 / s, p_y - 1). Returns the last."""
    scale = 1.0 / (1.0 + r)
    residual = target_residual(x, m, r, scale)
    tl.store(row_max_ptr + row, m, mask=present)
    tl.store(row_scale_ptr + row, scale, mask=present)
    tl.store(row_residual_ptr + row, residual, mask=present)
    return residual


@triton.jit
def logits_kernel(
    features_ptr,  # [n_active, dim]
    features_stride,
    guide_features_ptr,  # [n_guide, dim]
    guide_features_stride,
    weight_ptr,  # [n_cols, dim]
    weight_stride,
    bias_ptr,  # [n_cols] or None
    logits_ptr,  # [n_active + n_guide, n_cols] float32, contiguous
    partial_ptr,
    ticket_ptr,
    target_ptr,
    guide_target_ptr,
    class_weights_ptr,
    row_max_ptr,
    row_scale_ptr,
    row_residual_ptr,
    loss_ptr,
    totals_ptr,
    index_ptr,
    n_active,
    n_guide,
    n_cols,
    dim,
    k,
    BLOCK_R: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    COMBINE: tl.constexpr,
    N: tl.constexpr,
    LOG_N: tl.constexpr,
):
    """Launch 1, its own logits: z = U W^T + b for a tile of rows of either batch, and the tile's part of the row statistics."""
    tiles_y = tl.cdiv(n_cols, BLOCK_Y)
    tiles_active = tl.cdiv(n_active, BLOCK_R)
    tile_r = tl.program_id(0) // tiles_y
    tile_y = tl.program_id(0) % tiles_y
    if tile_r < tiles_active:
        rows = tile_r * BLOCK_R + tl.arange(0, BLOCK_R)
        present = rows < n_active
        stacked = rows
        u_ptr = features_ptr + rows.to(tl.int64) * features_stride
    else:
        rows = (tile_r - tiles_active) * BLOCK_R + tl.arange(0, BLOCK_R)
        present = rows < n_guide
        stacked = n_active + rows
        u_ptr = guide_features_ptr + rows.to(tl.int64) * guide_features_stride
    columns = tile_y * BLOCK_Y + tl.arange(0, BLOCK_Y)
    real = columns < n_cols
    w_ptr = weight_ptr + columns.to(tl.int64) * weight_stride
    z = tl.zeros((BLOCK_R, BLOCK_Y), tl.float32)
    for start in range(0, dim, BLOCK_K):
        depth = start + tl.arange(0, BLOCK_K)
        within = (depth < dim)[None, :]
        u = tl.load(u_ptr[:, None] + depth[None, :], mask=present[:, None] & within, other=0.0)
        w = tl.load(w_ptr[:, None] + depth[None, :], mask=real[:, None] & within, other=0.0)
        z = tl.dot(u, tl.trans(w), z, input_precision=PRECISION)
    if bias_ptr is not None:
        z += tl.load(bias_ptr + columns, mask=real, other=0.0).to(tl.float32)[None, :]
    inside = present[:, None] & real[None, :]
    tl.store(logits_ptr + stacked.to(tl.int64)[:, None] * n_cols + columns[None, :], z, mask=inside)

    # The product has filled the padding with zeros and the bias: only here does it become no logit at all.
    z = tl.where(inside, z, float("-inf"))
    nothing = tl.full((BLOCK_R,), float("-inf"), tl.float32)
    m, r, t = add_tile(nothing, tl.full((BLOCK_R,), -1.0, tl.float32), tl.zeros((BLOCK_R,), tl.float32), z)
    store_parts(partial_ptr, tile_y, tiles_y, n_active + n_guide, stacked, present, m, r, t)
    if arrive_last(ticket_ptr, tl.num_programs(0)):
        finish_rows(
            partial_ptr, tiles_y, logits_ptr, n_cols, logits_ptr + tl.cast(n_active, tl.int64) * n_cols, n_cols,
            target_ptr, guide_target_ptr, class_weights_ptr, row_max_ptr, row_scale_ptr, row_residual_ptr,
            loss_ptr, totals_ptr, index_ptr, n_active, n_guide, n_cols, k, COMBINE, N, LOG_N,
        )  # fmt: skip
        tl.store(ticket_ptr, 0)


@triton.jit
def store_parts(partial_ptr, part, parts, n_rows, row, present, m, r, t):
    """The statistics of one part of the rows, for `finish_rows`."""
    plane = tl.cast(parts, tl.int64) * n_rows
    place = partial_ptr + tl.cast(part, tl.int64) * n_rows + row
    tl.store(place, m, mask=present)
    tl.store(place + plane, r, mask=present)
    tl.store(place + 2 * plane, t, mask=present)


@triton.jit
def rows_kernel(
    logits_ptr,  # [n_active, n_cols]
    logits_stride,
    guide_logits_ptr,  # [n_guide, n_cols]
    guide_logits_stride,
    partial_ptr,
    ticket_ptr,
    target_ptr,
    guide_target_ptr,
    class_weights_ptr,
    row_max_ptr,
    row_scale_ptr,
    row_residual_ptr,
    loss_ptr,
    totals_ptr,
    index_ptr,
    n_active,
    n_guide,
    n_cols,
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
    blocks_active = tl.cdiv(n_active, ROWS)
    block = tl.program_id(0) // splits
    split = tl.program_id(0) % splits
    first = split * split_width
    end = tl.minimum(first + split_width, n_cols)
    if block < blocks_active:
        rows = block * ROWS + tl.arange(0, ROWS)
        present = rows < n_active
        stacked = rows
        m, r, t = row_stats(logits_ptr, logits_stride, rows.to(tl.int64), present, first, end, ROWS, COLUMNS)
    else:
        rows = (block - blocks_active) * ROWS + tl.arange(0, ROWS)
        present = rows < n_guide
        stacked = n_active + rows
        m, r, t = row_stats(guide_logits_ptr, guide_logits_stride, rows.to(tl.int64), present, first, end, ROWS, COLUMNS)
    store_parts(partial_ptr, split, splits, n_active + n_guide, stacked, present, m, r, t)
    if arrive_last(ticket_ptr, tl.num_programs(0)):
        finish_rows(
            partial_ptr, splits, logits_ptr, logits_stride, guide_logits_ptr, guide_logits_stride,
            target_ptr, guide_target_ptr, class_weights_ptr, row_max_ptr, row_scale_ptr, row_residual_ptr,
            loss_ptr, totals_ptr, index_ptr, n_active, n_guide, n_cols, k, COMBINE, N, LOG_N,
        )  # fmt: skip
        tl.store(ticket_ptr, 0)


@triton.jit
def feature_grad_tile(
    tile,
    grad_features_ptr,  # [n_active, dim], contiguous
    weight_ptr,
    weight_stride,
    logits_ptr,
    logits_stride,
    row_max_ptr,
    row_scale_ptr,
    row_residual_ptr,
    target_ptr,
    class_weights_ptr,
    totals_ptr,
    n_active,
    n_cols,
    dim,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of A W / C, [rows, features]."""
    tiles_d = tl.cdiv(dim, BLOCK)
    rows = (tile // tiles_d) * BLOCK + tl.arange(0, BLOCK)
    dims = (tile % tiles_d) * BLOCK + tl.arange(0, BLOCK)
    present = rows < n_active
    row, label, weight, m, scale, at_label = load_rows(
        rows, n_active, None, target_ptr, class_weights_ptr, row_max_ptr, row_scale_ptr, row_residual_ptr, n_active, n_cols
    )
    power = tl.load(totals_ptr + 2)
    weight = power * weight
    row_ptr = logits_ptr + row * logits_stride
    grad = tl.zeros((BLOCK, BLOCK), tl.float32)
    for start in range(0, n_cols, BLOCK_K):
        columns = start + tl.arange(0, BLOCK_K)
        a = residual_tile(row_ptr, m, scale, at_label, label, weight, present, columns, n_cols)
        w = tl.load(
            weight_ptr + columns.to(tl.int64)[:, None] * weight_stride + dims[None, :],
            mask=(columns < n_cols)[:, None] & (dims < dim)[None, :],
            other=0.0,
        )
        grad = tl.dot(a.to(OPERAND), w, grad, input_precision=PRECISION)
    grad = grad / tl.load(totals_ptr) * inverse(power)
    place = grad_features_ptr + row[:, None] * dim + dims[None, :]
    tl.store(place, grad.to(grad_features_ptr.dtype.element_ty), mask=present[:, None] & (dims < dim)[None, :])


@triton.jit
def direct_kernel(
    features_ptr, features_stride, guide_features_ptr, guide_features_stride, weight_ptr, weight_stride,
    logits_ptr, logits_stride, guide_logits_ptr, guide_logits_stride, row_max_ptr, row_scale_ptr, row_residual_ptr,
    target_ptr, guide_target_ptr, class_weights_ptr, totals_ptr, index_ptr,
    grad_features_ptr,  # [n_active, dim]
    grad_ptr,  # [n_cols, dim]: g, float32
    grad_bias_ptr,  # [n_cols] or None
    guide_ptr,  # [n_cols, dim]: g_p times its power of two, float32
    guide_bias_ptr,  # [n_cols] or None
    partial_ptr,  # [1 + 3 * head_tiles] float64
    ticket_ptr,
    v_ptr,
    dot_ptr,
    guide_norm2_ptr,
    grad_norm2_ptr,
    n_active,
    n_guide,
    n_cols,
    dim,
    k,
    head_tiles,
    epsilon: tl.float64,
    margin: tl.float64,
    ridge: tl.float64,
    max_correction: tl.float64,
    epsilon_ptr,  # 0-d float64 or None: in place of epsilon
    margin_ptr,
    RULE: tl.constexpr,
    RELATIVE: tl.constexpr,
    BOUNDED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    SUM_BLOCK: tl.constexpr,
):  # fmt: skip
    """Launch 2, direct form. Programs below ``head_tiles`` form a tile of g and of g_p, the others a tile of the feature gradient."""
    program = tl.program_id(0)
    if program < head_tiles:
        tiles_d = tl.maximum(tl.cdiv(dim, BLOCK), 1)  # without features there is still the bias
        tile_d = program % tiles_d
        columns = (program // tiles_d) * BLOCK + tl.arange(0, BLOCK)
        dims = tile_d * BLOCK + tl.arange(0, BLOCK)
        power = tl.load(totals_ptr + 2)
        guide_power = tl.load(totals_ptr + 3)
        grad, bias, total = head_grad_tile(
            tl.zeros((BLOCK, BLOCK), tl.float32), tl.zeros((BLOCK,), tl.float32),
            features_ptr, features_stride, logits_ptr, logits_stride, row_max_ptr, row_scale_ptr, row_residual_ptr, target_ptr,
            class_weights_ptr, None, n_active, n_active, n_cols, dim, columns, dims, power, BLOCK_K, OPERAND, PRECISION,
        )  # fmt: skip
        # The gradient of no rows is 0, not 0 / 0.
        grad = tl.where(n_active > 0, grad / total, 0.0)
        bias = tl.where(n_active > 0, bias / total, 0.0)
        store_head_grad(
            grad_ptr, grad_bias_ptr, grad * inverse(power), bias * inverse(power), columns, dims, n_cols, dim, tile_d == 0
        )  # fmt: skip
        guide, guide_bias, guide_total = head_grad_tile(
            tl.zeros((BLOCK, BLOCK), tl.float32), tl.zeros((BLOCK,), tl.float32),
            guide_features_ptr, guide_features_stride, guide_logits_ptr, guide_logits_stride,
            row_max_ptr + n_active, row_scale_ptr + n_active, row_residual_ptr + n_active, guide_target_ptr, class_weights_ptr,
            index_ptr, k, n_guide, n_cols, dim, columns, dims, guide_power, BLOCK_K, OPERAND, PRECISION,
        )  # fmt: skip
        guide = tl.where(k > 0, guide / guide_total, 0.0)
        guide_bias = tl.where(k > 0, guide_bias / guide_total, 0.0)
        store_head_grad(guide_ptr, guide_bias_ptr, guide, guide_bias, columns, dims, n_cols, dim, tile_d == 0)

        g = grad.to(tl.float64)
        p = guide.to(tl.float64)
        dot = tl.sum(g * p)
        guide_norm2 = tl.sum(p * p)
        grad_norm2 = tl.sum(g * g)
        if grad_bias_ptr is not None:  # noqa: SIM102 - decided when the kernel is compiled
            if tile_d == 0:
                g_bias = bias.to(tl.float64)
                p_bias = guide_bias.to(tl.float64)
                dot += tl.sum(g_bias * p_bias, axis=0)
                guide_norm2 += tl.sum(p_bias * p_bias, axis=0)
                grad_norm2 += tl.sum(g_bias * g_bias, axis=0)
        power64 = power.to(tl.float64)
        guide_power64 = guide_power.to(tl.float64)
        # No guide at all differs from a guide of zeros: 0 * NaN must not make v NaN.
        store_partials(
            partial_ptr, head_tiles, program, tl.where(k > 0, dot / (power64 * guide_power64), 0.0),
            guide_norm2 / (guide_power64 * guide_power64), grad_norm2 / (power64 * power64),
        )  # fmt: skip
        if arrive_last(ticket_ptr, head_tiles):
            finish_projection(
                v_ptr, dot_ptr, guide_norm2_ptr, grad_norm2_ptr, partial_ptr, head_tiles, epsilon, margin, ridge, max_correction,
                epsilon_ptr, margin_ptr, RULE, RELATIVE, BOUNDED, SUM_BLOCK,
            )  # fmt: skip
            tl.store(ticket_ptr, 0)
    else:
        feature_grad_tile(
            program - head_tiles, grad_features_ptr, weight_ptr, weight_stride, logits_ptr, logits_stride, row_max_ptr, row_scale_ptr,
            row_residual_ptr, target_ptr, class_weights_ptr, totals_ptr, n_active, n_cols, dim, BLOCK, BLOCK_K, OPERAND, PRECISION,
        )  # fmt: skip


@triton.jit
def update_kernel(
    out_ptr,  # [n] the dtype of the features
    grad_ptr,  # [n] float32, may be `out_ptr`
    guide_ptr,  # [n] float32, times the power of two in totals[3]
    n,
    bias_out_ptr,  # [n_bias] or None
    bias_grad_ptr,
    bias_guide_ptr,
    n_bias,
    weight_programs,
    partial_ptr,  # its first element is v, float64
    totals_ptr,
    IN_PLACE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Launch 3, direct form: g + v g_p, where v = 0 g itself, bit for bit."""
    v = tl.load(partial_ptr) / tl.load(totals_ptr + 3).to(tl.float64)
    program = tl.program_id(0)
    if program < weight_programs:
        add_block(out_ptr, grad_ptr, guide_ptr, n, program.to(tl.int64) * BLOCK, v, IN_PLACE, BLOCK)
    else:
        if bias_out_ptr is not None:
            first = (program - weight_programs).to(tl.int64) * BLOCK
            add_block(bias_out_ptr, bias_grad_ptr, bias_guide_ptr, n_bias, first, v, IN_PLACE, BLOCK)


@triton.jit
def add_block(out_ptr, grad_ptr, guide_ptr, n, first, v, IN_PLACE: tl.constexpr, BLOCK: tl.constexpr):
    place = first + tl.arange(0, BLOCK)
    present = place < n
    if v != 0:
        g = tl.load(grad_ptr + place, mask=present, other=0.0)
        p = tl.load(guide_ptr + place, mask=present, other=0.0)
        tl.store(out_ptr + place, add_guide(g, p, v).to(out_ptr.dtype.element_ty), mask=present)
    else:
        if not IN_PLACE:
            g = tl.load(grad_ptr + place, mask=present, other=0.0)
            tl.store(out_ptr + place, g.to(out_ptr.dtype.element_ty), mask=present)


@triton.jit
def gram_kernel(
    features_ptr, features_stride, guide_features_ptr, guide_features_stride, weight_ptr, weight_stride,
    logits_ptr, logits_stride, guide_logits_ptr, guide_logits_stride, row_max_ptr, row_scale_ptr, row_residual_ptr,
    target_ptr, guide_target_ptr, class_weights_ptr, totals_ptr, index_ptr,
    grad_features_ptr,  # [n_active, dim]
    partial_ptr,  # [1 + 3 * side * side] float64
    ticket_ptr,
    v_ptr,
    dot_ptr,
    guide_norm2_ptr,
    grad_norm2_ptr,
    n_active,
    n_guide,
    n_cols,
    dim,
    k,
    side,  # tiles along one edge of the stacked Gram matrix: those of the active rows, then those of the selected rows
    epsilon: tl.float64,
    margin: tl.float64,
    ridge: tl.float64,
    max_correction: tl.float64,
    epsilon_ptr,  # 0-d float64 or None: in place of epsilon
    margin_ptr,
    RULE: tl.constexpr,
    RELATIVE: tl.constexpr,
    BOUNDED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    SUM_BLOCK: tl.constexpr,
):  # fmt: skip
    """Launch 2, sample space. Programs below ``side``^2 take a tile of the Gram matrices, the others a tile of the feature gradient."""
    program = tl.program_id(0)
    pairs = side * side
    if program < pairs:
        tiles_active = tl.cdiv(n_active, TILE)
        i = program // side
        j = program % side
        dot = tl.cast(0.0, tl.float64)
        guide_norm2 = tl.cast(0.0, tl.float64)
        grad_norm2 = tl.cast(0.0, tl.float64)
        # Both matrices are symmetric: the upper triangle counts twice.
        if i <= j:
            u_i, z_i, m_i, scale_i, at_label_i, label_i, weight_i, present_i = gram_rows(
                i, tiles_active, features_ptr, features_stride, guide_features_ptr, guide_features_stride,
                logits_ptr, logits_stride, guide_logits_ptr, guide_logits_stride, row_max_ptr, row_scale_ptr, row_residual_ptr,
                target_ptr, guide_target_ptr, class_weights_ptr, totals_ptr, index_ptr, n_active, n_guide, n_cols, k, TILE,
            )  # fmt: skip
            u_j, z_j, m_j, scale_j, at_label_j, label_j, weight_j, present_j = gram_rows(
                j, tiles_active, features_ptr, features_stride, guide_features_ptr, guide_features_stride,
                logits_ptr, logits_stride, guide_logits_ptr, guide_logits_stride, row_max_ptr, row_scale_ptr, row_residual_ptr,
                target_ptr, guide_target_ptr, class_weights_ptr, totals_ptr, index_ptr, n_active, n_guide, n_cols, k, TILE,
            )  # fmt: skip
            residuals = tl.zeros((TILE, TILE), tl.float32)
            for start in range(0, n_cols, BLOCK_K):
                columns = start + tl.arange(0, BLOCK_K)
                a_i = residual_tile(z_i, m_i, scale_i, at_label_i, label_i, weight_i, present_i, columns, n_cols)
                a_j = residual_tile(z_j, m_j, scale_j, at_label_j, label_j, weight_j, present_j, columns, n_cols)
                residuals = tl.dot(a_i.to(OPERAND), tl.trans(a_j.to(OPERAND)), residuals, input_precision=PRECISION)
            inner = tl.zeros((TILE, TILE), tl.float32)
            for start in range(0, dim, BLOCK_K):
                depth = start + tl.arange(0, BLOCK_K)
                within = (depth < dim)[None, :]
                x_i = tl.load(u_i[:, None] + depth[None, :], mask=present_i[:, None] & within, other=0.0)
                x_j = tl.load(u_j[:, None] + depth[None, :], mask=present_j[:, None] & within, other=0.0)
                inner = tl.dot(x_i, tl.trans(x_j), inner, input_precision=PRECISION)
            if HAS_BIAS:
                inner += 1.0
            value = tl.sum(residuals.to(tl.float64) * inner.to(tl.float64))
            total = tl.load(totals_ptr).to(tl.float64) * tl.load(totals_ptr + 2)
            guide_total = tl.load(totals_ptr + 1).to(tl.float64) * tl.load(totals_ptr + 3)
            twice = tl.where(i < j, 2.0, 1.0).to(tl.float64)
            if j < tiles_active:
                grad_norm2 = twice * value / (total * total)
            elif i < tiles_active:
                dot = value / (total * guide_total)
            else:
                guide_norm2 = twice * value / (guide_total * guide_total)
        store_partials(partial_ptr, pairs, program, dot, guide_norm2, grad_norm2)
        if arrive_last(ticket_ptr, pairs):
            finish_projection(
                v_ptr, dot_ptr, guide_norm2_ptr, grad_norm2_ptr, partial_ptr, pairs, epsilon, margin, ridge, max_correction,
                epsilon_ptr, margin_ptr, RULE, RELATIVE, BOUNDED, SUM_BLOCK,
            )  # fmt: skip
            tl.store(ticket_ptr, 0)
    else:
        feature_grad_tile(
            program - pairs, grad_features_ptr, weight_ptr, weight_stride, logits_ptr, logits_stride, row_max_ptr, row_scale_ptr,
            row_residual_ptr, target_ptr, class_weights_ptr, totals_ptr, n_active, n_cols, dim, BLOCK, BLOCK_K, OPERAND, PRECISION,
        )  # fmt: skip


@triton.jit
def gram_rows(
    tile, tiles_active, features_ptr, features_stride, guide_features_ptr, guide_features_stride,
    logits_ptr, logits_stride, guide_logits_ptr, guide_logits_stride, row_max_ptr, row_scale_ptr, row_residual_ptr,
    target_ptr, guide_target_ptr, class_weights_ptr, totals_ptr, index_ptr, n_active, n_guide, n_cols, k, TILE: tl.constexpr,
):  # fmt: skip
    """A tile of the stacked rows: where their features and logits begin, and (m, 1 / s, p_y - 1, label, weight times the power of two,
    present)."""
    if tile < tiles_active:
        position = tile * TILE + tl.arange(0, TILE)
        present = position < n_active
        row, label, weight, m, scale, at_label = load_rows(
            position, n_active, None, target_ptr, class_weights_ptr, row_max_ptr, row_scale_ptr, row_residual_ptr, n_active, n_cols
        )
        weight = weight * tl.load(totals_ptr + 2)
        u_ptr = features_ptr + row * features_stride
        z_ptr = logits_ptr + row * logits_stride
    else:
        position = (tile - tiles_active) * TILE + tl.arange(0, TILE)
        present = position < k
        row, label, weight, m, scale, at_label = load_rows(
            position, k, index_ptr, guide_target_ptr, class_weights_ptr, row_max_ptr + n_active, row_scale_ptr + n_active,
            row_residual_ptr + n_active, n_guide, n_cols,
        )  # fmt: skip
        weight = weight * tl.load(totals_ptr + 3)
        u_ptr = guide_features_ptr + row * guide_features_stride
        z_ptr = guide_logits_ptr + row * guide_logits_stride
    return u_ptr, z_ptr, m, scale, at_label, label, weight, present


@triton.jit
def stacked_kernel(
    features_ptr, features_stride, guide_features_ptr, guide_features_stride,
    logits_ptr, logits_stride, guide_logits_ptr, guide_logits_stride, row_max_ptr, row_scale_ptr, row_residual_ptr,
    target_ptr, guide_target_ptr, class_weights_ptr, totals_ptr, index_ptr,
    grad_weight_ptr,  # [n_cols, dim]
    grad_bias_ptr,  # [n_cols] or None
    partial_ptr,  # its first element is v, float64
    n_active,
    n_guide,
    n_cols,
    dim,
    k,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Launch 3, sample space: one tile of (A^T U + v C / C_p A_p^T U_p) / C.

    The accumulator holds that sum times a power of two. For float16 it is the one that the active residuals need as operands; its
    results end at 65504. The others reach as far as float32 itself: there C comes down to [1, 2), so that the sum reaches no further
    than the result.
    """
    tiles_d = tl.maximum(tl.cdiv(dim, BLOCK), 1)
    tile_d = tl.program_id(0) % tiles_d
    columns = (tl.program_id(0) // tiles_d) * BLOCK + tl.arange(0, BLOCK)
    dims = tile_d * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(totals_ptr)
    if OPERAND == tl.float16:  # noqa: SIM300 - OPERAND is a parameter
        power = tl.load(totals_ptr + 2)
    else:
        power = inverse((total.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True))
    grad = tl.zeros((BLOCK, BLOCK), tl.float32)
    bias = tl.zeros((BLOCK,), tl.float32)
    v = tl.load(partial_ptr)
    if v != 0:
        guide_power = tl.load(totals_ptr + 3)
        guide, guide_bias, guide_total = head_grad_tile(
            grad, bias,
            guide_features_ptr, guide_features_stride, guide_logits_ptr, guide_logits_stride,
            row_max_ptr + n_active, row_scale_ptr + n_active, row_residual_ptr + n_active, guide_target_ptr, class_weights_ptr,
            index_ptr, k, n_guide, n_cols, dim, columns, dims, guide_power, BLOCK_K, OPERAND, PRECISION,
        )  # fmt: skip
        factor = v * (total * power) / (guide_power.to(tl.float64) * guide_total)
        grad = add_guide(grad, guide, factor)
        bias = add_guide(bias, guide_bias, factor)
    grad, bias, _ = head_grad_tile(
        grad, bias,
        features_ptr, features_stride, logits_ptr, logits_stride, row_max_ptr, row_scale_ptr, row_residual_ptr, target_ptr,
        class_weights_ptr, None, n_active, n_active, n_cols, dim, columns, dims, power, BLOCK_K, OPERAND, PRECISION,
    )  # fmt: skip
    store_head_grad(
        grad_weight_ptr, grad_bias_ptr, grad / (total * power), bias / (total * power), columns, dims, n_cols, dim, tile_d == 0
    )  # fmt: skip


def guided_linear_ce(
    features: torch.Tensor,
    target: torch.Tensor,
    guide_features: torch.Tensor,
    guide_target: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    class_weights: torch.Tensor | None,
    top_k: int,
    rule: str = "paper",
    epsilon: float | torch.Tensor = 0.0,
    relative: bool = False,
    margin: float | torch.Tensor = 0.75,
    ridge: float = 1e-3,
    max_correction: float | None = None,
) -> tuple[torch.Tensor | None, ...]:
    """Loss, feature gradient and corrected head gradient of one step. Three launches, and two products of PyTorch unless `own_logits`.

    :param features: [B, d], float32, float16 or bfloat16.
    :param target: [B] int64.
    :param guide_features: [P, d], P <= `MAX_ROWS`.
    :param guide_target: [P] int64.
    :param weight: [Y, d].
    :param bias: [Y] or None.
    :param class_weights: [Y] or None.
    :param top_k: k, the guide rows of highest entropy that make g_p; 0 leaves g as it is.
    :param rule: and the rest as `project_`.
    :returns: loss [], grad_features [B, d], grad_weight [Y, d], grad_bias [Y] or None, v [], dot [], guide_norm2 [], grad_norm2 [],
        index [k]. Gradients in the dtype of ``features``, scalars float32. A label outside [0, Y) makes what depends on it NaN.
    """
    n_active, dim = features.shape
    n_cols = weight.shape[0]
    n_guide = guide_features.shape[0] if top_k else 0
    device, dtype = features.device, features.dtype
    precision = dot_precision(dtype)
    features, guide_features, weight = (rows_contiguous(x) for x in (features, guide_features, weight))
    target, guide_target = target.contiguous(), guide_target.contiguous()
    bias = None if bias is None else bias.contiguous()
    class_weights = None if class_weights is None else class_weights.contiguous()

    n_rows = n_active + n_guide
    row_max = features.new_empty(n_rows, dtype=torch.float32)
    row_scale, row_residual = torch.empty_like(row_max), torch.empty_like(row_max)
    loss = features.new_empty((), dtype=torch.float32)
    totals = features.new_empty(4, dtype=torch.float32)
    index = features.new_empty(top_k, dtype=torch.int64)
    counter = ticket(device)
    n_keys = next_power_of_2(max(n_guide, 1))
    finish = {
        "ticket_ptr": counter,
        "target_ptr": target,
        "guide_target_ptr": guide_target,
        "class_weights_ptr": class_weights,
        "row_max_ptr": row_max,
        "row_scale_ptr": row_scale,
        "row_residual_ptr": row_residual,
        "loss_ptr": loss,
        "totals_ptr": totals,
        "index_ptr": index,
        "n_active": n_active,
        "n_guide": n_guide,
        "n_cols": n_cols,
        "k": top_k,
    }
    finish_constants = {"COMBINE": COMBINE_ROWS, "N": n_keys, "LOG_N": n_keys.bit_length() - 1}
    products = product_tiles(dtype, precision)
    if own_logits(n_active, n_guide, n_cols):
        parts = -(-n_cols // LOGIT_COLUMNS)
        stacked_logits = features.new_empty(n_rows, n_cols, dtype=torch.float32)
        logits, guide_logits = stacked_logits[:n_active], stacked_logits[n_active:]
        arguments = {
            "features_ptr": features,
            "features_stride": features.stride(0),
            "guide_features_ptr": guide_features,
            "guide_features_stride": guide_features.stride(0),
            "weight_ptr": weight,
            "weight_stride": weight.stride(0),
            "bias_ptr": bias,
            "logits_ptr": stacked_logits,
            "partial_ptr": features.new_empty(3 * parts * n_rows, dtype=torch.float32),
            "dim": dim,
        }
        constants = {"BLOCK_R": LOGIT_ROWS, "BLOCK_Y": LOGIT_COLUMNS} | {name: products[name] for name in ("BLOCK_K", "PRECISION")}
        tiles = -(-n_active // LOGIT_ROWS) + -(-n_guide // LOGIT_ROWS)
        launch(
            logits_kernel, max(1, tiles * parts), arguments | finish, constants | finish_constants,
            device=device, **product_options(dtype),
        )  # fmt: skip
    else:
        logits = torch.nn.functional.linear(features, weight, bias)
        guide_logits = torch.nn.functional.linear(guide_features[:n_guide], weight, bias)
        rows, columns, warps = tile_shape(n_cols)
        splits, width = split_columns(n_rows, n_cols)
        arguments = {
            "logits_ptr": logits,
            "logits_stride": logits.stride(0),
            "guide_logits_ptr": guide_logits,
            "guide_logits_stride": guide_logits.stride(0),
            "partial_ptr": features.new_empty(3 * splits * n_rows, dtype=torch.float32),
            "splits": splits,
            "split_width": width,
        }
        blocks = -(-n_active // rows) + -(-n_guide // rows)
        # Sixteen keys a thread beside the statistics would spill in some versions of ptxas; eight do not.
        options = {"num_warps": 16, "max_registers": 128} if n_keys > 2048 else {"num_warps": max(warps, sort_warps(n_keys))}
        launch(
            rows_kernel, max(1, blocks * splits), arguments | finish, {"ROWS": rows, "COLUMNS": columns} | finish_constants,
            device=device, **options,
        )  # fmt: skip

    grad_features = features.new_empty(n_active, dim)
    grad_weight = features.new_empty(n_cols, dim)
    grad_bias = None if bias is None else features.new_empty(n_cols)
    v, dot, guide_norm2, grad_norm2 = scalar_outputs(device)
    rule_values, rule_constants = rule_arguments(rule, epsilon, relative, margin, ridge, max_correction)
    rows_of_both = {
        "features_ptr": features,
        "features_stride": features.stride(0),
        "guide_features_ptr": guide_features,
        "guide_features_stride": guide_features.stride(0),
        "logits_ptr": logits,
        "logits_stride": logits.stride(0),
        "guide_logits_ptr": guide_logits,
        "guide_logits_stride": guide_logits.stride(0),
        "row_max_ptr": row_max,
        "row_scale_ptr": row_scale,
        "row_residual_ptr": row_residual,
        "target_ptr": target,
        "guide_target_ptr": guide_target,
        "class_weights_ptr": class_weights,
        "totals_ptr": totals,
        "index_ptr": index,
        "n_active": n_active,
        "n_guide": n_guide,
        "n_cols": n_cols,
        "dim": dim,
        "k": top_k,
    }
    scalars = {
        "weight_ptr": weight,
        "weight_stride": weight.stride(0),
        "grad_features_ptr": grad_features,
        "ticket_ptr": counter,
        "v_ptr": v,
        "dot_ptr": dot,
        "guide_norm2_ptr": guide_norm2,
        "grad_norm2_ptr": grad_norm2,
        **rule_values,
    }
    head_tiles = -(-n_cols // GRAD_TILE) * max(1, -(-dim // GRAD_TILE))
    feature_tiles = -(-n_active // GRAD_TILE) * -(-dim // GRAD_TILE)
    blocks_of_products = {"BLOCK": GRAD_TILE} | products
    if use_gram(n_active, top_k, n_cols, dim, dtype, precision):
        side = -(-n_active // GRAM_TILE) + -(-top_k // GRAM_TILE)
        arguments = {"partial_ptr": features.new_empty(1 + 3 * side * side, dtype=torch.float64), "side": side}
        constants = {"HAS_BIAS": bias is not None, "TILE": GRAM_TILE, "SUM_BLOCK": SUM_BLOCK}
        launch(
            gram_kernel, side * side + feature_tiles, arguments | rows_of_both | scalars,
            constants | rule_constants | blocks_of_products, device=device, **product_options(dtype),
        )  # fmt: skip
        arguments = {"grad_weight_ptr": grad_weight, "grad_bias_ptr": grad_bias, "partial_ptr": arguments["partial_ptr"]}
        launch(
            stacked_kernel, head_tiles, arguments | rows_of_both, blocks_of_products,
            device=device, **product_options(dtype),
        )  # fmt: skip
    else:
        in_place = dtype == torch.float32
        grad = grad_weight if in_place else torch.empty_like(grad_weight, dtype=torch.float32)
        guide = torch.empty_like(grad_weight, dtype=torch.float32)
        grad_of_bias = guide_of_bias = None
        if grad_bias is not None:
            grad_of_bias = grad_bias if in_place else torch.empty_like(grad_bias, dtype=torch.float32)
            guide_of_bias = torch.empty_like(grad_bias, dtype=torch.float32)
        arguments = {
            "grad_ptr": grad,
            "grad_bias_ptr": grad_of_bias,
            "guide_ptr": guide,
            "guide_bias_ptr": guide_of_bias,
            "partial_ptr": features.new_empty(1 + 3 * head_tiles, dtype=torch.float64),
            "head_tiles": head_tiles,
        }
        launch(
            direct_kernel, head_tiles + feature_tiles, arguments | rows_of_both | scalars,
            {"SUM_BLOCK": SUM_BLOCK} | rule_constants | blocks_of_products, device=device, **product_options(dtype),
        )  # fmt: skip
        weight_programs = -(-(n_cols * dim) // UPDATE_BLOCK)
        arguments = {
            "out_ptr": grad_weight,
            "grad_ptr": grad,
            "guide_ptr": guide,
            "n": n_cols * dim,
            "bias_out_ptr": grad_bias,
            "bias_grad_ptr": grad_of_bias,
            "bias_guide_ptr": guide_of_bias,
            "n_bias": n_cols,
            "weight_programs": weight_programs,
            "partial_ptr": arguments["partial_ptr"],
            "totals_ptr": totals,
        }
        programs = weight_programs + (0 if bias is None else -(-n_cols // UPDATE_BLOCK))
        launch(update_kernel, programs, arguments, {"IN_PLACE": in_place, "BLOCK": UPDATE_BLOCK}, device=device)
    return loss, grad_features, grad_weight, grad_bias, v, dot, guide_norm2, grad_norm2, index
