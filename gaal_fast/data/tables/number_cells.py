"""Numbers as people write them: one cell at a time, and what the cells say about their marks."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pandas as pd

OTHER_MARK = {".": ",", ",": "."}
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
    "USD|EUR|GBP|JPY|CNY|RMB|CHF|SEK|NOK|DKK|ISK|PLN|CZK|HUF|RON|BGN|RUB|UAH|TRY|INR|KRW|BRL|MXN"
    "|ARS|CLP|COP|PEN|ZAR|AUD|NZD|CAD|SGD|HKD|TWD|THB|IDR|MYR|PHP|VND|ILS|AED|SAR|EGP|NGN|KES|PKR"
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

    Attributes:
        decimal: ".", "," or "" where no cell has decimals.
        thousands: The mark between groups of digits, "" for none.
        prefix: Currency or unit before each number.
        suffix: Currency or unit after each number.
    """

    decimal: str = "."
    thousands: str = ""
    prefix: str = ""
    suffix: str = ""

    @property
    def point(self) -> str:
        """The mark a cell's decimals would follow, were there any."""
        return self.decimal or OTHER_MARK.get(self.thousands, ".")

    @property
    def affix(self) -> tuple[str, str]:
        return self.prefix, self.suffix


PLAIN = NumberStyle()


@dataclass
class Evidence:
    """What the cells of one column say about its marks.

    Attributes:
        decimal: Distinct cells in which a mark can only be the decimal mark.
        thousands: Distinct cells in which a mark can only stand between thousands.
        unclear: Cells such as 1.306, by their mark.
        affixes: Number of cells by (prefix, suffix).
        example: The first unclear cell.
        short_integers: Whether there are whole numbers of three digits or less.
        long_integers: Whether there are longer ones without a mark.
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
        return {mark: self.decimal[mark] + self.thousands[OTHER_MARK[mark]] for mark in ".,"}

    def vote(self) -> str:
        """The decimal mark the cells speak for, "" where they are silent or divided."""
        votes = self.votes()
        return "" if votes["."] == votes[","] else max(votes, key=votes.__getitem__)


def split_number(cell: str) -> tuple[bool, str, str, tuple[str, str]] | None:
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
    parts = split_number(cell)
    if parts is None:
        return None
    negative, digits, power, affix = parts
    if not _form(style.point, style.thousands).fullmatch(digits):
        return None
    plain = digits.replace(style.thousands, "") if style.thousands else digits
    value = float(plain.replace(style.point, ".") + power)
    if affix != style.affix and not (
        is_money(affix, style.affix) or (value == 0 and affix == ("", ""))
    ):
        return None
    return -value if negative else value


def is_money(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether the two differ only in that one lacks the currency."""
    given = one if other == ("", "") else other if one == ("", "") else None
    return given is not None and bool(given[0]) and not given[1]


def gather(cells: Iterable[str]) -> tuple[Evidence, int]:
    """The evidence of distinct cells, and how many of them are numbers at all."""
    found, numbers = Evidence(), 0
    for cell in cells:
        parts = split_number(cell)
        if parts is None:
            continue
        numbers += 1
        _, digits, power, affix = parts
        found.affixes[affix] += 1
        _weigh(digits, power, cell, found)
    return found, numbers


def _weigh(digits: str, power: str, cell: str, found: Evidence) -> None:
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


def read_cells(cells: np.ndarray, style: NumberStyle) -> np.ndarray:
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


def plain_evidence(cells: list[str]) -> Evidence | None:
    """The evidence of a column that is plain numbers throughout; None if it has none."""
    if not cells:
        return None
    found = Evidence(affixes=Counter({("", ""): len(cells)}))
    if _CLEAR_POINT.search("\n".join(cells[:200])):
        found.decimal["."] = 1
        return found
    text = "\n".join(cells)
    if "." not in text:
        found.short_integers = True
    elif _CLEAR_POINT.search(text):
        found.decimal["."] = 1
    else:
        found = gather(dict.fromkeys(cells))[0]
    return found


def as_floats(texts: Iterable[str]) -> list[float]:
    numbers = (parse_number(text, PLAIN) for text in texts)
    return [number for number in numbers if number is not None]
