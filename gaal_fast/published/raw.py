"""The files that an official download unpacks to, and the tables among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaal_fast.errors import UserError, some

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Wanted:
    """A file or folder that a data set is made from.

    Attributes:
        name: What it is called.
        folders: Where it may lie under the raw folder, "" for the folder itself.
        source: The download that it comes from, for the message when it is missing.
        is_folder: Whether it is a folder.
        key: The flag that gave the folder.
    """

    name: str
    folders: tuple[str, ...]
    source: str
    is_folder: bool = False
    key: str = "raw"

    def under(self, raw: Path) -> Path:
        """Where it lies.

        Raises:
            UserError: It is in none of the folders.
        """
        for folder in self.folders:
            path = raw / folder / self.name
            if path.is_dir() if self.is_folder else path.is_file():
                return path
        places = [f"{folder or '.'}/" for folder in self.folders]
        kind = "folder" if self.is_folder else "file"
        raise UserError(
            f': {raw} has no {kind} "{self.name}" (looked in {some(places)}); it comes from'
            f" {self.source}",
            key=self.key,
        )


def read_table(
    path: Path, needed: Sequence[str], *, text: Sequence[str] = (), only: bool = False
) -> pd.DataFrame:
    """A CSV with blanks around the names of its columns removed.

    Args:
        path: The file, read as ``pandas.read_csv`` does by default: the same words count as missing
            as in the authors' notebook.
        needed: Columns that must be there, without blanks.
        text: Columns whose cells stay text.
        only: Whether to read the needed columns alone.

    Raises:
        UserError: The file is no such table.
    """
    (table,) = _read(path, needed, text, only, None)
    return table


def read_table_in_chunks(path: Path, needed: Sequence[str], *, rows: int) -> Iterator[pd.DataFrame]:
    """The needed columns of a CSV, all as text, ``rows`` rows at a time; see ``read_table``."""
    yield from _read(path, needed, needed, True, rows)


def _read(
    path: Path, needed: Sequence[str], text: Sequence[str], only: bool, rows: int | None
) -> Iterator[pd.DataFrame]:
    import pandas as pd

    options: dict[str, Any] = {} if rows else {"low_memory": False}
    try:
        written = {str(name).strip(): str(name) for name in pd.read_csv(path, nrows=0).columns}
        if lacking := [name for name in needed if name not in written]:
            raise UserError(
                f": {path} has no column {some(lacking)}; its columns are {some(written, 20)}",
                key="raw",
            )
        if only:
            options["usecols"] = [written[name] for name in needed]
        dtype = {written[name]: str for name in text}
        read = pd.read_csv(path, dtype=dtype, chunksize=rows, **options)
        for table in read if rows else [read]:
            yield table.rename(columns=lambda name: str(name).strip())
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        words = " ".join(str(error).split())
        raise UserError(f": {path} is not the table of the download: {words}", key="raw") from error
