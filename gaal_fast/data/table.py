"""Reads CSV, TSV and Parquet files, and finds columns by name."""

import csv
import difflib
import io
import re
import warnings as python_warnings
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import pandas as pd

from gaal_fast.data.cells import missing_cells
from gaal_fast.data.issues import some, warn
from gaal_fast.errors import UserError

_DELIMITERS = (",", ";", "\t")
_TAB_SUFFIXES = (".tsv", ".tab")
_PARQUET_SUFFIXES = (".parquet", ".pq")
_SPREADSHEET_SUFFIXES = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")


def read_table(path: Path | str, warnings: list[str] | None = None) -> pd.DataFrame:
    """Reads a table; row i of the result is the i-th row of the file.

    Text files (comma, semicolon or tab; UTF-8, UTF-16 with a mark, else Latin-1) keep every cell as it is written, so that
    "007" and file names survive; what a column means is decided later. Parquet keeps its types.
    Raises UserError: no such file, not a table, no rows, duplicated column names, rows longer than the header.
    """
    path = Path(path).expanduser()
    warnings = [] if warnings is None else warnings
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
    if path.suffix.lower() in _PARQUET_SUFFIXES or raw.startswith(b"PAR1"):
        frame = _read_parquet(path, raw)
    else:
        frame = _read_text(path, raw, warnings)
    frame.columns = [str(name) for name in frame.columns]
    _check_names(path, frame.columns)
    if frame.empty:
        raise UserError(f"{path} has a header but no rows" if len(frame.columns) else f"{path} has no columns")
    return frame.reset_index(drop=True)


def find_column(columns: Iterable[str], name: str) -> str | None:
    """The column called `name`; blanks around either name are ignored where that leaves exactly one candidate."""
    columns = list(columns)
    if name in columns:
        return name
    stripped = [column for column in columns if column.strip() == name.strip()]
    return stripped[0] if len(stripped) == 1 else None


def require_column(columns: Iterable[str], name: str, source: object) -> str:
    """As `find_column`; raises UserError with the nearest name if there is no such column in `source`."""
    columns = list(columns)
    found = find_column(columns, name)
    if found is None:
        raise UserError(f'no column "{name}" in {source}; {_nearest(name, columns)}')
    return found


def expand_columns(columns: Sequence[str], names: Iterable[str], option: str, source: object, roles: Iterable[str]) -> list[str]:
    """The columns meant by a list of names and shell patterns ("margin*"), in the order of the table.

    A pattern never catches a column in `roles` (target, pictures, split, group); naming one of those, an unknown column or a
    pattern without a match raises UserError.
    """
    roles = set(roles)
    chosen: set[str] = set()
    for name in names:
        found = find_column(columns, name)
        if found is None and any(mark in name for mark in "*?["):
            matches = [column for column in columns if fnmatchcase(column, name) and column not in roles]
            if not matches:
                raise UserError(f'{option}: no column of {source} matches "{name}"')
            chosen.update(matches)
            continue
        found = found or require_column(columns, name, source)
        if found in roles:
            raise UserError(f'{option}: column "{found}" is the target, picture, split or group column')
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
    seen: set[str] = set()
    repeated = [name for name in names if name in seen or seen.add(name)]
    if repeated:
        raise UserError(f"{path}: two columns have the same name: {some(dict.fromkeys(repeated))}")


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


def _read_text(path: Path, raw: bytes, warnings: list[str]) -> pd.DataFrame:
    if path.suffix.lower() in _SPREADSHEET_SUFFIXES:
        raise UserError(f"{path} is a spreadsheet: save it as CSV first")
    text = _decode(path, raw, warnings)
    text = re.sub(r"\A(?:[ \t]*\r?\n)+", "", text)
    delimiter = "\t" if path.suffix.lower() in _TAB_SUFFIXES else _sniff_delimiter(text)
    try:
        header = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except (StopIteration, csv.Error) as error:
        raise UserError(f"{path} is not a table: {_first_line(error) or 'no header'}") from error
    names = [name if name.strip() else f"unnamed_{i}" for i, name in enumerate(header)]
    _check_names(path, names)
    try:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                io.StringIO(text, newline=""),
                sep=delimiter,
                header=0,
                names=names,
                index_col=False,
                dtype=object,
                keep_default_na=False,
                na_filter=False,
                low_memory=False,
            )
    except pd.errors.ParserWarning as error:
        raise UserError(f"{path}: its rows have more fields than its header ({len(names)})") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        detail = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
        if detail:
            expected, line, saw = detail.groups()
            raise UserError(f"{path}: line {line} has {saw} fields, the header has {expected}") from error
        raise UserError(f"{path} is not a table: {_first_line(error)}") from error
    return _point_decimals(frame) if delimiter == ";" else frame


def _decode(path: Path, raw: bytes, warnings: list[str]) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return raw.decode("utf-16")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not a text table") from error
    if b"\0" in raw:
        raise UserError(f"{path} is not a table (it holds binary data)")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        warn(warnings, f"{path} is not UTF-8; read as Latin-1")
        return raw.decode("latin-1")


def _sniff_delimiter(text: str) -> str:
    sample = text[:65536]
    lines = sample.splitlines(keepends=True)
    if len(text) > len(sample) and len(lines) > 1:
        lines.pop()  # cut in the middle
    best, best_score = ",", (0.0, 0)
    for delimiter in _DELIMITERS:
        try:
            widths = [len(row) for row in csv.reader(lines[:50], delimiter=delimiter) if row]
        except csv.Error:
            continue
        if not widths or widths[0] < 2:
            continue
        # A real delimiter gives every line the width of the header; among those the one with more columns wins.
        score = (sum(width == widths[0] for width in widths) / len(widths), widths[0])
        if score > best_score:
            best, best_score = delimiter, score
    return best


def _point_decimals(frame: pd.DataFrame) -> pd.DataFrame:
    """Files with semicolons come from places that write 3,5: a column of nothing but such numbers gets decimal points."""
    for name in frame.columns:
        cells = frame[name][~missing_cells(frame[name])]
        if cells.str.contains(",").any() and cells.str.match(r"^\s*[+-]?\d*(?:,\d+)?(?:[eE][+-]?\d+)?\s*$").all():
            frame[name] = frame[name].str.replace(",", ".", regex=False)
    return frame


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
