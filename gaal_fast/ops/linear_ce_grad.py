"""Gradient of the mean cross-entropy of some rows with respect to a linear head."""

from __future__ import annotations

import torch
from torch import Tensor

from gaal_fast.ops import _checks as check
from gaal_fast.ops._dispatch import run
from gaal_fast.ops._registration import call, register, traced


def linear_ce_grad(
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    index: Tensor | None = None,
    *,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradient of the mean cross-entropy of the rows in ``index`` with respect to the head that
    made the logits (equation 8).

    With logits = features Wᵀ + b, p = softmax(logits) and A_i = w_i (p_i - onehot(target_i)) for i
    in ``index``, the gradients are Aᵀ features and the column sums of A. The row weights are w_i =
    1/k, or with class weights c: w_i = c[target_i] / sum_j c[target_j], the sum over ``index``, as
    ``torch.nn.functional.cross_entropy(weight=c)``. With no row at all both gradients are 0. Not
    differentiable.

    Args:
        features: (B, d) float32, bfloat16, float16 or float64, any strides.
        logits: (B, Y) of the same dtype, any strides, Y at least 1.
        target: (B,) integer labels in [0, Y).
        index: (k,) integer rows in [0, B), a repeated row counting each time; None for all rows.
        class_weights: (Y,) floating, or None for equal weights.

    Returns:
        grad_weight (Y, d) and grad_bias (Y,), in the dtype of ``features``; sums are kept in
        float32 at least.

    Raises:
        TypeError: an argument that is no tensor or has a wrong dtype.
        ValueError: a wrong shape or device, or, on the CPU, a label or an index out of range.
            Elsewhere a label out of range makes the gradients NaN, and an index out of range is an
            error of the caller that is not looked for.
    """
    if traced(features, logits, target, index, class_weights):
        return call(_op, features, logits, target, index, class_weights)
    return _eager(features, logits, target, index, class_weights)


def _check(
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    index: Tensor | None,
    class_weights: Tensor | None,
    values: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    known, _ = check.matrix("features", features)
    rows, classes = check.logits_matrix(logits)
    check.like("logits", logits, "features", features)
    if known != rows:
        raise ValueError(f"logits must have as many rows as features: got {rows} and {known}")
    device = features.device
    target = check.integers("target", target, rows, classes, device, values)
    if index is not None:
        index = check.integers("index", index, None, rows, device, values)
    return target, index, check.class_weight_vector(class_weights, classes, features)


def _eager(
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    index: Tensor | None,
    class_weights: Tensor | None,
) -> tuple[Tensor, Tensor]:
    target, index, class_weights = _check(
        features, logits, target, index, class_weights, values=True
    )
    gradients: tuple[Tensor, Tensor] = run(
        "linear_ce_grad", (features, logits), *(features, logits, target, index, class_weights)
    )
    return gradients


def _kernel(
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    index: Tensor | None = None,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    check.in_memory(
        features=features, logits=logits, target=target, index=index, class_weights=class_weights
    )
    return _eager(features, logits, target, index, class_weights)


def _fake(
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    index: Tensor | None = None,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    check.dense(
        features=features, logits=logits, target=target, index=index, class_weights=class_weights
    )
    _check(features, logits, target, index, class_weights, values=False)
    classes = logits.shape[1]
    return features.new_empty(classes, features.shape[1]), features.new_empty(classes)


_op: torch._ops.OpOverload = register(
    "linear_ce_grad(Tensor features, Tensor logits, Tensor target, Tensor? index=None, Tensor?"
    " class_weights=None) -> (Tensor, Tensor)",
    _kernel,
    _fake,
)
