"""Finds out what each column of a table is for, and parses it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from gaal_fast.config import DataConfig
from gaal_fast.data.images.folder import ImageFolder
from gaal_fast.data.issues import some, warn
from gaal_fast.data.tables.cells import is_text
from gaal_fast.data.tables.codes import looks_like_codes
from gaal_fast.data.tables.columns import Column, TypedTable, warn_of_numbers
from gaal_fast.data.tables.dates import DateChoice, settle_order
from gaal_fast.data.tables.kinds import Kind, declared_numeric, infer_kind
from gaal_fast.data.tables.numbers import NumberColumns
from gaal_fast.data.tables.roles import Roles, find_roles
from gaal_fast.data.tables.schema import TableSchema


def infer_schema(
    frame: pd.DataFrame,
    config: DataConfig,
    *,
    folder: ImageFolder | None = None,
    source: object = "the table",
    warnings: list[str] | None = None,
) -> TableSchema:
    """As ``infer_columns``, for the meaning of the columns alone."""
    warnings = [] if warnings is None else warnings
    roles = find_roles(frame, config, folder, source)
    return infer_columns(frame, roles, config, NumberColumns(frame), warnings).schema


def infer_columns(
    frame: pd.DataFrame,
    roles: Roles,
    config: DataConfig,
    numbers: NumberColumns,
    warnings: list[str],
) -> TypedTable:
    """Assigns every column a use by its cells, and parses those that are features.

    The kind is told off the cells of all rows, never off the labels. A column most of whose cells
    are numbers is numeric; its other cells count as missing, with a warning.

    Args:
        frame: The table.
        roles: What is declared or found of the columns, which overrules the cells.
        config: Says which of day and month comes first.
        numbers: The columns of ``frame`` as numbers.
        warnings: Gets what the user should know.

    Raises:
        UserError: Most cells of a declared numeric column are no numbers.
    """
    free = [name for name in frame.columns if name not in roles.taken]
    columns = {name: Column(frame[name], name, numbers) for name in free}
    kinds: dict[str, Kind] = {}
    for name, column in columns.items():
        kinds[name] = _kind(column, roles, config)
        if kinds[name].warning:
            warn(warnings, kinds[name].warning)
    dates = settle_order(
        {name: kind.dates for name, kind in kinds.items() if kind.dates is not None},
        config.date_order,
        warnings,
    )
    schema = _schema(roles, columns, kinds, dates)
    _warn_of_blanks(frame, schema, warnings)
    warn_of_numbers(frame, {name: name for name in schema.numeric}, numbers, warnings)
    _warn_of_codes(numbers, schema, roles.numeric, warnings)
    values = {name: numbers.numbers(name).values for name in schema.numeric}
    values |= {name: dates[name].days().values for name in schema.dates}
    levels = {name: columns[name].levels for name in schema.categorical}
    return TypedTable(schema, len(frame), values, levels)


def _kind(column: Column, roles: Roles, config: DataConfig) -> Kind:
    if column.name in roles.dropped:
        return Kind("dropped", "dropped on request")
    if column.name in roles.numeric:
        return declared_numeric(column, config.date_order)
    if column.name in roles.categorical:
        return Kind("categorical")
    if column.name in roles.more_images:
        columns = "one column" if len(roles.images) == 1 else "other columns"
        return Kind(
            "dropped", f"names pictures too, and those of {columns} are used: {some(roles.images)}"
        )
    return infer_kind(column, config.date_order)


def _schema(
    roles: Roles,
    columns: Mapping[str, Column],
    kinds: Mapping[str, Kind],
    dates: Mapping[str, DateChoice],
) -> TableSchema:
    def of(kind: str) -> tuple[str, ...]:
        return tuple(name for name, found in kinds.items() if found.kind == kind)

    return TableSchema(
        target=roles.target,
        image_column=roles.images[0] if roles.images else None,
        more_image_columns=roles.images[1:],
        key=roles.key,
        split_column=roles.split,
        group_column=roles.group,
        numeric=of("numeric"),
        categorical=of("categorical"),
        dates=of("dates"),
        date_formats={name: choice.format for name, choice in dates.items()},
        booleans=_booleans(columns, of("numeric"), of("categorical")),
        dropped={name: kinds[name].reason for name in of("dropped")},
        missing_texts={
            name: found.missing_texts for name, found in kinds.items() if found.missing_texts
        },
    )


def _booleans(
    columns: Mapping[str, Column], numeric: Iterable[str], categorical: Iterable[str]
) -> tuple[str, ...]:
    """Columns whose other spellings are to be read as their own: true and false as levels, or as
    the numbers 1 and 0.
    """
    found = [name for name in categorical if columns[name].is_boolean]
    for name in numeric:
        column = columns[name]
        if column.has_few_levels:
            values = column.numbers.numbers(name).values
            found += [name] if np.isin(values[~np.isnan(values)], (0, 1)).all() else []
    return tuple(found)


def _warn_of_blanks(frame: pd.DataFrame, schema: TableSchema, warnings: list[str]) -> None:
    padded = [
        name
        for name in filter(None, (schema.target, *schema.categorical))
        if is_text(frame[name])
        and any(isinstance(cell, str) and cell != cell.strip() for cell in pd.unique(frame[name]))
    ]
    if padded:
        warn(warnings, f"blanks around the values of {some(padded)} are ignored")


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
