"""Selection of the rows with the highest softmax entropy."""

from __future__ import annotations

import torch
from torch import Tensor

from gaal_fast.ops import _checks as check
from gaal_fast.ops._dispatch import run
from gaal_fast.ops._registration import call, register, traced


def entropy_topk(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k rows of highest softmax entropy (equation 7), by entropy descending and, where
    entropies are equal, by row ascending.

    A row whose entropy is NaN (see :func:`softmax_stats`) counts as greater than any number, as in
    ``torch.topk``. Not differentiable.

    Args:
        logits: (B, Y) float32, bfloat16, float16 or float64, any strides, Y at least 1.
        k: how many rows, in [0, B].

    Returns:
        entropy (k,) in nats, float32 (float64 for float64 logits), and index (k,) int64.

    Raises:
        TypeError: logits with a wrong dtype, or a k that is no integer.
        ValueError: a wrong shape, or k out of range.
    """
    if traced(logits):
        return call(_op, logits, k)
    return _eager(logits, k)


def _eager(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    rows, _ = check.logits_matrix(logits)
    k = check.count("k", k, rows, "logits")
    top: tuple[Tensor, Tensor] = run("entropy_topk", (logits,), logits, k)
    return top


def _kernel(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    check.in_memory(logits=logits)
    return _eager(logits, k)


def _fake(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    check.dense(logits=logits)
    check.logits_matrix(logits)
    return logits.new_empty(k, dtype=check.accumulator(logits.dtype)), logits.new_empty(
        k, dtype=torch.int64
    )


_op: torch._ops.OpOverload = register(
    "entropy_topk(Tensor logits, SymInt k) -> (Tensor, Tensor)", _kernel, _fake
)
