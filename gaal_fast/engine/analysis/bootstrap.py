"""Bootstrap intervals over the rows of a part (Efron and Tibshirani 1993, percentile method).

A score is a function of means over rows, so one weighing of the rows gives all scores of one
resample. Equal numbers of rows are resampled alike, so that two predictions of the same rows are
compared in pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

DRAWS, FEWEST_DRAWS = 1000, 100
LEVEL = 95  # percent
_CELLS = 2_000_000  # rows, or means, times draws in memory at once
_WORK = 20_000_000  # rows times draws in all; beyond, there are fewer draws
_TAILS = ((100 - LEVEL) / 2, (100 + LEVEL) / 2)

Interval = tuple[float, float]


class Statistics(NamedTuple):
    """Scores as a function of means over rows.

    Attributes:
        values: ``[n, q]`` numbers of each row, an array or a sparse one.
        scores: Turns means ``[..., q]`` into scores ``[...]`` by name.
    """

    values: Any
    scores: Callable[[np.ndarray], Mapping[str, np.ndarray]]

    def of_all_rows(self) -> dict[str, float]:
        """The scores themselves."""
        rows = self.values.shape[0]
        means = np.asarray(np.ones((1, rows)) @ self.values) / rows
        return {name: float(value[0]) for name, value in self.scores(means).items()}


def draws(rows: int) -> int:
    """How often so many rows are resampled."""
    return int(min(DRAWS, max(FEWEST_DRAWS, _WORK // max(rows, 1))))


def intervals(statistics: Statistics) -> dict[str, Interval]:
    """The interval of each score at ``LEVEL`` percent."""
    return {name: _interval(values) for name, values in _resampled(statistics).items()}


def paired_interval(first: Statistics, second: Statistics, score: str) -> Interval:
    """The interval of a difference, first minus second, over the same rows."""
    return _interval(_resampled(first)[score] - _resampled(second)[score])


def _interval(values: np.ndarray) -> Interval:
    known = values[np.isfinite(values)]
    if not known.size:
        return (np.nan, np.nan)
    low, high = np.percentile(known, _TAILS)
    return float(low), float(high)


def _resampled(statistics: Statistics) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {}
    rows, width = statistics.values.shape
    for times in _times_drawn(rows, width):
        means = np.asarray(times @ statistics.values) / rows
        for name, values in statistics.scores(means).items():
            found.setdefault(name, []).append(values)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _times_drawn(rows: int, width: int) -> Iterator[np.ndarray]:
    """Float64 ``[draws, rows]`` in blocks: how often a resample has each row.

    Args:
        rows: Of the part.
        width: Means over them, which a block has in memory too.
    """
    rng, left = np.random.default_rng(0), draws(rows)
    while left:
        count = min(left, max(1, _CELLS // max(rows, width)))
        chosen = rng.integers(0, rows, (count, rows)) + rows * np.arange(count)[:, None]
        times = np.bincount(chosen.ravel(), minlength=count * rows)
        yield times.reshape(count, rows).astype(np.float64)
        left -= count
