"""The columns of a table as numbers: marks and units of each, decided over the whole table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gaal_fast.data.tables.cells import (
    LARGEST_NUMBER,
    Numbers,
    is_missing_word,
    is_text,
    missing_cells,
    to_numbers,
)
from gaal_fast.data.tables.number_cells import (
    OTHER_MARK,
    PLAIN,
    Evidence,
    NumberStyle,
    as_floats,
    gather,
    is_money,
    parse_number,
    plain_evidence,
    read_cells,
    split_number,
)
from gaal_fast.data.tables.truth import read_words

# Cells of short columns that are turned into numbers in one call.
_CELLS_AT_ONCE = 200_000
# Distinct cells that are looked at before a column is said to hold no numbers, and for its marks.
_PROBE, _SAMPLE = 400, 20_000


@dataclass(frozen=True)
class NumberOptions:
    """What the user declares of a table's numbers; ``None`` is left to be decided."""

    decimal: str | None = None
    thousands: str | None = None
    missing_values: tuple[str, ...] = ()


@dataclass
class _Column:
    """One scanned column; ``style`` and what follows is filled in once the column is asked for.

    Attributes:
        plain: Its numbers in plain notation.
        evidence: What its cells say, None if it has no numbers.
        style: How its numbers are written.
        numbers: Its numbers by that style.
        coded: bool [N], a declared missing value.
        warning: What is doubtful, "" if nothing is.
    """

    plain: Numbers
    evidence: Evidence | None
    style: NumberStyle = PLAIN
    numbers: Numbers | None = None
    coded: np.ndarray | None = None
    warning: str = ""


class NumberColumns:
    """The columns of a table as numbers, each read once; a column's style is decided over the whole
    table.

    A mark such as the one in 1.306 may be a decimal mark or stand between thousands. What decides,
    in this order: what the user declares, the other cells of the column, the other columns of the
    file, and at prediction the styles of the training. Where nothing does, a warning names the
    column.

    Args:
        frame: The table.
        options: What the user declares.
        delimiter: The mark between its fields.
        trained: Column to its style in training; None in training.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        options: NumberOptions | None = None,
        *,
        delimiter: str = ",",
        trained: Mapping[str, NumberStyle] | None = None,
    ):
        self._frame, self._options = frame, options or NumberOptions()
        self._trained, self._delimiter = trained, delimiter
        self._flags = "--data." if trained is None else "--"
        self._words = frozenset(self._options.missing_values)
        self._codes = as_floats(self._options.missing_values)
        self._columns = {name: self._scan(name, plain) for name, plain in self._plain_numbers()}
        votes = [column.evidence.vote() for column in self._columns.values() if column.evidence]
        self._votes = {mark: votes.count(mark) for mark in ".,"}

    @property
    def decimal(self) -> str:
        """The decimal mark of the file: declared, or of most columns that have one."""
        if self._options.decimal:
            return self._options.decimal
        return "," if self._votes[","] > self._votes["."] else "."

    def numbers(self, name: str) -> Numbers:
        """The column as float64 [N], NaN where missing; ``bad`` where a cell is neither."""
        column = self._columns[name]
        if column.numbers is None:
            column.style, column.warning = self._decide(name, column.evidence)
            column.numbers = self._read(self._frame[name], column)
        return column.numbers

    def read_truth(self, name: str) -> Numbers:
        """As ``numbers``, with truth words read as 1 and 0 from now on."""
        numbers = read_words(self._frame[name], self.numbers(name))
        self._columns[name].numbers = numbers
        return numbers

    def style(self, name: str) -> NumberStyle:
        """How the column's numbers are written."""
        self.numbers(name)
        return self._columns[name].style

    def styles(self, names: Iterable[str]) -> dict[str, NumberStyle]:
        """The styles of these columns, those left out whose numbers are plain."""
        return {name: style for name in names if (style := self.style(name)) != PLAIN}

    def warning(self, name: str) -> str:
        """What is doubtful about the column's marks or units; "" if nothing is."""
        self.numbers(name)
        return self._columns[name].warning

    def different_units(self, name: str) -> list[str]:
        """The units of a column whose cells are numbers, but of several units; else nothing."""
        evidence = self._columns[name].evidence
        if evidence is None or len(evidence.affixes) < 2:
            return []
        units = [
            " ".join(filter(None, affix)) or "no unit"
            for affix, _ in evidence.affixes.most_common()
        ]
        # "12A" and "12B" are codes; so are numbers with many different endings.
        return units if len(units) <= 4 and any(len(unit) > 1 for unit in units) else []

    def missing(self, name: str) -> np.ndarray | None:
        """bool [N]: cells without a value, where all others are plain numbers; else None."""
        plain = self._columns[name].plain
        return None if plain.bad.any() else np.isnan(plain.values) & ~plain.infinite

    def others(self, name: str) -> np.ndarray:
        """bool [N]: cells that are no number, but for empty ones and declared missing values."""
        numbers, plain = self.numbers(name), self._columns[name].plain
        if not plain.bad.any() and not numbers.bad.any():
            return np.zeros(len(numbers.values), dtype=bool)
        unread = np.isnan(numbers.values) & ~numbers.infinite
        if unread.any():
            unread[unread] = ~missing_cells(self._frame[name][unread], self._words)
            coded = self._columns[name].coded
            unread &= True if coded is None else ~coded
        return unread

    def _coded(self, values: np.ndarray) -> np.ndarray:
        return np.isin(values, self._codes) if self._codes else np.zeros(len(values), dtype=bool)

    def _plain_numbers(self) -> Iterator[tuple[str, Numbers]]:
        """Each column's numbers in plain notation. Text columns go many at a time: a call costs
        more than a short column.
        """
        texts: list[str] = []
        width = max(1, _CELLS_AT_ONCE // max(1, len(self._frame)))
        for name, dtype in zip(self._frame.columns, self._frame.dtypes, strict=True):
            if pd.api.types.is_object_dtype(dtype):
                texts.append(name)
                continue
            series = self._frame[name]
            if is_text(series) or pd.api.types.is_numeric_dtype(dtype):
                yield name, to_numbers(series, self._words)
            else:
                nothing = np.full(len(series), np.nan)
                yield (
                    name,
                    Numbers(nothing, series.notna().to_numpy(), np.zeros(len(series), dtype=bool)),
                )
        for start in range(0, len(texts), width):
            some = texts[start : start + width]
            cells = pd.Series(
                self._frame[some].to_numpy(dtype=object).ravel(order="F"), dtype=object
            )
            parts = (np.split(part, len(some)) for part in to_numbers(cells, self._words))
            yield from zip(some, map(Numbers, *parts), strict=True)

    def _scan(self, name: str, plain: Numbers) -> _Column:
        series = self._frame[name]
        if not is_text(series):
            return _Column(plain, None)
        cells = series.to_numpy(dtype=object)
        if not plain.bad.any():
            read = cells[~np.isnan(plain.values)]
            return _Column(plain, plain_evidence([cell for cell in read if isinstance(cell, str)]))
        distinct = list(dict.fromkeys(cell for cell in cells if isinstance(cell, str)))
        probe = [cell for cell in _spread(distinct, _PROBE) if not is_missing_word(cell)]
        if not probe or 4 * gather(probe)[1] < len(probe):
            return _Column(plain, None)
        evidence, _ = gather(_spread(distinct, _SAMPLE))
        if not any(evidence.votes().values()) and len(distinct) > _SAMPLE:
            evidence, _ = gather(distinct)
        return _Column(plain, evidence)

    def _decide(self, name: str, evidence: Evidence | None) -> tuple[NumberStyle, str]:
        if evidence is None:
            return PLAIN, ""
        trained = None if self._trained is None else self._trained.get(name, PLAIN)
        affix, warning = _choose_affix(name, evidence, trained)
        decimal, doubt = self._choose_decimal(name, evidence, trained)
        thousands = self._choose_thousands(evidence, decimal)
        seen = evidence.decimal[decimal] or (evidence.unclear[decimal] and thousands != decimal)
        style = NumberStyle(decimal if seen else "", thousands, *affix)
        return style, "; ".join(filter(None, (doubt, warning)))

    def _choose_decimal(
        self, name: str, evidence: Evidence, trained: NumberStyle | None
    ) -> tuple[str, str]:
        own, declared = evidence.vote(), self._declared(evidence)
        if declared:
            if own and own != declared:
                flag = f"{self._flags}{'decimal' if self._options.decimal else 'thousands'}"
                return (
                    own,
                    (
                        f'column "{name}": its numbers cannot be read as {flag} says; read with'
                        f" decimal {_NAMES[own]}"
                    ),
                )
            return declared, ""
        if own:
            return own, ""
        file = "" if self._votes["."] == self._votes[","] else self.decimal
        divided = min(self._votes.values()) > 0
        if not evidence.unclear:
            return file or ".", ""
        if file and not divided:
            if trained is not None and trained.decimal and trained.decimal != file:
                return file, self._doubt(
                    name, evidence, file, "as in the other columns of this file, unlike in training"
                )
            return file, ""
        if trained is not None and (trained.decimal or trained.thousands in (".", ",")):
            decimal = trained.point
            strange = set(evidence.unclear) - {trained.decimal, trained.thousands}
            return decimal, (
                self._doubt(name, evidence, decimal, "by the decimal mark of training")
                if strange
                else ""
            )
        if file:
            return file, self._doubt(name, evidence, file, "as in most columns of the file")
        if trained is not None and len(evidence.unclear) == 1:
            decimal = OTHER_MARK[next(iter(evidence.unclear))]  # the column had whole numbers only
            return decimal, self._doubt(
                name,
                evidence,
                decimal,
                "a whole number as in training, which this file does not settle",
            )
        decimal = self._guess(evidence)
        return decimal, self._doubt(name, evidence, decimal, "which the file does not settle")

    def _declared(self, evidence: Evidence) -> str:
        """The decimal mark that the user's flags leave, "" if they leave both."""
        if self._options.decimal:
            return self._options.decimal
        if self._options.thousands in (".", ","):
            return OTHER_MARK[self._options.thousands]
        if self._options.thousands is not None and len(evidence.unclear) == 1:
            return next(iter(evidence.unclear))
        return ""

    def _guess(self, evidence: Evidence) -> str:
        """Nothing in the file says what 1.306 or 1,306 is. A point is a decimal mark and a comma is
        not, but for files with semicolons; there, numbers below 1000 without any mark speak for
        thousands.
        """
        grouped = evidence.short_integers and not evidence.long_integers
        if self._delimiter != ";" or "," not in evidence.unclear:
            return "," if self._delimiter == ";" and grouped else "."
        return "." if grouped else ","

    def _doubt(self, name: str, evidence: Evidence, decimal: str, why: str) -> str:
        parts = split_number(evidence.example)
        affix = ("", "") if parts is None else parts[3]
        value = parse_number(evidence.example, NumberStyle(decimal, OTHER_MARK[decimal], *affix))
        return (
            f'column "{name}": "{evidence.example}" is read as {value:.15g}, {why} '
            f"({self._flags}decimal or {self._flags}thousands says otherwise)"
        )

    def _choose_thousands(self, evidence: Evidence, decimal: str) -> str:
        if self._options.thousands is not None:
            return self._options.thousands if self._options.thousands != decimal else ""
        seen = evidence.thousands + evidence.unclear
        del seen[decimal]
        return seen.most_common(1)[0][0] if seen else ""

    def _read(self, series: pd.Series, column: _Column) -> Numbers:
        plain, style = column.plain, column.style
        values, bad, infinite = plain.values, plain.bad, plain.infinite
        if column.evidence is not None and (bad.any() or style.point == ","):
            cells = series.to_numpy(dtype=object)
            texts = np.array([isinstance(cell, str) for cell in cells], dtype=bool)
            codes, distinct = pd.factorize(cells[texts])
            values = values.copy()
            values[texts] = read_cells(distinct, style)[codes]
            infinite = np.abs(values) > LARGEST_NUMBER
            values = np.where(infinite, np.nan, values)
            bad = np.isnan(values) & ~infinite
            bad[bad] = ~missing_cells(series[bad], self._words)
        if bad.any():
            bad = bad.copy()
            words = [
                isinstance(cell, str) and is_missing_word(cell)
                for cell in series.to_numpy(dtype=object)[bad]
            ]
            bad[bad] = ~np.array(words)
        column.coded = coded = self._coded(values)
        return Numbers(np.where(coded, np.nan, values), bad & ~coded, infinite)


_NAMES = {".": "point", ",": "comma"}


def _choose_affix(
    name: str, evidence: Evidence, trained: NumberStyle | None
) -> tuple[tuple[str, str], str]:
    """The affix that most numbers have, or the trained one if any has it; a warning where training
    had another.
    """
    if not evidence.affixes:
        return ("", ""), ""
    affix = max(evidence.affixes, key=lambda found: (evidence.affixes[found], found != ("", "")))
    money = [found for found in evidence.affixes if is_money(found, ("", ""))]
    if affix == ("", "") and len(money) == 1:
        affix = money[0]
    if trained is None or trained.affix == affix or is_money(trained.affix, affix):
        return affix, ""
    if evidence.affixes[trained.affix]:
        return trained.affix, ""
    had = f'"{" ".join(filter(None, trained.affix))}"' if any(trained.affix) else "no unit"
    has = f'"{" ".join(filter(None, affix))}"' if any(affix) else "no unit"
    if any(trained.affix) and any(affix):
        return trained.affix, f'column "{name}" has {has} here, had {had} in training'
    return (
        affix,
        (
            f'column "{name}" has {has} here, had {had} in training; its numbers are taken as they'
            " stand"
        ),
    )


def _spread(cells: list[str], count: int) -> list[str]:
    """At most about ``count`` cells, evenly spaced."""
    return cells[:: max(1, len(cells) // count)]
