"""Table cells to numbers, texts and days. One reading of a cell for training and prediction, for text and typed files."""

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

# The tokens pandas reads as missing by default, and the question mark of the UCI files.
MISSING_TOKENS = frozenset(
    {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN"}
    | {"None", "n/a", "nan", "null", "?"}
)
# A larger number would overflow the float64 variance of its column; it is an error or a code for "missing".
LARGEST_NUMBER = 1e100

_WHOLE_NUMBER = re.compile(r"([+-]?(?:0|[1-9]\d*))\.0+$")


class Numbers(NamedTuple):
    """values: float64 [N], NaN where missing or bad. bad: bool [N], not a number. infinite: bool [N], taken as missing."""

    values: np.ndarray
    bad: np.ndarray
    infinite: np.ndarray


def is_text(series: pd.Series) -> bool:
    """Whether the cells are texts (or Python objects) and not numbers, dates or booleans."""
    return bool(pd.api.types.is_string_dtype(series.dtype) or series.dtype == object)


def missing_cells(series: pd.Series, extra: Iterable[str] = ()) -> np.ndarray:
    """bool [N]: no value, or a text that stands for none (blanks around it do not matter)."""
    missing = series.isna().to_numpy(dtype=bool, copy=True)
    if is_text(series):
        tokens = MISSING_TOKENS.union(extra)
        missing |= np.fromiter((isinstance(cell, str) and cell.strip() in tokens for cell in series), bool, len(series))
    return missing


def to_numbers(series: pd.Series, extra_missing: Iterable[str] = ()) -> Numbers:
    """Reads a column as numbers; `extra_missing` are further texts that stand for a missing value."""
    values = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    unread = np.isnan(values)
    bad = np.zeros(len(series), dtype=bool)
    if unread.any():
        bad[unread] = ~missing_cells(series[unread], extra_missing)
    infinite = np.abs(values) > LARGEST_NUMBER
    return Numbers(np.where(infinite, np.nan, values), bad, infinite)


def to_texts(series: pd.Series) -> np.ndarray:
    """object [N] of str, None where missing. Blanks around a text are not part of it; a whole number reads the same from
    every file type ("3", "3.0", 3 and 3.0 are all "3"), while "007" stays "007"."""
    texts = np.full(len(series), None, dtype=object)
    present = ~missing_cells(series)
    texts[present] = [_text_of(cell) for cell in series[present]]
    return texts


def _text_of(value: object) -> str:
    if isinstance(value, str):
        whole = _WHOLE_NUMBER.match(value.strip())
        return whole[1] if whole else value.strip()
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    return str(value)


def looks_like_dates(series: pd.Series) -> bool:
    """Whether every cell that has a value is a date: a date type, or text in ISO 8601 (2024-01-31, with or without time)."""
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        return True
    if not is_text(series):
        return False
    texts = series[~missing_cells(series)].astype(str)
    if texts.empty or not texts.str.match(r"^\s*\d{4}-\d{2}-\d{2}(?:$|[ T\s])").all():
        return False
    return not to_days(series).bad.any()


def to_days(series: pd.Series) -> Numbers:
    """Reads dates as days since 1970-01-01 UTC (float64, the time of day is the fraction)."""
    missing = missing_cells(series)
    source = series if pd.api.types.is_datetime64_any_dtype(series.dtype) else series.astype(object).where(~missing, None)
    if source.dtype == object:
        source = source.map(lambda value: str(value).strip(), na_action="ignore")
        dates = pd.to_datetime(source, format="ISO8601", errors="coerce", utc=True)
    else:
        dates = pd.to_datetime(source, utc=True)
    days = ((dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1)).to_numpy(dtype=np.float64)
    return Numbers(days, np.isnan(days) & ~missing, np.zeros(len(series), dtype=bool))
