"""Finds out what each column of a table is for."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from gaal_fast.data.images.find import find_image_column
from gaal_fast.data.images.folder import ImageFolder
from gaal_fast.data.issues import some, warn
from gaal_fast.data.tables.cells import (
    Numbers,
    holds_codes,
    is_text,
    missing_cells,
    to_numbers,
    to_texts,
)
from gaal_fast.data.tables.codes import is_left_behind, looks_like_codes, words_of
from gaal_fast.data.tables.dates import (
    ISO,
    DateChoice,
    DateOrder,
    choose_format,
    example,
    settle_order,
    to_days,
)
from gaal_fast.data.tables.numbers import NumberColumns
from gaal_fast.data.tables.read import expand_columns, require_column
from gaal_fast.data.tables.truth import is_boolean, read_words, unify
from gaal_fast.errors import UserError

# Texts with more levels than max(50, a fifth of the rows) say next to nothing per level, and widen
# the input by one each.
FREE_TEXT_LEVELS, FREE_TEXT_SHARE = 50, 0.2
_MIN_CELLS_FOR_RUN = 20
# Columns that are told one by one of the cells in them that are no numbers.
_TOLD_COLUMNS = 20
_ID_WORDS = {
    "id",
    "ids",
    "uid",
    "uuid",
    "guid",
    "key",
    "index",
    "idx",
    "no",
    "nr",
    "number",
    "row",
    "rowid",
    "pk",
}


@dataclass(frozen=True)
class TableSchema:
    """The meaning of a table's columns, as found by `infer_schema` and saved with a run.

    target: the column to predict; classes: its labels, naturally sorted (filled in once the target
    has been read). image_column: the images' file names, or None. split_column, group_column:
    only steer the split. numeric, categorical, dates: the features. Dates become days since
    1970-01-01 and what repeats in them. Integer columns with few values stay numeric unless
    declared categorical; true/false columns are categorical. date_formats: date column -> how it is
    read. booleans: columns in which every spelling of true and false is one value. dropped: column
    -> why it is no feature. missing_texts: numeric column -> further texts that mean "missing" in
    it.
    """

    target: str
    classes: tuple[str | int, ...] = ()
    image_column: str | None = None
    split_column: str | None = None
    group_column: str | None = None
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()
    date_formats: dict[str, str] = field(default_factory=dict)
    booleans: tuple[str, ...] = ()
    dropped: dict[str, str] = field(default_factory=dict)
    missing_texts: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def features(self) -> tuple[str, ...]:
        return self.numeric + self.dates + self.categorical

    def without_features(self) -> str:
        """Why there is no feature column, for a message."""
        dropped = [f'"{name}" {reason}' for name, reason in self.dropped.items()]
        why = f" ({'; '.join(dropped[:3])}{'; ...' if len(dropped) > 3 else ''})" if dropped else ""
        return f"the table has no usable column besides the target{why}"

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "TableSchema":
        """Raises ValueError if the text is not a saved schema."""
        values = json.loads(text)
        if not isinstance(values, dict) or set(values) != {item.name for item in fields(cls)}:
            raise ValueError("not a table schema")
        for name in ("classes", "numeric", "categorical", "dates", "booleans"):
            values[name] = tuple(values[name])
        values["missing_texts"] = {
            name: tuple(texts) for name, texts in values["missing_texts"].items()
        }
        return cls(**values)

    def describe(self) -> list[str]:
        """What was found, one line each, for the console."""
        lines = [
            f"target: {self.target}" + (f" ({len(self.classes)} classes)" if self.classes else "")
        ]
        lines.append(f"images: {self.image_column or 'none'}")
        for kind in ("numeric", "dates", "categorical"):
            names = getattr(self, kind)
            if names:
                lines.append(f"{kind}: {len(names)} ({some(names, 12)})")
        written = [f'"{name}" as {example(form)}' for name, form in self.date_formats.items()]
        lines.extend([f"dates are read: {', '.join(written)}"] if written else [])
        for reason in dict.fromkeys(self.dropped.values()):
            names = [name for name, found in self.dropped.items() if found == reason]
            which = f'"{names[0]}"' if len(names) == 1 else f"{len(names)} columns ({some(names)})"
            lines.append(f"not used: {which}: {reason}")
        return lines


class _Kind(NamedTuple):
    kind: Literal["numeric", "categorical", "dates", "dropped"]
    reason: str = ""
    missing_texts: tuple[str, ...] = ()
    warning: str = ""
    dates: DateChoice | None = None


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
    date_order: DateOrder = "auto",
    source: object = "the table",
    warnings: list[str] | None = None,
    numbers: NumberColumns | None = None,
) -> TableSchema:
    """Assigns every column of `frame` a use. `numeric`, `categorical` and `drop` override what
    would be found (names, or patterns such as "margin*"); without `image_column`, one is looked for
    if there is a `folder` of images. `source` names the table in messages; warnings are appended
    to `warnings`. numbers: the columns of `frame` as numbers, if they were read before.
    `date_order` says whether day or month comes first in dates that leave it open.

    The kinds are read off the cells of all rows, never off the labels. A column most of whose cells
    are numbers is numeric; its other cells count as missing, with a warning. Raises UserError for
    an unknown column, for a declared numeric column most of whose cells are no numbers, and if
    several columns could name the images.
    """
    warnings = [] if warnings is None else warnings
    numbers = NumberColumns(frame) if numbers is None else numbers
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
        raise UserError(
            f'column "{target}" is the target; it cannot be the image, split or group column as'
            " well"
        )

    dropped_names = expand_columns(columns, drop, "--data.drop", source, roles)
    numeric_names = expand_columns(columns, numeric, "--data.numeric", source, roles)
    categorical_names = expand_columns(columns, categorical, "--data.categorical", source, roles)
    twice = sorted(set(numeric_names) & set(categorical_names))
    if twice:
        raise UserError(f"columns declared both numeric and categorical: {some(twice)}")
    twice = sorted(set(dropped_names) & set(numeric_names + categorical_names))
    if twice:
        raise UserError(f"columns both dropped and declared numeric or categorical: {some(twice)}")

    more_images: list[str] = []
    if folder is not None:
        # Rows of one image may be the groups.
        taken = (roles - {group}) | set(dropped_names + numeric_names + categorical_names)
        image, more_images = find_image_column(
            frame[[name for name in columns if name not in taken]], folder, source, image
        )
        roles |= {image} - {None}

    kinds: dict[str, _Kind] = {}
    for name in columns:
        if name in roles:
            continue
        if name in dropped_names:
            kinds[name] = _Kind("dropped", "dropped on request")
        elif name in numeric_names:
            kinds[name] = _declared_numeric(frame[name], name, numbers, date_order)
        elif name in categorical_names:
            kinds[name] = _Kind("categorical")
        elif name in more_images:
            reason = f'names pictures too, and those of one column are used: "{image}"'
            kinds[name] = _Kind("dropped", reason)
        else:
            kinds[name] = _infer_kind(frame[name], name, numbers, date_order)
        if kinds[name].warning:
            warn(warnings, kinds[name].warning)

    def of(kind: str) -> tuple[str, ...]:
        return tuple(name for name, found in kinds.items() if found.kind == kind)

    choices = {name: found.dates for name, found in kinds.items() if found.dates is not None}
    formats = settle_order(choices, {name: frame[name] for name in choices}, date_order, warnings)
    schema = TableSchema(
        target=target,
        image_column=image,
        split_column=split,
        group_column=group,
        numeric=of("numeric"),
        categorical=of("categorical"),
        dates=of("dates"),
        date_formats=formats,
        booleans=_booleans(frame, numbers, of("numeric"), of("categorical")),
        dropped={name: kinds[name].reason for name in of("dropped")},
        missing_texts={
            name: found.missing_texts for name, found in kinds.items() if found.missing_texts
        },
    )
    _warn_of_blanks(frame, schema, warnings)
    warn_of_numbers(frame, {name: name for name in schema.numeric}, numbers, warnings)
    _warn_of_codes(numbers, schema, numeric_names, warnings)
    return schema


def read_numbers(series: pd.Series, schema: TableSchema, name: str) -> np.ndarray:
    """float64 [N] of a numeric or date column, NaN where missing. Raises UserError at a cell that
    is no number in a numeric column; one that is no date counts as missing.
    """
    if name in schema.dates:
        return read_dates(series, schema, name)
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        raise UserError(f'column "{name}" is numeric but holds dates')
    numbers = to_numbers(series, schema.missing_texts.get(name, ()))
    if name in schema.booleans:
        numbers = read_words(series, numbers)
    _check_numbers(series, numbers, name, "numeric")
    return numbers.values


def read_dates(
    series: pd.Series, schema: TableSchema, name: str, warnings: list[str] | None = None
) -> np.ndarray:
    """float64 [N], days since 1970 of a date column, NaN where missing or no date; says how many
    are none in `warnings`.
    """
    numbers = to_days(series, schema.date_formats.get(name, ISO))
    bad = np.flatnonzero(numbers.bad)
    if len(bad) and warnings is not None:
        present = len(series) - int(missing_cells(series).sum())
        warn(
            warnings,
            f'column "{name}": {len(bad)} of {present} values are no dates like'
            f" {example(schema.date_formats.get(name, ISO))} (row {bad[0] + 1} holds"
            f' "{series.iloc[bad[0]]}"); taken as missing',
        )
    return numbers.values


def _check_numbers(series: pd.Series, numbers: Numbers, name: str, kind: str) -> None:
    if numbers.bad.any():
        row = int(np.flatnonzero(numbers.bad)[0])
        raise UserError(f'column "{name}" is {kind} but row {row + 1} holds "{series.iloc[row]}"')


def _declared_numeric(
    series: pd.Series, name: str, numbers: NumberColumns, order: DateOrder
) -> _Kind:
    dates = choose_format(series, order)
    if dates is not None and numbers.numbers(name).bad.any():
        return _Kind("dates", dates=dates)
    found = numbers.read_truth(name)
    if found.bad.sum() >= np.isfinite(found.values).sum():
        _check_numbers(series, found, name, "declared numeric")
    return _Kind("numeric", missing_texts=_missing_texts(series, name, numbers))


def _missing_texts(series: pd.Series, name: str, numbers: NumberColumns) -> tuple[str, ...]:
    others = numbers.others(name)
    return tuple(sorted({str(cell).strip() for cell in series[others]})) if others.any() else ()


def _infer_kind(series: pd.Series, name: str, columns: NumberColumns, order: DateOrder) -> _Kind:
    missing = missing_cells(series)
    present = len(series) - int(missing.sum())
    cells = series[~missing] if missing.any() else series
    if present == 0:
        return _Kind("dropped", "has no values")
    content = pd.api.types.infer_dtype(cells)
    if content in ("bytes", "mixed") and any(
        isinstance(cell, (list, tuple, dict, set, bytes, np.ndarray)) for cell in cells
    ):
        return _Kind("dropped", "holds lists or binary data")
    if content == "boolean" or (
        content == "string" and _is_short_of_levels(cells) and is_boolean(to_texts(cells))
    ):
        return _text_kind(
            pd.Series(unify(to_texts(cells)), dtype=object), name, bool(missing.any()), len(series)
        )
    dates = choose_format(series, order)
    if dates is not None:
        return _date_kind(series, name, dates, missing)
    numbers = columns.numbers(name)
    read = ~np.isnan(numbers.values) | numbers.infinite
    good, bad = int(read.sum()), int(numbers.bad.sum())
    if holds_codes(cells):
        return _text_kind(cells, name, bool(missing.any()), len(series))
    if good > bad:
        kind = _number_kind(numbers.values[read], name, good < len(series))
        return (
            kind._replace(missing_texts=_missing_texts(series, name, columns))
            if kind.kind == "numeric"
            else kind
        )
    kind = _text_kind(cells, name, bool(missing.any()), len(series))
    use = "categorical" if kind.kind == "categorical" else f"not used ({kind.reason})"
    units = columns.different_units(name)
    if units and not kind.warning:
        kind = kind._replace(
            warning=f'column "{name}" holds numbers of different units ({some(units)}); {use}'
        )
    elif good and good == bad and not kind.warning:
        row = int(np.flatnonzero(numbers.bad)[0])
        warning = (
            f'column "{name}": {bad} of {good + bad} values are no numbers (row {row + 1} holds'
            f' "{series.iloc[row]}"); {use}'
        )
        kind = kind._replace(warning=warning)
    return kind


def _is_short_of_levels(cells: pd.Series) -> bool:
    """A cheap look: a boolean column does not have twenty different texts among its first cells."""
    return cells.iloc[:200].nunique() < 20


def _booleans(
    frame: pd.DataFrame, columns: NumberColumns, numeric: Iterable[str], categorical: Iterable[str]
) -> tuple[str, ...]:
    """Columns whose other spellings are to be read as their own: true and false as levels, or as
    the numbers 1 and 0.
    """
    found = [
        name
        for name in categorical
        if _is_short_of_levels(frame[name]) and is_boolean(to_texts(frame[name]))
    ]
    for name in numeric:
        if frame[name].iloc[:200].nunique() < 20:
            values = columns.numbers(name).values
            found += [name] if np.isin(values[~np.isnan(values)], (0, 1)).all() else []
    return tuple(found)


def _date_kind(series: pd.Series, name: str, dates: DateChoice, missing: np.ndarray) -> _Kind:
    numbers = to_days(series, dates.format)
    warning = ""
    if dates.bad.any():
        row = int(np.flatnonzero(dates.bad)[0])
        warning = (
            f'column "{name}": {int(dates.bad.sum())} of {len(series) - int(missing.sum())} values'
            f' are no dates (row {row + 1} holds "{series.iloc[row]}"); taken as missing'
        )
    elif numbers.infinite.any():
        row = int(np.flatnonzero(numbers.infinite)[0])
        warning = (
            f'column "{name}": {int(numbers.infinite.sum())} dates far from all others count as'
            f' missing (row {row + 1} holds "{series.iloc[row]}")'
        )
    known = numbers.values[~np.isnan(numbers.values)]
    if len(known) == len(series) and len(np.unique(known)) == 1:
        return _Kind("dropped", "is constant")
    return _Kind("dates", warning=warning, dates=dates)


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
        run = distinct[0] in (0, 1) and np.array_equal(
            distinct, distinct[0] + np.arange(distinct.size)
        )
        # A handful of small different integers may well be a quantity; in file order, or many, they
        # are row numbers.
        if run and (np.array_equal(finite, distinct) or distinct.size >= _MIN_CELLS_FOR_RUN):
            return _Kind("dropped", "row numbers")
    return _Kind("dropped", "row numbers") if is_left_behind(name, finite) else _Kind("numeric")


def _text_kind(cells: pd.Series, name: str, any_missing: bool, rows: int) -> _Kind:
    texts = to_texts(cells)
    levels = len(set(texts))
    if levels == 1 and not any_missing:
        return _Kind("dropped", "is constant")
    if levels == len(texts):
        return _Kind("dropped", "an identifier (every value is different)")
    limit = max(FREE_TEXT_LEVELS, FREE_TEXT_SHARE * rows)
    if levels > limit:
        warning = (
            f'column "{name}" has {levels} different texts in {rows} rows: taken as free text and'
            " not used"
        )
        return _Kind(
            "dropped",
            f"free text ({levels} levels)",
            warning=f"{warning} (declare it categorical to keep it)",
        )
    return _Kind("categorical")


def _is_id_name(name: str) -> bool:
    words = words_of(name)
    return bool(words) and (words[-1] in _ID_WORDS or words[0] in ("id", "unnamed"))


def _warn_of_blanks(frame: pd.DataFrame, schema: TableSchema, warnings: list[str]) -> None:
    padded = [
        name
        for name in (schema.target, *schema.categorical)
        if is_text(frame[name])
        and any(isinstance(cell, str) and cell != cell.strip() for cell in pd.unique(frame[name]))
    ]
    if padded:
        warn(warnings, f"blanks around the values of {some(padded)} are ignored")


def warn_of_numbers(
    frame: pd.DataFrame, names: Mapping[str, str], numbers: NumberColumns, warnings: list[str]
) -> None:
    """Tells which cells of numeric columns count as missing although they are not empty, and what
    is doubtful about others.

    names: how a column of ``frame`` is called in messages.
    """
    told = []
    for column, name in names.items():
        found, others = numbers.numbers(column), numbers.others(column)
        doubt, count = numbers.warning(column), int(others.sum())
        if doubt:
            warn(warnings, doubt)
        if count:
            row = int(np.flatnonzero(others)[0])
            present = count + int((~np.isnan(found.values) | found.infinite).sum())
            told.append(
                f'column "{name}": {count} of {present} values are no numbers (row {row + 1} holds'
                f' "{frame[column].iloc[row]}"); taken as missing'
            )
        if found.infinite.any():
            warn(
                warnings,
                f'column "{name}": {int(found.infinite.sum())} infinite values (beyond 1e100) count'
                " as missing",
            )
    for line in told[:_TOLD_COLUMNS]:
        warn(warnings, line)
    if len(told) > _TOLD_COLUMNS:
        warn(
            warnings,
            f"{len(told) - _TOLD_COLUMNS} more columns hold values that are no numbers; taken as"
            " missing",
        )


def _warn_of_codes(
    numbers: NumberColumns, schema: TableSchema, declared: Iterable[str], warnings: list[str]
) -> None:
    """Names the whole numbers that may be codes: a zip code read as a quantity costs accuracy, and
    nobody sees why.
    """
    found = []
    for name in schema.numeric:
        if name not in declared:
            values = numbers.numbers(name).values
            found += [name] if looks_like_codes(name, values[~np.isnan(values)]) else []
    if found:
        warn(
            warnings,
            f"whole numbers that may be codes are read as quantities: {some(found)}; where they are"
            " codes of things, "
            f'make them categories with --data.categorical "{",".join(found)}"',
        )
