"""What kind of feature a column is, as its cells say it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from gaal_fast.data.issues import some
from gaal_fast.data.tables.cells import holds_codes
from gaal_fast.data.tables.codes import is_left_behind, words_of
from gaal_fast.data.tables.columns import Column
from gaal_fast.data.tables.date_cells import DateOrder
from gaal_fast.data.tables.dates import DateChoice
from gaal_fast.errors import UserError

# Texts with more levels than max(50, a fifth of the rows) say next to nothing per level, and widen
# the input by one each.
FREE_TEXT_LEVELS, FREE_TEXT_SHARE = 50, 0.2
_MIN_CELLS_FOR_RUN = 20
_ID_WORDS = frozenset(
    {
        *("id", "ids", "uid", "uuid", "guid", "key", "index", "idx", "no", "nr", "number", "row"),
        *("rowid", "pk"),
    }
)
_CONTAINERS = (list, tuple, dict, set, bytes, np.ndarray)


class Kind(NamedTuple):
    """What a column is.

    Attributes:
        kind: How it is used.
        reason: Why it is dropped.
        missing_texts: Texts in a numeric column that mean "missing".
        warning: What the user should know, "" for nothing.
        dates: How a date column is read.
    """

    kind: Literal["numeric", "categorical", "dates", "dropped"]
    reason: str = ""
    missing_texts: tuple[str, ...] = ()
    warning: str = ""
    dates: DateChoice | None = None


def declared_numeric(column: Column, order: DateOrder) -> Kind:
    """The kind of a column that the user says holds numbers: those, or dates.

    Raises:
        UserError: Most of its cells are no numbers.
    """
    name, numbers = column.name, column.numbers
    dates = column.dates(order)
    if dates is not None and numbers.numbers(name).bad.any():
        return Kind("dates", dates=dates)
    found = numbers.read_truth(name)
    if found.bad.any() and found.bad.sum() >= np.isfinite(found.values).sum():
        row = int(np.flatnonzero(found.bad)[0])
        raise UserError(
            f'column "{name}" is declared numeric but row {row + 1} holds'
            f' "{column.series.iloc[row]}"'
        )
    return Kind("numeric", missing_texts=_missing_texts(column))


def _missing_texts(column: Column) -> tuple[str, ...]:
    others = column.numbers.others(column.name)
    if not others.any():
        return ()
    return tuple(sorted({str(cell).strip() for cell in column.series[others]}))


def infer_kind(column: Column, order: DateOrder) -> Kind:
    """The kind of a column of which nothing is declared."""
    if column.missing.all():
        return Kind("dropped", "has no values")
    content = pd.api.types.infer_dtype(column.cells)
    if content in ("bytes", "mixed") and any(
        isinstance(cell, _CONTAINERS) for cell in column.cells
    ):
        return Kind("dropped", "holds lists or binary data")
    if content == "boolean" or (content == "string" and column.is_boolean):
        return _text_kind(column, column.levels)
    dates = column.dates(order)
    if dates is not None:
        return _date_kind(column, dates)
    if holds_codes(column.cells):
        return _text_kind(column, column.texts)
    return _number_or_text_kind(column)


def _number_or_text_kind(column: Column) -> Kind:
    numbers = column.numbers.numbers(column.name)
    read = ~np.isnan(numbers.values) | numbers.infinite
    good, bad = int(read.sum()), int(numbers.bad.sum())
    if good > bad:
        kind = _number_kind(numbers.values[read], column.name, good < len(read))
        if kind.kind == "numeric":
            kind = kind._replace(missing_texts=_missing_texts(column))
        return kind
    kind = _text_kind(column, column.texts)
    if kind.warning:
        return kind
    use = "categorical" if kind.kind == "categorical" else f"not used ({kind.reason})"
    units = column.numbers.different_units(column.name)
    if units:
        warning = f'column "{column.name}" holds numbers of different units ({some(units)}); {use}'
        return kind._replace(warning=warning)
    if good and good == bad:
        row = int(np.flatnonzero(numbers.bad)[0])
        warning = (
            f'column "{column.name}": {bad} of {good + bad} values are no numbers (row {row + 1}'
            f' holds "{column.series.iloc[row]}"); {use}'
        )
        return kind._replace(warning=warning)
    return kind


def _date_kind(column: Column, dates: DateChoice) -> Kind:
    series, numbers = column.series, dates.days()
    bad, warning = dates.bad, ""
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        warning = (
            f'column "{column.name}": {int(bad.sum())} of {len(column.cells)} values'
            f' are no dates (row {row + 1} holds "{series.iloc[row]}"); taken as missing'
        )
    elif numbers.infinite.any():
        row = int(np.flatnonzero(numbers.infinite)[0])
        warning = (
            f'column "{column.name}": {int(numbers.infinite.sum())} dates far from all others count'
            f' as missing (row {row + 1} holds "{series.iloc[row]}")'
        )
    known = numbers.values[~np.isnan(numbers.values)]
    if len(known) == len(series) and len(np.unique(known)) == 1:
        return Kind("dropped", "is constant")
    return Kind("dates", warning=warning, dates=dates)


def _number_kind(values: np.ndarray, name: str, any_missing: bool) -> Kind:
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return Kind("dropped", "has no finite values")
    distinct = np.unique(finite)
    if distinct.size == 1 and finite.size == values.size and not any_missing:
        return Kind("dropped", "is constant")
    if distinct.size == values.size and distinct.size > 2 and np.equal(np.mod(finite, 1), 0).all():
        if _is_id_name(name):
            return Kind("dropped", "an identifier (every value is different)")
        run = distinct[0] in (0, 1) and np.array_equal(
            distinct, distinct[0] + np.arange(distinct.size)
        )
        # A handful of small different integers may well be a quantity; in file order, or many, they
        # are row numbers.
        if run and (np.array_equal(finite, distinct) or distinct.size >= _MIN_CELLS_FOR_RUN):
            return Kind("dropped", "row numbers")
    return Kind("dropped", "row numbers") if is_left_behind(name, finite) else Kind("numeric")


def _text_kind(column: Column, levels: np.ndarray) -> Kind:
    """levels: object [N] of str, None where missing."""
    texts = levels[~column.missing]
    count = len(set(texts))
    if count == 1 and len(texts) == len(levels):
        return Kind("dropped", "is constant")
    if count == len(texts):
        return Kind("dropped", "an identifier (every value is different)")
    if count > max(FREE_TEXT_LEVELS, FREE_TEXT_SHARE * len(levels)):
        warning = (
            f'column "{column.name}" has {count} different texts in {len(levels)} rows: taken as'
            " free text and not used (declare it categorical to keep it)"
        )
        return Kind("dropped", f"free text ({count} levels)", warning=warning)
    return Kind("categorical")


def _is_id_name(name: str) -> bool:
    words = words_of(name)
    return bool(words) and (words[-1] in _ID_WORDS or words[0] in ("id", "unnamed"))
