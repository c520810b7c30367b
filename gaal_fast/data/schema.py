"""Finds out what each column of a table is for."""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from gaal_fast.data.cells import Numbers, holds_codes, is_text, looks_like_dates, missing_cells, to_days, to_numbers, to_texts
from gaal_fast.data.image_files import ImageFolder, find_image_column
from gaal_fast.data.issues import some, warn
from gaal_fast.data.table import expand_columns, require_column
from gaal_fast.errors import UserError

# Texts with more levels than max(50, a fifth of the rows) say next to nothing per level, and widen the input by one each.
FREE_TEXT_LEVELS, FREE_TEXT_SHARE = 50, 0.2
# A column with at most this share of cells that are no numbers is still numeric: those cells count as missing.
BAD_NUMBER_SHARE = 0.05
_MIN_CELLS_FOR_SHARE = 20
_ID_WORDS = {"id", "ids", "uid", "uuid", "guid", "key", "index", "idx", "no", "nr", "number", "row", "rowid", "pk"}


@dataclass(frozen=True)
class TableSchema:
    """The meaning of a table's columns, as found by `infer_schema` and saved with a run.

    target: the column to predict; classes: its labels, naturally sorted (filled in once the target has been read).
    image_column: the pictures' file names, or None. split_column, group_column: only steer the split.
    numeric, categorical, dates: the features. Dates become days since 1970-01-01. Integer columns with few values stay
    numeric unless declared categorical; true/false columns are categorical.
    dropped: column -> why it is no feature. missing_texts: numeric column -> further texts that mean "missing" in it.
    """

    target: str
    classes: tuple[str | int, ...] = ()
    image_column: str | None = None
    split_column: str | None = None
    group_column: str | None = None
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()
    dropped: dict[str, str] = field(default_factory=dict)
    missing_texts: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def features(self) -> tuple[str, ...]:
        return self.numeric + self.dates + self.categorical

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "TableSchema":
        """Raises ValueError if the text is not a saved schema."""
        values = json.loads(text)
        if not isinstance(values, dict) or set(values) != {item.name for item in fields(cls)}:
            raise ValueError("not a table schema")
        for name in ("classes", "numeric", "categorical", "dates"):
            values[name] = tuple(values[name])
        values["missing_texts"] = {name: tuple(texts) for name, texts in values["missing_texts"].items()}
        return cls(**values)

    def describe(self) -> list[str]:
        """What was found, one line each, for the console."""
        lines = [f"target: {self.target}" + (f" ({len(self.classes)} classes)" if self.classes else "")]
        lines.append(f"pictures: {self.image_column or 'none'}")
        for kind in ("numeric", "dates", "categorical"):
            names = getattr(self, kind)
            if names:
                lines.append(f"{kind}: {len(names)} ({some(names)})")
        for reason in dict.fromkeys(self.dropped.values()):
            names = [name for name, found in self.dropped.items() if found == reason]
            alone = f'"{names[0]}": {reason}'
            lines.append(f"not used: {alone if len(names) == 1 else f'{len(names)} columns {reason} ({some(names)})'}")
        return lines


class _Kind(NamedTuple):
    kind: Literal["numeric", "categorical", "dates", "dropped"]
    reason: str = ""
    missing_texts: tuple[str, ...] = ()
    warning: str = ""


def infer_schema(
    frame: pd.DataFrame,
    *,
    target: str,
    folder: ImageFolder | None = None,
    image_column: str | None = None,
    numeric: Iterable[str] = (),
    categorical: Iterable[str] = (),
    drop: Iterable[str] = (),
    split_column: str | None = None,
    group_column: str | None = None,
    source: object = "the table",
    warnings: list[str] | None = None,
) -> TableSchema:
    """Assigns every column of `frame` a use. `numeric`, `categorical` and `drop` override what would be found (names, or
    patterns such as "margin*"); without `image_column`, one is looked for if there is a `folder` of pictures. `source` names the
    table in messages; warnings are appended to `warnings`.

    The kinds are read off the cells of all rows, never off the labels. Raises UserError for an unknown column, for a cell of a
    declared numeric column that is no number, and if several columns could name the pictures.
    """
    warnings = [] if warnings is None else warnings
    columns = list(frame.columns)
    target = require_column(columns, target, source)
    roles = {target}
    split = group = image = None
    if split_column is not None:
        split = require_column(columns, split_column, source)
    if group_column is not None:
        group = require_column(columns, group_column, source)
    if image_column is not None:
        image = require_column(columns, image_column, source)
    roles |= {name for name in (split, group, image) if name is not None}
    if target in (split, group, image):
        raise UserError(f'column "{target}" is the target; it cannot be the picture, split or group column as well')

    dropped_names = expand_columns(columns, drop, "--data.drop", source, roles)
    numeric_names = expand_columns(columns, numeric, "--data.numeric", source, roles)
    categorical_names = expand_columns(columns, categorical, "--data.categorical", source, roles)
    twice = sorted(set(numeric_names) & set(categorical_names))
    if twice:
        raise UserError(f"columns declared both numeric and categorical: {some(twice)}")
    twice = sorted(set(dropped_names) & set(numeric_names + categorical_names))
    if twice:
        raise UserError(f"columns both dropped and declared numeric or categorical: {some(twice)}")

    if image is None and folder is not None:
        taken = roles | set(dropped_names + numeric_names + categorical_names)
        image = find_image_column(frame[[name for name in columns if name not in taken]], folder, source)
        roles |= {image} - {None}

    kinds: dict[str, _Kind] = {}
    for name in columns:
        if name in roles:
            continue
        if name in dropped_names:
            kinds[name] = _Kind("dropped", "dropped on request")
        elif name in numeric_names:
            kinds[name] = _declared_numeric(frame[name], name)
        elif name in categorical_names:
            kinds[name] = _Kind("categorical")
        else:
            kinds[name] = _infer_kind(frame[name], name)
        if kinds[name].warning:
            warn(warnings, kinds[name].warning)

    def of(kind: str) -> tuple[str, ...]:
        return tuple(name for name, found in kinds.items() if found.kind == kind)

    schema = TableSchema(
        target=target,
        image_column=image,
        split_column=split,
        group_column=group,
        numeric=of("numeric"),
        categorical=of("categorical"),
        dates=of("dates"),
        dropped={name: kinds[name].reason for name in of("dropped")},
        missing_texts={name: found.missing_texts for name, found in kinds.items() if found.missing_texts},
    )
    _warn_of_blanks(frame, schema, warnings)
    _warn_of_infinities(frame, schema, warnings)
    return schema


def read_numbers(series: pd.Series, schema: TableSchema, name: str) -> np.ndarray:
    """float64 [N] of a numeric or date column, NaN where missing. Raises UserError at a cell that is neither."""
    if name in schema.dates or pd.api.types.is_datetime64_any_dtype(series.dtype):
        numbers, kind = to_days(series), "a date column"
    else:
        numbers, kind = to_numbers(series, schema.missing_texts.get(name, ())), "numeric"
    _check_numbers(series, numbers, name, kind)
    return numbers.values


def _check_numbers(series: pd.Series, numbers: Numbers, name: str, kind: str) -> None:
    if numbers.bad.any():
        row = int(np.flatnonzero(numbers.bad)[0])
        raise UserError(f'column "{name}" is {kind} but row {row + 1} holds "{series.iloc[row]}"')


def _declared_numeric(series: pd.Series, name: str) -> _Kind:
    if looks_like_dates(series):
        return _Kind("dates")
    _check_numbers(series, to_numbers(series), name, "declared numeric")
    return _Kind("numeric")


def _infer_kind(series: pd.Series, name: str) -> _Kind:
    missing = missing_cells(series)
    present = len(series) - int(missing.sum())
    cells = series[~missing]
    if present == 0:
        return _Kind("dropped", "has no values")
    content = pd.api.types.infer_dtype(cells)
    if content in ("bytes", "mixed") and any(isinstance(cell, (list, tuple, dict, set, bytes, np.ndarray)) for cell in cells):
        return _Kind("dropped", "holds lists or binary data")
    if content == "boolean":
        return _text_kind(cells, name, bool(missing.any()), len(series))
    if looks_like_dates(series):
        constant = not missing.any() and len(np.unique(to_days(cells).values)) == 1
        return _Kind("dropped", "is constant") if constant else _Kind("dates")
    numbers = to_numbers(cells)
    bad = int(numbers.bad.sum())
    if holds_codes(cells):
        return _text_kind(cells, name, bool(missing.any()), len(series))
    if bad == 0:
        return _number_kind(numbers.values, name, bool(missing.any()))
    if present >= _MIN_CELLS_FOR_SHARE and bad <= BAD_NUMBER_SHARE * present:
        texts = tuple(sorted({str(cell).strip() for cell in cells[numbers.bad]}))
        row = int(cells.index[numbers.bad][0])
        warning = (
            f'column "{name}": {bad} of {present} values are no numbers (row {row + 1} holds "{series[row]}"); '
            "taken as missing (declare the column categorical to keep them)"
        )
        return _Kind("numeric", missing_texts=texts, warning=warning)
    kind = _text_kind(cells, name, bool(missing.any()), len(series))
    if bad <= present / 2 and not kind.warning:
        row = int(cells.index[numbers.bad][0])
        use = "categorical" if kind.kind == "categorical" else f"not used ({kind.reason})"
        warning = f'column "{name}": {bad} of {present} values are no numbers (row {row + 1} holds "{series[row]}"); {use}'
        kind = kind._replace(warning=warning)
    return kind


def _number_kind(values: np.ndarray, name: str, any_missing: bool) -> _Kind:
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return _Kind("dropped", "has no finite values")
    distinct = np.unique(finite)
    if distinct.size == 1 and finite.size == values.size and not any_missing:
        return _Kind("dropped", "is constant")
    if distinct.size == values.size and distinct.size > 2 and np.equal(np.mod(finite, 1), 0).all():
        if _is_id_name(name):
            return _Kind("dropped", "an identifier (every value is different)")
        run = distinct[0] in (0, 1) and np.array_equal(distinct, distinct[0] + np.arange(distinct.size))
        # A handful of small different integers may well be a quantity; in file order, or many, they are row numbers.
        if run and (np.array_equal(finite, distinct) or distinct.size >= _MIN_CELLS_FOR_SHARE):
            return _Kind("dropped", "row numbers")
    return _Kind("numeric")


def _text_kind(cells: pd.Series, name: str, any_missing: bool, rows: int) -> _Kind:
    texts = to_texts(cells)
    levels = len(set(texts))
    if levels == 1 and not any_missing:
        return _Kind("dropped", "is constant")
    if levels == len(texts):
        return _Kind("dropped", "an identifier (every value is different)")
    limit = max(FREE_TEXT_LEVELS, FREE_TEXT_SHARE * rows)
    if levels > limit:
        warning = f'column "{name}" has {levels} different texts in {rows} rows: taken as free text and not used'
        return _Kind("dropped", f"free text ({levels} levels)", warning=f"{warning} (declare it categorical to keep it)")
    return _Kind("categorical")


def _is_id_name(name: str) -> bool:
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]
    return bool(words) and (words[-1] in _ID_WORDS or words[0] in ("id", "unnamed"))


def _warn_of_blanks(frame: pd.DataFrame, schema: TableSchema, warnings: list[str]) -> None:
    padded = [
        name
        for name in (schema.target, *schema.categorical)
        if is_text(frame[name]) and any(isinstance(cell, str) and cell != cell.strip() for cell in pd.unique(frame[name]))
    ]
    if padded:
        warn(warnings, f"blanks around the values of {some(padded)} are ignored")


def _warn_of_infinities(frame: pd.DataFrame, schema: TableSchema, warnings: list[str]) -> None:
    for name in schema.numeric:
        count = int(to_numbers(frame[name]).infinite.sum())
        if count:
            warn(warnings, f'column "{name}": {count} infinite values (beyond 1e100) count as missing')
