"""The k rows of highest entropy, in one launch (equations (6) and (7) of the paper).

Every program computes the statistics of its rows as ``softmax_stats`` does and stores them; the
last one to arrive turns the B entropies into sort keys, sorts them and writes the first k. The
partial statistics are in a workspace of this call; see ``_launch.ticket`` for the counter.

Order. A key is a signed 64-bit integer, (o << 32) | (2^32 - 1 - i): o is the float's bit pattern
mapped so that integer order is float order (flip the lower 31 bits of a negative), with every NaN
mapped to the pattern of one NaN above +inf because NaN counts as greatest; i is the row. Comparing
keys therefore compares entropies first and prefers the smaller row on a tie, no two keys are equal,
and the entropy is read back from the key bit for bit. The sort is a bitonic network, so its work
does not depend on the data.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._device import arrive_last, finish_stats
from ._launch import Launch, blocks, next_power_of_2, rows_contiguous, ticket
from .softmax_stats import merge_parts, row_stats, split_columns, store_parts, tile_shape

MAX_ROWS = 4096  # keys that one program sorts


@triton.jit
def order_keys(value, index):
    """int64 keys of float32 ``value`` and non-negative int32 ``index``.

    Their descending order is: value descending, NaN first, index ascending.
    """
    bits = value.to(tl.int32, bitcast=True)
    ordered = tl.where(value != value, 0x7FC00000, bits ^ ((bits >> 31) & 0x7FFFFFFF))
    return (ordered.to(tl.int64) << 32) | (0xFFFFFFFF - index.to(tl.int64))


@triton.jit
def key_value(key):
    """The float32 that ``order_keys`` put in; NaN for any NaN."""
    ordered = (key >> 32).to(tl.int32)
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def key_index(key):
    """The index that ``order_keys`` put in, int64."""
    return 0xFFFFFFFF - (key & 0xFFFFFFFF)


@triton.jit
def sort_descending(key, N: tl.constexpr, LOG_N: tl.constexpr):
    """Bitonic sort of ``key`` [N = 2**LOG_N] int64, largest first.

    After stage q the runs of 2**q elements are sorted, descending where bit q of the position is 0.
    The network is a loop over gathers, not unrolled: at N = 4096 its 78 steps take seconds to
    compile when unrolled.
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
    logits_ptr,  # [B, Y]
    logits_stride,
    entropy_ptr,  # [k] float32
    index_ptr,  # [k] int64
    parts_ptr,  # [3, splits, B] float32
    ticket_ptr,
    B,
    Y,
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
    valid = rows < B
    first = split * split_width
    end = tl.minimum(first + split_width, Y)
    m, r, t = row_stats(
        logits_ptr, logits_stride, rows.to(tl.int64), valid, first, end, ROWS, COLUMNS
    )
    store_parts(parts_ptr, split, splits, B, rows, valid, m, r, t)
    if arrive_last(ticket_ptr, tl.num_programs(0)):
        position = tl.arange(0, N)
        present = position < B
        row_m, row_r, row_t = merge_parts(parts_ptr, position, present, B, splits, N)
        entropy, _, _ = finish_stats(row_m, row_r, row_t)
        key = tl.where(present, order_keys(entropy, position), -0x8000000000000000)
        key = sort_descending(key, N, LOG_N)
        tl.store(entropy_ptr + position, key_value(key), mask=position < k)
        tl.store(index_ptr + position, key_index(key), mask=position < k)
        tl.store(ticket_ptr, 0)


def sort_warps(n: int) -> int:
    """Warps that keep a sort of ``n`` 64-bit keys in registers: at most 16 keys per thread."""
    return 8 if n > 1024 else 4


def entropy_topk(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` rows of highest softmax entropy (equations (6) and (7)). One launch.

    Highest first, NaN before all, the smaller row on a tie.

    Args:
        logits: [B, Y], float32, float16 or bfloat16, B <= ``MAX_ROWS``.
        k: 0 <= k <= B.

    Returns:
        entropy [k] float32 in nats, index [k] int64.
    """
    logits = rows_contiguous(logits)
    B, Y = logits.shape
    entropy = logits.new_empty(k, dtype=torch.float32)
    index = logits.new_empty(k, dtype=torch.int64)
    if k:
        rows, columns, warps = tile_shape(Y)
        splits, width = split_columns(B, Y)
        n = next_power_of_2(B)
        constants = {"ROWS": rows, "COLUMNS": columns, "N": n, "LOG_N": n.bit_length() - 1}
        values = {
            "logits_ptr": logits,
            "logits_stride": logits.stride(0),
            "entropy_ptr": entropy,
            "index_ptr": index,
            "parts_ptr": logits.new_empty(3 * splits * B, dtype=torch.float32),
            "ticket_ptr": ticket(logits.device),
            "B": B,
            "Y": Y,
            "k": k,
            "splits": splits,
            "split_width": width,
        }
        num_warps = max(warps, sort_warps(n))
        launch = Launch(
            entropy_topk_kernel, blocks(B, rows) * splits, constants, num_warps=num_warps
        )
        launch.run(values, logits.device)
    return entropy, index
