"""Ready features as an input: a vector of numbers for each row, from a file of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from gaal_fast.config import DataConfig
from gaal_fast.data.issues import some, warn
from gaal_fast.data.joined import join
from gaal_fast.data.sides import EmbeddingScale, EmbeddingSide, embedding_names_of
from gaal_fast.data.tables.cells import missing_cells
from gaal_fast.data.tables.numbers import NumberOptions
from gaal_fast.data.tables.opened import OpenedTable
from gaal_fast.data.tables.read import TableOptions
from gaal_fast.errors import UserError
from gaal_fast.files import write_text

EMBEDDINGS_FILE = "embeddings.json"
_ARRAY, _KEY = ".npy", "data.embeddings"


@dataclass(frozen=True)
class Main:
    """The main table, whose rows the vectors are for.

    Attributes:
        frame: Its cells.
        source: Its file, for messages.
        key: The column that joins tables to it; None without one.
    """

    frame: pd.DataFrame
    source: object
    key: str | None


def open_embeddings(
    config: DataConfig, main: pd.DataFrame, taken: Sequence[str], warnings: list[str]
) -> dict[str, np.ndarray]:
    """The vectors of a configuration's files, for each row of the main table.

    Args:
        config: Names the files and the key.
        main: The main table.
        taken: Names of other inputs.
        warnings: Gets what is left out.

    Returns:
        Modality to float32 ``[N, D]``, NaN in rows without one.

    Raises:
        UserError: A file cannot be read, holds no numbers or not as many rows, or needs a key.
    """
    table = Main(main, config.csv, config.key)
    files = embedding_names_of(config.embeddings, taken)
    tables = [file for file in config.embeddings if file.suffix.lower() != _ARRAY]
    if tables and config.key is None:
        message = f"is needed with --data.embeddings {tables[0]}: the column that joins it"
        raise UserError(message, key="data.key")
    return {name: read_vectors(file, table, warnings) for name, file in files.items()}


def read_vectors(path: Path, main: Main, warnings: list[str]) -> np.ndarray:
    """Float32 ``[N, D]``, a vector for each row of the main table; NaN in rows without one.

    An array belongs to the rows in their order, a table by the key.

    Args:
        path: A ``.npy`` of numbers, or a table with a column for each number or with one of lists.
        main: The main table.
        warnings: Gets what is left out.

    Raises:
        UserError: As ``open_embeddings`` does.
    """
    path = path.expanduser()
    if path.suffix.lower() == _ARRAY:
        values = _array(path, main)
    else:
        values = _table(path, main, warnings)
    finite = np.isfinite(values)
    present = finite.all(axis=1)
    if not present.any():
        raise UserError(f": {path} has no row of finite numbers", key=_KEY)
    if broken := int((~present & finite.any(axis=1)).sum()):
        warn(warnings, f"{broken} rows of {path} are not finite throughout and count as missing")
    values[~present] = np.nan
    return values


def _array(path: Path, main: Main) -> np.ndarray:
    try:
        # Without pickle, so that reading a file executes nothing.
        values = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f": no such file: {path}", key=_KEY) from None
    except (OSError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f": {path} is no .npy of numbers: {reason}", key=_KEY) from None
    rows = len(main.frame)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu" or values.ndim != 2:
        what = f"{values.dtype} {list(values.shape)}" if isinstance(values, np.ndarray) else "else"
        message = f": {path} must hold numbers, one row of them for each row; it is {what}"
        raise UserError(message, key=_KEY)
    if len(values) != rows:
        message = f": {path} has {len(values)} rows, {main.source} has {rows}; they belong in order"
        raise UserError(message, key=_KEY)
    if not values.shape[1]:
        raise UserError(f": {path} has no numbers in its rows", key=_KEY)
    return values.astype(np.float32)


def _table(path: Path, main: Main, warnings: list[str]) -> np.ndarray:
    if main.key is None:
        message = f": {path} cannot be joined, as the training had no key; give a .npy"
        raise UserError(message, key=_KEY)
    opened = OpenedTable.open(path, TableOptions(), NumberOptions(), warnings)
    found = join(path.stem, opened, main.frame, main.key, main.source, warnings)
    frame = opened.frame.drop(columns=found.key)
    # What the main table has too, its label above all, is no embedding.
    same = [name for name in frame.columns if name in set(main.frame.columns)]
    values, left_out = _numbers(frame.drop(columns=same), path, main)
    if same or left_out:
        warn(
            warnings, f"{path}: columns that are no embedding are left out: {some(same + left_out)}"
        )
    whole = np.full((len(main.frame), values.shape[1]), np.nan, np.float32)
    whole[found.matched] = values[found.rows[found.matched]]
    return whole


def _numbers(frame: pd.DataFrame, path: Path, main: Main) -> tuple[np.ndarray, list[str]]:
    """The numeric columns side by side, one of lists as many; and the names of the others."""
    columns, left_out = [], []
    for name in frame.columns:
        column = _lists(frame[name])
        if column is None:
            numbers = pd.to_numeric(frame[name], errors="coerce").to_numpy(np.float32, np.nan)
            if (np.isnan(numbers) & ~missing_cells(frame[name])).any():
                left_out.append(str(name))
                continue
            column = numbers[:, None]
        columns.append(column)
    if not columns:
        raise UserError(f": {path} has no column of numbers", key=_KEY)
    return np.hstack(columns), left_out


def _lists(column: pd.Series) -> np.ndarray | None:
    """Float32 ``[n, D]`` of cells that are vectors of one length; None where they are not."""
    cells = column.to_numpy(dtype=object)
    vectors = [cell for cell in cells if isinstance(cell, list | tuple | np.ndarray)]
    lengths = {len(vector) for vector in vectors}
    if len(lengths) != 1:
        return None
    values = np.full((len(cells), lengths.pop()), np.nan, np.float32)
    try:
        for row, cell in enumerate(cells):
            if isinstance(cell, list | tuple | np.ndarray):
                values[row] = cell
    except (TypeError, ValueError):
        return None
    return values


def fit_embeddings(
    vectors: Mapping[str, np.ndarray], train: np.ndarray, key: str | None
) -> dict[str, EmbeddingSide]:
    """The sides of embeddings, standardized by the training rows (int64).

    Args:
        vectors: Modality to float32 ``[N, D]``, NaN in rows without one.
        train: The rows to learn from.
        key: The column that joins tables, kept for prediction.

    Raises:
        UserError: No training row has one.
    """
    sides = {}
    for name, values in vectors.items():
        own = values[train][np.isfinite(values[train, 0])]
        if not len(own):
            raise UserError(f": {name} has no row for any training row", key=_KEY)
        spread = own.std(axis=0, dtype=np.float64)
        scale = EmbeddingScale(
            own.mean(axis=0, dtype=np.float64), np.where(spread > 0, spread, 1.0), key
        )
        sides[name] = scale.side(name, values)
    return sides


def embeddings_for_prediction(
    trained: Mapping[str, EmbeddingScale],
    files: Sequence[Path],
    main: pd.DataFrame,
    source: object,
    warnings: list[str],
) -> dict[str, EmbeddingSide]:
    """The embeddings of a trained model; one that is not given is missing in every row.

    Args:
        trained: Modality to what the training fitted.
        files: Those that are given, each with the name of one of the training; where both have one
            only, its name does not matter.
        main: The table to predict.
        source: The same, for messages.
        warnings: Gets the embeddings that are not given, and what is doubtful in the others.

    Raises:
        UserError: A file is of no embedding of the training, or of another width.
    """
    if len(trained) == len(files) == 1:
        named = dict(zip(trained, files, strict=True))
    else:
        named = embedding_names_of(files, ())
    for name, file in named.items():
        if name not in trained:
            known = f"it had {some(trained)}" if trained else "it had none"
            message = f": {file} has the name of no embedding of the training ({known})"
            raise UserError(message, key=_KEY)
    sides = {}
    for name, scale in trained.items():
        if name not in named:
            warn(
                warnings,
                f'the embedding "{name}" of the training is not given: missing in every row',
            )
            sides[name] = scale.side(
                name, np.full((len(main), len(scale.mean)), np.nan, np.float32)
            )
            continue
        values = read_vectors(named[name], Main(main, source, scale.key), warnings)
        if values.shape[1] != len(scale.mean):
            message = (
                f": {named[name]} has {values.shape[1]} numbers a row, in training it were"
                f" {len(scale.mean)}"
            )
            raise UserError(message, key=_KEY)
        sides[name] = scale.side(name, values)
    return sides


def save_embeddings(sides: Sequence[EmbeddingSide], folder: Path) -> None:
    """Write what prediction needs of embeddings, where there are any."""
    if sides:
        content = {
            side.name: {
                "key": side.scale.key,
                "mean": side.scale.mean.tolist(),
                "std": side.scale.std.tolist(),
            }
            for side in sides
        }
        write_text(folder / EMBEDDINGS_FILE, json.dumps(content, ensure_ascii=False) + "\n")


def load_embeddings(folder: Path) -> dict[str, EmbeddingScale]:
    """What ``save_embeddings`` wrote; nothing where it wrote nothing.

    Raises:
        UserError: The file is damaged.
    """
    path = folder / EMBEDDINGS_FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: EmbeddingScale(
                np.array(one["mean"], np.float64), np.array(one["std"], np.float64), one["key"]
            )
            for name, one in content.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {' '.join(str(error).split())}") from None
