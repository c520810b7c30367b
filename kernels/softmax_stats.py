"""Entropy, log-sum-exp and cross-entropy of every row of logits in one read.

``_device`` has the derivation. Shapes of work. Small Y: many rows per program, down to one row per
thread at Y = 2 and about one warp per row at Y = 286 or 717. Large Y: one program walks a row in
tiles of 4096. Very large Y with few rows: several programs share a row; each stores its (m, r, t)
and the last program to arrive merges them in order of the column ranges, so the result does not
depend on who arrived when. Traffic: B * Y logits read once, 3 floats per row written.

Equal rows give equal bits wherever they lie, for ties of the entropy are broken by the row number.
Which lanes add which columns is decided when a kernel is compiled, from what is known of the
addresses; so the kernels that read a caller's logits know nothing of them (``do_not_specialize``),
and the order of a row's sum follows from the number of classes alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._device import add_tile, arrive_last, finish_stats, label_weight, merge_stats, target_residual
from ._launch import (
    TARGET_PROGRAMS,
    Launch,
    blocks,
    contiguous,
    next_power_of_2,
    rows_contiguous,
    ticket,
)

MAX_TILE = 4096  # widest tile of one row; 8 warps hold it in 16 registers per thread
COMBINE_ROWS = 128  # rows the last program merges at a time


def tile_shape(Y: int) -> tuple[int, int, int]:
    """(rows per program, columns per tile, warps) for rows of ``Y`` logits."""
    columns = min(next_power_of_2(Y), MAX_TILE)
    elements = 4096 if columns >= 1024 else 2048
    return min(128, elements // columns), columns, 8 if columns == MAX_TILE else 4


def split_columns(B: int, Y: int) -> tuple[int, int]:
    """(programs per row, columns per program) for ``B`` rows of ``Y`` logits.

    More than one program only where the rows alone leave the GPU idle. Each keeps at least two
    tiles, so that the merge stays a small part of the work.
    """
    rows, columns, _ = tile_shape(Y)
    programs = blocks(B, rows)
    splits = max(1, min(TARGET_PROGRAMS // max(programs, 1), Y // (2 * columns)))
    width = blocks(Y, splits * columns) * columns
    return blocks(Y, width), width


class Logits(NamedTuple):
    """The logits of rows, their labels and the weights of the classes, as a kernel got them."""

    ptr: tl.tensor  # [B, Y]
    stride: tl.tensor
    target_ptr: tl.tensor | None  # [B] int64
    class_weights_ptr: tl.tensor | None  # [Y]
    Y: tl.tensor


class Results(NamedTuple):
    """Where a kernel stores what it knows of its rows. Each [B] float32, or None to leave it out.

    ``lse_ptr`` comes with ``entropy_ptr``; ``row_scale_ptr`` and ``row_residual_ptr`` come with
    ``row_max_ptr``. The residuals are p_y - 1, the scales 1 / s.
    """

    entropy_ptr: tl.tensor | None
    lse_ptr: tl.tensor | None
    nll_ptr: tl.tensor | None
    row_max_ptr: tl.tensor | None
    row_scale_ptr: tl.tensor | None
    row_residual_ptr: tl.tensor | None
    peak_ptr: tl.tensor | None  # [groups of rows]: the largest |weight * residual| of each


@triton.jit
def row_stats(
    logits_ptr,  # [B, Y], row stride `logits_stride`
    logits_stride,
    rows,  # [ROWS] int64, any value where not `valid`
    valid,  # [ROWS]
    first_col,
    end_col,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """(m, r, t), each [ROWS] float32, over the columns first_col <= j < end_col."""
    m = tl.full((ROWS,), float("-inf"), tl.float32)
    r = tl.full((ROWS,), -1.0, tl.float32)
    t = tl.zeros((ROWS,), tl.float32)
    for start in range(first_col, end_col, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        inside = valid[:, None] & (columns < end_col)[None, :]
        place = logits_ptr + rows[:, None] * logits_stride + columns[None, :]
        x = tl.load(place, mask=inside, other=float("-inf"))
        m, r, t = add_tile(m, r, t, x.to(tl.float32))
    return m, r, t


@triton.jit
def store_parts(parts_ptr, part, parts, n, row, present, m, r, t):
    """Store the statistics of one of ``parts`` parts of the rows at ``row``, of ``n`` in all."""
    plane = tl.cast(parts, tl.int64) * n
    place = parts_ptr + tl.cast(part, tl.int64) * n + row
    tl.store(place, m, mask=present)
    tl.store(place + plane, r, mask=present)
    tl.store(place + 2 * plane, t, mask=present)


@triton.jit
def merge_parts(parts_ptr, position, valid, n, parts, N: tl.constexpr):
    """Merge the statistics that ``store_parts`` left of the rows at ``position`` [N], in order."""
    m = tl.full((N,), float("-inf"), tl.float32)
    r = tl.full((N,), -1.0, tl.float32)
    t = tl.zeros((N,), tl.float32)
    plane = tl.cast(parts, tl.int64) * n
    for part in range(0, parts):
        place = parts_ptr + tl.cast(part, tl.int64) * n + position
        m2 = tl.load(place, mask=valid, other=float("-inf"))
        r2 = tl.load(place + plane, mask=valid, other=-1.0)
        t2 = tl.load(place + 2 * plane, mask=valid, other=0.0)
        m, r, t = merge_stats(m, r, t, m2, r2, t2)
    return m, r, t


@triton.jit
def write_rows(m, r, t, rows, valid, group, logits, results):
    """Finish the statistics of ``rows`` and store those that ``results`` has a place for.

    nll = log s - (x_y - m): the target's distance from the maximum, not from the log-sum-exp, which
    has already lost the low bits.
    """
    entropy, log_s, lse = finish_stats(m, r, t)
    if results.entropy_ptr is not None:
        tl.store(results.entropy_ptr + rows, entropy, mask=valid)
        tl.store(results.lse_ptr + rows, lse, mask=valid)
    if logits.target_ptr is not None:
        target = tl.load(logits.target_ptr + rows, mask=valid, other=0)
        legal = label_weight(target, None, valid, logits.Y)
        place = logits.ptr + rows * logits.stride + target
        x = tl.load(place, mask=valid & (legal == 1.0), other=0.0).to(tl.float32)
        if results.nll_ptr is not None:
            tl.store(results.nll_ptr + rows, (log_s - (x - m)) * legal, mask=valid)
        if results.row_max_ptr is not None:
            scale = 1.0 / (1.0 + r)
            residual = target_residual(x, m, r, scale)
            tl.store(results.row_max_ptr + rows, m, mask=valid)
            tl.store(results.row_scale_ptr + rows, scale, mask=valid)
            tl.store(results.row_residual_ptr + rows, residual, mask=valid)
            if results.peak_ptr is not None:
                weight = label_weight(target, logits.class_weights_ptr, valid, logits.Y)
                peak = tl.max(tl.where(valid, tl.abs(weight * residual), 0.0), axis=0)
                tl.store(results.peak_ptr + group, peak)


@triton.jit(do_not_specialize=["logits_stride"], do_not_specialize_on_alignment=["logits_ptr"])
def softmax_stats_kernel(
    logits_ptr,  # [B, Y]
    logits_stride,
    target_ptr,  # [B] int64 or None
    class_weights_ptr,  # [Y] or None, for the peaks
    index_ptr,  # [k] int64 or None: only these rows
    entropy_ptr,  # [B] float32 or None; for this and the next ones see `Results`
    lse_ptr,
    nll_ptr,
    row_max_ptr,
    row_scale_ptr,
    row_residual_ptr,
    peak_ptr,  # [programs], or [groups of COMBINE rows] if SPLIT
    parts_ptr,  # [3, splits, k] float32, used if SPLIT
    ticket_ptr,
    B,
    k,
    Y,
    splits,
    split_width,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    COMBINE: tl.constexpr,
):
    logits = Logits(logits_ptr, logits_stride, target_ptr, class_weights_ptr, Y)
    results = Results(
        entropy_ptr, lse_ptr, nll_ptr, row_max_ptr, row_scale_ptr, row_residual_ptr, peak_ptr
    )
    block = tl.program_id(0) // splits
    split = tl.program_id(0) % splits
    position = block * ROWS + tl.arange(0, ROWS)
    valid = position < k
    rows = position.to(tl.int64)
    if index_ptr is not None:
        rows = tl.load(index_ptr + position, mask=valid, other=0)
        valid = valid & (rows >= 0) & (rows < B)
    first = split * split_width
    end = tl.minimum(first + split_width, Y)
    m, r, t = row_stats(logits_ptr, logits_stride, rows, valid, first, end, ROWS, COLUMNS)
    if SPLIT:
        store_parts(parts_ptr, split, splits, k, position, position < k, m, r, t)
        if arrive_last(ticket_ptr, tl.num_programs(0)):
            for start in range(0, k, COMBINE):
                merged = start + tl.arange(0, COMBINE)
                present = merged < k
                row_m, row_r, row_t = merge_parts(parts_ptr, merged, present, k, splits, COMBINE)
                row = merged.to(tl.int64)
                if index_ptr is not None:
                    row = tl.load(index_ptr + merged, mask=present, other=0)
                    present = present & (row >= 0) & (row < B)
                group = start // COMBINE
                write_rows(row_m, row_r, row_t, row, present, group, logits, results)
            tl.store(ticket_ptr, 0)
    else:
        write_rows(m, r, t, rows, valid, block, logits, results)


def n_peaks(k: int, Y: int) -> int:
    """How many peaks ``launch_stats`` writes for ``k`` selected rows of ``Y`` logits."""
    rows = COMBINE_ROWS if split_columns(k, Y)[0] > 1 else tile_shape(Y)[0]
    return blocks(k, rows)


def launch_stats(
    logits: Tensor,
    *,
    target: Tensor | None = None,
    class_weights: Tensor | None = None,
    index: Tensor | None = None,
    entropy: Tensor | None = None,
    lse: Tensor | None = None,
    nll: Tensor | None = None,
    row_max: Tensor | None = None,
    row_scale: Tensor | None = None,
    row_residual: Tensor | None = None,
    peak: Tensor | None = None,
) -> None:
    """One launch that fills the given tensors for the rows in ``index`` (all rows without it).

    ``nll`` and the row results need ``target``. ``peak`` needs the row results.

    Args:
        logits: [B, Y], float32, float16 or bfloat16.
        target: [B] int64.
        class_weights: [Y], the weights of the rows in ``peak``.
        index: [k] int64.
        entropy: [B] float32, with ``lse``.
        lse: [B] float32.
        nll: [B] float32.
        row_max: [B] float32, with ``row_scale`` (1 / s) and ``row_residual`` (p_y - 1).
        row_scale: [B] float32.
        row_residual: [B] float32.
        peak: [``n_peaks``] float32, the largest |weight * residual| of groups of rows.
    """
    B, Y = logits.shape
    k = B if index is None else index.shape[0]
    rows, columns, warps = tile_shape(Y)
    splits, width = split_columns(k, Y)
    split = splits > 1
    constants = {"SPLIT": split, "ROWS": rows, "COLUMNS": columns, "COMBINE": COMBINE_ROWS}
    values = {
        "logits_ptr": logits,
        "logits_stride": logits.stride(0),
        "target_ptr": target,
        "class_weights_ptr": class_weights,
        "index_ptr": index,
        "entropy_ptr": entropy,
        "lse_ptr": lse,
        "nll_ptr": nll,
        "row_max_ptr": row_max,
        "row_scale_ptr": row_scale,
        "row_residual_ptr": row_residual,
        "peak_ptr": peak,
        "parts_ptr": logits.new_empty(3 * splits * k, dtype=torch.float32) if split else None,
        "ticket_ptr": ticket(logits.device) if split else None,
        "B": B,
        "k": k,
        "Y": Y,
        "splits": splits,
        "split_width": width,
    }
    launch = Launch(softmax_stats_kernel, blocks(k, rows) * splits, constants, num_warps=warps)
    launch.run(values, logits.device)


def softmax_stats(
    logits: Tensor, target: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Entropy (equation (6)), log-sum-exp and negative log-likelihood of every row. One launch.

    Args:
        logits: [B, Y], float32, float16 or bfloat16.
        target: [B] int64 labels, or None. A label outside [0, Y) gives NaN.

    Returns:
        entropy [B], lse [B] and nll [B], float32, in nats; nll is None without ``target``.
    """
    logits = rows_contiguous(logits)
    B = logits.shape[0]
    entropy = logits.new_empty(B, dtype=torch.float32)
    lse = torch.empty_like(entropy)
    nll = None if target is None else torch.empty_like(entropy)
    if B:
        launch_stats(logits, target=contiguous(target), entropy=entropy, lse=lse, nll=nll)
    return entropy, lse, nll
