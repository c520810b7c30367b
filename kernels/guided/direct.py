"""Launches 2 and 3, direct form: g and g_p are formed tile by tile, stored, and added up."""

from __future__ import annotations

import triton
import triton.language as tl

from gaal_fast.kernels._device import arrive_last, inverse
from gaal_fast.kernels._rule import Numbers, Scalars, add_guide, finish_projection, store_partials
from gaal_fast.kernels.linear_ce_grad import Rows, head_grad_tile, store_head_grad
from gaal_fast.kernels.softmax_stats import Logits

from .shared import feature_grad_tile


@triton.jit
def tile_sums(grad, bias, guide, guide_bias, bias_ptr, first_tile):
    """<g, g_p>, |g_p|^2, |g|^2 of a tile, float64.

    The first tile of a band of columns adds those of the bias, if there is one at ``bias_ptr``.
    """
    g = grad.to(tl.float64)
    p = guide.to(tl.float64)
    dot = tl.sum(g * p)
    guide_norm2 = tl.sum(p * p)
    grad_norm2 = tl.sum(g * g)
    if bias_ptr is not None:  # noqa: SIM102 - decided when the kernel is compiled
        if first_tile:
            g_bias = bias.to(tl.float64)
            p_bias = guide_bias.to(tl.float64)
            dot += tl.sum(g_bias * p_bias, axis=0)
            guide_norm2 += tl.sum(p_bias * p_bias, axis=0)
            grad_norm2 += tl.sum(g_bias * g_bias, axis=0)
    return dot, guide_norm2, grad_norm2


@triton.jit
def direct_kernel(
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
    plain_ptr,  # [Y, d]: g, float32
    plain_bias_ptr,  # [Y] or None
    guide_ptr,  # [Y, d]: g_p times its power of two, float32
    guide_bias_ptr,  # [Y] or None
    partial_ptr,  # [1 + 3 * head_tiles] float64
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
):
    """Launch 2, direct form.

    Programs below ``head_tiles`` form a tile of g and of g_p, the others a tile of the feature
    gradient.
    """
    z = Logits(logits_ptr, logits_stride, target_ptr, class_weights_ptr, Y)
    statistics = (row_max_ptr, row_scale_ptr, row_residual_ptr)
    active = Rows(features_ptr, features_stride, z, *statistics, None, B, B)
    program = tl.program_id(0)
    if program < head_tiles:
        z_p = Logits(guide_logits_ptr, guide_logits_stride, guide_target_ptr, class_weights_ptr, Y)
        left = (row_max_ptr + B, row_scale_ptr + B, row_residual_ptr + B)
        guiding = Rows(guide_features_ptr, guide_features_stride, z_p, *left, index_ptr, P, k)
        tiles_d = tl.maximum(tl.cdiv(d, BLOCK), 1)  # without features there is still the bias
        tile_d = program % tiles_d
        columns = (program // tiles_d) * BLOCK + tl.arange(0, BLOCK)
        dims = tile_d * BLOCK + tl.arange(0, BLOCK)
        power = tl.load(totals_ptr + 2)
        guide_power = tl.load(totals_ptr + 3)
        nothing = tl.zeros((BLOCK, BLOCK), tl.float32)
        no_bias = tl.zeros((BLOCK,), tl.float32)
        grad, bias, total = head_grad_tile(
            nothing, no_bias, active, d, columns, dims, power, BLOCK_K, OPERAND, PRECISION
        )
        # The gradient of no rows is 0, not 0 / 0.
        grad = tl.where(B > 0, grad / total, 0.0)
        bias = tl.where(B > 0, bias / total, 0.0)
        first_tile = tile_d == 0
        lowered, lowered_bias = grad * inverse(power), bias * inverse(power)
        store_head_grad(
            plain_ptr, plain_bias_ptr, lowered, lowered_bias, columns, dims, Y, d, first_tile
        )
        guide, guide_bias, guide_total = head_grad_tile(
            nothing, no_bias, guiding, d, columns, dims, guide_power, BLOCK_K, OPERAND, PRECISION
        )
        guide = tl.where(k > 0, guide / guide_total, 0.0)
        guide_bias = tl.where(k > 0, guide_bias / guide_total, 0.0)
        store_head_grad(
            guide_ptr, guide_bias_ptr, guide, guide_bias, columns, dims, Y, d, first_tile
        )

        dot, guide_norm2, grad_norm2 = tile_sums(
            grad, bias, guide, guide_bias, plain_bias_ptr, first_tile
        )
        power64 = power.to(tl.float64)
        guide_power64 = guide_power.to(tl.float64)
        # No guide at all differs from a guide of zeros: 0 * NaN must not make v NaN.
        dot = tl.where(k > 0, dot / (power64 * guide_power64), 0.0)
        guide_norm2 = guide_norm2 / (guide_power64 * guide_power64)
        grad_norm2 = grad_norm2 / (power64 * power64)
        store_partials(partial_ptr, head_tiles, program, dot, guide_norm2, grad_norm2)
        if arrive_last(ticket_ptr, head_tiles):
            scalars = Scalars(v_ptr, dot_ptr, guide_norm2_ptr, grad_norm2_ptr)
            numbers = Numbers(epsilon, margin, ridge, max_correction, epsilon_ptr, margin_ptr)
            finish_projection(
                scalars, partial_ptr, head_tiles, numbers, RULE, RELATIVE, BOUNDED, SUM_BLOCK
            )
            tl.store(ticket_ptr, 0)
    else:
        tile = program - head_tiles
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
def update_kernel(
    grad_weight_ptr,  # [n] the dtype of the features
    plain_ptr,  # [n] float32, may be `grad_weight_ptr`
    guide_ptr,  # [n] float32, times the power of two in totals[3]
    n,
    grad_bias_ptr,  # [Y] or None
    plain_bias_ptr,
    guide_bias_ptr,
    Y,
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
        first = program.to(tl.int64) * BLOCK
        add_block(grad_weight_ptr, plain_ptr, guide_ptr, n, first, v, IN_PLACE, BLOCK)
    else:
        if grad_bias_ptr is not None:
            first = (program - weight_programs).to(tl.int64) * BLOCK
            add_block(grad_bias_ptr, plain_bias_ptr, guide_bias_ptr, Y, first, v, IN_PLACE, BLOCK)


@triton.jit
def add_block(
    out_ptr, plain_ptr, guide_ptr, n, first, v, IN_PLACE: tl.constexpr, BLOCK: tl.constexpr
):
    """out = g + v g_p of a block from element ``first``."""
    place = first + tl.arange(0, BLOCK)
    present = place < n
    if v != 0:
        g = tl.load(plain_ptr + place, mask=present, other=0.0)
        p = tl.load(guide_ptr + place, mask=present, other=0.0)
        tl.store(out_ptr + place, add_guide(g, p, v).to(out_ptr.dtype.element_ty), mask=present)
    else:
        if not IN_PLACE:
            g = tl.load(plain_ptr + place, mask=present, other=0.0)
            tl.store(out_ptr + place, g.to(out_ptr.dtype.element_ty), mask=present)
