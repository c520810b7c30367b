"""Tables that a command writes: their kinds, by suffix."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from gaal_fast.errors import UserError
from gaal_fast.files import replacing

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

SUFFIXES = (".csv", ".tsv", ".parquet", ".csv.gz", ".tsv.gz")
ARRAY = ".npy"


def check_suffix(out: Path, key: str = "out", more: tuple[str, ...] = ()) -> str:
    """The kind of file that ``out`` names.

    Args:
        out: The file.
        key: The flag that named it.
        more: Suffixes that will do beside ``SUFFIXES``.

    Raises:
        UserError: With the key, for one that cannot be written.
    """
    known = (*SUFFIXES, *more)
    for suffix in reversed(known):
        if out.name.lower().endswith(suffix):
            return suffix
    raise UserError(f": {out} must end in one of {', '.join(known)}", key=key)


def write_array(values: np.ndarray, out: Path) -> None:
    """Write an array as ``.npy``, whole or not at all."""
    import numpy as np  # a command that only looks at its flags answers at once

    with replacing(out) as stream:
        np.save(stream, values, allow_pickle=False)


def write_table(table: pd.DataFrame, out: Path, key: str = "out") -> None:
    """Write a table as its name says, whole or not at all.

    Args:
        table: Its columns and rows; the index is not written.
        out: A file with one of ``SUFFIXES``. The same table is the same bytes.
        key: The flag that named it.

    Raises:
        UserError: Where Parquet cannot hold a column.
        WriteError: Where the disk is full or cannot be written.
    """
    kind = check_suffix(out, key)
    with replacing(out) as stream:
        if kind == ".parquet":
            _write_parquet(table, stream, out, key)
            return
        mark = "\t" if kind.startswith(".tsv") else ","
        text = table.to_csv(index=False, sep=mark).encode("utf-8")
        # Without a time of its own, the same predictions are the same bytes.
        stream.write(gzip.compress(text, mtime=0) if kind.endswith(".gz") else text)


def _write_parquet(table: pd.DataFrame, stream: BinaryIO, out: Path, key: str) -> None:
    try:
        table.to_parquet(stream, index=False)
    except OSError:
        raise
    except (ValueError, TypeError) as error:  # a column of cells of several types
        raise UserError(f": {out} cannot be Parquet: {error}; write .csv", key=key) from error
