"""Columns that give the answer away."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from sklearn.metrics import balanced_accuracy_score

# A merely strong feature stays below; a copy of the label, a code for it or a consequence of it is
# above.
LEAK_ACCURACY = 0.98
LEAK_ROWS = 2000
_MIN_SCORED_ROWS = 20
# The tree does not tell values of one column apart that are no further from each other.
_SAME_VALUE = np.float32(1e-7)


def leaking_columns(
    columns: Mapping[str, np.ndarray], target: np.ndarray, seed: int = 0
) -> dict[str, float]:
    """Columns from which a decision tree predicts the target by that column alone.

    The tree grows on one half of each class and is scored on the other, where both accuracy and
    balanced accuracy must reach ``LEAK_ACCURACY``.

    Args:
        columns: Name to float64 [N], numbers or level codes, NaN = missing. Training rows, of which
            ``LEAK_ROWS`` are enough.
        target: int64 [N].
        seed: Of the order of the rows.

    Returns:
        Column to balanced accuracy.
    """
    rows = np.random.default_rng(seed).permutation(len(target))
    by_class = rows[np.argsort(target[rows], kind="stable")]
    labels = target[by_class]
    _, start, size = np.unique(labels, return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(start, size)
    paired = np.repeat(size, size) > 1
    fit, score = (rank % 2 == 0) & paired, (rank % 2 == 1) & paired
    if score.sum() < _MIN_SCORED_ROWS or len(np.unique(labels[score])) < 2:
        return {}
    labels = np.unique(labels, return_inverse=True)[1]
    found = {}
    for name, values in columns.items():
        column = _unit_range(values[by_class])
        guess = _grown_tree(column[fit], labels[fit], column[score])
        if (guess == labels[score]).mean() >= LEAK_ACCURACY:
            balanced = float(balanced_accuracy_score(labels[score], guess))
            if balanced >= LEAK_ACCURACY:
                found[name] = balanced
    return found


def _grown_tree(values: np.ndarray, labels: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """What scikit-learn's decision tree, fully grown on one column, says of unseen values, a
    hundred times faster.

    With one column such a tree is known beforehand: a value gets the commonest class of the nearest
    value it was grown on, the smallest class of equally common ones.
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    new = ordered[1:] > ordered[:-1] + _SAME_VALUE
    group = np.concatenate([[0], np.cumsum(new)])
    count = np.bincount(
        group * (labels.max() + 1) + labels[order], minlength=(group[-1] + 1) * (labels.max() + 1)
    )
    commonest = count.reshape(group[-1] + 1, -1).argmax(axis=1)
    below, above = (side.astype(np.float64) for side in (ordered[:-1][new], ordered[1:][new]))
    borders = below / 2 + above / 2
    return commonest[np.searchsorted(borders, unseen, side="left")]


def _unit_range(values: np.ndarray) -> np.ndarray:
    """float32 [N] in 0..1, which is what the tree computes in; a missing value is -1, a value of
    its own, because an empty "date of death" tells a lot.
    """
    present = np.isfinite(values)
    low, high = (values[present].min(), values[present].max()) if present.any() else (0.0, 1.0)
    scaled = (values - low) / (high - low if high > low else 1.0)
    return np.where(present, scaled, -1.0).astype(np.float32)
