"""Whole numbers that are no quantities: what an earlier join left behind, and codes for things."""

from __future__ import annotations

import re

import numpy as np

# What pandas, R, readr and spreadsheets call a column of row numbers that nobody named.
_LEFT_BEHIND = re.compile(
    r"unnamed(?:[:_"
    r" ]+\d+(?:\.\d+)*(?:_level_\d+)?)?|index(?:[._]\d+)?|level_\d+|x(?:\.\d+)?|\.\.\.\d+|v1|column"
    r" ?\d+"
    r"|row[ ._]?(?:names?|numbers?|index|nr|no)|",
    re.IGNORECASE,
)
# Names that also head real quantities: only numbers that count up, or that are all different and
# dense, are left behind.
_MAYBE_QUANTITY = re.compile(r"x(?:\.\d+)?|\.\.\.\d+|v1|column ?\d+", re.IGNORECASE)
_CODE_WORDS = frozenset(
    {
        *("zip", "zipcode", "postcode", "postalcode", "postal", "plz", "code", "codes", "cod"),
        *("kode", "fips", "sic", "naics", "icd", "id", "ids", "store", "shop", "branch", "class"),
        *("subclass", "category", "cat", "type", "kind", "cluster", "segment", "region"),
        *("district", "county", "state", "country", "zone", "sector", "department", "dept"),
        *("channel", "species"),
    }
)
_FEW = (3, 10)  # so many different small numbers may be kinds ("1..4")
_ROWS_PER_KIND = 10


def words_of(name: str) -> list[str]:
    """The words of a column name in lower case: ``storeNr``, ``store_nr``, ``Store Nr`` alike."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def is_left_behind(name: str, values: np.ndarray) -> bool:
    """Whether a column is an index that an earlier step wrote along, in any order, with gaps or
    repeated.

    Args:
        name: Of the column.
        values: float64 [n], the numbers that are there, in the order of the table.
    """
    name = name.strip()
    if not values.size or not np.isfinite(values).all() or (values % 1).any() or values.min() < 0:
        return False
    if not _LEFT_BEHIND.fullmatch(name):
        return False
    distinct = np.unique(values).size
    all_different = distinct == values.size
    if _MAYBE_QUANTITY.fullmatch(name):
        rising = all_different and values.size > 2 and bool((np.diff(values) > 0).all())
        # Few different numbers below a small bound are what is left of a range of row numbers, in
        # any order.
        return rising or (all_different and values.size >= 20 and values.max() < 3 * values.size)
    if all_different or distinct >= values.size / 2:
        return True
    # Tables one below the other repeat their row numbers: each counts up until the next begins.
    return values.size > 2 and (np.diff(values) == 1).mean() >= 0.5


def looks_like_codes(name: str, values: np.ndarray) -> bool:
    """Whether the numbers of a quantity may rather be codes of things: by the words of its name, or
    as few small numbers.

    Args:
        name: Of the column.
        values: float64 [n], its finite numbers.
    """
    if not values.size or (values % 1).any() or values.min() < 0:
        return False
    distinct = np.unique(values)
    if distinct.size < _FEW[0] or distinct.size == values.size:
        return False
    if _CODE_WORDS & set(words_of(name)):
        return True
    few = distinct.size <= _FEW[1] and values.size >= _ROWS_PER_KIND * distinct.size
    return few and bool(distinct[0] in (0, 1) and distinct[-1] == distinct[0] + distinct.size - 1)
