"""Entropy, log-sum-exp and cross-entropy of every row of the logits, from one read."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor

from gaal_fast.ops import _checks as check
from gaal_fast.ops._dispatch import run
from gaal_fast.ops._registration import call, register, traced


@overload
def softmax_stats(logits: Tensor, target: None = None) -> tuple[Tensor, Tensor, None]: ...
@overload
def softmax_stats(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...
@overload
def softmax_stats(
    logits: Tensor, target: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]: ...
def softmax_stats(
    logits: Tensor, target: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Entropy H(p) = -sum_c p_c log p_c of p = softmax(logits), row by row (equation 6),
    log-sum-exp and cross-entropy.

    A logit of -inf is a class of probability 0. A row with NaN, with +inf, or with nothing but -inf
    gives NaN (in the last case lse may also be -inf).
    Not differentiable: the results are constants to autograd.

    Args:
        logits: (B, Y) float32, bfloat16, float16 or float64, any strides, Y at least 1.
        target: (B,) integer labels in [0, Y), or None.

    Returns:
        entropy (B,) in nats, lse (B,) and nll (B,) = lse - logits[target], or None without target.
        float32, float64 for float64 logits.

    Raises:
        TypeError: an argument that is no tensor or has a wrong dtype.
        ValueError: a wrong shape or device, or, on the CPU, a label out of range (elsewhere its nll
            is NaN).
    """
    if traced(logits, target):
        entropy, lse, nll = call(_op, logits, target)
        return entropy, lse, None if target is None else nll
    return _eager(logits, target)


def _check(logits: Tensor, target: Tensor | None, values: bool) -> Tensor | None:
    rows, classes = check.logits_matrix(logits)
    if target is None:
        return None
    return check.integers("target", target, rows, classes, logits.device, values)


def _eager(logits: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    target = _check(logits, target, values=True)
    stats: tuple[Tensor, Tensor, Tensor | None] = run("softmax_stats", (logits,), logits, target)
    return stats


def _kernel(logits: Tensor, target: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    check.in_memory(logits=logits, target=target)
    entropy, lse, nll = _eager(logits, target)
    return entropy, lse, entropy.new_empty(0) if nll is None else nll


def _fake(logits: Tensor, target: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    check.dense(logits=logits, target=target)
    _check(logits, target, values=False)
    rows, dtype = logits.shape[0], check.accumulator(logits.dtype)
    entropy, lse = (logits.new_empty(rows, dtype=dtype) for _ in range(2))
    return entropy, lse, logits.new_empty(0 if target is None else rows, dtype=dtype)


# A schema has no optional results: the missing nll is an empty tensor here and None in the public
# function.
_op: torch._ops.OpOverload = register(
    "softmax_stats(Tensor logits, Tensor? target=None) -> (Tensor, Tensor, Tensor)", _kernel, _fake
)
