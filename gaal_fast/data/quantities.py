"""A target that is a quantity: when it is one, and its values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from gaal_fast.data.issues import DataIssue, warn
from gaal_fast.data.tables.cells import holds_codes, is_text
from gaal_fast.data.tables.number_cells import NumberStyle
from gaal_fast.data.tables.numbers import NumberColumns
from gaal_fast.data.targets import NO_LABEL, NO_LABEL_REASON
from gaal_fast.errors import UserError

TaskName = Literal["classification", "regression"]
# Up to so many different numbers are classes, and whole numbers with so many rows each as well.
MOST_CLASSES, ROWS_PER_CLASS = 20, 20
_STRATA, _ROWS_PER_STRATUM = 10, 10


@dataclass(frozen=True, eq=False)
class Quantity:
    """A numeric target.

    Attributes:
        values: float64 [N] as the table has them, NaN where there is none.
        issues: The rows without a value.
    """

    values: np.ndarray
    issues: list[DataIssue]

    @property
    def strata(self) -> np.ndarray:
        """int64 [N], tenths of the rows by value, -1 without one: parts of a split that have them
        in proportion are alike. Fewer than tenths where there are few rows.
        """
        known = ~np.isnan(self.values)
        count = int(min(_STRATA, max(1, known.sum() // _ROWS_PER_STRATUM)))
        borders = np.quantile(self.values[known], np.arange(1, count) / count)
        strata = np.searchsorted(borders, self.values, side="right")
        # A value that many rows share can leave a stratum empty.
        strata[known] = np.unique(strata[known], return_inverse=True)[1]
        return np.where(known, strata, NO_LABEL)


def decide_task(
    series: pd.Series,
    asked: Literal["auto", "classification", "regression"],
    numbers: NumberColumns,
) -> tuple[TaskName, str]:
    """Whether a target is a quantity, and what is to be said of it ("" where nothing was decided).

    A target of numbers is a quantity where it has more than 20 different ones, or nearly as many as
    rows. Whole numbers are classes even so, if they have 20 rows each or more, count up from 0 or 1
    without a gap, or are codes such as 007.

    Args:
        series: The target column.
        asked: What the user says.
        numbers: The columns of the table as numbers.
    """
    if asked != "auto":
        return asked, ""
    name = str(series.name)
    if not pd.api.types.is_numeric_dtype(series.dtype) and not is_text(series):
        return "classification", ""
    values = numbers.numbers(name).values
    known = values[~np.isnan(values)]
    if not known.size or numbers.others(name).any() or _has_codes(series):
        return "classification", ""
    distinct = np.unique(known)
    words = f'"{name}" has {distinct.size} different numbers in {known.size} rows'
    if _is_quantity(distinct, known.size):
        return "regression", f"regression: {words} (--data.task classification makes each a class)"
    if distinct.size <= 2:
        return "classification", ""
    return "classification", f"classification: {words} (--data.task regression predicts the number)"


def _has_codes(series: pd.Series) -> bool:
    cells = series.dropna()
    return holds_codes(cells) or bool(cells.map(lambda cell: isinstance(cell, bool)).any())


def _is_quantity(distinct: np.ndarray, rows: int) -> bool:
    many = distinct.size > MOST_CLASSES
    if (distinct % 1).any():
        return many or (distinct.size > 2 and 2 * distinct.size > rows)
    counts_up = distinct[0] in (0, 1) and distinct[-1] - distinct[0] == distinct.size - 1
    return many and not counts_up and rows < ROWS_PER_CLASS * distinct.size


def read_quantity(series: pd.Series, numbers: NumberColumns, warnings: list[str]) -> Quantity:
    """The values of a numeric target; cells that are no numbers are listed, and counted in
    ``warnings``.

    Raises:
        UserError: There is no number in the column.
    """
    name = str(series.name)
    found, others = numbers.numbers(name), numbers.others(name)
    if np.isnan(found.values).all():
        bad = np.flatnonzero(found.bad)
        held = f' (row {bad[0] + 1} holds "{series.iloc[bad[0]]}")' if len(bad) else ""
        raise UserError(f'target column "{name}" has no numbers{held}')
    if numbers.warning(name):
        warn(warnings, numbers.warning(name))
    if others.any():
        row = int(np.flatnonzero(others)[0])
        warn(
            warnings,
            f'target column "{name}": {int(others.sum())} values are no numbers (row {row + 1}'
            f' holds "{series.iloc[row]}"); those rows are left out',
        )
    issues = [
        DataIssue(int(row), name, "", "no number: row left out" if others[row] else NO_LABEL_REASON)
        for row in np.flatnonzero(np.isnan(found.values))
    ]
    return Quantity(found.values, issues)


def read_quantity_again(
    frame: pd.DataFrame,
    column: str,
    styles: Mapping[str, NumberStyle],
    name: str,
    delimiter: str,
    warnings: list[str],
) -> Quantity:
    """The values of a labelled table whose target was a quantity in training.

    Args:
        frame: The table.
        column: Its target column.
        styles: How the numbers of the training table were written.
        name: The target column of the training.
        delimiter: The mark between the fields of the table.
        warnings: Counts the rows that cannot be scored.
    """
    trained = {column: styles[name]} if name in styles else {}
    numbers = NumberColumns(frame, delimiter=delimiter, trained=trained)
    quantity = read_quantity(frame[column], numbers, warnings)
    empty = int(np.isnan(quantity.values).sum())
    if empty:
        warn(
            warnings,
            f'target column "{name}": {empty} of {len(frame)} rows have no number and are not'
            " scored",
        )
    return quantity
