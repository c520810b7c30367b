"""Dates as people write them: the forms that are known, and texts read by one of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import pandas as pd

DateOrder = Literal["auto", "day-month", "month-day"]
ISO, TIME_OF_DAY, PACKED = "ISO8601", "time of day", "%Y%m%d"

# Where two formats read a column equally well, the earlier one is taken.
FORMATS = (
    *(ISO, "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%m.%d.%Y", "%m/%d/%Y", "%d/%m/%Y"),
    *("%d-%m-%Y", "%m-%d-%Y", "%d.%m.%y", "%m/%d/%y", "%d/%m/%y", "%d-%b-%Y", "%d-%b-%y"),
    *("%d %b %Y", "%d %B %Y", "%b %d %Y", "%b %d, %Y", "%B %d, %Y", "%a %b %d %Y", PACKED),
    TIME_OF_DAY,
)
_TIMES = (
    *("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f"),
    *(" %I:%M %p", " %I:%M:%S %p", " %H:%M:%S%z", " %I %p"),
)
_PARTS = {
    **{"%Y": r"\d{4}", "%m": r"\d{1,2}", "%d": r"\d{1,2}", "%y": r"\d{2}"},
    **{"%b": "[A-Za-z]{3}", "%B": "[A-Za-z]{3,9}", "%a": "[A-Za-z]{3}"},
}
_TIME = r"\d{1,2}(?::\d{2}(?::\d{2}(?:[.,]\d+)?)?\s?(?:[AaPp]\.?[Mm]\.?)?|\s?[AaPp]\.?[Mm]\.?)"
_ZONE = r"(?:\s?(?:Z|UTC|[+-]\d{2}:?\d{2}))?"
_BEFORE_TIME = re.compile(r",?\s+(?=\d{1,2}(?::\d\d|\s?[AaPp]\.?[Mm]))")
_NOON = re.compile(r"\s?([AaPp])\.?[Mm]\.?$")
_BETWEEN = re.compile(r"(?<=\d)T(?=\d)")


def _shape(form: str) -> re.Pattern[str]:
    if form == TIME_OF_DAY:
        return re.compile(_TIME + "$")
    if form == ISO:
        return re.compile(
            r"\d{4}-\d{2}(?:-\d{2}(?:[T"
            rf" ]\d{{2}}(?::?\d{{2}}(?::?\d{{2}}(?:[.,]\d+)?)?)?{_ZONE})?)?$"
        )
    if form == "%d.%m.%y":  # 1.2.10 is the number of a version
        return re.compile(rf"\d{{2}}\.\d{{2}}\.\d{{2}}(?:,?[T\s]\s*{_TIME}{_ZONE})?$")
    pattern = re.sub(
        "%[YmdybBa]", lambda part: _PARTS[part[0]], re.escape(form).replace("\\%", "%")
    )
    return re.compile(pattern + ("$" if form == PACKED else rf"(?:,?[T\s]\s*{_TIME}{_ZONE})?$"))


_SHAPES = {form: _shape(form) for form in FORMATS}
_ANY_SHAPE = re.compile("|".join(f"(?:{shape.pattern})" for shape in _SHAPES.values()))


def date_texts(cells: Iterable[object]) -> list[str]:
    """Cells as they would be written, in the one way that ``parse_dates`` reads.

    "a.m." and a comma before the time are what some countries write.
    """
    texts = [str(cell).strip() for cell in cells]
    # Two substitutions cost more than all the rest, and most columns need neither.
    return [_plain_time(text) if ":" in text or text[-1:] in "mM." else text for text in texts]


def _plain_time(text: str) -> str:
    text = _BEFORE_TIME.sub(" ", text)
    return _NOON.sub(lambda found: f" {found[1].upper()}M", text) if text[-1:] in "mM." else text


def plausible_formats(texts: Sequence[str]) -> list[str]:
    """The formats whose shape most of the first texts have."""
    sample = texts[:50]
    # With thousands of columns of numbers, one look at each text must be enough to pass one over.
    if sum(map(bool, map(_ANY_SHAPE.match, sample))) <= len(sample) / 2:
        return []
    return [
        form
        for form in FORMATS
        if sum(map(bool, map(_SHAPES[form].match, sample))) > len(sample) / 2
    ]


def parse_dates(texts: Sequence[str], form: str) -> pd.Series:
    """Texts of ``date_texts`` as datetime64 UTC [N], NaT where a text has another form."""
    dates = pd.Series(pd.NaT, index=range(len(texts)), dtype="datetime64[us, UTC]")
    fits = np.fromiter(
        (found is not None for found in map(_SHAPES[form].match, texts)), bool, len(texts)
    )
    cells = pd.Series(texts, dtype=object)
    if form == ISO:
        dates[fits] = pd.to_datetime(cells[fits], format=ISO, errors="coerce", utc=True)
        return dates
    if fits.any() and any("T" in text for text in texts):
        cells = cells.str.replace(_BETWEEN, " ", regex=True)
    for pattern in _patterns(cells[fits], form):
        todo = fits & dates.isna().to_numpy()
        if not todo.any():
            break
        dates[todo] = pd.to_datetime(cells[todo], format=pattern, errors="coerce", utc=True)
    return dates


def _patterns(cells: pd.Series, form: str) -> list[str]:
    """The form with every way to write a time; first the one that the first cell has.

    A text fits one of them at most, so their order decides nothing but how often each is tried.
    """
    patterns = [
        suffix.lstrip() if form == TIME_OF_DAY else form + suffix
        for suffix in _TIMES
        if suffix or form != TIME_OF_DAY
    ]
    first = cells.iloc[:1]
    return sorted(
        patterns,
        key=lambda pattern: bool(
            pd.to_datetime(first, format=pattern, errors="coerce", utc=True).isna().all()
        ),
    )


def exchanged(form: str) -> str:
    """The format with day and month in each other's place."""
    return form.replace("%d", "%_").replace("%m", "%d").replace("%_", "%m")


def is_day_first(form: str) -> bool:
    """Whether the day stands before the month, in a format with both."""
    return form.index("%d") < form.index("%m")


def example(form: str) -> str:
    """A format as a person writes it, for messages: ``31.12.2023``."""
    words = {ISO: "2023-12-31", TIME_OF_DAY: "23:59"}
    return words.get(form) or pd.Timestamp(2023, 12, 31).strftime(form)
