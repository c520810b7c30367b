"""Table cells to numbers, texts and days. One reading of a cell for training and prediction, for
text and typed files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

# The tokens pandas reads as missing by default, and the question mark of the UCI files.
MISSING_TOKENS = frozenset(
    {
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND"),
        *("1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null", "?"),
    }
)
# In a column of numbers these stand for none as well, however they are cased and bracketed.
MISSING_WORDS = frozenset(
    {
        *("unknown", "unk", "missing", "none", "none given", "not given", "not available"),
        *("not applicable", "not known", "not measured", "not recorded", "not specified"),
        *("unspecified", "undefined", "no data", "nodata", "nil", "void", "empty", "blank", "tbd"),
        *("tba", "na", "n.a.", "n.a", "n/a", "n/a.", "nd", "n.d.", "n.d", "n/d", "n.k.", "n.r."),
        *("nr", "null", "nan", "k.a.", "k. a.", "k.a", "keine angabe", "unbekannt", "fehlt"),
        *("fehlend", "inconnu", "inconnue", "non renseigné", "s/d", "s.d.", "sin datos"),
        *("desconocido", "desconhecido", "sconosciuto", "onbekend", "brak", "неизвестно"),
        *("нет данных", "不明", "未知", "なし", "无", "#div/0!", "#value!", "#ref!"),
        *("#num!", "#name?"),
        *("#null!", "#n/a", "-", "--", "---", "–", "—", "−", ".", "..", "...", "…", "*", "**", "?"),
        *("??", "???", "/", "_", "-.-"),
    }
)
# A larger number would overflow the float64 variance of its column; it is an error or a code for
# "missing".
LARGEST_NUMBER = 1e100

# With so few cells it takes longer to find the different ones than to look at each.
FEW_CELLS = 300

_WHOLE_NUMBER = re.compile(r"([+-]?(?:0|[1-9]\d*))\.0+$")
# A leading zero is never written for a quantity.
_CODE = re.compile(r"^[ \t]*[+-]?0\d+[ \t]*$", re.MULTILINE)


class Numbers(NamedTuple):
    """A column as numbers.

    Attributes:
        values: float64 [N], NaN where missing or bad.
        bad: bool [N], not a number.
        infinite: bool [N], beyond ``LARGEST_NUMBER`` and taken as missing.
    """

    values: np.ndarray
    bad: np.ndarray
    infinite: np.ndarray


def is_text(series: pd.Series) -> bool:
    """Whether the cells are texts (or Python objects) and not numbers, dates or booleans."""
    return bool(series.dtype == object or pd.api.types.is_string_dtype(series.dtype))


def missing_cells(series: pd.Series, extra: Iterable[str] = ()) -> np.ndarray:
    """bool [N]: no value, or a text that stands for none (blanks around it do not matter)."""
    if not is_text(series):
        return series.isna().to_numpy(dtype=bool)
    tokens = MISSING_TOKENS.union(extra) if extra else MISSING_TOKENS
    return _for_each_different(
        series, lambda cell: isinstance(cell, str) and cell.strip() in tokens, True
    ).astype(bool)


def is_missing_word(text: str) -> bool:
    """Whether a text stands for a missing number: a token, or a word such as "unknown", "n.a." or
    "-".
    """
    text = text.strip()
    return (
        text in MISSING_TOKENS
        or text.casefold() in MISSING_WORDS
        or text.casefold().strip("()[]<>{} ") in MISSING_WORDS
    )


def to_numbers(series: pd.Series, extra_missing: Iterable[str] = ()) -> Numbers:
    """Reads a column as numbers; ``extra_missing`` are further texts that mean a missing value."""
    if series.dtype == np.float64:
        values = series.to_numpy()
    else:
        values = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    unread = np.isnan(values)
    bad = np.zeros(len(series), dtype=bool)
    if unread.any() and series.dtype != np.float64:
        bad[unread] = ~missing_cells(series[unread], extra_missing)
    infinite = np.abs(values) > LARGEST_NUMBER
    return Numbers(np.where(infinite, np.nan, values), bad, infinite)


def first_cells(series: pd.Series, rows: int = 200) -> list[object]:
    """The different cells of the first rows that have a value, in order."""
    cells = series.iloc[:rows].to_numpy(dtype=object)
    return list(dict.fromkeys(cells[~pd.isna(cells)].tolist()))


def is_none(texts: np.ndarray) -> np.ndarray:
    """bool [N]: where an array of texts, as of ``to_texts``, has None."""
    return np.asarray(pd.isna(texts), dtype=bool)


def to_texts(series: pd.Series) -> np.ndarray:
    """object [N] of str, None where missing. Blanks around a text are not part of it; a whole
    number reads the same from every file type ("3", "3.0", 3 and 3.0 are all "3"), while "007"
    stays "007".
    """
    return _for_each_different(series, text_of, None)


class Distinct(NamedTuple):
    """The different cells of a column, so that each is looked at once.

    Attributes:
        codes: int64 [N], the position of each cell among the different ones, -1 without a value.
        cells: object [D], the different cells; never None, NaN or NaT.
    """

    codes: np.ndarray
    cells: np.ndarray

    @classmethod
    def of(cls, series: pd.Series) -> Distinct:
        """The different cells of a column of texts or of Python objects."""
        cells = series.to_numpy(dtype=object)
        try:
            return cls(*pd.factorize(cells))
        except TypeError:  # lists and the like cannot be compared
            empty = series.isna().to_numpy(dtype=bool)
            return cls(np.where(empty, -1, np.cumsum(~empty) - 1), cells[~empty])

    def each(self, function: Callable[[object], object], missing: object) -> np.ndarray:
        """object [N] of function(cell), ``missing`` where there is no value."""
        results = np.empty(len(self.cells) + 1, dtype=object)
        results[:-1] = [function(cell) for cell in self.cells]
        results[-1] = missing
        return results[self.codes]

    def without_missing(self) -> Distinct:
        """The same without the texts that stand for no value, whose code becomes -1."""
        kept = np.array([not is_token(cell) for cell in self.cells], dtype=bool)
        place = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)
        return Distinct(place[self.codes], self.cells[kept])


def is_token(cell: object) -> bool:
    """Whether a cell is a text that stands for no value."""
    return isinstance(cell, str) and cell.strip() in MISSING_TOKENS


def _for_each_different(
    series: pd.Series, function: Callable[[object], object], missing: object
) -> np.ndarray:
    """object [N] of function(cell), called once for equal cells; ``missing`` where there is none
    (None, NaN, NaT).
    """
    cells = series.to_numpy(dtype=object)
    if len(cells) > FEW_CELLS:
        return Distinct.of(series).each(function, missing)
    results = np.empty(len(cells), dtype=object)
    none = pd.isna(cells)
    results[:] = [
        missing if empty else function(cell)
        for cell, empty in zip(cells.tolist(), none.tolist(), strict=True)
    ]
    return results


def text_of(value: object) -> str | None:
    """A cell that is not empty as ``to_texts`` gives it."""
    if isinstance(value, str):
        value = value.strip()
        whole = _WHOLE_NUMBER.match(value)
        return None if value in MISSING_TOKENS else whole[1] if whole else value
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    return str(value)


def holds_codes(series: pd.Series) -> bool:
    """Whether a whole number with a leading zero is among the texts: codes, such as postal codes,
    and no quantities.
    """
    only_texts = pd.api.types.infer_dtype(series) == "string"
    return only_texts and _CODE.search("\n".join(series.tolist())) is not None
