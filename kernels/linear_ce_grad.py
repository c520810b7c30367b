"""Gradient of the mean cross-entropy of selected rows with respect to a linear head (equation (8) of the paper).

With logits z_i = W u_i + b, softmax p_i, label y_i and row weights c_i (class weights, 1 without), the mean loss over the selected rows
S is sum_S c_i nll_i / sum_S c_i, and

    dL/dW = (1 / sum_S c_i) sum_S a_i u_i^T        dL/db = (1 / sum_S c_i) sum_S a_i        a_i = c_i (p_i - onehot(y_i))

Two launches: the softmax statistics of the selected rows only, then a matrix product that forms a_i on the fly from logits and
statistics and gathers rows of features by index, so that no one-hot, no probability of an unselected row and no copy of the features
exists. The statistics are (m, 1/s), not the log-sum-exp: e^(x - lse) loses as many bits as lse has integer digits. With them comes the
target's p_y - 1, which the first launch took from the rest of the row (``_common``): here it could only be subtracted, and lost.

a_i is formed in float32, before it is rounded to the operand type of the matrix product. The division by sum_S c_i comes last, on the
float32 accumulator: 1/B folded into a_i first would push float16 into subnormals. So would a batch of confident rows: for float16 the
first launch also leaves the largest |c_i (p_y - 1)| of every program, and a_i is formed times the power of two that brings the
largest of all near 1 (``_common.lift``), which the accumulator is divided by.
Traffic: 5 floats, labels and index per selected row beside the products' operands.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from ._common import dot_precision, inverse, label_weight, launch, lift, rows_contiguous
from .softmax_stats import launch_stats, n_peaks

PEAK_BLOCK = 256  # peaks that a program of the second launch reads at a time

_OPERANDS = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


# Two stages, and 16 rows at a time for float32: deeper or longer pipelines spill registers on one architecture or another
# (``aot`` measures it), most of all on the multiply-add path, where a thread holds its operands for the whole depth in registers.
PRODUCT_OPTIONS = {"num_stages": 2, "max_registers": 255}


def product_options(dtype: torch.dtype) -> dict[str, int]:
    """How a kernel with matrix products is compiled. Without tensor cores it takes more threads to hold a tile."""
    return PRODUCT_OPTIONS | {"num_warps": 8 if dtype == torch.float32 else 4}


def product_tiles(dtype: torch.dtype, precision: str) -> dict[str, Any]:
    """Compile-time constants of the matrix products."""
    return {"BLOCK_K": 16 if dtype == torch.float32 else 32, "OPERAND": _OPERANDS[dtype], "PRECISION": precision}


@triton.jit
def load_rows(
    position, count, index_ptr, target_ptr, class_weights_ptr, row_max_ptr, row_scale_ptr, row_residual_ptr, n_rows, n_cols
):  # fmt: skip
    """The selected rows at ``position``: (row int64, label int64, weight, maximum, 1 / s, p_y - 1). The weight is 0 past the end and
    NaN for an illegal label or row number; the row number returned is always safe to read."""
    present = position < count
    row = position.to(tl.int64)
    known = present
    if index_ptr is not None:
        row = tl.load(index_ptr + position, mask=present, other=0)
        known = (row >= 0) & (row < n_rows)
        row = tl.where(known, row, 0)
    label = tl.load(target_ptr + row, mask=present, other=0)
    weight = label_weight(label, class_weights_ptr, present, n_cols)
    weight = tl.where(known | (present == 0), weight, float("nan"))
    m = tl.load(row_max_ptr + row, mask=present, other=0.0)
    scale = tl.load(row_scale_ptr + row, mask=present, other=0.0)
    at_label = tl.load(row_residual_ptr + row, mask=present, other=0.0)
    return row, label, weight, m, scale, at_label


@triton.jit
def residual_tile(row_ptr, m, scale, at_label, label, weight, present, columns, n_cols):
    """a = weight * (softmax - onehot), float32 [rows, columns], from the logits at ``row_ptr`` [rows]; exactly 0 for rows not
    ``present`` and columns past the end. ``at_label`` is the softmax minus 1 of the label's class."""
    inside = present[:, None] & (columns < n_cols)[None, :]
    x = tl.load(row_ptr[:, None] + columns[None, :], mask=inside, other=float("-inf")).to(tl.float32)
    p = tl.exp(x - m[:, None]) * scale[:, None]
    a = weight[:, None] * tl.where(columns[None, :] == label[:, None], at_label[:, None], p)
    # A row of NaN would otherwise leak from its padding into the sums of other rows.
    return tl.where(inside, a, 0.0)


@triton.jit
def head_grad_tile(
    grad,  # [BLOCK_Y, BLOCK_D] float32, accumulated into
    bias,  # [BLOCK_Y] float32, accumulated into
    features_ptr,  # [n_rows, dim]
    features_stride,
    logits_ptr,  # [n_rows, n_cols]
    logits_stride,
    row_max_ptr,  # [n_rows] float32
    row_scale_ptr,
    row_residual_ptr,
    target_ptr,  # [n_rows] int64
    class_weights_ptr,  # [n_cols] or None
    index_ptr,  # [count] int64 or None
    count,
    n_rows,
    n_cols,
    dim,
    columns,  # [BLOCK_Y]
    dims,  # [BLOCK_D]
    power,  # scalar float32: a power of two that the residuals are multiplied by
    BLOCK_K: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add power * sum_i a_i u_i^T and power * sum_i a_i over the selected rows for one tile. Returns (grad, bias, sum of weights)."""
    total = 0.0
    for start in range(0, count, BLOCK_K):
        position = start + tl.arange(0, BLOCK_K)
        present = position < count
        row, label, weight, m, scale, at_label = load_rows(
            position, count, index_ptr, target_ptr, class_weights_ptr, row_max_ptr, row_scale_ptr, row_residual_ptr, n_rows, n_cols
        )
        a = residual_tile(logits_ptr + row * logits_stride, m, scale, at_label, label, power * weight, present, columns, n_cols)
        u = tl.load(
            features_ptr + row[:, None] * features_stride + dims[None, :],
            mask=present[:, None] & (dims < dim)[None, :],
            other=0.0,
        )
        grad = tl.dot(tl.trans(a.to(OPERAND)), u, grad, input_precision=PRECISION)
        bias += tl.sum(a, axis=0)
        total += tl.sum(weight, axis=0)
    return grad, bias, total


@triton.jit
def lift_of_peaks(peak_ptr, n_peaks, N: tl.constexpr):
    """`lift` of the largest of ``peak_ptr`` [n_peaks]."""
    peak = tl.zeros((N,), tl.float32)
    for start in range(0, n_peaks, N):
        place = start + tl.arange(0, N)
        peak = tl.maximum(peak, tl.load(peak_ptr + place, mask=place < n_peaks, other=0.0))
    return lift(tl.max(peak, axis=0))


@triton.jit(do_not_specialize=["logits_stride"], do_not_specialize_on_alignment=["logits_ptr"])
def linear_ce_grad_kernel(
    features_ptr,  # [B, dim]
    features_stride,
    logits_ptr,  # [B, n_cols]
    logits_stride,
    row_max_ptr,  # [B] float32
    row_scale_ptr,
    row_residual_ptr,
    peak_ptr,  # [n_peaks] float32 or None
    target_ptr,  # [B] int64
    class_weights_ptr,  # [n_cols] or None
    index_ptr,  # [count] int64 or None
    grad_weight_ptr,  # [n_cols, dim], contiguous
    grad_bias_ptr,  # [n_cols]
    count,
    n_rows,  # B
    n_cols,
    dim,
    n_peaks,
    BLOCK_Y: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    PEAKS: tl.constexpr,
):
    tiles_d = tl.maximum(tl.cdiv(dim, BLOCK_D), 1)  # without features there is still the bias
    tile_y = tl.program_id(0) // tiles_d
    tile_d = tl.program_id(0) % tiles_d
    columns = tile_y * BLOCK_Y + tl.arange(0, BLOCK_Y)
    dims = tile_d * BLOCK_D + tl.arange(0, BLOCK_D)
    power = 1.0
    if peak_ptr is not None:
        power = lift_of_peaks(peak_ptr, n_peaks, PEAKS)
    grad, bias, total = head_grad_tile(
        tl.zeros((BLOCK_Y, BLOCK_D), tl.float32), tl.zeros((BLOCK_Y,), tl.float32),
        features_ptr, features_stride, logits_ptr, logits_stride, row_max_ptr, row_scale_ptr, row_residual_ptr, target_ptr,
        class_weights_ptr, index_ptr, count, n_rows, n_cols, dim, columns, dims, power, BLOCK_K, OPERAND, PRECISION,
    )  # fmt: skip
    grad = grad / total
    bias = bias / total
    if peak_ptr is not None:
        grad = grad * inverse(power)
        bias = bias * inverse(power)
    store_head_grad(grad_weight_ptr, grad_bias_ptr, grad, bias, columns, dims, n_cols, dim, tile_d == 0)


@triton.jit
def store_head_grad(grad_weight_ptr, grad_bias_ptr, grad, bias, columns, dims, n_cols, dim, first_tile):
    """Store one tile of the head gradient; only the first tile of each band of columns stores its bias part."""
    inside = (columns < n_cols)[:, None] & (dims < dim)[None, :]
    place = grad_weight_ptr + columns.to(tl.int64)[:, None] * dim + dims[None, :]
    tl.store(place, grad.to(grad_weight_ptr.dtype.element_ty), mask=inside)
    if grad_bias_ptr is not None:  # noqa: SIM102 - decided when the kernel is compiled
        if first_tile:
            tl.store(grad_bias_ptr + columns, bias.to(grad_bias_ptr.dtype.element_ty), mask=columns < n_cols)


def linear_ce_grad(
    features: torch.Tensor,
    logits: torch.Tensor,
    target: torch.Tensor,
    index: torch.Tensor | None = None,
    class_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient of the mean cross-entropy of the rows in ``index`` with respect to the head's weight and bias. Two launches.

    :param features: [B, d], float32, float16 or bfloat16.
    :param logits: [B, Y], the head's output for ``features``.
    :param target: [B] int64. A selected label outside [0, Y) makes every gradient NaN.
    :param index: [k] int64 rows, or None for all; a row number outside [0, B) makes every gradient NaN.
    :param class_weights: [Y], or None for equal weights.
    :returns: grad_weight [Y, d], grad_bias [Y], of the dtype of ``features``; zero if no row is selected.
    """
    n_rows, dim = features.shape
    n_cols = logits.shape[1]
    count = n_rows if index is None else index.shape[0]
    if count == 0 or n_rows == 0:
        return features.new_zeros(n_cols, dim), features.new_zeros(n_cols)
    features, logits, target = rows_contiguous(features), rows_contiguous(logits), target.contiguous()
    index = None if index is None else index.contiguous()
    class_weights = None if class_weights is None else class_weights.contiguous()
    grad_weight = features.new_empty(n_cols, dim)
    grad_bias = features.new_empty(n_cols)
    row_max = logits.new_empty(n_rows, dtype=torch.float32)
    row_scale, row_residual = torch.empty_like(row_max), torch.empty_like(row_max)
    # Only float16 has too few exponents for the residuals of confident rows.
    peaks = n_peaks(count, n_cols)
    peak = row_max.new_empty(peaks) if features.dtype == torch.float16 else None
    launch_stats(
        logits, target=target, class_weights=class_weights, index=index,
        row_max=row_max, row_scale=row_scale, row_residual=row_residual, peak=peak,
    )  # fmt: skip
    arguments = {
        "features_ptr": features,
        "features_stride": features.stride(0),
        "logits_ptr": logits,
        "logits_stride": logits.stride(0),
        "row_max_ptr": row_max,
        "row_scale_ptr": row_scale,
        "row_residual_ptr": row_residual,
        "peak_ptr": peak,
        "target_ptr": target,
        "class_weights_ptr": class_weights,
        "index_ptr": index,
        "grad_weight_ptr": grad_weight,
        "grad_bias_ptr": grad_bias,
        "count": count,
        "n_rows": n_rows,
        "n_cols": n_cols,
        "dim": dim,
        "n_peaks": peaks,
    }
    constants = {"BLOCK_Y": 64, "BLOCK_D": 64, "PEAKS": PEAK_BLOCK} | product_tiles(features.dtype, dot_precision(features.dtype))
    programs = -(-n_cols // 64) * max(1, -(-dim // 64))
    launch(linear_ce_grad_kernel, programs, arguments, constants, device=features.device, **product_options(features.dtype))
    return grad_weight, grad_bias
