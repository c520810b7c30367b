"""Entropy, log-sum-exp and cross-entropy of every row of logits in one read (derivation: ``_common``).

Shapes of work. Small Y: many rows per program, down to one row per thread at Y = 2 and about one warp per row at Y = 286 or 717.
Large Y: one program walks a row in tiles of 4096. Very large Y with few rows: several programs share a row; each stores its (m, r, t)
and the last program to arrive merges them in order of the column ranges, so the result does not depend on who arrived when.
Traffic: B*Y logits read once, 3 floats per row written.

Equal rows give equal bits wherever they lie, for ties of the entropy are broken by the row number. Which lanes add which columns is
decided when a kernel is compiled, from what is known of the addresses; so the kernels that read a caller's logits know nothing of
them (``do_not_specialize``), and the order of a row's sum follows from the number of classes alone.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from ._common import (
    TARGET_PROGRAMS,
    add_tile,
    arrive_last,
    finish_stats,
    label_weight,
    launch,
    merge_stats,
    next_power_of_2,
    rows_contiguous,
    target_residual,
    ticket,
)

MAX_TILE = 4096  # widest tile of one row; 8 warps hold it in 16 registers per thread
COMBINE_ROWS = 128  # rows the last program merges at a time


def tile_shape(n_cols: int) -> tuple[int, int, int]:
    """(rows per program, columns per tile, warps) for rows of ``n_cols`` logits."""
    columns = min(next_power_of_2(n_cols), MAX_TILE)
    elements = 4096 if columns >= 1024 else 2048
    return min(128, elements // columns), columns, 8 if columns == MAX_TILE else 4


def split_columns(n_rows: int, n_cols: int) -> tuple[int, int]:
    """(programs per row, columns per program). More than one only where the rows alone leave the GPU idle.

    Each program keeps at least two tiles, so that the merge stays a small part of the work.
    """
    rows, columns, _ = tile_shape(n_cols)
    programs = -(-n_rows // rows)
    splits = max(1, min(TARGET_PROGRAMS // max(programs, 1), n_cols // (2 * columns)))
    width = -(-n_cols // (splits * columns)) * columns
    return -(-n_cols // width), width


@triton.jit
def row_stats(
    logits_ptr,  # [n_rows, n_cols], row stride `logits_stride`
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
        x = tl.load(logits_ptr + rows[:, None] * logits_stride + columns[None, :], mask=inside, other=float("-inf"))
        m, r, t = add_tile(m, r, t, x.to(tl.float32))
    return m, r, t


@triton.jit
def write_rows(
    m,
    r,
    t,
    rows,
    valid,
    group,
    n_cols,
    logits_ptr,
    logits_stride,
    target_ptr,
    class_weights_ptr,
    entropy_ptr,
    lse_ptr,
    nll_ptr,
    row_max_ptr,
    row_scale_ptr,
    row_residual_ptr,
    peak_ptr,
):
    """Finish the statistics of ``rows`` and store those that the caller has a place for.

    nll = log s - (x_y - m): the target's distance from the maximum, not from the log-sum-exp, which has already lost the low bits.
    """
    entropy, log_s, lse = finish_stats(m, r, t)
    if entropy_ptr is not None:
        tl.store(entropy_ptr + rows, entropy, mask=valid)
        tl.store(lse_ptr + rows, lse, mask=valid)
    if target_ptr is not None:
        target = tl.load(target_ptr + rows, mask=valid, other=0)
        legal = label_weight(target, None, valid, n_cols)
        x = tl.load(logits_ptr + rows * logits_stride + target, mask=valid & (legal == 1.0), other=0.0).to(tl.float32)
        if nll_ptr is not None:
            tl.store(nll_ptr + rows, (log_s - (x - m)) * legal, mask=valid)
        if row_max_ptr is not None:
            scale = 1.0 / (1.0 + r)
            residual = target_residual(x, m, r, scale)
            tl.store(row_max_ptr + rows, m, mask=valid)
            tl.store(row_scale_ptr + rows, scale, mask=valid)
            tl.store(row_residual_ptr + rows, residual, mask=valid)
            if peak_ptr is not None:
                weight = label_weight(target, class_weights_ptr, valid, n_cols)
                tl.store(peak_ptr + group, tl.max(tl.where(valid, tl.abs(weight * residual), 0.0), axis=0))


@triton.jit(do_not_specialize=["logits_stride"], do_not_specialize_on_alignment=["logits_ptr"])
def softmax_stats_kernel(
    logits_ptr,  # [B, n_cols]
    logits_stride,
    target_ptr,  # [B] int64 or None
    class_weights_ptr,  # [n_cols] or None, for the peaks
    index_ptr,  # [n_selected] int64 or None: only these rows
    entropy_ptr,  # [B] float32 or None, with lse
    lse_ptr,
    nll_ptr,  # [B] float32 or None
    row_max_ptr,  # [B] float32 or None, with row_scale = 1 / s and row_residual = p_y - 1
    row_scale_ptr,
    row_residual_ptr,
    peak_ptr,  # [programs, or groups of COMBINE rows if SPLIT] float32 or None: largest |weight * residual| of their rows
    partial_ptr,  # [3, splits, n_selected] float32, used if SPLIT
    ticket_ptr,
    n_rows,  # B
    n_selected,
    n_cols,
    splits,
    split_width,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    COMBINE: tl.constexpr,
):
    block = tl.program_id(0) // splits
    split = tl.program_id(0) % splits
    position = block * ROWS + tl.arange(0, ROWS)
    valid = position < n_selected
    rows = position.to(tl.int64)
    if index_ptr is not None:
        rows = tl.load(index_ptr + position, mask=valid, other=0)
        valid = valid & (rows >= 0) & (rows < n_rows)
    first = split * split_width
    m, r, t = row_stats(logits_ptr, logits_stride, rows, valid, first, tl.minimum(first + split_width, n_cols), ROWS, COLUMNS)
    if SPLIT:
        place = tl.cast(split, tl.int64) * n_selected + position
        plane = tl.cast(splits, tl.int64) * n_selected
        stored = position < n_selected
        tl.store(partial_ptr + place, m, mask=stored)
        tl.store(partial_ptr + plane + place, r, mask=stored)
        tl.store(partial_ptr + 2 * plane + place, t, mask=stored)
        if arrive_last(ticket_ptr, tl.num_programs(0)):
            for start in range(0, n_selected, COMBINE):
                merged = start + tl.arange(0, COMBINE)
                present = merged < n_selected
                row_m, row_r, row_t = merge_partials(partial_ptr, merged, present, n_selected, splits, COMBINE)
                row = merged.to(tl.int64)
                if index_ptr is not None:
                    row = tl.load(index_ptr + merged, mask=present, other=0)
                    present = present & (row >= 0) & (row < n_rows)
                write_rows(
                    row_m, row_r, row_t, row, present, start // COMBINE, n_cols, logits_ptr, logits_stride, target_ptr,
                    class_weights_ptr, entropy_ptr, lse_ptr, nll_ptr, row_max_ptr, row_scale_ptr, row_residual_ptr, peak_ptr,
                )  # fmt: skip
            tl.store(ticket_ptr, 0)
    else:
        write_rows(
            m, r, t, rows, valid, block, n_cols, logits_ptr, logits_stride, target_ptr,
            class_weights_ptr, entropy_ptr, lse_ptr, nll_ptr, row_max_ptr, row_scale_ptr, row_residual_ptr, peak_ptr,
        )  # fmt: skip


@triton.jit
def merge_partials(partial_ptr, position, valid, n_positions, splits, N: tl.constexpr):
    """Merge the ``splits`` partial statistics of the rows at ``position`` [N], in the order of their columns."""
    m = tl.full((N,), float("-inf"), tl.float32)
    r = tl.full((N,), -1.0, tl.float32)
    t = tl.zeros((N,), tl.float32)
    plane = tl.cast(splits, tl.int64) * n_positions
    for split in range(0, splits):
        place = partial_ptr + tl.cast(split, tl.int64) * n_positions + position
        m2 = tl.load(place, mask=valid, other=float("-inf"))
        r2 = tl.load(place + plane, mask=valid, other=-1.0)
        t2 = tl.load(place + 2 * plane, mask=valid, other=0.0)
        m, r, t = merge_stats(m, r, t, m2, r2, t2)
    return m, r, t


def n_peaks(n_rows: int, n_cols: int) -> int:
    """How many peaks `launch_stats` writes for ``n_rows`` selected rows of ``n_cols`` logits."""
    rows = COMBINE_ROWS if split_columns(n_rows, n_cols)[0] > 1 else tile_shape(n_cols)[0]
    return -(-n_rows // rows)


def launch_stats(
    logits: torch.Tensor,
    *,
    target: torch.Tensor | None = None,
    class_weights: torch.Tensor | None = None,
    index: torch.Tensor | None = None,
    entropy: torch.Tensor | None = None,
    lse: torch.Tensor | None = None,
    nll: torch.Tensor | None = None,
    row_max: torch.Tensor | None = None,
    row_scale: torch.Tensor | None = None,
    row_residual: torch.Tensor | None = None,
    peak: torch.Tensor | None = None,
) -> None:
    """One launch that fills the given [B] float32 tensors for the rows in ``index`` (all rows without it).

    ``nll`` and the row results need ``target``; ``row_max``, ``row_scale`` and ``row_residual`` come together. ``peak`` [`n_peaks`]
    needs them, and takes the weights of the rows from ``class_weights``.
    """
    n_rows, n_cols = logits.shape
    n_selected = n_rows if index is None else index.shape[0]
    rows, columns, warps = tile_shape(n_cols)
    splits, width = split_columns(n_selected, n_cols)
    split = splits > 1
    arguments: dict[str, Any] = {
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
        "partial_ptr": logits.new_empty(3 * splits * n_selected, dtype=torch.float32) if split else None,
        "ticket_ptr": ticket(logits.device) if split else None,
        "n_rows": n_rows,
        "n_selected": n_selected,
        "n_cols": n_cols,
        "splits": splits,
        "split_width": width,
    }
    constants = {"SPLIT": split, "ROWS": rows, "COLUMNS": columns, "COMBINE": COMBINE_ROWS}
    launch(softmax_stats_kernel, -(-n_selected // rows) * splits, arguments, constants, device=logits.device, num_warps=warps)


def softmax_stats(logits: torch.Tensor, target: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Entropy (equation (6)), log-sum-exp and, with ``target``, negative log-likelihood of every row. One launch.

    :param logits: [B, Y], float32, float16 or bfloat16.
    :param target: [B] int64 labels, or None. A label outside [0, Y) gives NaN.
    :returns: entropy [B], lse [B], nll [B] or None, float32, in nats.
    """
    logits = rows_contiguous(logits)
    n_rows = logits.shape[0]
    entropy = logits.new_empty(n_rows, dtype=torch.float32)
    lse = torch.empty_like(entropy)
    nll = None if target is None else torch.empty_like(entropy)
    if n_rows:
        target = None if target is None else target.contiguous()
        launch_stats(logits, target=target, entropy=entropy, lse=lse, nll=nll)
    return entropy, lse, nll
