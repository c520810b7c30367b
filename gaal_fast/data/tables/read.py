"""Reads CSV, TSV and Parquet files, and finds columns by name."""

from __future__ import annotations

import csv
import difflib
import io
import warnings as python_warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

import pandas as pd

from gaal_fast.data.issues import some, warn
from gaal_fast.data.reading import TableReading
from gaal_fast.data.tables.text import decode, find_delimiter, rows_of, unpack
from gaal_fast.errors import UserError

_PARQUET_SUFFIXES = (".parquet", ".pq")


@dataclass(frozen=True)
class TableOptions:
    """What is known of a table's text before it is read.

    Attributes:
        encoding: As the user declares it, None to find out.
        delimiter: Likewise.
        trained: How the training table was read, which settles what a table to predict leaves open.
    """

    encoding: str | None = None
    delimiter: str | None = None
    trained: TableReading | None = None


def read_table(path: Path | str, warnings: list[str] | None = None) -> pd.DataFrame:
    """The cells of ``open_table``, where nothing is declared."""
    return open_table(path, warnings)[0]


def open_table(
    path: Path | str,
    warnings: list[str] | None = None,
    options: TableOptions | None = None,
    expected: Collection[str] = (),
) -> tuple[pd.DataFrame, TableReading]:
    """Reads a table; row i of the result is the i-th row of the file.

    Text files (any delimiter and encoding that can be told, also compressed) keep every cell as it
    is written, so that "007" and file names survive; what a column means is decided later. Parquet
    keeps its types.

    Args:
        path: The file.
        warnings: Gets what is doubtful in its text.
        options: What is known of it.
        expected: Columns it should have.

    Returns:
        The cells, and how the text was read (not yet its numbers).

    Raises:
        UserError: No such file, not a table, no rows, duplicated column names, rows longer than the
            header.
    """
    path = Path(path).expanduser()
    warnings = [] if warnings is None else warnings
    options = options or TableOptions()
    if not path.exists():
        raise UserError(f"no such file: {path}{_nearest_file(path)}")
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a table")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if not raw.strip():
        raise UserError(f"{path} is empty")
    raw, name = unpack(path, raw)
    reading = TableReading()
    if PurePath(name).suffix.lower() in _PARQUET_SUFFIXES or raw.startswith(b"PAR1"):
        frame = _read_parquet(path, raw)
    else:
        frame, reading = _read_text(path, raw, name, options, expected, warnings)
    frame.columns = [str(name) for name in frame.columns]
    _check_names(path, frame.columns)
    if frame.empty:
        raise UserError(
            f"{path} has a header but no rows" if len(frame.columns) else f"{path} has no columns"
        )
    return frame.reset_index(drop=True), reading


def find_column(columns: Collection[str], name: str) -> str | None:
    """The column called ``name``; blanks around either name are ignored where that leaves exactly
    one candidate.
    """
    if name in columns:
        return name
    stripped = [column for column in columns if column.strip() == name.strip()]
    return stripped[0] if len(stripped) == 1 else None


def require_column(columns: Iterable[str], name: str, source: object) -> str:
    """As ``find_column``, for a column that must be there.

    Raises:
        UserError: There is no such column in ``source``; the nearest name is given.
    """
    columns = list(columns)
    found = find_column(columns, name)
    if found is None:
        raise UserError(f'no column "{name}" in {source}; {_nearest(name, columns)}')
    return found


def expand_columns(
    columns: Sequence[str], names: Iterable[str], option: str, source: object, roles: Iterable[str]
) -> list[str]:
    """The columns meant by a list of names and shell patterns ("margin*"), in the order of the
    table.

    Args:
        columns: Of the table.
        names: Names and patterns. A pattern never catches a column with a role.
        option: The flag that gave them, for messages.
        source: The table, for messages.
        roles: Target, images, split, group and key.

    Raises:
        UserError: A name with a role, an unknown column, or a pattern without a match.
    """
    roles = set(roles)
    chosen: set[str] = set()
    for name in names:
        found = find_column(columns, name)
        if found is None and any(mark in name for mark in "*?["):
            matches = [
                column for column in columns if fnmatchcase(column, name) and column not in roles
            ]
            if not matches:
                raise UserError(f'{option}: no column of {source} matches "{name}"')
            chosen.update(matches)
            continue
        found = found or require_column(columns, name, source)
        if found in roles:
            raise UserError(
                f'{option}: column "{found}" is the target, image, split or group column'
            )
        chosen.add(found)
    return [column for column in columns if column in chosen]


def _nearest(name: str, columns: Sequence[str]) -> str:
    folded = {column.strip().casefold(): column for column in columns}
    close = difflib.get_close_matches(name.strip().casefold(), folded, n=1, cutoff=0.5)
    return f'nearest: "{folded[close[0]]}"' if close else f"its columns are {some(columns)}"


def _nearest_file(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.is_file()]
    except OSError:
        return f" (no folder {path.parent})" if not path.parent.exists() else ""
    close = difflib.get_close_matches(path.name, names, n=1)
    return f'; nearest: "{close[0]}"' if close else ""


def _check_names(path: Path, names: Sequence[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"{path}: two columns have the same name: {some(repeated)}")


def _read_parquet(path: Path, raw: bytes) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(io.BytesIO(raw), engine="pyarrow")
    except ImportError as error:
        raise UserError(f"{path}: reading Parquet needs pyarrow (pip install pyarrow)") from error
    except Exception as error:  # pyarrow has its own exception classes for each kind of damage
        raise UserError(f"{path} is not a readable Parquet table: {_first_line(error)}") from error
    # pandas stores a named index apart from the columns; for its author it was a column.
    frame = frame.reset_index() if frame.index.names != [None] else frame
    for name in frame.columns:
        if isinstance(frame[name].dtype, pd.CategoricalDtype):
            frame[name] = frame[name].astype(object)
        elif pd.api.types.is_timedelta64_dtype(frame[name].dtype):
            frame[name] = frame[name].dt.total_seconds()
    return frame


def _read_text(
    path: Path,
    raw: bytes,
    name: str,
    options: TableOptions,
    expected: Collection[str],
    warnings: list[str],
) -> tuple[pd.DataFrame, TableReading]:
    trained = options.trained or TableReading()
    text, encoding = decode(
        path, raw, warnings, declared=options.encoding, trained=trained.encoding
    )
    delimiter, text, skipped = find_delimiter(
        text, name, declared=options.delimiter, trained=trained.delimiter, expected=expected
    )
    try:
        header = next(rows_of(io.StringIO(text, newline=""), delimiter), None)
    except csv.Error as error:
        raise UserError(f"{path} is not a table: {_first_line(error)}") from error
    if header is None:
        raise UserError(f"{path} is not a table: no header")
    names = [column if column.strip() else f"unnamed_{i}" for i, column in enumerate(header)]
    _check_names(path, names)
    try:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                io.StringIO(text, newline=""),
                sep=r"\s+" if delimiter == " " else delimiter,
                header=0,
                names=names,
                index_col=False,
                dtype=object,
                keep_default_na=False,
                na_filter=False,
                low_memory=False,
            )
    except (
        pd.errors.ParserWarning,
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
        ValueError,
    ) as error:
        line, width = _odd_row(text, delimiter, lambda width: width > len(names))
        if line:
            raise UserError(
                f"{path}: line {line + skipped} has {width} fields, the header has {len(names)}"
            ) from error
        raise UserError(f"{path} is not a table: {_first_line(error)}") from error
    plain = '"' not in text and delimiter != " "
    if not plain or text.count(delimiter) < (len(frame) + 1) * (len(names) - 1):
        line, width = _odd_row(text, delimiter, lambda width: width < len(names))
        if line:
            where = f"line {line + skipped} has {width} fields, the header has {len(names)}"
            warn(warnings, f"{path}: {where}; in such rows the other cells count as missing")
    return frame, TableReading(encoding, delimiter)


def _odd_row(text: str, delimiter: str, odd: Callable[[int], bool]) -> tuple[int, int]:
    """Line and number of fields of the first row of an odd width; (0, 0) if there is none."""
    rows = rows_of(io.StringIO(text, newline=""), delimiter)
    try:
        for row in rows:
            width = len(row) - (delimiter == " " and row[-1:] == [""])
            if row and odd(width):
                return rows.line_num, width
    except csv.Error:
        pass
    return 0, 0


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
