"""Launches 2 and 3, gram form: inner products in sample space, and one product over stacked rows.

The docstring of the package has the equations.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gaal_fast.kernels._device import arrive_last, inverse
from gaal_fast.kernels._rule import Numbers, Scalars, add_guide, finish_projection, store_partials
from gaal_fast.kernels.linear_ce_grad import (
    Rows,
    head_grad_tile,
    load_rows,
    residual_tile,
    store_head_grad,
)
from gaal_fast.kernels.softmax_stats import Logits

from .shared import feature_grad_tile


@triton.jit
def gram_rows(tile, tiles_active, active, guiding, totals_ptr, TILE: tl.constexpr):
    """(``Selected``, where their features begin, weights times the power of two) of a tile.

    Tiles are of the stacked rows: the active ones, then the selected ones of the guide.
    """
    if tile < tiles_active:
        selected = load_rows(tile * TILE + tl.arange(0, TILE), active)
        weight = selected.weight * tl.load(totals_ptr + 2)
        u_ptr = active.features_ptr + selected.row * active.features_stride
    else:
        selected = load_rows((tile - tiles_active) * TILE + tl.arange(0, TILE), guiding)
        weight = selected.weight * tl.load(totals_ptr + 3)
        u_ptr = guiding.features_ptr + selected.row * guiding.features_stride
    return selected, u_ptr, weight


@triton.jit
def gram_tile(
    i,
    j,
    tiles_active,
    active,  # `Rows`
    guiding,  # `Rows`
    totals_ptr,
    d,
    HAS_BIAS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Sum of the products of tile (i, j) of both Gram matrices, float64, times powers of two."""
    rows_i, u_i, weight_i = gram_rows(i, tiles_active, active, guiding, totals_ptr, TILE)
    rows_j, u_j, weight_j = gram_rows(j, tiles_active, active, guiding, totals_ptr, TILE)
    Y = active.logits.Y
    residuals = tl.zeros((TILE, TILE), tl.float32)
    for start in range(0, Y, BLOCK_K):
        columns = start + tl.arange(0, BLOCK_K)
        a_i = residual_tile(rows_i, weight_i, columns, Y).to(OPERAND)
        a_j = residual_tile(rows_j, weight_j, columns, Y).to(OPERAND)
        residuals = tl.dot(a_i, tl.trans(a_j), residuals, input_precision=PRECISION)
    inner = tl.zeros((TILE, TILE), tl.float32)
    for start in range(0, d, BLOCK_K):
        depth = start + tl.arange(0, BLOCK_K)
        inside_i = rows_i.present[:, None] & (depth < d)[None, :]
        inside_j = rows_j.present[:, None] & (depth < d)[None, :]
        x_i = tl.load(u_i[:, None] + depth[None, :], mask=inside_i, other=0.0)
        x_j = tl.load(u_j[:, None] + depth[None, :], mask=inside_j, other=0.0)
        inner = tl.dot(x_i, tl.trans(x_j), inner, input_precision=PRECISION)
    if HAS_BIAS:
        inner += 1.0
    return tl.sum(residuals.to(tl.float64) * inner.to(tl.float64))


@triton.jit
def gram_kernel(
    features_ptr,  # [B, d]
    features_stride,
    guide_features_ptr,  # [P, d]
    guide_features_stride,
    weight_ptr,  # [Y, d]
    weight_stride,
    logits_ptr,  # [B, Y]
    logits_stride,
    guide_logits_ptr,  # [P, Y]
    guide_logits_stride,
    row_max_ptr,  # for this and the next ones see `forward.Left`
    row_scale_ptr,
    row_residual_ptr,
    target_ptr,  # [B] int64
    guide_target_ptr,  # [P] int64
    class_weights_ptr,  # [Y] or None
    totals_ptr,
    index_ptr,
    grad_features_ptr,  # [B, d]
    partial_ptr,  # [1 + 3 * side * side] float64
    ticket_ptr,
    v_ptr,
    dot_ptr,
    guide_norm2_ptr,
    grad_norm2_ptr,
    B,
    P,
    Y,
    d,
    k,
    side,  # tiles along one edge of the stacked Gram matrix: active rows, then selected rows
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
):
    """Launch 2, sample space.

    Programs below ``side``^2 take a tile of the Gram matrices, the others a tile of the feature
    gradient.
    """
    z = Logits(logits_ptr, logits_stride, target_ptr, class_weights_ptr, Y)
    statistics = (row_max_ptr, row_scale_ptr, row_residual_ptr)
    active = Rows(features_ptr, features_stride, z, *statistics, None, B, B)
    program = tl.program_id(0)
    pairs = side * side
    if program < pairs:
        z_p = Logits(guide_logits_ptr, guide_logits_stride, guide_target_ptr, class_weights_ptr, Y)
        left = (row_max_ptr + B, row_scale_ptr + B, row_residual_ptr + B)
        guiding = Rows(guide_features_ptr, guide_features_stride, z_p, *left, index_ptr, P, k)
        tiles_active = tl.cdiv(B, TILE)
        i = program // side
        j = program % side
        dot = tl.cast(0.0, tl.float64)
        guide_norm2 = tl.cast(0.0, tl.float64)
        grad_norm2 = tl.cast(0.0, tl.float64)
        # Both matrices are symmetric: the upper triangle counts twice.
        if i <= j:
            value = gram_tile(
                i,
                j,
                tiles_active,
                active,
                guiding,
                totals_ptr,
                d,
                HAS_BIAS,
                TILE,
                BLOCK_K,
                OPERAND,
                PRECISION,
            )
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
            scalars = Scalars(v_ptr, dot_ptr, guide_norm2_ptr, grad_norm2_ptr)
            numbers = Numbers(epsilon, margin, ridge, max_correction, epsilon_ptr, margin_ptr)
            finish_projection(
                scalars, partial_ptr, pairs, numbers, RULE, RELATIVE, BOUNDED, SUM_BLOCK
            )
            tl.store(ticket_ptr, 0)
    else:
        tile = program - pairs
        feature_grad_tile(
            tile,
            grad_features_ptr,
            weight_ptr,
            weight_stride,
            active,
            totals_ptr,
            d,
            BLOCK,
            BLOCK_K,
            OPERAND,
            PRECISION,
        )


@triton.jit
def stacked_kernel(
    features_ptr,  # as `gram_kernel`
    features_stride,
    guide_features_ptr,
    guide_features_stride,
    logits_ptr,
    logits_stride,
    guide_logits_ptr,
    guide_logits_stride,
    row_max_ptr,
    row_scale_ptr,
    row_residual_ptr,
    target_ptr,
    guide_target_ptr,
    class_weights_ptr,
    totals_ptr,
    index_ptr,
    grad_weight_ptr,  # [Y, d]
    grad_bias_ptr,  # [Y] or None
    partial_ptr,  # its first element is v, float64
    B,
    P,
    Y,
    d,
    k,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Launch 3, sample space: one tile of (A^T U + v C / C_p A_p^T U_p) / C.

    The accumulator holds that sum times a power of two. For float16 it is the one that the active
    residuals need as operands; its results end at 65504. The others reach as far as float32 itself:
    there C comes down to [1, 2), so that the sum reaches no further than the result.
    """
    z = Logits(logits_ptr, logits_stride, target_ptr, class_weights_ptr, Y)
    statistics = (row_max_ptr, row_scale_ptr, row_residual_ptr)
    active = Rows(features_ptr, features_stride, z, *statistics, None, B, B)
    tiles_d = tl.maximum(tl.cdiv(d, BLOCK), 1)
    tile_d = tl.program_id(0) % tiles_d
    columns = (tl.program_id(0) // tiles_d) * BLOCK + tl.arange(0, BLOCK)
    dims = tile_d * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(totals_ptr)
    if OPERAND == tl.float16:  # noqa: SIM300 - OPERAND is a parameter
        power = tl.load(totals_ptr + 2)
    else:
        exponent = total.to(tl.int32, bitcast=True) & 0x7F800000
        power = inverse(exponent.to(tl.float32, bitcast=True))
    grad = tl.zeros((BLOCK, BLOCK), tl.float32)
    bias = tl.zeros((BLOCK,), tl.float32)
    v = tl.load(partial_ptr)
    if v != 0:
        z_p = Logits(guide_logits_ptr, guide_logits_stride, guide_target_ptr, class_weights_ptr, Y)
        left = (row_max_ptr + B, row_scale_ptr + B, row_residual_ptr + B)
        guiding = Rows(guide_features_ptr, guide_features_stride, z_p, *left, index_ptr, P, k)
        guide_power = tl.load(totals_ptr + 3)
        guide, guide_bias, guide_total = head_grad_tile(
            grad, bias, guiding, d, columns, dims, guide_power, BLOCK_K, OPERAND, PRECISION
        )
        factor = v * (total * power) / (guide_power.to(tl.float64) * guide_total)
        grad = add_guide(grad, guide, factor)
        bias = add_guide(bias, guide_bias, factor)
    grad, bias, _ = head_grad_tile(
        grad, bias, active, d, columns, dims, power, BLOCK_K, OPERAND, PRECISION
    )
    grad, bias = grad / (total * power), bias / (total * power)
    store_head_grad(grad_weight_ptr, grad_bias_ptr, grad, bias, columns, dims, Y, d, tile_d == 0)
