"""Further tables, whose rows are joined to those of the main one by a key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from gaal_fast.config import DataConfig
from gaal_fast.data.issues import some, warn
from gaal_fast.data.reading import TableReading
from gaal_fast.data.sides import TableSide
from gaal_fast.data.tables.cells import is_none, to_texts
from gaal_fast.data.tables.columns import TypedTable
from gaal_fast.data.tables.infer import infer_columns
from gaal_fast.data.tables.numbers import NumberOptions
from gaal_fast.data.tables.opened import OpenedTable
from gaal_fast.data.tables.preprocess import TableArrays, TablePreprocessor
from gaal_fast.data.tables.read import TableOptions, find_column, require_column
from gaal_fast.data.tables.roles import further_roles
from gaal_fast.errors import UserError


@dataclass(frozen=True, eq=False)
class JoinedTable:
    """A further table and where its rows belong.

    Attributes:
        name: Of the modality.
        opened: The table.
        key: Its key column.
        rows: int64 [N], its row for each row of the main table, -1 for none.
    """

    name: str
    opened: OpenedTable
    key: str
    rows: np.ndarray

    @property
    def matched(self) -> np.ndarray:
        """bool [N]: rows of the main table that have a row here."""
        return self.rows >= 0


def join(
    name: str,
    opened: OpenedTable,
    main: pd.DataFrame,
    key: str,
    source: object,
    warnings: list[str],
) -> JoinedTable:
    """Finds the row of a further table for each row of the main one.

    Args:
        name: Of the modality.
        opened: The further table.
        main: The main table, in which a key may be repeated.
        key: The column that both have; "3" and "3.0" are one key.
        source: The main table, for messages.
        warnings: Counts the rows of the main table without a match.

    Raises:
        UserError: A table lacks the column, the further one has a key twice, or no key is in both.
    """
    wanted = to_texts(main[require_column(main.columns, key, source)])
    column = require_column(opened.frame.columns, key, opened.path)
    keys = pd.Series(to_texts(opened.frame[column]), dtype=object)
    repeated = keys[keys.duplicated() & keys.notna()]
    if len(repeated):
        value = repeated.iloc[0]
        places = ", ".join(str(row + 1) for row in np.flatnonzero(keys == value)[:3])
        raise UserError(
            f'{opened.path}: key column "{column}" has "{value}" in several rows ({places}); each'
            " key may be there once"
        )
    place = pd.Series(np.arange(len(keys)), index=keys)[keys.notna().to_numpy()]
    found = place.reindex(wanted).fillna(-1).to_numpy(dtype=np.int64)
    rows = np.where(is_none(wanted), -1, found)
    missing = int((rows < 0).sum())
    if missing == len(rows):
        first = next((text for text in wanted if text is not None), "")
        raise UserError(
            f'{opened.path}: no value of "{column}" is in column "{key}" of {source} (which begins'
            f' with "{first}")'
        )
    if missing:
        warn(warnings, f"{missing} of {len(rows)} rows have no row in {opened.path}")
    return JoinedTable(name, opened, column, rows)


def open_joined(
    files: Mapping[str, Path], main: pd.DataFrame, config: DataConfig, warnings: list[str]
) -> list[JoinedTable]:
    """The further tables of a configuration, joined to the main one.

    Raises:
        UserError: No key column is named, beside what ``join`` and reading refuse.
    """
    if files and config.key is None:
        raise UserError("is needed with --data.tables: the column that joins them", key="data.key")
    if config.key is not None and not files and not config.embeddings:
        raise UserError("is about --data.tables, of which none is given", key="data.key")
    options = NumberOptions(config.decimal, config.thousands, tuple(config.missing_values))
    text = TableOptions(config.encoding, config.delimiter)
    return [
        join(
            name,
            OpenedTable.open(file, text, options, warnings),
            main,
            str(config.key),
            config.csv,
            warnings,
        )
        for name, file in files.items()
    ]


def type_joined(
    table: JoinedTable, config: DataConfig, target: str, warnings: list[str]
) -> tuple[TypedTable, TableReading]:
    """The columns of a further table for the rows of the main one, and how they were read.

    target: The column to predict; one of that name is left out here, with a warning.

    Raises:
        UserError: It has no feature column.
    """
    opened, frame = table.opened, table.opened.frame
    same = find_column(list(frame.columns), target)
    if same is not None:
        warn(warnings, f'{opened.path}: column "{same}" is left out: the target has that name')
        frame = frame.drop(columns=same)
    numbers = opened.numbers()
    roles = further_roles(frame, config, table.key, opened.path)
    typed = infer_columns(frame, roles, config, numbers, warnings)
    if not typed.schema.features:
        raise UserError(f"{opened.path}: {typed.schema.without_features()}")
    return typed.take(table.rows), opened.reading(typed.schema.numeric, numbers)


def fit_joined(
    table: JoinedTable, typed: TypedTable, reading: TableReading, train: np.ndarray, rare: int
) -> TableSide:
    """The side of a further table, fitted on the training rows (int64) that it has.

    rare: Levels with fewer rows share one column.

    Raises:
        UserError: It has none of the training rows.
    """
    rows = train[table.matched[train]]
    if not len(rows):
        raise UserError(f"{table.opened.path} has no row for any training row")
    preprocessor = TablePreprocessor(typed.schema).fit(typed, rows, rare)
    return TableSide(table.name, _arrays(preprocessor, typed, table.matched), preprocessor, reading)


def _arrays(
    preprocessor: TablePreprocessor,
    typed: TypedTable,
    matched: np.ndarray,
    warnings: list[str] | None = None,
) -> TableArrays:
    arrays = preprocessor.transform(typed, warnings=warnings)
    return TableArrays(arrays.features, arrays.present & matched)


def joined_for_prediction(
    preprocessors: Mapping[str, TablePreprocessor],
    readings: Mapping[str, TableReading],
    files: Mapping[str, Path],
    main: pd.DataFrame,
    source: object,
    warnings: list[str],
) -> dict[str, TableSide]:
    """The further tables of a trained model; one that is not given is missing in every row.

    Args:
        preprocessors: Modality to what the training fitted.
        readings: Modality to how its table was read.
        files: Modality to the file that is given for it.
        main: The table to predict.
        source: The same, for messages.
        warnings: Gets the tables that are not given, and what is doubtful in the others.

    Raises:
        UserError: A file is of no table of the training.
    """
    unknown = [str(file) for name, file in files.items() if name not in preprocessors]
    if unknown:
        known = f"its tables: {some(preprocessors)}" if preprocessors else "it had none"
        raise UserError(
            f"--tables: {unknown[0]} has the name of no table of the training ({known})"
        )
    sides = {}
    for name, preprocessor in preprocessors.items():
        if name in files:
            sides[name] = _predicted(
                name, files[name], preprocessor, readings[name], main, source, warnings
            )
            continue
        warn(warnings, f'the table "{name}" of the training is not given: missing in every row')
        arrays = TableArrays.empty(len(main), preprocessor.n_features)
        sides[name] = TableSide(name, arrays, preprocessor, readings[name])
    return sides


def _predicted(
    name: str,
    file: Path,
    preprocessor: TablePreprocessor,
    trained: TableReading,
    main: pd.DataFrame,
    source: object,
    warnings: list[str],
) -> TableSide:
    schema = preprocessor.schema
    options = NumberOptions(missing_values=trained.missing_values)
    text = TableOptions(trained=trained)
    opened = OpenedTable.open(file, text, options, warnings, schema.features)
    table = join(name, opened, main, str(schema.key), source, warnings)
    typed = TypedTable.read(
        opened.frame,
        schema,
        trained,
        options,
        delimiter=opened.text.delimiter,
        source=file,
        warnings=warnings,
    ).take(table.rows)
    return TableSide(
        name, _arrays(preprocessor, typed, table.matched, warnings), preprocessor, trained
    )
