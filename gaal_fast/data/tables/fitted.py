"""What a preprocessor has learned, as plain numbers: enough to repeat it without scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gaal_fast.data.tables.cells import LARGEST_NUMBER
from gaal_fast.data.tables.dates import FIRST_YEAR, LAST_YEAR, date_parts
from gaal_fast.data.tables.schema import TableSchema

MISSING_LEVEL = "(missing)"
# What stands for it among the codes of levels.
MISSING_CODE = -1
# Standard deviations; a value seen at prediction only may be any number of them away and must still
# fit float32.
LARGEST_FEATURE = 1e6


@dataclass(frozen=True, eq=False)
class FittedTable:
    """A fitted preprocessing of Q quantities (numbers, then dates as days) and C categories to D
    features: P scaled numbers, then M indicators of missing cells, then L levels.

    Attributes:
        quantities: Q columns, the numeric ones and then those of dates.
        dates: How many of the last of them are dates.
        low: float64 [Q], what is below counts as missing.
        high: float64 [Q], what is above does.
        parts: int64 [P - Q], the repeating parts of dates that are used, as positions among the
            seven of ``date_parts`` of the first date column, then those of the second.
        median: float64 [P], in place of a missing value.
        mean: float64 [P].
        scale: float64 [P], the standard deviation.
        indicators: int64 [M], the quantities whose missing cells are a feature.
        levels: Categorical column to its levels; the code of a level is its position.
        places: For each categorical column int64 [levels + 2]: which of the L features is one for a
            level, for a missing cell and for a level that was never seen; -1 for none.
        n_levels: L.
    """

    quantities: tuple[str, ...]
    dates: int
    low: np.ndarray
    high: np.ndarray
    parts: np.ndarray
    median: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    indicators: np.ndarray
    levels: dict[str, list[str]]
    places: list[np.ndarray]
    n_levels: int

    @property
    def n_features(self) -> int:
        """D."""
        return len(self.mean) + len(self.indicators) + self.n_levels

    @classmethod
    def of(cls, schema: TableSchema, steps: Mapping[str, Any]) -> FittedTable:
        """From the steps of a fitted ``ColumnTransformer``, as ``TablePreprocessor.fit`` names
        them.
        """
        quantities = schema.numeric + schema.dates
        names = [part for name in schema.dates for part in part_names(name)]
        used: list[str] = []
        median = mean = scale = np.zeros(0)
        if "numbers" in steps:
            impute, standardize = (steps["numbers"].named_steps[k] for k in ("impute", "scale"))
            used = list(impute.feature_names_in_)[len(quantities) :]
            median, mean, scale = impute.statistics_, standardize.mean_, standardize.scale_
        first, last = _days(FIRST_YEAR), np.nextafter(_days(LAST_YEAR + 1), 0.0)
        low = [-LARGEST_NUMBER] * len(schema.numeric) + [first] * len(schema.dates)
        high = [LARGEST_NUMBER] * len(schema.numeric) + [last] * len(schema.dates)
        indicators = steps["missing"].features_ if "missing" in steps else []
        levels, places, n_levels = _levels(schema, steps.get("levels"))
        return cls(
            quantities=quantities,
            dates=len(schema.dates),
            low=np.asarray(low, dtype=np.float64),
            high=np.asarray(high, dtype=np.float64),
            parts=np.asarray([names.index(name) for name in used], dtype=np.int64),
            median=np.asarray(median, dtype=np.float64),
            mean=np.asarray(mean, dtype=np.float64),
            scale=np.asarray(scale, dtype=np.float64),
            indicators=np.asarray(indicators, dtype=np.int64),
            levels=levels,
            places=places,
            n_levels=n_levels,
        )


def part_names(name: str) -> list[str]:
    """What ``date_parts`` calls the repeating parts of a date column, in its order."""
    return list(date_parts(np.zeros(0), name))


def _days(year: int) -> float:
    """The first day of a year, in days since 1970-01-01."""
    day = np.datetime64(f"{year:04d}-01-01", "D")
    return float((day - np.datetime64("1970-01-01", "D")).astype(np.int64))


def _levels(
    schema: TableSchema, encoder: Any
) -> tuple[dict[str, list[str]], list[np.ndarray], int]:
    """The levels of each categorical column, where each goes, and how many features they are."""
    levels: dict[str, list[str]] = {}
    places: list[np.ndarray] = []
    start = 0
    if encoder is None:
        return levels, places, start
    rare = (
        encoder.infrequent_categories_
        if encoder.min_frequency
        else [None] * len(schema.categorical)
    )
    for name, known, folded in zip(schema.categorical, encoder.categories_, rare, strict=True):
        few = set() if folded is None else set(folded)
        kept = [level for level in known if level not in few]
        # Levels with few rows share the last feature, which one that was never seen gets too.
        other = start + len(kept) if few else -1
        place = {level: start + i for i, level in enumerate(kept)} | dict.fromkeys(few, other)
        missing = place.get(MISSING_LEVEL, other)
        places.append(np.array([*(place[k] for k in known), missing, other], dtype=np.int64))
        levels[name] = [str(level) for level in known]
        start += len(kept) + bool(few)
    return levels, places, start
