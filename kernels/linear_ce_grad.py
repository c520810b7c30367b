"""Gradient of the mean cross-entropy of selected rows with respect to a linear head (equation (8)).

With logits z_i = W u_i + b, softmax p_i, label y_i and row weights c_i (class weights, 1 without),
the mean loss over the selected rows S is sum_S c_i nll_i / sum_S c_i, and

    dL/dW = (1 / sum_S c_i) sum_S a_i u_i^T
    dL/db = (1 / sum_S c_i) sum_S a_i                a_i = c_i (p_i - onehot(y_i))

Two launches: the softmax statistics of the selected rows only, then a matrix product that forms a_i
on the fly from logits and statistics and gathers rows of features by index, so that no one-hot, no
probability of an unselected row and no copy of the features exists. The statistics are (m, 1/s),
not the log-sum-exp: e^(x - lse) loses as many bits as lse has integer digits. With them comes the
target's p_y - 1, which the first launch took from the rest of the row (``_device``): here it could
only be subtracted, and lost.

a_i is formed in float32, before it is rounded to the operand type of the matrix product. The
division by sum_S c_i comes last, on the float32 accumulator: 1/B folded into a_i first would push
float16 into subnormals. So would a batch of confident rows: for float16 the first launch also
leaves the largest |c_i (p_y - 1)| of every program, and a_i is formed times the power of two that
brings the largest of all near 1 (``_device.lift``), which the accumulator is divided by.
Traffic: 5 floats, labels and index per selected row beside the products' operands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._device import inverse, label_weight, lift
from ._launch import Launch, blocks, contiguous, dot_precision, rows_contiguous
from .softmax_stats import Logits, launch_stats, n_peaks

GRAD_TILE = 64  # classes by features
PEAK_BLOCK = 256  # peaks that a program of the second launch reads at a time

_OPERANDS = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


def product_launch(
    kernel: Any, programs: int, constants: Mapping[str, object], dtype: torch.dtype, precision: str
) -> Launch:
    """A launch of a kernel with matrix products of operands of ``dtype``.

    Two stages, and 16 rows at a time for float32: deeper or longer pipelines spill registers on one
    architecture or another (``aot`` measures it), most of all on the multiply-add path, where a
    thread holds its operands for the whole depth in registers. Without tensor cores it takes more
    threads to hold a tile.
    """
    single = dtype == torch.float32
    block = 16 if single else 32
    products = {"BLOCK_K": block, "OPERAND": _OPERANDS[dtype], "PRECISION": precision}
    taken = {name: value for name, value in products.items() if name in kernel.arg_names}
    return Launch(
        kernel,
        programs,
        {**constants, **taken},
        num_warps=8 if single else 4,
        num_stages=2,
        max_registers=255,
    )


class Rows(NamedTuple):
    """A batch, as a kernel got it: what statistics left of each row, and which rows are selected.

    ``row_max_ptr``, ``row_scale_ptr`` and ``row_residual_ptr`` are those of
    ``softmax_stats.Results``.
    """

    features_ptr: tl.tensor  # [B, d]
    features_stride: tl.tensor
    logits: Logits
    row_max_ptr: tl.tensor  # [B] float32
    row_scale_ptr: tl.tensor
    row_residual_ptr: tl.tensor
    index_ptr: tl.tensor | None  # [k] int64; None: the first k rows
    B: tl.tensor
    k: tl.tensor


class Selected(NamedTuple):
    """What a program holds of some selected rows, a vector each."""

    row: tl.tensor  # int64, always safe to read
    z_ptr: tl.tensor  # where the row's logits begin
    m: tl.tensor  # the largest logit
    scale: tl.tensor  # 1 / s
    at_label: tl.tensor  # p_y - 1
    label: tl.tensor  # int64
    weight: tl.tensor  # 0 past the end, NaN for an illegal label or row number
    present: tl.tensor


@triton.jit
def load_rows(position, rows):
    """The selected rows at ``position``, as ``Selected``."""
    present = position < rows.k
    row = position.to(tl.int64)
    known = present
    if rows.index_ptr is not None:
        row = tl.load(rows.index_ptr + position, mask=present, other=0)
        known = (row >= 0) & (row < rows.B)
        row = tl.where(known, row, 0)
    label = tl.load(rows.logits.target_ptr + row, mask=present, other=0)
    weight = label_weight(label, rows.logits.class_weights_ptr, present, rows.logits.Y)
    weight = tl.where(known | (present == 0), weight, float("nan"))
    m = tl.load(rows.row_max_ptr + row, mask=present, other=0.0)
    scale = tl.load(rows.row_scale_ptr + row, mask=present, other=0.0)
    at_label = tl.load(rows.row_residual_ptr + row, mask=present, other=0.0)
    z_ptr = rows.logits.ptr + row * rows.logits.stride
    return Selected(row, z_ptr, m, scale, at_label, label, weight, present)


@triton.jit
def residual_tile(selected, weight, columns, Y):
    """a = ``weight`` * (softmax - onehot) of ``Selected`` rows, float32 [rows, columns].

    Exactly 0 for absent rows and columns past the end.
    """
    inside = selected.present[:, None] & (columns < Y)[None, :]
    place = selected.z_ptr[:, None] + columns[None, :]
    x = tl.load(place, mask=inside, other=float("-inf")).to(tl.float32)
    p = tl.exp(x - selected.m[:, None]) * selected.scale[:, None]
    at_label = columns[None, :] == selected.label[:, None]
    a = weight[:, None] * tl.where(at_label, selected.at_label[:, None], p)
    # A row of NaN would otherwise leak from its padding into the sums of other rows.
    return tl.where(inside, a, 0.0)


@triton.jit
def head_grad_tile(
    grad,  # [BLOCK_Y, BLOCK_D] float32, accumulated into
    bias,  # [BLOCK_Y] float32, accumulated into
    rows,  # `Rows`
    d,
    columns,  # [BLOCK_Y]
    dims,  # [BLOCK_D]
    power,  # scalar float32: a power of two that the residuals are multiplied by
    BLOCK_K: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add power * sum_i a_i u_i^T and power * sum_i a_i over the selected rows for one tile.

    Returns (grad, bias, sum of weights).
    """
    total = 0.0
    for start in range(0, rows.k, BLOCK_K):
        selected = load_rows(start + tl.arange(0, BLOCK_K), rows)
        a = residual_tile(selected, power * selected.weight, columns, rows.logits.Y)
        u = tl.load(
            rows.features_ptr + selected.row[:, None] * rows.features_stride + dims[None, :],
            mask=selected.present[:, None] & (dims < d)[None, :],
            other=0.0,
        )
        grad = tl.dot(tl.trans(a.to(OPERAND)), u, grad, input_precision=PRECISION)
        bias += tl.sum(a, axis=0)
        total += tl.sum(selected.weight, axis=0)
    return grad, bias, total


@triton.jit
def store_head_grad(weight_ptr, bias_ptr, grad, bias, columns, dims, Y, d, first_tile):
    """Store one tile of the head gradient; the first tile of each band of columns, its bias too."""
    inside = (columns < Y)[:, None] & (dims < d)[None, :]
    place = weight_ptr + columns.to(tl.int64)[:, None] * d + dims[None, :]
    tl.store(place, grad.to(weight_ptr.dtype.element_ty), mask=inside)
    if bias_ptr is not None:  # noqa: SIM102 - decided when the kernel is compiled
        if first_tile:
            tl.store(bias_ptr + columns, bias.to(bias_ptr.dtype.element_ty), mask=columns < Y)


@triton.jit
def lift_of_peaks(peak_ptr, n_peaks, N: tl.constexpr):
    """``lift`` of the largest of ``peak_ptr`` [n_peaks]."""
    peak = tl.zeros((N,), tl.float32)
    for start in range(0, n_peaks, N):
        place = start + tl.arange(0, N)
        peak = tl.maximum(peak, tl.load(peak_ptr + place, mask=place < n_peaks, other=0.0))
    return lift(tl.max(peak, axis=0))


@triton.jit(do_not_specialize=["logits_stride"], do_not_specialize_on_alignment=["logits_ptr"])
def linear_ce_grad_kernel(
    features_ptr,  # [B, d]
    features_stride,
    logits_ptr,  # [B, Y]
    logits_stride,
    row_max_ptr,  # [B] float32
    row_scale_ptr,
    row_residual_ptr,
    peak_ptr,  # [n_peaks] float32 or None
    target_ptr,  # [B] int64
    class_weights_ptr,  # [Y] or None
    index_ptr,  # [k] int64 or None
    grad_weight_ptr,  # [Y, d], contiguous
    grad_bias_ptr,  # [Y]
    k,
    B,
    Y,
    d,
    n_peaks,
    BLOCK_Y: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    PEAKS: tl.constexpr,
):
    logits = Logits(logits_ptr, logits_stride, target_ptr, class_weights_ptr, Y)
    statistics = (row_max_ptr, row_scale_ptr, row_residual_ptr)
    rows = Rows(features_ptr, features_stride, logits, *statistics, index_ptr, B, k)
    tiles_d = tl.maximum(tl.cdiv(d, BLOCK_D), 1)  # without features there is still the bias
    tile_y = tl.program_id(0) // tiles_d
    tile_d = tl.program_id(0) % tiles_d
    columns = tile_y * BLOCK_Y + tl.arange(0, BLOCK_Y)
    dims = tile_d * BLOCK_D + tl.arange(0, BLOCK_D)
    power = 1.0
    if peak_ptr is not None:
        power = lift_of_peaks(peak_ptr, n_peaks, PEAKS)
    grad = tl.zeros((BLOCK_Y, BLOCK_D), tl.float32)
    bias = tl.zeros((BLOCK_Y,), tl.float32)
    grad, bias, total = head_grad_tile(
        grad, bias, rows, d, columns, dims, power, BLOCK_K, OPERAND, PRECISION
    )
    grad = grad / total
    bias = bias / total
    if peak_ptr is not None:
        grad = grad * inverse(power)
        bias = bias * inverse(power)
    store_head_grad(grad_weight_ptr, grad_bias_ptr, grad, bias, columns, dims, Y, d, tile_d == 0)


def linear_ce_grad(
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    index: Tensor | None = None,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradient of the mean cross-entropy of the rows in ``index`` with respect to the head.

    Two launches.

    Args:
        features: [B, d], float32, float16 or bfloat16.
        logits: [B, Y], the head's output for ``features``.
        target: [B] int64. A selected label outside [0, Y) makes every gradient NaN.
        index: [k] int64 rows, or None for all; a row number outside [0, B) makes every gradient
            NaN.
        class_weights: [Y], or None for equal weights.

    Returns:
        grad_weight [Y, d] and grad_bias [Y], of the dtype of ``features``; zero if no row is
        selected.
    """
    (B, d), Y = features.shape, logits.shape[1]
    k = B if index is None else index.shape[0]
    if k == 0 or B == 0:
        return features.new_zeros(Y, d), features.new_zeros(Y)
    features, logits = rows_contiguous(features), rows_contiguous(logits)
    target, index, class_weights = target.contiguous(), contiguous(index), contiguous(class_weights)
    grad_weight, grad_bias = features.new_empty(Y, d), features.new_empty(Y)
    row_max = logits.new_empty(B, dtype=torch.float32)
    row_scale, row_residual = torch.empty_like(row_max), torch.empty_like(row_max)
    # Only float16 has too few exponents for the residuals of confident rows.
    peaks = n_peaks(k, Y)
    peak = row_max.new_empty(peaks) if features.dtype == torch.float16 else None
    launch_stats(
        logits,
        target=target,
        class_weights=class_weights,
        index=index,
        row_max=row_max,
        row_scale=row_scale,
        row_residual=row_residual,
        peak=peak,
    )
    values = {
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
        "k": k,
        "B": B,
        "Y": Y,
        "d": d,
        "n_peaks": peaks,
    }
    constants = {"BLOCK_Y": GRAD_TILE, "BLOCK_D": GRAD_TILE, "PEAKS": PEAK_BLOCK}
    programs = blocks(Y, GRAD_TILE) * max(1, blocks(d, GRAD_TILE))
    precision = dot_precision(features.dtype)
    launch = product_launch(linear_ce_grad_kernel, programs, constants, features.dtype, precision)
    launch.run(values, features.device)
    return grad_weight, grad_bias
