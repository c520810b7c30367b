"""Dates and times of day: one format for a column, decided in training and applied again at
prediction.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from gaal_fast.data.issues import warn
from gaal_fast.data.tables.cells import Numbers, is_text, missing_cells

DateOrder = Literal["auto", "day-month", "month-day"]
ISO, TIME_OF_DAY = "ISO8601", "time of day"
# A column with at most this share of cells that are no dates still is a date column; those cells
# count as missing.
BAD_DATE_SHARE, _MIN_CELLS_FOR_SHARE = 0.05, 20
# Databases write "never" as 9999-12-31 and "not known" as 0001-01-01; either would flatten the
# scale of all real dates.
FIRST_YEAR, LAST_YEAR = 1000, 2200

# Where two formats read a column equally well, the earlier one is taken.
_FORMATS = (
    *(ISO, "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%m.%d.%Y", "%m/%d/%Y", "%d/%m/%Y"),
    *("%d-%m-%Y", "%m-%d-%Y", "%d.%m.%y", "%m/%d/%y", "%d/%m/%y", "%d-%b-%Y", "%d-%b-%y"),
    *("%d %b %Y", "%d %B %Y", "%b %d %Y", "%b %d, %Y", "%B %d, %Y", "%a %b %d %Y", "%Y%m%d"),
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
_EPOCH = pd.Timestamp(0, tz="UTC").as_unit("us")  # nanoseconds end in 2262
# Numbers such as 20231231 are dates only if all of many are, in a plausible year.
_MIN_PACKED, _PACKED_YEARS = 10, (1900, 2100)


class DateChoice(NamedTuple):
    """format: how a column is to be read. ambiguous: day and month could be exchanged.
    bad: bool [N], cells that are no dates."""

    format: str
    ambiguous: bool
    bad: np.ndarray


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
    return re.compile(pattern + ("$" if form == "%Y%m%d" else rf"(?:,?[T\s]\s*{_TIME}{_ZONE})?$"))


_SHAPES = {form: _shape(form) for form in _FORMATS}


def choose_format(series: pd.Series, order: DateOrder = "auto") -> DateChoice | None:
    """How to read a column as dates; None if it is none (a few bad cells among many do no harm).

    order: which of day and month comes first where the column itself does not tell; ``auto`` is
    month-day for slashes with the year last, day-month for dots and dashes.
    """
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        return DateChoice(ISO, False, np.zeros(len(series), dtype=bool))
    if not is_text(series) or not _may_hold_dates(series):
        return None
    missing = missing_cells(series)
    cells = series[~missing]
    codes, different = pd.factorize(cells.to_numpy(dtype=object))
    texts = pd.Series([_text(cell) for cell in different], dtype=object)
    counts = np.bincount(codes, minlength=len(different))
    allowed = BAD_DATE_SHARE * len(cells) if len(cells) >= _MIN_CELLS_FOR_SHARE else 0
    read: dict[str, pd.Series] = {}
    for form in _plausible(texts):
        dates = _parse(texts, form)
        bad = int(counts[dates.isna()].sum())
        if bad <= (0 if form == "%Y%m%d" else allowed) and (
            form != "%Y%m%d" or _is_packed(dates, len(cells))
        ):
            read[form] = dates
    if not read:
        return None
    best = min(
        read, key=lambda form: (int(counts[read[form].isna()].sum()), list(read).index(form))
    )
    other = _exchanged(best)
    ambiguous = other in read and not read[other].equals(read[best])
    ambiguous = ambiguous and read[other].isna().equals(read[best].isna())
    if ambiguous and order != "auto" and _day_first(other) == (order == "day-month"):
        best = other
    bad = np.zeros(len(series), dtype=bool)
    bad[~missing] = read[best].isna().to_numpy()[codes]
    return DateChoice(best, ambiguous, bad)


def to_days(series: pd.Series, form: str) -> Numbers:
    """Reads dates as days since 1970-01-01 UTC, times of day as fractions of a day (float64).

    ``infinite`` marks dates outside the years 1000 to 2200, which stand for "never" or "not known".
    """
    missing = missing_cells(series)
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        dates = pd.to_datetime(series, utc=True)
    else:
        codes, different = pd.factorize(series.to_numpy(dtype=object))
        codes = np.where(missing, -1, codes)
        texts = pd.Series([_text(cell) for cell in different], dtype=object)
        read = _parse(texts, form)
        # A typed date of another file is one whatever the texts of the training looked like.
        typed = read.isna() & np.array(
            [not isinstance(cell, str) for cell in different], dtype=bool
        )
        read[typed] = _parse(texts[typed], ISO)
        dates = pd.concat([read, pd.Series([pd.NaT], dtype=read.dtype)], ignore_index=True).iloc[
            codes
        ]
    if form == TIME_OF_DAY:
        dates = dates - dates.dt.normalize() + _EPOCH
    years = dates.dt.year.to_numpy(dtype=np.float64)
    days = ((dates - _EPOCH) / pd.Timedelta(days=1)).to_numpy(dtype=np.float64)
    infinite = (years < FIRST_YEAR) | (years > LAST_YEAR)
    return Numbers(np.where(infinite, np.nan, days), np.isnan(days) & ~missing, infinite)


def date_parts(days: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """Features that repeat, which a count of days does not show: name -> float64 [N], NaN where
    missing.

    Sine and cosine put the end of a year, of a week and of a day beside its beginning. days:
    float64 [N], as of `to_days`.
    """
    whole = np.floor(days)
    stamps = pd.Series(pd.to_datetime(whole, unit="D"))
    turns = {
        "time of year": (stamps.dt.day_of_year.to_numpy(dtype=np.float64) - 1) / 365.25,
        "weekday": stamps.dt.day_of_week.to_numpy(dtype=np.float64) / 7,
        "time of day": days - whole,
    }
    parts = {f"{name}: day of month": stamps.dt.day.to_numpy(dtype=np.float64)}
    for words, turn in turns.items():
        parts[f"{name}: {words} (sin)"] = np.sin(2 * np.pi * turn)
        parts[f"{name}: {words} (cos)"] = np.cos(2 * np.pi * turn)
    return parts


def informative_parts(days: np.ndarray, name: str) -> Iterator[str]:
    """The parts that can tell more than the days themselves: those whose period comes round at
    least twice in the column.
    """
    known = days[~np.isnan(days)]
    if not known.size:
        return
    span = known.max() - known.min()
    whole = known == np.floor(known)
    periods = {"time of year": 2 * 365, "day of month": 2 * 31, "weekday": 2 * 7}
    wanted = [words for words, period in periods.items() if span >= period]
    if len(np.unique(known - np.floor(known))) > 1 and not whole.all():
        wanted.append("time of day")
    for part in date_parts(known, name):
        values = date_parts(known, name)[part]
        if (
            any(f": {words}" in part for words in wanted)
            and len(np.unique(np.round(values, 9))) > 1
        ):
            yield part


def _may_hold_dates(series: pd.Series) -> bool:
    """A cheap look at the first cells; the rest is read only where they have the shape of dates."""
    head = series.iloc[:200]
    texts = pd.Series([_text(cell) for cell in pd.unique(head[~missing_cells(head)])], dtype=object)
    return not len(texts) or bool(_plausible(texts))


def _text(cell: object) -> str:
    """A cell as it would be written; "a.m." and a comma before the time are what some countries
    write.
    """
    text = str(cell).strip()
    text = re.sub(r",?\s+(?=\d{1,2}(?::\d\d|\s?[AaPp]\.?[Mm]))", " ", text)
    return re.sub(r"\s?([AaPp])\.?[Mm]\.?$", lambda found: f" {found[1].upper()}M", text)


def _plausible(texts: pd.Series) -> list[str]:
    """The formats whose shape most of the first texts have."""
    sample = texts.iloc[:50]
    return [
        form
        for form in _FORMATS
        if sum(map(bool, map(_SHAPES[form].match, sample))) > len(sample) / 2
    ]


def _parse(texts: pd.Series, form: str) -> pd.Series:
    """datetime64 UTC of different texts, NaT where a text has another form."""
    dates = pd.Series(pd.NaT, index=texts.index, dtype="datetime64[us, UTC]")
    fits = texts.map(lambda text: _SHAPES[form].match(text) is not None).astype(bool)
    if form == ISO:
        dates[fits] = pd.to_datetime(texts[fits], format=ISO, errors="coerce", utc=True)
        return dates
    texts = texts.str.replace(r"(?<=\d)T(?=\d)", " ", regex=True)
    for suffix in _TIMES:
        todo = fits & dates.isna()
        pattern = suffix.lstrip() if form == TIME_OF_DAY else form + suffix
        if pattern and todo.any():
            dates[todo] = pd.to_datetime(texts[todo], format=pattern, errors="coerce", utc=True)
    return dates


def _is_packed(dates: pd.Series, cells: int) -> bool:
    years = dates.dt.year
    return cells >= _MIN_PACKED and len(dates) > 1 and bool(years.between(*_PACKED_YEARS).all())


def _exchanged(form: str) -> str:
    return form.replace("%d", "%_").replace("%m", "%d").replace("%_", "%m")


def _day_first(form: str) -> bool:
    return form.index("%d") < form.index("%m")


def example(form: str) -> str:
    """A format as a person writes it, for messages: ``31.12.2023``."""
    words = {ISO: "2023-12-31", TIME_OF_DAY: "23:59"}
    return words.get(form) or pd.Timestamp(2023, 12, 31).strftime(form)


def settle_order(
    choices: Mapping[str, DateChoice],
    columns: Mapping[str, pd.Series],
    order: DateOrder,
    warnings: list[str],
) -> dict[str, str]:
    """The format of each date column. Those that leave day and month open follow those that do not;
    what is still open is named in `warnings`.
    """
    formats = {name: choice.format for name, choice in choices.items()}
    told = {
        _day_first(choice.format)
        for choice in choices.values()
        if not choice.ambiguous and _has_both(choice.format)
    }
    open_ones = [name for name, choice in choices.items() if choice.ambiguous]
    if order != "auto":
        return formats
    for name in open_ones:
        if len(told) == 1:
            formats[name] = choose_format(
                columns[name], "day-month" if told == {True} else "month-day"
            ).format
        else:
            words = "day before month" if _day_first(formats[name]) else "month before day"
            warn(
                warnings,
                f'column "{name}": its dates leave open which number is the day; read as'
                f" {example(formats[name])} ({words}); say otherwise with --data.date-order",
            )
    return formats


def _has_both(form: str) -> bool:
    """Whether day and month are numbers that could be exchanged."""
    return "%d" in form and "%m" in form and not form.startswith("%Y")
