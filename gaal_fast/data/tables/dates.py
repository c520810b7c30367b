"""Dates and times of day: one format for a column, decided in training and applied again at
prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from gaal_fast.data.issues import warn
from gaal_fast.data.tables.cells import Distinct, Numbers, first_cells, is_text, is_token
from gaal_fast.data.tables.date_cells import (
    ISO,
    PACKED,
    TIME_OF_DAY,
    DateOrder,
    date_texts,
    example,
    exchanged,
    is_day_first,
    parse_dates,
    plausible_formats,
)

# A column with at most this share of cells that are no dates still is a date column; those cells
# count as missing.
BAD_DATE_SHARE, _MIN_CELLS_FOR_SHARE = 0.05, 20
# Databases write "never" as 9999-12-31 and "not known" as 0001-01-01; either would flatten the
# scale of all real dates.
FIRST_YEAR, LAST_YEAR = 1000, 2200

_EPOCH = pd.Timestamp(0, tz="UTC").as_unit("us")  # nanoseconds end in 2262
# Numbers such as 20231231 are dates only if all of many are, in a plausible year.
_MIN_PACKED, _PACKED_YEARS = 10, (1900, 2100)


@dataclass(frozen=True, eq=False)
class DateChoice:
    """How a column is to be read, with what it then says.

    Attributes:
        format: The format of the column.
        ambiguous: Whether day and month could be exchanged.
        codes: int64 [N], the position of each cell among the different ones, -1 where missing.
        cells: object [D], the different cells.
        readings: Format to datetime64 UTC [D], NaT where a cell has another form. Holds the
            chosen format, and where day and month could be exchanged the other one.
    """

    format: str
    ambiguous: bool
    codes: np.ndarray
    cells: Sequence[object] | np.ndarray
    readings: Mapping[str, pd.Series]

    @property
    def bad(self) -> np.ndarray:
        """bool [N]: cells that are no dates."""
        unread = self.readings[self.format].isna().to_numpy()
        return np.append(unread, False)[self.codes]

    def in_order(self, order: DateOrder) -> DateChoice:
        """The same cells with day and month in this order, where they leave it open."""
        if not self.ambiguous or order == "auto":
            return self
        if is_day_first(self.format) == (order == "day-month"):
            return self
        return replace(self, format=exchanged(self.format))

    def days(self) -> Numbers:
        """As ``to_days`` by this choice, without reading the texts again."""
        return _cell_days(self.readings[self.format], self.cells, self.codes, self.format)


def choose_format(
    series: pd.Series, order: DateOrder = "auto", distinct: Callable[[], Distinct] | None = None
) -> DateChoice | None:
    """How to read a column as dates; None if it is none (a few bad cells among many do no harm).

    Args:
        series: The column.
        order: Which of day and month comes first where the column itself does not tell. ``auto``
            is month-day for slashes with the year last, day-month for dots and dashes.
        distinct: Gives the different cells of the column, where they are known already.
    """
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        return _typed_dates(series)
    if not is_text(series) or not _may_hold_dates(series):
        return None
    codes, cells = (Distinct.of(series) if distinct is None else distinct()).without_missing()
    texts = date_texts(cells)
    counts = np.bincount(codes[codes >= 0], minlength=len(texts))
    readings = _readings(texts, counts)
    if not readings:
        return None
    unread = {form: int(counts[dates.isna().to_numpy()].sum()) for form, dates in readings.items()}
    best = min(readings, key=lambda form: (unread[form], list(readings).index(form)))
    other = readings.get(exchanged(best))
    ambiguous = (
        other is not None
        and not other.equals(readings[best])
        and other.isna().equals(readings[best].isna())
    )
    kept = {best: readings[best]} | ({exchanged(best): other} if other is not None else {})
    return DateChoice(best, ambiguous, codes, cells, kept).in_order(order)


def _typed_dates(series: pd.Series) -> DateChoice:
    """The cells of a column that holds dates and no texts."""
    present = series.notna().to_numpy()
    dates = pd.to_datetime(series[present], utc=True).reset_index(drop=True)
    codes = np.where(present, np.cumsum(present) - 1, -1)
    return DateChoice(ISO, False, codes, np.empty(0, dtype=object), {ISO: dates})


def _readings(texts: Sequence[str], counts: np.ndarray) -> dict[str, pd.Series]:
    """Format to the dates of different texts, for those formats that read nearly all cells.

    counts: int64 [D], the cells of each text. What cannot be chosen any more is not read.
    """
    cells = int(counts.sum())
    allowed = BAD_DATE_SHARE * cells if cells >= _MIN_CELLS_FOR_SHARE else 0
    read: dict[str, pd.Series] = {}
    whole = ""  # the first format that reads every cell: only its twin is of interest after it
    for form in plausible_formats(texts):
        if whole and form != exchanged(whole):
            continue
        dates = parse_dates(texts, form)
        bad = int(counts[dates.isna().to_numpy()].sum())
        if bad > (0 if form == PACKED else allowed):
            continue
        if form != PACKED or _is_packed(dates, cells):
            read[form] = dates
            whole = whole or ("" if bad else form)
    return read


def to_days(series: pd.Series, form: str) -> Numbers:
    """Reads dates as days since 1970-01-01 UTC, times of day as fractions of a day (float64).

    ``infinite`` marks dates outside the years 1000 to 2200, which stand for "never" or "not known".
    """
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        choice = _typed_dates(series)
        return replace(choice, format=form, readings={form: choice.readings[ISO]}).days()
    distinct = Distinct.of(series).without_missing()
    read = parse_dates(date_texts(distinct.cells), form)
    return _cell_days(read, distinct.cells, distinct.codes, form)


def _cell_days(
    read: pd.Series, cells: Sequence[object] | np.ndarray, codes: np.ndarray, form: str
) -> Numbers:
    """The days of every cell from the dates of the different ones."""
    # A typed date of another file is one whatever the texts of the training looked like.
    typed = [i for i in np.flatnonzero(read.isna()).tolist() if not isinstance(cells[i], str)]
    if typed:
        read = read.copy()
        read.iloc[typed] = parse_dates(date_texts([cells[i] for i in typed]), ISO).array
    if form == TIME_OF_DAY:
        read = read - read.dt.normalize() + _EPOCH
    years = read.dt.year.to_numpy(dtype=np.float64)
    days = ((read - _EPOCH) / pd.Timedelta(days=1)).to_numpy(dtype=np.float64)
    infinite = (years < FIRST_YEAR) | (years > LAST_YEAR)
    # The last entry is that of cells without a value, whose code is -1.
    days, infinite = np.append(days, np.nan)[codes], np.append(infinite, False)[codes]
    return Numbers(np.where(infinite, np.nan, days), np.isnan(days) & (codes >= 0), infinite)


def date_parts(days: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """Features that repeat, which a count of days does not show.

    Sine and cosine put the end of a year, of a week and of a day beside its beginning.

    Args:
        days: float64 [N], as of ``to_days``.
        name: The column, with which the names of its parts begin.

    Returns:
        Name of the part to float64 [N], NaN where missing.
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
    for part, values in date_parts(known, name).items():
        varies = len(np.unique(np.round(values, 9))) > 1
        if varies and any(f": {words}" in part for words in wanted):
            yield part


def _may_hold_dates(series: pd.Series) -> bool:
    """A cheap look at the first cells; the rest is read only where they have the shape of dates."""
    texts = date_texts(cell for cell in first_cells(series) if not is_token(cell))
    return not texts or bool(plausible_formats(texts))


def _is_packed(dates: pd.Series, cells: int) -> bool:
    years = dates.dt.year
    return cells >= _MIN_PACKED and len(dates) > 1 and bool(years.between(*_PACKED_YEARS).all())


def settle_order(
    choices: Mapping[str, DateChoice], order: DateOrder, warnings: list[str]
) -> dict[str, DateChoice]:
    """How each date column is read. Those that leave day and month open follow those that do not;
    what is still open is named in ``warnings``.
    """
    if order != "auto":
        return dict(choices)
    told = {
        is_day_first(choice.format)
        for choice in choices.values()
        if not choice.ambiguous and _has_both(choice.format)
    }
    settled = dict(choices)
    for name, choice in choices.items():
        if not choice.ambiguous:
            continue
        if len(told) == 1:
            settled[name] = choice.in_order("day-month" if told == {True} else "month-day")
            continue
        words = "day before month" if is_day_first(choice.format) else "month before day"
        warn(
            warnings,
            f'column "{name}": its dates leave open which number is the day; read as'
            f" {example(choice.format)} ({words}); say otherwise with --data.date-order",
        )
    return settled


def _has_both(form: str) -> bool:
    """Whether day and month are numbers that could be exchanged."""
    return "%d" in form and "%m" in form and not form.startswith("%Y")
