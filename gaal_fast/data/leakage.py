"""Columns that give the answer away."""

from collections.abc import Mapping

import numpy as np
from sklearn.metrics import balanced_accuracy_score
from sklearn.tree import DecisionTreeClassifier

# A merely strong feature stays below; a copy of the label, a code for it or a consequence of it is above.
LEAK_ACCURACY = 0.98
LEAK_ROWS = 2000
_MIN_SCORED_ROWS = 20


def leaking_columns(columns: Mapping[str, np.ndarray], target: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Columns from which a decision tree predicts the target by that column alone -> balanced accuracy.

    columns: name -> float64 [N] (numbers or level codes, NaN = missing); target: int64 [N]. Training rows, of which `LEAK_ROWS`
    are enough. The tree grows on one half of each class and is scored on the other, where both accuracy and balanced accuracy
    must reach `LEAK_ACCURACY`.
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
    found = {}
    for name, values in columns.items():
        column = _unit_range(values[by_class])
        guess = DecisionTreeClassifier(random_state=seed).fit(column[fit], labels[fit]).predict(column[score])
        if (guess == labels[score]).mean() >= LEAK_ACCURACY:
            balanced = float(balanced_accuracy_score(labels[score], guess))
            if balanced >= LEAK_ACCURACY:
                found[name] = balanced
    return found


def _unit_range(values: np.ndarray) -> np.ndarray:
    """float32 [N, 1] in 0..1, which is what the tree computes in; a missing value is -1, a value of its own, because an empty
    "date of death" tells a lot."""
    present = np.isfinite(values)
    low, high = (values[present].min(), values[present].max()) if present.any() else (0.0, 1.0)
    scaled = (values - low) / (high - low if high > low else 1.0)
    return np.where(present, scaled, -1.0).astype(np.float32)[:, None]
