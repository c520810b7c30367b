"""The k rows of highest entropy, in one launch (equations (6) and (7) of the paper).

Every program computes the statistics of its rows as `softmax_stats` does and stores them; the last one to arrive turns the B
entropies into sort keys, sorts them and writes the first k. The partial statistics live in a workspace of this call; see
``_common.ticket`` for the counter.

Order. A key is a signed 64-bit integer, (o << 32) | (2^32 - 1 - i): o is the float's bit pattern mapped so that integer order is float
order (flip the lower 31 bits of a negative), with every NaN mapped to the pattern of one NaN above +inf because NaN counts as
greatest; i is the row.
Comparing keys therefore compares entropies first and prefers the smaller row on a tie, no two keys are equal, and the entropy is read
back from the key bit for bit. The sort is a bitonic network, so its work does not depend on the data.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ._common import arrive_last, finish_stats, launch, next_power_of_2, rows_contiguous, ticket
from .softmax_stats import merge_partials, row_stats, split_columns, tile_shape

MAX_ROWS = 4096  # keys that one program sorts


@triton.jit
def order_keys(value, index):
    """int64 keys of float32 ``value`` and non-negative int32 ``index``: descending order is (value desc, NaN first, index asc)."""
    bits = value.to(tl.int32, bitcast=True)
    ordered = tl.where(value != value, 0x7FC00000, bits ^ ((bits >> 31) & 0x7FFFFFFF))
    return (ordered.to(tl.int64) << 32) | (0xFFFFFFFF - index.to(tl.int64))


@triton.jit
def key_value(key):
    """The float32 that `order_keys` put in; NaN for any NaN."""
    ordered = (key >> 32).to(tl.int32)
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def key_index(key):
    """The index that `order_keys` put in, int64."""
    return 0xFFFFFFFF - (key & 0xFFFFFFFF)


@triton.jit
def sort_descending(key, N: tl.constexpr, LOG_N: tl.constexpr):
    """Bitonic sort of ``key`` [N = 2**LOG_N] int64, largest first.

    After stage q the runs of 2**q elements are sorted, descending where bit q of the position is 0. The network is a loop over gathers,
    not unrolled: at N = 4096 its 78 steps take seconds to compile when unrolled.
    """
    position = tl.arange(0, N)
    for stage in range(1, LOG_N + 1):
        for step in range(0, stage):
            bit = stage - 1 - step
            partner = tl.gather(key, position ^ (1 << bit), 0)
            keep_smaller = (((position >> bit) ^ (position >> stage)) & 1) == 1
            key = tl.where((partner > key) != keep_smaller, partner, key)
    return key


@triton.jit(do_not_specialize=["logits_stride"], do_not_specialize_on_alignment=["logits_ptr"])
def entropy_topk_kernel(
    logits_ptr,  # [B, n_cols]
    logits_stride,
    entropy_ptr,  # [k] float32
    index_ptr,  # [k] int64
    partial_ptr,  # [3, splits, B] float32
    ticket_ptr,
    n_rows,  # B
    n_cols,
    k,
    splits,
    split_width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    N: tl.constexpr,  # power of two >= B
    LOG_N: tl.constexpr,
):
    block = tl.program_id(0) // splits
    split = tl.program_id(0) % splits
    rows = block * ROWS + tl.arange(0, ROWS)
    valid = rows < n_rows
    first = split * split_width
    m, r, t = row_stats(logits_ptr, logits_stride, rows.to(tl.int64), valid, first, tl.minimum(first + split_width, n_cols), ROWS, COLUMNS)
    place = partial_ptr + tl.cast(split, tl.int64) * n_rows + rows
    plane = tl.cast(splits, tl.int64) * n_rows
    tl.store(place, m, mask=valid)
    tl.store(place + plane, r, mask=valid)
    tl.store(place + 2 * plane, t, mask=valid)
    if arrive_last(ticket_ptr, tl.num_programs(0)):
        position = tl.arange(0, N)
        present = position < n_rows
        row_m, row_r, row_t = merge_partials(partial_ptr, position, present, n_rows, splits, N)
        entropy, _, _ = finish_stats(row_m, row_r, row_t)
        key = tl.where(present, order_keys(entropy, position), -0x8000000000000000)
        key = sort_descending(key, N, LOG_N)
        tl.store(entropy_ptr + position, key_value(key), mask=position < k)
        tl.store(index_ptr + position, key_index(key), mask=position < k)
        tl.store(ticket_ptr, 0)


def entropy_topk(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``k`` rows of highest softmax entropy, highest first, NaN before all, the smaller row on a tie. One launch.

    :param logits: [B, Y], float32, float16 or bfloat16, B <= `MAX_ROWS`.
    :param k: 0 <= k <= B.
    :returns: entropy [k] float32 in nats, index [k] int64.
    """
    logits = rows_contiguous(logits)
    n_rows, n_cols = logits.shape
    entropy = logits.new_empty(k, dtype=torch.float32)
    index = logits.new_empty(k, dtype=torch.int64)
    if k:
        rows, columns, warps = tile_shape(n_cols)
        splits, width = split_columns(n_rows, n_cols)
        n = next_power_of_2(n_rows)
        arguments = {
            "logits_ptr": logits,
            "logits_stride": logits.stride(0),
            "entropy_ptr": entropy,
            "index_ptr": index,
            "partial_ptr": logits.new_empty(3 * splits * n_rows, dtype=torch.float32),
            "ticket_ptr": ticket(logits.device),
            "n_rows": n_rows,
            "n_cols": n_cols,
            "k": k,
            "splits": splits,
            "split_width": width,
        }
        constants = {"ROWS": rows, "COLUMNS": columns, "N": n, "LOG_N": n.bit_length() - 1}
        launch(
            entropy_topk_kernel, -(-n_rows // rows) * splits, arguments, constants,
            device=logits.device, num_warps=max(warps, sort_warps(n)),
        )  # fmt: skip
    return entropy, index


def sort_warps(n: int) -> int:
    """Warps that keep a sort of ``n`` 64-bit keys in registers: at most 16 keys per thread."""
    return 8 if n > 1024 else 4
