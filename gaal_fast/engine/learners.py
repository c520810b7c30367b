"""Cheap learners on a matrix of features: fitted on training rows, tuned on validation rows.

Their outputs have one form a task: log-probabilities ``[n, Y]`` of classes; mean and logarithm of
the variance, ``[n, 2t]``, of the standardized values of a quantity. scikit-learn is imported where
it is used.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from gaal_fast.tasks import Classification, Regression

# Largest number of training rows that a learner is fitted on.
MOST_ROWS = 20_000
# Bounds the cost of one pass of a linear model, rows * features * outputs; never below
# ``FEWEST_ROWS``.
LINEAR_WORK, FEWEST_ROWS = 100_000_000, 5000
# Inverse strengths of regularization to try, weakest last.
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
RIDGE = (1000.0, 100.0, 10.0, 1.0, 0.1)
# Boosting: one round is a tree for each class. With too few rounds the trees say nothing.
ROUNDS, FEWEST_ROUNDS, TREES = 100, 20, 250
_TREE = {"learning_rate": 0.2, "max_leaf_nodes": 15, "max_bins": 63, "min_samples_leaf": 10}
# The probability of a class that was not among the rows, and the least of any.
LEAST = 1e-12

Predict = Callable[[np.ndarray], np.ndarray]
# Features ``[n, d]`` float and targets ``[n]`` int64 or ``[n, t]`` float64.
Rows = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Fitted:
    """A learner with its parameters.

    Attributes:
        learner: Its name.
        chosen: What the validation rows chose: ``C 1``.
        loss: On the validation rows; infinite where there are none.
        predict: Features ``[n, d]`` to float64 outputs.
        rows: How many training rows it was fitted on.
    """

    learner: str
    chosen: str
    loss: float
    predict: Predict
    rows: int


class Learners(ABC):
    """The learners of one task.

    Args:
        seed: Of the choice of rows, and of what the learners draw.
    """

    linear_name: str

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @property
    @abstractmethod
    def prior(self) -> np.ndarray:
        """Float64 ``[outputs]``: what is predicted of a row without features."""

    @abstractmethod
    def loss(self, output: np.ndarray, target: np.ndarray) -> float:
        """What the validation rows choose by, to be small."""

    @abstractmethod
    def product(self, outputs: Iterable[np.ndarray]) -> np.ndarray:
        """The product of predictions ``[n, outputs]`` over the prior; one that is the prior adds
        nothing.
        """

    @abstractmethod
    def _linear(self, train: Rows) -> Iterator[tuple[str, Predict]]:
        """Linear models, from strong regularization to weak."""

    @abstractmethod
    def _rounds(self, train: Rows) -> Callable[[np.ndarray], Iterator[np.ndarray]] | None:
        """Boosted trees: features to the outputs after each round; None if that takes minutes."""

    @abstractmethod
    def _width(self) -> int:
        """Outputs that a linear model fits at once."""

    def is_possible(self, target: np.ndarray) -> bool:
        """Whether anything can be learned of these training targets."""
        return len(target) > 1

    def linear(self, train: Rows, val: Rows) -> Fitted:
        """The linear model with the regularization that suits the validation rows best; weaker ones
        are tried as long as they gain.
        """
        most = max(FEWEST_ROWS, LINEAR_WORK // max(1, train[0].shape[1] * self._width()))
        train = self._sample(train, min(MOST_ROWS, most))
        models = self._linear(train)
        if not len(val[1]):  # nothing to choose by
            models = islice(models, len(STRENGTHS) // 2, None)
        best: Fitted | None = None
        for chosen, predict in models:
            loss = self._validate(predict, val)
            if best is not None and loss >= best.loss:
                break
            best = Fitted(self.linear_name, chosen, loss, predict, len(train[1]))
        assert best is not None
        return self._finished(best, val)

    def trees(self, train: Rows, val: Rows) -> Fitted | None:
        """Gradient-boosted trees with the number of rounds that suits the validation rows best;
        None for so many classes that they would take minutes.
        """
        train = self._sample(train, MOST_ROWS)
        if (staged := self._rounds(train)) is None:
            return None
        losses = [self.loss(output, val[1]) for output in staged(val[0])] if len(val[1]) else []
        rounds = int(np.argmin(losses)) + 1 if losses else FEWEST_ROUNDS

        def predict(x: np.ndarray) -> np.ndarray:
            return next(islice(staged(x), rounds - 1, None))

        loss = losses[rounds - 1] if losses else math.inf
        return self._finished(
            Fitted("trees", f"{rounds} rounds", loss, predict, len(train[1])), val
        )

    def _finished(self, fitted: Fitted, val: Rows) -> Fitted:
        return fitted

    @staticmethod
    def _filled(x: np.ndarray) -> np.ndarray:
        """Standardized features for a linear model: a modality that a row lacks counts as the
        mean."""
        return np.nan_to_num(x, nan=0.0)

    def _validate(self, predict: Predict, val: Rows) -> float:
        return self.loss(predict(val[0]), val[1]) if len(val[1]) else math.inf

    def _sample(self, train: Rows, most: int) -> Rows:
        """At most this many of the rows, in their order."""
        if len(train[1]) <= most:
            return train
        rows = np.sort(np.random.default_rng(self.seed).permutation(len(train[1]))[:most])
        return train[0][rows], train[1][rows]


class ClassLearners(Learners):
    """Logistic regression and trees for classes.

    Args:
        task: The classes with their frequencies.
        seed: As ``Learners`` has it.
    """

    linear_name = "logistic"

    def __init__(self, task: Classification, seed: int) -> None:
        super().__init__(seed)
        self.classes = task.outputs
        self._prior = task.prior()

    @property
    def prior(self) -> np.ndarray:
        return self._prior

    def is_possible(self, target: np.ndarray) -> bool:
        return len(np.unique(target)) > 1

    def loss(self, output: np.ndarray, target: np.ndarray) -> float:
        """Mean negative log-likelihood, in nats."""
        return float(-output[np.arange(len(target)), target].mean())

    def product(self, outputs: Iterable[np.ndarray]) -> np.ndarray:
        """``sum over m of log p_m - (M - 1) log prior``, normalized: right where the modalities are
        independent given the class.
        """
        total = self._prior + sum(output - self._prior for output in outputs)
        return total - np.logaddexp.reduce(total, axis=1, keepdims=True)

    def _width(self) -> int:
        return self.classes

    def _linear(self, train: Rows) -> Iterator[tuple[str, Predict]]:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        for strength in STRENGTHS:
            model = LogisticRegression(C=strength, max_iter=200)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(self._filled(train[0]), train[1])
            yield f"C {strength:g}", partial(self._predict, model)

    def _predict(self, model: Any, x: np.ndarray) -> np.ndarray:
        return self._all(model.predict_proba(self._filled(x)), model.classes_)

    def _rounds(self, train: Rows) -> Callable[[np.ndarray], Iterator[np.ndarray]] | None:
        from sklearn.ensemble import HistGradientBoostingClassifier

        found = np.unique(train[1])
        rounds = min(ROUNDS, TREES // (1 if len(found) == 2 else len(found)))
        if rounds < FEWEST_ROUNDS:
            return None
        model = HistGradientBoostingClassifier(
            max_iter=rounds, early_stopping=False, random_state=self.seed, **_TREE
        ).fit(*train)

        def staged(x: np.ndarray) -> Iterator[np.ndarray]:
            for probability in model.staged_predict_proba(x):
                yield self._all(probability, found)

        return staged

    def _all(self, probability: np.ndarray, found: np.ndarray) -> np.ndarray:
        """Log-probabilities of all classes, from the probabilities of those that were found."""
        whole = np.full((len(probability), self.classes), LEAST)
        whole[:, found] = np.maximum(probability, LEAST)
        return np.log(whole)


class NumberLearners(Learners):
    """Ridge regression and trees for values.

    Args:
        task: Standardizes the values.
        seed: As ``Learners`` has it.
    """

    linear_name = "ridge"

    def __init__(self, task: Regression, seed: int) -> None:
        super().__init__(seed)
        self.targets = task.targets
        self.mean, self.std = task.mean.numpy(force=True), task.std.numpy(force=True)

    @property
    def prior(self) -> np.ndarray:
        return np.zeros(2 * self.targets)

    def loss(self, output: np.ndarray, target: np.ndarray) -> float:
        """Mean squared error of the standardized values."""
        return float(self._error2(output, target).mean())

    def product(self, outputs: Iterable[np.ndarray]) -> np.ndarray:
        """Of Gaussians, over the standard normal one of the training rows: precisions add up, less
        the prior's, and means are weighted by them.
        """
        outputs = list(outputs)
        means = [output[:, : self.targets] for output in outputs]
        precisions = [np.exp(-output[:, self.targets :]) for output in outputs]
        precision = 1.0 + sum(each - 1.0 for each in precisions)
        weighted = sum(m * p for m, p in zip(means, precisions, strict=True))
        return np.hstack([weighted / precision, -np.log(precision)])

    def _error2(self, output: np.ndarray, target: np.ndarray) -> np.ndarray:
        return (output[:, : self.targets] - (target - self.mean) / self.std) ** 2

    def _finished(self, fitted: Fitted, val: Rows) -> Fitted:
        """With the variance of its error over the validation rows, which is at most the prior's."""
        if not len(val[1]):
            return fitted
        variance = self._error2(fitted.predict(val[0]), val[1]).mean(axis=0)
        spread = np.log(np.clip(variance, 1e-6, 1.0))

        def predict(x: np.ndarray) -> np.ndarray:
            mean = fitted.predict(x)[:, : self.targets]
            return np.hstack([mean, np.broadcast_to(spread, mean.shape)])

        return replace(fitted, predict=predict)

    def _width(self) -> int:
        return self.targets

    def _linear(self, train: Rows) -> Iterator[tuple[str, Predict]]:
        from sklearn.linear_model import Ridge

        standardized = (train[1] - self.mean) / self.std
        for strength in RIDGE:
            model = Ridge(alpha=strength).fit(self._filled(train[0]), standardized)
            yield f"alpha {strength:g}", partial(self._predict, model)

    def _predict(self, model: Any, x: np.ndarray) -> np.ndarray:
        return self._with_prior_variance(model.predict(self._filled(x)))

    def _rounds(self, train: Rows) -> Callable[[np.ndarray], Iterator[np.ndarray]] | None:
        from sklearn.ensemble import HistGradientBoostingRegressor

        standardized = (train[1] - self.mean) / self.std
        models = [
            HistGradientBoostingRegressor(
                max_iter=ROUNDS, early_stopping=False, random_state=self.seed, **_TREE
            ).fit(train[0], column)
            for column in standardized.T
        ]

        def staged(x: np.ndarray) -> Iterator[np.ndarray]:
            for columns in zip(*(model.staged_predict(x) for model in models), strict=True):
                yield self._with_prior_variance(np.stack(columns, axis=1))

        return staged

    def _with_prior_variance(self, mean: np.ndarray) -> np.ndarray:
        mean = np.asarray(mean, np.float64).reshape(-1, self.targets)
        return np.hstack([mean, np.zeros_like(mean)])
