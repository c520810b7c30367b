"""What the two forms of launch 2 share: a tile of the feature gradient."""

from __future__ import annotations

import triton
import triton.language as tl

from gaal_fast.kernels._device import inverse
from gaal_fast.kernels.linear_ce_grad import load_rows, residual_tile


@triton.jit
def feature_grad_tile(
    tile,
    grad_features_ptr,  # [B, d], contiguous
    weight_ptr,  # [Y, d]
    weight_stride,
    active,  # `Rows`
    totals_ptr,
    d,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of A W / C, [rows, features]."""
    tiles_d = tl.cdiv(d, BLOCK)
    selected = load_rows((tile // tiles_d) * BLOCK + tl.arange(0, BLOCK), active)
    dims = (tile % tiles_d) * BLOCK + tl.arange(0, BLOCK)
    power = tl.load(totals_ptr + 2)
    weight = power * selected.weight
    Y = active.logits.Y
    grad = tl.zeros((BLOCK, BLOCK), tl.float32)
    for start in range(0, Y, BLOCK_K):
        columns = start + tl.arange(0, BLOCK_K)
        a = residual_tile(selected, weight, columns, Y)
        w = tl.load(
            weight_ptr + columns.to(tl.int64)[:, None] * weight_stride + dims[None, :],
            mask=(columns < Y)[:, None] & (dims < d)[None, :],
            other=0.0,
        )
        grad = tl.dot(a.to(OPERAND), w, grad, input_precision=PRECISION)
    grad = grad / tl.load(totals_ptr) * inverse(power)
    place = grad_features_ptr + selected.row[:, None] * d + dims[None, :]
    stored = selected.present[:, None] & (dims < d)[None, :]
    tl.store(place, grad.to(grad_features_ptr.dtype.element_ty), mask=stored)
