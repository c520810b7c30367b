"""A table's feature columns, each parsed once: as numbers, days or the texts of levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from gaal_fast.data.issues import some, warn
from gaal_fast.data.reading import TableReading
from gaal_fast.data.tables.cells import (
    FEW_CELLS,
    Distinct,
    first_cells,
    is_none,
    is_text,
    missing_cells,
    text_of,
    to_texts,
)
from gaal_fast.data.tables.date_cells import ISO, DateOrder, example
from gaal_fast.data.tables.dates import DateChoice, choose_format, to_days
from gaal_fast.data.tables.number_cells import PLAIN
from gaal_fast.data.tables.numbers import NumberColumns, NumberOptions
from gaal_fast.data.tables.read import find_column
from gaal_fast.data.tables.schema import TableSchema
from gaal_fast.data.tables.truth import is_boolean, unify
from gaal_fast.errors import UserError

_LEVELS = 20
# Columns that are told one by one of the cells in them that are no numbers.
_TOLD_COLUMNS = 20


class Column:
    """One column while it is looked at: whatever is read of its cells is read once."""

    def __init__(self, series: pd.Series, name: str, numbers: NumberColumns):
        self.series, self.name, self.numbers = series, name, numbers

    @cached_property
    def missing(self) -> np.ndarray:
        """bool [N]: cells without a value."""
        plain = self.numbers.missing(self.name)
        if plain is not None:
            return plain
        if self._distinct is None:
            return missing_cells(self.series)
        return is_none(self.texts)

    @cached_property
    def cells(self) -> pd.Series:
        """The cells that have a value."""
        return self.series[~self.missing] if self.missing.any() else self.series

    @cached_property
    def texts(self) -> np.ndarray:
        """object [N] of str, None where missing."""
        if self._distinct is None:
            return to_texts(self.series)
        return self._distinct.each(text_of, None)

    @cached_property
    def has_few_levels(self) -> bool:
        """A cheap look: a boolean column does not have twenty different cells among its first."""
        return len(first_cells(self.series)) < _LEVELS

    @cached_property
    def is_boolean(self) -> bool:
        """Whether its texts are spellings of true and false."""
        return self.has_few_levels and is_boolean(self.texts)

    @cached_property
    def levels(self) -> np.ndarray:
        """object [N] of str, None where missing: the levels of a category."""
        return unify(self.texts) if self.is_boolean else self.texts

    def dates(self, order: DateOrder) -> DateChoice | None:
        """How it is to be read as dates, None if it holds none."""
        return choose_format(self.series, order, self._distinct_of)

    def _distinct_of(self) -> Distinct:
        return Distinct.of(self.series) if self._distinct is None else self._distinct

    @cached_property
    def _distinct(self) -> Distinct | None:
        """None for a short or a typed column, where finding the different cells does not pay."""
        if len(self.series) <= FEW_CELLS or not is_text(self.series):
            return None
        return Distinct.of(self.series)


@dataclass(frozen=True, eq=False)
class TypedTable:
    """The feature columns of N rows.

    Attributes:
        schema: What the columns mean.
        rows: N.
        numbers: Numeric and date columns, float64 [N]; dates are days since 1970-01-01. NaN where
            missing.
        levels: Categorical columns, object [N] of str, None where missing.
        absent: Feature columns that the table did not have; they are missing in every row.
        empty: Feature columns of the table without a single value.
    """

    schema: TableSchema
    rows: int
    numbers: Mapping[str, np.ndarray]
    levels: Mapping[str, np.ndarray]
    absent: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()

    @property
    def present(self) -> np.ndarray:
        """bool [N]: rows with a value in at least one feature column."""
        present = np.zeros(self.rows, dtype=bool)
        for values in self.numbers.values():
            present |= ~np.isnan(values)
        for texts in self.levels.values():
            present |= ~is_none(texts)
        return present

    def take(self, rows: np.ndarray) -> TypedTable:
        """Some of the rows (int64), in this order; -1 is a row without any value."""
        none = rows < 0
        numbers = {name: values[rows] for name, values in self.numbers.items()}
        levels = {name: texts[rows] for name, texts in self.levels.items()}
        if none.any():
            numbers = {name: np.where(none, np.nan, values) for name, values in numbers.items()}
            levels = {name: np.where(none, None, texts) for name, texts in levels.items()}
        return TypedTable(self.schema, len(rows), numbers, levels, self.absent, self.empty)

    @classmethod
    def read(
        cls,
        frame: pd.DataFrame,
        schema: TableSchema,
        trained: TableReading | None = None,
        options: NumberOptions | None = None,
        *,
        delimiter: str = ",",
        source: object = "the table",
        warnings: list[str] | None = None,
    ) -> TypedTable:
        """The columns of a schema from another table, whose columns may be in any order.

        Args:
            frame: The table; further columns are not read.
            schema: Of the training.
            trained: How the training table was read.
            options: What is declared of the numbers of this table.
            delimiter: The mark between its fields.
            source: The table, for messages.
            warnings: Gets what counts as missing: absent columns, cells that are no numbers or no
                dates of the trained form.

        Raises:
            UserError: None of the columns is there, or a numeric column holds no number at all.
        """
        warnings = [] if warnings is None else warnings
        found = {name: find_column(frame.columns, name) for name in schema.features}
        there = {name: column for name, column in found.items() if column is not None}
        absent = tuple(name for name, column in found.items() if column is None)
        if absent and not there:
            raise UserError(
                f"{source} has none of the columns the model was trained on ({some(absent)}):"
                " another data set?"
            )
        numbers = _read_numbers(
            frame, schema, trained or TableReading(), options, there, delimiter, warnings
        )
        if absent:
            warn(
                warnings,
                f"{source} lacks columns the model was trained on: {some(absent)}; they count as"
                " missing in every row",
            )
        nothing, none = np.full(len(frame), np.nan), np.full(len(frame), None, dtype=object)
        for name in schema.dates:
            if name in there:
                numbers[name] = _read_dates(frame[there[name]], schema, name, warnings)
        levels = {
            name: read_levels(frame[there[name]], schema, name)
            for name in schema.categorical
            if name in there
        }

        def is_empty(name: str, series: pd.Series) -> bool:
            if name in levels:
                return bool(is_none(levels[name]).all())
            # Of cells that are no dates has been told already.
            dates = name in schema.dates
            return bool(missing_cells(series).all() if dates else np.isnan(numbers[name]).all())

        return cls(
            schema,
            len(frame),
            {name: numbers.get(name, nothing) for name in schema.numeric + schema.dates},
            {name: levels.get(name, none) for name in schema.categorical},
            absent,
            tuple(name for name, column in there.items() if is_empty(name, frame[column])),
        )


def read_levels(series: pd.Series, schema: TableSchema, name: str) -> np.ndarray:
    """object [N] of str, None where missing: the levels of a categorical column, every spelling of
    true and false as one.
    """
    texts = to_texts(series)
    return unify(texts) if name in schema.booleans else texts


def _read_numbers(
    frame: pd.DataFrame,
    schema: TableSchema,
    trained: TableReading,
    options: NumberOptions | None,
    there: Mapping[str, str],
    delimiter: str,
    warnings: list[str],
) -> dict[str, np.ndarray]:
    """The numeric columns of a table to predict, in whatever form this file has them.

    A cell that is no number is missing, with a warning. Raises UserError if a column has none at
    all.
    """
    names = {there[name]: name for name in schema.numeric if name in there}
    styles = {column: trained.numbers.get(name, PLAIN) for column, name in names.items()}
    numbers = NumberColumns(frame, options, delimiter=delimiter, trained=styles)
    for column, name in names.items():
        if pd.api.types.is_datetime64_any_dtype(frame[column].dtype):
            raise UserError(f'column "{name}" is numeric but holds dates')
        found = numbers.read_truth(column) if name in schema.booleans else numbers.numbers(column)
        if found.bad.sum() > 1 and not np.isfinite(found.values).any():
            row = int(np.flatnonzero(found.bad)[0])
            detail = numbers.warning(column)
            raise UserError(
                f'column "{name}" is numeric but row {row + 1} holds "{frame[column].iloc[row]}"'
                + (f" ({detail})" if detail else ", and no other row a number")
            )
    warn_of_numbers(frame, names, numbers, warnings)
    return {name: numbers.numbers(column).values for column, name in names.items()}


def _read_dates(
    series: pd.Series, schema: TableSchema, name: str, warnings: list[str]
) -> np.ndarray:
    """float64 [N], days since 1970 of a date column, NaN where missing or no date; says how many
    are none in ``warnings``.
    """
    form = schema.date_formats.get(name, ISO)
    numbers = to_days(series, form)
    bad = np.flatnonzero(numbers.bad)
    if len(bad):
        present = len(series) - int(missing_cells(series).sum())
        warn(
            warnings,
            f'column "{name}": {len(bad)} of {present} values are no dates like'
            f' {example(form)} (row {bad[0] + 1} holds "{series.iloc[bad[0]]}"); taken as missing',
        )
    return numbers.values


def warn_of_numbers(
    frame: pd.DataFrame, names: Mapping[str, str], numbers: NumberColumns, warnings: list[str]
) -> None:
    """Tells which cells of numeric columns count as missing although they are not empty, and what
    is doubtful about others.

    Args:
        frame: The table.
        names: Columns of ``frame`` to how they are called in messages.
        numbers: The columns as numbers.
        warnings: Gets the lines.
    """
    told = []
    for column, name in names.items():
        found, others = numbers.numbers(column), numbers.others(column)
        doubt, count = numbers.warning(column), int(others.sum())
        if doubt:
            warn(warnings, doubt)
        if count:
            row = int(np.flatnonzero(others)[0])
            present = count + int((~np.isnan(found.values) | found.infinite).sum())
            told.append(
                f'column "{name}": {count} of {present} values are no numbers (row {row + 1} holds'
                f' "{frame[column].iloc[row]}"); taken as missing'
            )
        if found.infinite.any():
            warn(
                warnings,
                f'column "{name}": {int(found.infinite.sum())} infinite values (beyond 1e100) count'
                " as missing",
            )
    for line in told[:_TOLD_COLUMNS]:
        warn(warnings, line)
    if len(told) > _TOLD_COLUMNS:
        warn(
            warnings,
            f"{len(told) - _TOLD_COLUMNS} more columns hold values that are no numbers; taken as"
            " missing",
        )
