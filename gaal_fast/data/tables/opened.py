"""A table as its file has it: the cells as they are written, and its columns as numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from gaal_fast.data.reading import TableReading
from gaal_fast.data.tables.numbers import NumberColumns, NumberOptions
from gaal_fast.data.tables.read import TableOptions, open_table


@dataclass(frozen=True, eq=False)
class OpenedTable:
    """A table that has been read, before anything is decided about its columns.

    Attributes:
        path: Its file.
        written: The cells as they are written.
        frame: The same, with cells that are declared to hold no value emptied.
        text: How its text was read.
        options: What is declared of its numbers.
    """

    path: Path | str
    written: pd.DataFrame
    frame: pd.DataFrame
    text: TableReading
    options: NumberOptions

    @classmethod
    def open(
        cls,
        path: Path | str,
        text: TableOptions,
        numbers: NumberOptions,
        warnings: list[str],
        expected: Collection[str] = (),
    ) -> OpenedTable:
        """Reads a table as ``open_table`` does."""
        written, reading = open_table(path, warnings, text, expected)
        frame = without_values(written, numbers.missing_values)
        return cls(path, written, frame, reading, numbers)

    def numbers(self) -> NumberColumns:
        """The columns as numbers, by what the whole table says of their marks."""
        return NumberColumns(self.frame, self.options, delimiter=self.text.delimiter)

    def reading(self, numeric: Iterable[str], numbers: NumberColumns) -> TableReading:
        """How the table was read, with the marks of its numeric columns."""
        styles = numbers.styles(numeric)
        found = [numbers.style(name) for name in numeric]
        decimals = (
            [style.decimal for style in found if style.decimal]
            or [style.point for style in found if style.thousands in (".", ",")]
            or [numbers.decimal]
        )
        decimal = self.options.decimal or max(decimals, key=decimals.count)
        marks = [style.thousands for style in found if style.thousands not in ("", decimal)]
        thousands = self.options.thousands
        return replace(
            self.text,
            decimal=decimal,
            thousands=max(marks, key=marks.count, default="") if thousands is None else thousands,
            missing_values=self.options.missing_values,
            numbers=styles,
        )


def without_values(frame: pd.DataFrame, missing_values: tuple[str, ...]) -> pd.DataFrame:
    """The table with the cells that are declared to hold no value emptied; a number among them is
    emptied however it is written in typed columns.
    """
    if not missing_values:
        return frame
    texts = set(missing_values)
    columns = {}
    for name in frame.columns:
        series = frame[name]
        cells = series.to_numpy(dtype=object)
        empty = np.array([str(cell).strip() in texts for cell in cells], dtype=bool)
        columns[name] = series.astype(object).where(~empty, None) if empty.any() else series
    return pd.DataFrame(columns)
