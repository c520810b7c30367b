"""The inputs of a data set: for each modality, where its values come from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from gaal_fast.data.dataset import ImageModality, Modality, TableModality
from gaal_fast.data.images.augment import Preset
from gaal_fast.data.images.store import ImageStore
from gaal_fast.data.issues import DataIssue
from gaal_fast.data.reading import TableReading
from gaal_fast.data.tables.preprocess import TableArrays, TablePreprocessor
from gaal_fast.errors import UserError

IMAGE, TABLE = "image", "table"
T = TypeVar("T")
# What metrics, predictions and messages call something else.
_RESERVED = frozenset({"fused", "multi", "none"})


@dataclass(frozen=True, eq=False)
class ImageSide:
    """The images of one column.

    Attributes:
        name: Of the modality.
        store: The images by row.
    """

    name: str
    store: ImageStore

    @property
    def present(self) -> np.ndarray:
        """bool [N]: rows with an image."""
        return self.store.present

    def issues(self) -> list[DataIssue]:
        """Images that are known to be broken."""
        return self.store.issues()

    def modality(self, augment: Preset = "none", seed: int = 0) -> Modality:
        """What a data set reads its batches from."""
        modality = ImageModality(self.store, augment, seed)
        modality.name = self.name
        return modality


@dataclass(frozen=True, eq=False)
class TableSide:
    """The features of one table.

    Attributes:
        name: Of the modality.
        arrays: Features by row.
        preprocessor: What made them, with the schema of the table.
        reading: How the file of the table was read.
    """

    name: str
    arrays: TableArrays
    preprocessor: TablePreprocessor
    reading: TableReading

    @property
    def present(self) -> np.ndarray:
        """bool [N]: rows with a value."""
        return self.arrays.present

    @property
    def usable(self) -> bool:
        """Whether there is a feature column."""
        return bool(self.preprocessor.schema.features)

    def issues(self) -> list[DataIssue]:
        """Nothing: a cell that cannot be read is missing."""
        return []

    def modality(self, augment: Preset = "none", seed: int = 0) -> Modality:
        """What a data set reads its batches from."""
        modality = TableModality(self.arrays.features, self.arrays.present)
        modality.name = self.name
        return modality


@dataclass(frozen=True, eq=False)
class EmbeddingScale:
    """What a training fitted of an embedding.

    Attributes:
        mean: Float64 ``[D]``, of the training rows.
        std: Float64 ``[D]``, above zero.
        key: The column that joined its table to the main one; None for an array.
    """

    mean: np.ndarray
    std: np.ndarray
    key: str | None

    def side(self, name: str, values: np.ndarray) -> EmbeddingSide:
        """Vectors ``[N, D]``, NaN in rows without one, as an input."""
        present = np.isfinite(values).all(axis=1)
        features = ((values - self.mean) / self.std).astype(np.float32)
        features[~present] = 0
        return EmbeddingSide(name, features, present, self)


@dataclass(frozen=True, eq=False)
class EmbeddingSide:
    """Ready features of each row.

    Attributes:
        name: Of the modality.
        features: Float32 ``[N, D]``, standardized; zeros in rows without.
        present: Bool ``[N]``: rows with them.
        scale: What standardized them.
    """

    name: str
    features: np.ndarray
    present: np.ndarray
    scale: EmbeddingScale

    def issues(self) -> list[DataIssue]:
        """Nothing: a row that is not finite is missing."""
        return []

    def modality(self, augment: Preset = "none", seed: int = 0) -> Modality:
        """What a data set reads its batches from."""
        return TableModality(self.features, self.present, self.name, "embedding")


Side = ImageSide | TableSide | EmbeddingSide


def trained_on(sides: Mapping[str, Side]) -> dict[str, Side]:
    """The inputs that a model is built for: beside ready features, a table that only holds labels
    and names is none.
    """
    ready = any(isinstance(side, EmbeddingSide) for side in sides.values())
    return {
        name: side
        for name, side in sides.items()
        if not (ready and isinstance(side, TableSide) and not side.usable)
    }


def image_names_of(columns: Sequence[str]) -> dict[str, str]:
    """Modality to image column: "image" where there is one, else by the columns' names.

    Raises:
        UserError: Two columns, or a column and something else, would have the same name.
    """
    if len(columns) < 2:
        return dict(zip((IMAGE,), columns, strict=False))
    return _distinct(columns, (_plain(column) for column in columns), "data.image-column")


def table_names_of(files: Sequence[Path], taken: Iterable[str]) -> dict[str, Path]:
    """Modality to the file of a further table, by the stem of its name.

    Raises:
        UserError: Two files, or a file and an input of ``taken``, would have the same name.
    """
    stems = (_plain(file.name.split(".")[0]) for file in files)
    return _distinct(files, stems, "data.tables", {TABLE, *taken})


def embedding_names_of(files: Sequence[Path], taken: Iterable[str]) -> dict[str, Path]:
    """Modality to the file of its ready features, by the stem of its name.

    Raises:
        UserError: Two files, or a file and an input of ``taken``, would have the same name.
    """
    stems = (_plain(file.name.split(".")[0]) for file in files)
    return _distinct(files, stems, "data.embeddings", {IMAGE, TABLE, *taken})


def _plain(name: str) -> str:
    """A name that can be part of a flag, of a column and of a file."""
    return re.sub(r"[^\w-]+", "_", name.strip()).strip("_") or "input"


def _distinct(
    things: Sequence[T], names: Iterable[str], key: str, taken: Iterable[str] = (TABLE,)
) -> dict[str, T]:
    found: dict[str, T] = {}
    for thing, name in zip(things, names, strict=True):
        if name in found or name in taken or name in _RESERVED:
            why = (
                f'like "{found[name]}"' if name in found else "which is the name of something else"
            )
            raise UserError(f': "{thing}" would be called {name}, {why}; rename it', key=key)
        found[name] = thing
    return found
