"""NumPy float64 restatement of the method, written from the paper's equations (1) to (8). It shares
no code with the package.

Rows are samples (B of them, k selected), columns are classes (Y) or features (d). ``loops_*``
restate the same once more in plain Python, element by element, to check this module itself on tiny
inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Array = np.ndarray


def _wide(values: object) -> Array:
    return np.asarray(values, dtype=np.float64)


def _relative_to_largest(logits: Array) -> tuple[Array, Array, Array]:
    """The largest logit m of each row, z - m, and log Σ e^(z-m), of which the largest class alone
    would make 0.

    The others are summed apart from it: 1 + e^-40 is 1, but log1p(e^-40) is not 0. Rows of nothing
    but -inf, with +inf or with NaN become NaN.
    """
    z = _wide(logits)
    top = z.max(axis=1, keepdims=True)
    with np.errstate(all="ignore"):
        shifted = np.where(np.isfinite(top), z - top, np.nan)
        others = np.exp(shifted)
        others[np.arange(len(z)), z.argmax(axis=1)] *= 0.0  # NaN stays
        log_sum = np.log1p(others.sum(axis=1, keepdims=True))
    return top, shifted, log_sum


def log_softmax(logits: Array) -> Array:
    """log p, with log 0 = -inf. Rows of nothing but -inf, with +inf or with NaN become NaN."""
    _, shifted, log_sum = _relative_to_largest(logits)
    return shifted - log_sum


def softmax(logits: Array) -> Array:
    return np.exp(log_softmax(logits))


class Stats(NamedTuple):
    entropy: Array
    lse: Array
    nll: Array | None


def softmax_stats(logits: Array, target: Array | None = None) -> Stats:
    """H(p) = -Σ_c p_c log p_c (equation 6) with 0 log 0 = 0, log Σ_c e^{z_c}, and -log p_y
    (equation 1, one row).
    """
    top, shifted, log_sum = _relative_to_largest(logits)
    p = np.exp(shifted - log_sum)
    with np.errstate(invalid="ignore"):
        # Σ p (log Σ e^(z-m) - (z - m)): no term is negative.
        terms = np.where(p == 0.0, 0.0, p * (log_sum - shifted))
        lse = (top + log_sum)[:, 0]
    nll = (
        None if target is None else (log_sum - shifted)[np.arange(len(shifted)), np.asarray(target)]
    )
    return Stats(terms.sum(axis=1), lse, nll)


def topk(entropy: Array, k: int) -> Array:
    """Indices of the k greatest (equation 7), descending; NaN is greatest, ties go to the smaller
    index.
    """
    entropy = _wide(entropy)
    order = np.lexsort(
        (np.arange(len(entropy)), np.where(np.isnan(entropy), 0.0, -entropy), ~np.isnan(entropy))
    )
    return order[:k]


def entropy_topk(logits: Array, k: int) -> tuple[Array, Array]:
    entropy = softmax_stats(logits).entropy
    index = topk(entropy, k)
    return entropy[index], index


def row_weights(target: Array, class_weights: Array | None) -> Array:
    """Weight of each row in the mean: 1/B, or c[y_i] / Σ_j c[y_j]."""
    c = np.ones(len(target)) if class_weights is None else _wide(class_weights)[np.asarray(target)]
    with np.errstate(all="ignore"):
        return c / c.sum()


def residual(logits: Array, target: Array, class_weights: Array | None = None) -> Array:
    """Gradient of the mean cross-entropy to the logits: w_i (p_i - onehot(y_i)), with p_y - 1 as
    minus the sum of the other p.
    """
    p = softmax(logits)
    rows = np.arange(len(p))
    p[rows, np.asarray(target)] *= 0.0  # NaN stays
    p[rows, np.asarray(target)] -= p.sum(axis=1)
    return row_weights(target, class_weights)[:, None] * p


def residual_scale(logits: Array, target: Array, class_weights: Array | None = None) -> Array:
    """The sizes of the two parts that cancel in it: w_i (p_i + onehot(y_i))."""
    return row_weights(target, class_weights)[:, None] * (softmax(logits) + _onehot(logits, target))


def _onehot(logits: Array, target: Array) -> Array:
    return (np.asarray(target)[:, None] == np.arange(np.shape(logits)[1])).astype(np.float64)


def cross_entropy(logits: Array, target: Array, class_weights: Array | None = None) -> float:
    """Mean cross-entropy (equation 1); NaN for no rows."""
    if len(target) == 0:
        return math.nan
    with np.errstate(invalid="ignore"):
        return float((row_weights(target, class_weights) * softmax_stats(logits, target).nll).sum())


class HeadGradient(NamedTuple):
    weight: Array
    bias: Array
    # the same sums with every part taken positive: what their rounding error is measured against
    weight_scale: Array
    bias_scale: Array


def linear_ce_grad(
    features: Array,
    logits: Array,
    target: Array,
    index: Array | None = None,
    class_weights: Array | None = None,
) -> HeadGradient:
    """Equation (8) for a linear head: Aᵀ U and the column sums of A over the rows in ``index``."""
    rows = slice(None) if index is None else np.asarray(index)
    z, y, u = _wide(logits)[rows], np.asarray(target)[rows], _wide(features)[rows]
    a, parts = residual(z, y, class_weights), residual_scale(z, y, class_weights)
    with np.errstate(invalid="ignore"):
        return HeadGradient(a.T @ u, a.sum(axis=0), parts.T @ np.abs(u), parts.sum(axis=0))


@dataclass
class Rule:
    """The options of the projection, with the meaning of DESIGN's ``project_``."""

    rule: str = "paper"
    epsilon: float = 0.0
    relative: bool = False
    margin: float = 0.75
    ridge: float = 1e-3
    max_correction: float | None = None

    def factor(self, dot: float, guide_norm2: float, grad_norm2: float) -> float:
        """v of equation (5), or of the released code."""
        if not (math.isfinite(dot) and math.isfinite(guide_norm2)):
            return math.nan
        if guide_norm2 == 0.0:
            return 0.0
        if self.rule == "paper":
            floor = (
                self.epsilon * math.sqrt(grad_norm2 * guide_norm2)
                if self.relative
                else self.epsilon
            )
            v = max(0.0, (floor - dot) / guide_norm2)
        else:
            v = max(self.margin, -dot / (guide_norm2 + self.ridge)) if dot < 0.0 else 0.0
        if self.max_correction is not None:
            v = min(v, self.max_correction * math.sqrt(grad_norm2 / guide_norm2))
        return v


class Projected(NamedTuple):
    grads: list[Array]
    v: float
    dot: float
    guide_norm2: float
    grad_norm2: float


def project(grads: Sequence[Array], guides: Sequence[Array], rule: Rule) -> Projected:
    """g + v g_p over all tensors seen as one vector (equation 5)."""
    g = np.concatenate([_wide(x).ravel() for x in grads])
    p = np.concatenate([_wide(x).ravel() for x in guides])
    with np.errstate(all="ignore"):
        dot, guide_norm2, grad_norm2 = float(g @ p), float(p @ p), float(g @ g)
        v = rule.factor(dot, guide_norm2, grad_norm2)
        moved = [
            _wide(x).copy() if v == 0.0 else _wide(x) + v * _wide(y)
            for x, y in zip(grads, guides, strict=True)
        ]
    return Projected(moved, v, dot, guide_norm2, grad_norm2)


def cosine(g: Array, p: Array) -> float:
    """Equation (2)."""
    g, p = _wide(g).ravel(), _wide(p).ravel()
    return float(g @ p / (np.linalg.norm(g) * np.linalg.norm(p)))


class Step(NamedTuple):
    loss: float
    grad_features: Array
    grad_weight: Array
    grad_bias: Array | None
    v: float
    dot: float
    guide_norm2: float
    grad_norm2: float
    index: Array
    guide_entropy: Array  # of all guide rows
    plain: HeadGradient  # g
    guide: HeadGradient  # g_p
    feature_scale: Array


def guided_linear_ce(
    features: Array,
    target: Array,
    guide_features: Array,
    guide_target: Array,
    weight: Array,
    bias: Array | None,
    top_k: int,
    rule: Rule,
    class_weights: Array | None = None,
    index: Array | None = None,
) -> Step:
    """Lines 8 to 15 of Algorithm 1 for a linear head. ``index`` overrides the selection, for a
    selection that rounding may change.
    """
    features, guide_features, weight = _wide(features), _wide(guide_features), _wide(weight)
    b = np.zeros(len(weight)) if bias is None else _wide(bias)
    logits, guide_logits = features @ weight.T + b, guide_features @ weight.T + b
    entropy = softmax_stats(guide_logits).entropy
    if index is None:
        index = topk(entropy, top_k)
    g = linear_ce_grad(features, logits, target, None, class_weights)
    p = linear_ce_grad(guide_features, guide_logits, guide_target, index, class_weights)
    if len(index):
        parts = (
            ([g.weight], [p.weight]) if bias is None else ([g.weight, g.bias], [p.weight, p.bias])
        )
        new, *scalars = project(*parts, rule)
    else:
        new = [g.weight, g.bias]
        scalars = [
            0.0,
            0.0,
            0.0,
            float((g.weight**2).sum() + (0.0 if bias is None else (g.bias**2).sum())),
        ]
    a = residual(logits, target, class_weights)
    return Step(
        cross_entropy(logits, target, class_weights),
        a @ weight,
        new[0],
        None if bias is None else new[1],
        *scalars,
        index,
        entropy,
        g,
        p,
        residual_scale(logits, target, class_weights) @ np.abs(weight),
    )


def loops_softmax(row: Sequence[float]) -> list[float]:
    top = max(row)
    parts = [math.exp(x - top) for x in row]
    return [part / sum(parts) for part in parts]


def loops_entropy(row: Sequence[float]) -> float:
    return -sum(p * math.log(p) for p in loops_softmax(row) if p > 0.0)


def loops_head_gradient(
    features: Sequence[Sequence[float]],
    logits: Sequence[Sequence[float]],
    target: Sequence[int],
    rows: Sequence[int],
    class_weights: Sequence[float] | None = None,
) -> tuple[list[list[float]], list[float]]:
    classes, width = len(logits[0]), len(features[0])
    weight, bias = [[0.0] * width for _ in range(classes)], [0.0] * classes
    total = sum(1.0 if class_weights is None else class_weights[target[i]] for i in rows)
    for i in rows:
        share = (1.0 if class_weights is None else class_weights[target[i]]) / total
        p = loops_softmax(logits[i])
        for c in range(classes):
            a = share * (p[c] - (1.0 if c == target[i] else 0.0))
            bias[c] += a
            for j in range(width):
                weight[c][j] += a * features[i][j]
    return weight, bias


def loops_project(g: Sequence[float], p: Sequence[float], epsilon: float) -> list[float]:
    dot = sum(a * b for a, b in zip(g, p, strict=True))
    norm2 = sum(b * b for b in p)
    v = max(0.0, (epsilon - dot) / norm2) if norm2 > 0.0 else 0.0
    return [a + v * b for a, b in zip(g, p, strict=True)]
