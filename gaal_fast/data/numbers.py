"""Numbers as people write them: the marks and units of each column, decided over the whole table."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pandas as pd

from gaal_fast.data.cells import (
    LARGEST_NUMBER,
    Numbers,
    is_missing_word,
    is_text,
    missing_cells,
    to_numbers,
)
from gaal_fast.data.truth import read_words

_OTHER = {".": ",", ",": "."}
# Distinct cells that are looked at before a column is said to hold no numbers, and for its marks.
_PROBE, _SAMPLE = 400, 20_000
# Cells of short columns that are turned into numbers in one call.
_CELLS_AT_ONCE = 200_000
_LARGEST_AFFIX = 24

_SPACES = (
    "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
)
_INVISIBLE = "\u200b\u200e\u200f\u202a\u202c\u2066\u2069\ufeff"
_FOREIGN = (
    {ord(mark): "-" for mark in "\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d"}
    | {ord(mark): "'" for mark in "\u2019\u2018\u02bc\u066c\uff07"}
    | {ord(mark): " " for mark in _SPACES}
    | {ord(mark): None for mark in _INVISIBLE}
    | {0xFF0E: ".", 0x066B: ".", 0xFF0C: ",", 0xFF05: "%", 0xFF0B: "+"}
    | {first + digit: str(digit) for first in (0xFF10, 0x0660, 0x06F0) for digit in range(10)}
)

_SYMBOLS = "".join(
    chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Sc"
)
_CURRENCIES = (
    "USD|EUR|GBP|JPY|CNY|RMB|CHF|SEK|NOK|DKK|ISK|PLN|CZK|HUF|RON|BGN|RUB|UAH|TRY|INR|KRW|BRL|MXN|ARS|CLP|COP|PEN|ZAR|"
    "AUD|NZD|CAD|SGD|HKD|TWD|THB|IDR|MYR|PHP|VND|ILS|AED|SAR|EGP|NGN|KES|PKR"
)
_PREFIX = rf"(?:[A-Za-z]{{0,3}}[{_SYMBOLS}]|(?i:{_CURRENCIES})(?![A-Za-z])|(?:Rs|S?Fr|[Kk]r)\b\.?)"
_LETTER = r"[^\W\d_]"
_SUFFIX = (
    rf"(?:{_LETTER}|[%‰°″′\"{_SYMBOLS}])(?:{_LETTER}|[%°²³µ·/^."
    rf" {_SYMBOLS}]|(?<=[^\W\d_^])[23](?!\d))*"
)
_CELL = re.compile(
    rf"(?P<open>\()? ?(?P<sign>[+-])? ?(?P<prefix>{_PREFIX})? ?(?P<inner>[+-])? ?"
    r"(?P<digits>\d(?:[\d.,' ]*\d)?(?:\.(?![^\W\d_]))?|[.,]\d+)(?P<power>[eE][+-]?\d+)?"
    rf" ?(?P<after>-)? ?(?P<suffix>{_SUFFIX})? ?(?P<last>-)? ?(?P<close>\))?"
)
_CURRENCY = re.compile(rf"{_PREFIX}|zł|Kč|Ft|лв|руб|₽|元|円")
_SIGNS = {"EUR": "€", "USD": "$", "US$": "$", "GBP": "£", "JPY": "¥", "INR": "₹"}
_ORDINAL = re.compile(r"st|nd|rd|th")
# A group of three after each mark; India writes 12,34,567.
_GROUPED = re.compile(r"\d{1,3}(?:([.,' ])\d{3})(?:\1\d{3})*|\d{1,2}(?:,\d{2})+,\d{3}")
_UNCLEAR = re.compile(r"[1-9]\d{0,2}[.,]\d{3}")
# In a column of plain numbers: a point that cannot be a mark between thousands.
_CLEAR_POINT = re.compile(
    r"^[ \t]*[+-]?(?:0\d*|\d{4,})?\.\d|\.(?:\d{0,2}|\d{4,})(?:[ \t]*$|[eE])", re.MULTILINE
)


@dataclass(frozen=True)
class NumberStyle:
    """How the numbers of a column are written.

    decimal: ".", "," or "" where no cell has decimals. thousands: the mark between groups of
    digits, "" for none. prefix, suffix: currency or unit beside each number.
    """

    decimal: str = "."
    thousands: str = ""
    prefix: str = ""
    suffix: str = ""

    @property
    def point(self) -> str:
        """The mark a cell's decimals would follow, were there any."""
        return self.decimal or _OTHER.get(self.thousands, ".")

    @property
    def affix(self) -> tuple[str, str]:
        return self.prefix, self.suffix


PLAIN = NumberStyle()


@dataclass(frozen=True)
class NumberOptions:
    """What the user declares of a table's numbers; ``None`` is left to be decided."""

    decimal: str | None = None
    thousands: str | None = None
    missing_values: tuple[str, ...] = ()


@dataclass
class _Evidence:
    """What the cells of one column say about its marks.

    decimal, thousands: distinct cells in which a mark can only be the one or the other.
    unclear: cells such as 1.306, by their mark. affixes: number of cells by (prefix, suffix).
    """

    decimal: Counter[str] = field(default_factory=Counter)
    thousands: Counter[str] = field(default_factory=Counter)
    unclear: Counter[str] = field(default_factory=Counter)
    affixes: Counter[tuple[str, str]] = field(default_factory=Counter)
    example: str = ""
    short_integers: bool = False
    long_integers: bool = False

    def votes(self) -> dict[str, int]:
        """For either decimal mark, the cells that speak for it."""
        return {mark: self.decimal[mark] + self.thousands[_OTHER[mark]] for mark in ".,"}

    def vote(self) -> str:
        """The decimal mark the cells speak for, "" where they are silent or divided."""
        votes = self.votes()
        return "" if votes["."] == votes[","] else max(votes, key=votes.__getitem__)


@dataclass
class _Column:
    """One scanned column. plain: its numbers in plain notation. evidence: None if it has no
    numbers.

    The rest is filled in once the column is asked for. coded: bool [N], a declared missing value.
    """

    plain: Numbers
    evidence: _Evidence | None
    style: NumberStyle | None = None
    numbers: Numbers | None = None
    coded: np.ndarray | None = None
    warning: str = ""


def _split(cell: str) -> tuple[bool, str, str, tuple[str, str]] | None:
    """A number cell as (negative, digits with their marks, exponent, affix); None if it is none."""
    text = " ".join(cell.translate(_FOREIGN).split())
    match = _CELL.fullmatch(text)
    if match is None:
        return None
    signs = [match[name] for name in ("sign", "inner", "after", "last") if match[name]]
    brackets = bool(match["open"])
    if brackets != bool(match["close"]) or len(signs) + brackets > 1:
        return None
    suffix = _unit((match["suffix"] or "").strip())
    if len(suffix) > _LARGEST_AFFIX:
        return None
    prefix = (match["prefix"] or "").strip()
    if not prefix and _CURRENCY.fullmatch(suffix):
        prefix, suffix = suffix, ""  # 5 € is €5
    return (
        brackets or "-" in signs,
        match["digits"],
        match["power"] or "",
        (_SIGNS.get(prefix.upper(), prefix), suffix),
    )


def _unit(suffix: str) -> str:
    """Spellings of one unit: "year" and "years", "1st" and "2nd", "Pcs." and "pcs"."""
    if _ORDINAL.fullmatch(suffix):
        return "th"
    suffix = suffix.rstrip(".")
    if len(suffix) > 2 and suffix.isalpha():
        suffix = suffix if suffix.isupper() else suffix.lower()
        return suffix[:-1] if len(suffix) > 3 and suffix.endswith("s") else suffix
    return suffix


@lru_cache(maxsize=64)
def _form(point: str, thousands: str) -> re.Pattern[str]:
    """Digits that are a number under these marks."""
    mark = re.escape(thousands)
    grouped = rf"\d{{1,3}}(?:{mark}\d{{3}})+" if thousands else r"(?!)"
    if thousands == ",":
        grouped += r"|\d{1,2}(?:,\d{2})+,\d{3}"
    return re.compile(rf"(?:{grouped}|\d+)?(?:{re.escape(point)}\d*)?")


def parse_number(cell: str, style: NumberStyle) -> float | None:
    """The number a cell holds under a style, or None. A currency may be left out; of other units a
    zero alone may.
    """
    parts = _split(cell)
    if parts is None:
        return None
    negative, digits, power, affix = parts
    if not _form(style.point, style.thousands).fullmatch(digits):
        return None
    plain = digits.replace(style.thousands, "") if style.thousands else digits
    value = float(plain.replace(style.point, ".") + power)
    if affix != style.affix and not (
        _money(affix, style.affix) or (value == 0 and affix == ("", ""))
    ):
        return None
    return -value if negative else value


def _money(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether the two differ only in that one lacks the currency."""
    given = one if other == ("", "") else other if one == ("", "") else None
    return given is not None and bool(given[0]) and not given[1]


def _gather(cells: Iterable[str]) -> tuple[_Evidence, int]:
    """The evidence of distinct cells, and how many of them are numbers at all."""
    found, numbers = _Evidence(), 0
    for cell in cells:
        parts = _split(cell)
        if parts is None:
            continue
        numbers += 1
        _, digits, power, affix = parts
        found.affixes[affix] += 1
        _weigh(digits, power, cell, found)
    return found, numbers


def _weigh(digits: str, power: str, cell: str, found: _Evidence) -> None:
    marks = [mark for mark in digits if mark in ".,"]
    if not marks:
        group = _GROUPED.fullmatch(digits)
        if group and group[1]:
            found.thousands[group[1]] += 1
        elif digits.isdigit():
            found.long_integers |= len(digits) > 3
            found.short_integers |= len(digits) <= 3
        return
    last = marks[-1]
    if _UNCLEAR.fullmatch(digits) and not power:
        found.unclear[last] += 1
        found.example = found.example or cell.strip()
        return
    if len(marks) > 1 and len(set(marks)) == 1:
        if _GROUPED.fullmatch(digits):
            found.thousands[last] += 1
        return
    whole = digits.rpartition(last)[0]
    group = _GROUPED.fullmatch(whole)
    if whole.isdigit() or not whole or group:
        found.decimal[last] += 1
        if group:
            found.thousands[group[1] or ","] += 1


class NumberColumns:
    """The columns of a table as numbers, each read once; a column's style is decided over the whole
    table.

    A mark such as the one in 1.306 may be a decimal mark or stand between thousands. What decides,
    in this order: what the user declares, the other cells of the column, the other columns of the
    file, and at prediction the ``trained`` styles. Where nothing does, a warning names the column.
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
        self._codes = _as_floats(self._options.missing_values)
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
        """The column as numbers: float64 [N], NaN where missing; ``bad`` where a cell is neither."""
        column = self._columns[name]
        if column.numbers is None:
            column.style, column.warning = self._decide(name, column.evidence)
            column.numbers = self._read(self._frame[name], column)
        return column.numbers

    def read_truth(self, name: str) -> Numbers:
        """As ``numbers``, with truth words read as 1 and 0 from now on."""
        self._columns[name].numbers = read_words(self._frame[name], self.numbers(name))
        return self._columns[name].numbers

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

    def others(self, name: str) -> np.ndarray:
        """bool [N]: cells that are no number, empty ones and declared missing values not counted."""
        numbers, plain = self.numbers(name), self._columns[name].plain
        if not plain.bad.any() and not numbers.bad.any():
            return np.zeros(len(numbers.values), dtype=bool)
        unread = np.isnan(numbers.values) & ~numbers.infinite
        if unread.any():
            unread[unread] = ~missing_cells(self._frame[name][unread], self._words)
            unread &= ~self._columns[name].coded
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
            return _Column(plain, _plain_evidence([cell for cell in read if isinstance(cell, str)]))
        distinct = list(dict.fromkeys(cell for cell in cells if isinstance(cell, str)))
        probe = [cell for cell in _spread(distinct, _PROBE) if not is_missing_word(cell)]
        if not probe or 4 * _gather(probe)[1] < len(probe):
            return _Column(plain, None)
        evidence, _ = _gather(_spread(distinct, _SAMPLE))
        if not any(evidence.votes().values()) and len(distinct) > _SAMPLE:
            evidence, _ = _gather(distinct)
        return _Column(plain, evidence)

    def _decide(self, name: str, evidence: _Evidence | None) -> tuple[NumberStyle, str]:
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
        self, name: str, evidence: _Evidence, trained: NumberStyle | None
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
            decimal = _OTHER[next(iter(evidence.unclear))]  # the column had whole numbers only
            return decimal, self._doubt(
                name,
                evidence,
                decimal,
                "a whole number as in training, which this file does not settle",
            )
        decimal = self._guess(evidence)
        return decimal, self._doubt(name, evidence, decimal, "which the file does not settle")

    def _declared(self, evidence: _Evidence) -> str:
        """The decimal mark that the user's flags leave, "" if they leave both."""
        if self._options.decimal:
            return self._options.decimal
        if self._options.thousands in (".", ","):
            return _OTHER[self._options.thousands]
        if self._options.thousands is not None and len(evidence.unclear) == 1:
            return next(iter(evidence.unclear))
        return ""

    def _guess(self, evidence: _Evidence) -> str:
        """Nothing in the file says what 1.306 or 1,306 is. A point is a decimal mark and a comma is
        not, but for files with semicolons; there, numbers below 1000 without any mark speak for
        thousands.
        """
        grouped = evidence.short_integers and not evidence.long_integers
        if self._delimiter != ";" or "," not in evidence.unclear:
            return "," if self._delimiter == ";" and grouped else "."
        return "." if grouped else ","

    def _doubt(self, name: str, evidence: _Evidence, decimal: str, why: str) -> str:
        value = parse_number(
            evidence.example, NumberStyle(decimal, _OTHER[decimal], *_split(evidence.example)[3])
        )
        return (
            f'column "{name}": "{evidence.example}" is read as {value:.15g}, {why} '
            f"({self._flags}decimal or {self._flags}thousands says otherwise)"
        )

    def _choose_thousands(self, evidence: _Evidence, decimal: str) -> str:
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
            values[texts] = _read_cells(distinct, style)[codes]
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


def _read_cells(cells: np.ndarray, style: NumberStyle) -> np.ndarray:
    """float64 [N] of texts under a style, NaN where one is no number. Mere decimal commas, which
    tall tables have, go fast.
    """
    values = np.full(len(cells), np.nan)
    if style == NumberStyle(","):
        pointed = [None if "." in cell else cell.replace(",", ".") for cell in cells]
        values = (
            pd.to_numeric(pd.Series(pointed, dtype=object), errors="coerce")
            .to_numpy(dtype=np.float64, na_value=np.nan)
            .copy()
        )
    rest = np.flatnonzero(np.isnan(values))
    values[rest] = [_read_cell(cell, style) for cell in cells[rest]]
    return values


def _read_cell(cell: object, style: NumberStyle) -> float:
    value = parse_number(cell, style) if isinstance(cell, str) else None
    if (
        value is None
        and isinstance(cell, str)
        and cell.strip().lower().lstrip("+-") in ("inf", "infinity")
    ):
        return np.inf
    return np.nan if value is None else value


def _plain_evidence(cells: list[str]) -> _Evidence | None:
    """The evidence of a column that is plain numbers throughout; None if it has none."""
    if not cells:
        return None
    found = _Evidence(affixes=Counter({("", ""): len(cells)}))
    if _CLEAR_POINT.search("\n".join(cells[:200])):
        found.decimal["."] = 1
        return found
    text = "\n".join(cells)
    if "." not in text:
        found.short_integers = True
    elif _CLEAR_POINT.search(text):
        found.decimal["."] = 1
    else:
        found = _gather(dict.fromkeys(cells))[0]
    return found


def _choose_affix(
    name: str, evidence: _Evidence, trained: NumberStyle | None
) -> tuple[tuple[str, str], str]:
    """The affix that most numbers have, or the trained one if any has it; a warning where training
    had another.
    """
    if not evidence.affixes:
        return ("", ""), ""
    affix = max(evidence.affixes, key=lambda found: (evidence.affixes[found], found != ("", "")))
    money = [found for found in evidence.affixes if _money(found, ("", ""))]
    if affix == ("", "") and len(money) == 1:
        affix = money[0]
    if trained is None or trained.affix == affix or _money(trained.affix, affix):
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


def _as_floats(texts: Iterable[str]) -> list[float]:
    numbers = (parse_number(text, PLAIN) for text in texts)
    return [number for number in numbers if number is not None]
