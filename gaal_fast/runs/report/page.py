"""What a page of the report is made of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from gaal_fast.runs.folder import CEILINGS, RunFolder
from gaal_fast.runs.naming import loaded

# Columns that hold names.
_TEXTS = frozenset(
    {
        *("part", "modality", "score", "class", "true", "predicted", "column", "stage", "first"),
        *("second", "level", "topic", "message", "method", "phase"),
        *("name", "inputs", "learner", "features", "chosen"),
    }
)


@dataclass(frozen=True)
class Number:
    """A number on the page, with the place it was read from.

    Attributes:
        value: As the file has it.
        text: As a reader sees it.
        source: The file.
        row: Of a CSV file, from 0.
        column: Of a CSV file; the dotted key of a JSON file.
    """

    value: float
    text: str
    source: str
    row: int | None
    column: str


@dataclass(frozen=True)
class Range:
    """A number with its interval, or with a standard deviation."""

    value: Number
    low: Number | None = None
    high: Number | None = None
    std: Number | None = None

    @property
    def ends(self) -> tuple[float | None, float | None]:
        """Of its interval, or of one standard deviation around the number; None for neither."""
        if self.low is not None and self.high is not None:
            return self.low.value, self.high.value
        if self.std is not None:
            return self.value.value - self.std.value, self.value.value + self.std.value
        return None, None


@dataclass(frozen=True)
class SimpleModel(Range):
    """What a simple model reaches, and the modality, or several, that it was fitted on."""

    inputs: str = ""


@dataclass(frozen=True)
class Link:
    """A relative path to another file of the run."""

    text: str
    path: str


@dataclass(frozen=True)
class Share:
    """A count in a table whose shade is a share of its row."""

    count: Number
    share: float


Cell = str | Number | Range | Link | Share | None
Words = Sequence[str | Number]


@dataclass(frozen=True)
class Table:
    """A table; the first column names its rows.

    Attributes:
        head: Titles of the columns.
        rows: Cells, None for an empty one.
        caption: What it shows.
        matrix: Whether it is a matrix of counts.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str
    matrix: bool = False

    @property
    def texts(self) -> set[int]:
        """The columns that hold words, which stand to the left."""
        return {
            place
            for place in range(len(self.head))
            if self.rows and all(isinstance(row[place], str | Link) for row in self.rows)
        }


@dataclass(frozen=True)
class Figure:
    """A chart: SVG text that was made here, and what it shows."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Example:
    """A row of the user's data, with small images as base64 by modality."""

    title: str
    words: Words
    images: Sequence[tuple[str, str]]
    cells: Sequence[tuple[str, str]]


@dataclass
class Section:
    """A part of the page with a heading.

    Attributes:
        key: Its anchor.
        title: Its heading.
        lead: What it says, in a sentence or two.
        figures: Charts.
        tables: Below the charts.
        examples: Rows of the user's data.
        files: The files that it shows.
    """

    key: str
    title: str
    lead: Words = ()
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    files: Sequence[str] = ()


@dataclass
class Page:
    """A whole report.

    Attributes:
        title: Of the page.
        about: What was trained, in a line.
        verdict: The result in one sentence.
        first: The scores that the reader sees first.
        alerts: Level and message, the most serious ones first; None where the run keeps none.
        sections: In order.
        facts: Names and values at the end.
    """

    title: str
    about: str
    verdict: Words
    first: Section
    alerts: list[tuple[str, str]] | None
    sections: list[Section]
    facts: list[tuple[str, str]]


class Source:
    """A CSV file of a run folder whose numbers know where they stand.

    Args:
        folder: The run.
        name: The file.
    """

    def __init__(self, folder: RunFolder, name: str) -> None:
        self.name = name
        # As text first: a class may be called 007 or NA, and Python reads a number to the last bit.
        frame = pd.read_csv(folder.file(name), dtype=str, keep_default_na=False)
        self.frame = frame.rename(columns=loaded)
        for column in self.frame:
            cells = self.frame[column]
            self.frame[column] = cells.where(cells != "", None) if column in _TEXTS else [
                float(cell) if cell else math.nan for cell in cells
            ]  # fmt: skip

    @classmethod
    def of(cls, folder: RunFolder, name: str) -> Source | None:
        """None where the folder has no such file, or one without rows."""
        if not folder.file(name).is_file():
            return None
        try:
            found = cls(folder, name)
        except (ValueError, pd.errors.ParserError):  # cut off, or written by hand
            return None
        return None if found.frame.empty else found

    def rows(self, **wanted: object) -> Iterator[int]:
        """The rows with these values, in order."""
        for row, cells in enumerate(self.frame.to_dict("records")):
            if all(cells.get(name) == value for name, value in wanted.items()):
                yield row

    def cell(self, row: int, column: str) -> Any:
        """What a cell holds; None for an empty one or an absent column."""
        if column not in self.frame:
            return None
        value = self.frame[column].iloc[row]
        return None if value is None or value != value else value

    def number(self, row: int, column: str, form: str = ".3f") -> Number | None:
        """A number to show, in Python's format; None for an empty cell."""
        value = self.cell(row, column)
        if value is None:
            return None
        return Number(float(value), shown(value, form), self.name, row, column)

    def range(self, row: int, column: str, form: str = ".3f") -> Range | None:
        """A number with the interval that stands beside it."""
        value = self.number(row, column, form)
        if value is None:
            return None
        low, high = self.number(row, "low", form), self.number(row, "high", form)
        return Range(value, low, high) if low is not None and high is not None else Range(value)


def ceilings_of(folder: RunFolder, part: str) -> dict[str, SimpleModel]:
    """What simple models reach on a part of the rows, by name, where they were fitted."""
    source = Source.of(folder, CEILINGS)
    if source is None:
        return {}
    return {
        str(source.cell(row, "name")): SimpleModel(value, inputs=str(source.cell(row, "inputs")))
        for row in range(len(source.frame))
        if (value := source.number(row, part)) is not None
    }


PLAIN = "plain"  # a form for numbers of any unit


def shown(value: float, form: str) -> str:
    """A number in Python's format, with a minus sign in place of a hyphen and no minus zero.

    ``PLAIN`` is four digits, or all before the point, without an exponent where that can be.
    """
    if form == PLAIN:
        form = ".0f" if 1e3 <= abs(value) < 1e9 else ".4g"
    text = format(value, form)
    if text.startswith("-") and not any(digit in text for digit in "123456789"):
        text = text[1:]
    return text.replace("-", "\N{MINUS SIGN}")
