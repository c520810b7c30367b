"""Columns that give the answer away."""

from collections.abc import Mapping

import numpy as np
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.tree import DecisionTreeClassifier

# A merely strong feature stays below; a copy of the label, a code for it or a consequence of it is above.
LEAK_ACCURACY = 0.98
_MIN_SCORED_ROWS = 20


def leaking_columns(columns: Mapping[str, np.ndarray], target: np.ndarray, limit: int = 2000, seed: int = 0) -> dict[str, float]:
    """Columns from which a decision tree predicts the target by that column alone -> balanced accuracy.

    columns: name -> float64 [N] (numbers or level codes, NaN = missing), the rows of the training part only.
    target: int64 [N]. At most `limit` rows are looked at: the tree grows on one half of each class and is scored on the other,
    where both accuracy and balanced accuracy must reach `LEAK_ACCURACY`.
    """
    rows = np.random.default_rng(seed).permutation(len(target))[:limit]
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
        # Ranks: the tree works in float32, and NaN becomes a value of its own (an empty "date of death" tells a lot).
        ranks = np.unique(values[by_class], return_inverse=True)[1].reshape(-1, 1)
        guess = DecisionTreeClassifier(random_state=seed).fit(ranks[fit], labels[fit]).predict(ranks[score])
        balanced = float(balanced_accuracy_score(labels[score], guess))
        if balanced >= LEAK_ACCURACY and accuracy_score(labels[score], guess) >= LEAK_ACCURACY:
            found[name] = balanced
    return found
