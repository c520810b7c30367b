"""What is measured of predictions, for classes and for values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from gaal_fast.engine.analysis.bootstrap import Statistics
from gaal_fast.tasks import Classification, Regression, Task


class Measures(ABC):
    """Scores of outputs ``[n, outputs]`` against targets of the same rows.

    Attributes:
        task: What was predicted.
        loss: The score that says how likely the targets are: less is better.
    """

    task: Task
    loss: str

    @abstractmethod
    def known(self, target: np.ndarray) -> np.ndarray:
        """Bool ``[n]``: rows whose target is known."""

    @abstractmethod
    def statistics(self, output: np.ndarray, target: np.ndarray) -> Statistics:
        """The scores, over rows with a known target."""

    @abstractmethod
    def outcome(self, output: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Float64 ``[n]``: 1 for right and 0 for wrong, or the absolute error."""

    def scores(self, output: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """The scores, over rows with a known target."""
        return self.statistics(output, target).of_all_rows()


class ClassMeasures(Measures):
    """Accuracy, balanced accuracy, macro F1 and negative log-likelihood."""

    loss = "nll"

    def __init__(self, task: Classification) -> None:
        self.task, self.classes = task, task.outputs

    def known(self, target: np.ndarray) -> np.ndarray:
        return target >= 0

    def outcome(self, output: np.ndarray, target: np.ndarray) -> np.ndarray:
        return (output.argmax(axis=1) == target).astype(np.float64)

    def statistics(self, output: np.ndarray, target: np.ndarray) -> Statistics:
        from scipy.sparse import csr_array, hstack

        right, guess = self.outcome(output, target), output.argmax(axis=1)
        rows, shape = np.arange(len(target)), (len(target), self.classes)
        loss = self.task.row_losses(output, target)
        ones = np.ones(len(target))
        values = hstack(
            [
                csr_array(np.stack([right, loss], axis=1)),
                csr_array((right, (rows, target)), shape=shape),
                csr_array((ones, (rows, target)), shape=shape),
                csr_array((ones, (rows, guess)), shape=shape),
            ],
            format="csr",
        )
        return Statistics(values, self._scores)

    def _scores(self, means: np.ndarray) -> Mapping[str, np.ndarray]:
        right, true, guessed = (
            means[:, 2 + place * self.classes : 2 + (place + 1) * self.classes]
            for place in range(3)
        )
        # Both are averaged over the classes that occur, as the task's own scores are.
        occurs = true > 0
        count = occurs.sum(axis=1)
        recall = np.divide(right, true, out=np.zeros_like(right), where=occurs)
        f1 = np.divide(2 * right, true + guessed, out=np.zeros_like(right), where=occurs)
        return {
            "accuracy": means[:, 0],
            "balanced_accuracy": recall.sum(axis=1) / count,
            "macro_f1": f1.sum(axis=1) / count,
            "nll": means[:, 1],
        }


class ValueMeasures(Measures):
    """R², mean absolute and root mean squared error, and the loss that was trained with."""

    loss = "loss"

    def __init__(self, task: Regression) -> None:
        self.task, self.values_of = task, task.values

    def known(self, target: np.ndarray) -> np.ndarray:
        return np.isfinite(target).all(axis=1)

    def outcome(self, output: np.ndarray, target: np.ndarray) -> np.ndarray:
        return np.abs(self.values_of(output) - target).mean(axis=1)

    def statistics(self, output: np.ndarray, target: np.ndarray) -> Statistics:
        error = self.values_of(output) - target
        loss = self.task.row_losses(output, target)[:, None]
        centered = target - target.mean(axis=0)  # squares of large numbers would lose digits
        columns = [loss, np.abs(error), np.square(error), centered, np.square(centered)]
        return Statistics(np.concatenate(columns, axis=1), self._scores)

    def _scores(self, means: np.ndarray) -> Mapping[str, np.ndarray]:
        width = (means.shape[1] - 1) // 4
        mae, mse, center, square = (
            means[:, 1 + place * width : 1 + (place + 1) * width] for place in range(4)
        )
        spread = square - np.square(center)
        share = np.divide(mse, spread, out=np.full_like(mse, np.nan), where=spread > 0)
        return {
            "r2": (1 - share).mean(axis=1),
            "mae": mae.mean(axis=1),
            "rmse": np.sqrt(mse).mean(axis=1),
            "loss": means[:, 0],
        }


def measures_of(task: Task) -> Measures:
    """The measures of a task."""
    if isinstance(task, Classification):
        return ClassMeasures(task)
    assert isinstance(task, Regression)
    return ValueMeasures(task)
