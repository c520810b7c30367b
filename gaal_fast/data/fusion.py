"""A data set ready for training: its rows, their target, inputs and parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from gaal_fast.data.dataset import FusionDataset
from gaal_fast.data.embeddings import save_embeddings
from gaal_fast.data.images.augment import Preset
from gaal_fast.data.images.store import ImageStore
from gaal_fast.data.issues import DataIssue
from gaal_fast.data.quantities import TaskName
from gaal_fast.data.reading import Reading
from gaal_fast.data.sides import TABLE, EmbeddingSide, ImageSide, Side, TableSide, trained_on
from gaal_fast.data.split import PARTS, Split
from gaal_fast.data.tables.preprocess import TableArrays, TablePreprocessor
from gaal_fast.data.tables.schema import TableSchema, TargetScale


@dataclass
class FusionData:
    """A data set ready for training.

    Attributes:
        frame: The table as read.
        schema: What its columns mean.
        reading: How the files were read.
        split: The rows of each part.
        target: [N] int64 class codes (positions in ``classes``), -1 = no label; or float64 values
            in the table's own units, NaN = no label. A row without one is in no part.
        modalities: The inputs by name, in order: image columns, the table, further tables, ready
            features.
        target_scale: Mean and standard deviation of a quantity over the training rows; None for
            classes.
        class_weights: float32 [C], N_train / (C * training rows of the class) for "balanced", else
            None.
        augment: Of training images.
        seed: Of the augmentation.
        fingerprint: sha256 of the tables and of the settings that decide rows, features and parts.
        issues: Cells that cannot be used.
        warnings: Lines for the user, in order.
        decided: What was decided about the task, "" for nothing.
        train: The training part, which alone is augmented; ``val`` and ``test`` are the others.
    """

    frame: pd.DataFrame
    schema: TableSchema
    reading: Reading
    split: Split
    target: np.ndarray
    modalities: Mapping[str, Side]
    target_scale: TargetScale | None
    class_weights: torch.Tensor | None
    augment: Preset
    seed: int
    fingerprint: str
    issues: list[DataIssue] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    decided: str = ""

    def __post_init__(self) -> None:
        self.train = self.dataset(self.split.train, augment=self.augment)
        self.val = self.dataset(self.split.val)
        self.test = self.dataset(self.split.test)

    def dataset(self, rows: np.ndarray, augment: Preset = "none") -> FusionDataset:
        """Any rows of the table; images as they are unless ``augment`` says otherwise."""
        return dataset_of(rows, self.target, self.modalities, augment, self.seed)

    @property
    def task(self) -> TaskName:
        """What is predicted."""
        return "classification" if self.target_scale is None else "regression"

    @property
    def classes(self) -> list[str | int]:
        """The labels; a class code is a position in this list."""
        return list(self.schema.classes)

    @property
    def modality_names(self) -> list[str]:
        """The names of the inputs, in order."""
        return list(trained_on(self.modalities))

    @property
    def main_table(self) -> TableSide:
        """The side of the main table, which may have no features."""
        side = self.modalities[TABLE]
        assert isinstance(side, TableSide)
        return side

    @property
    def table(self) -> TableArrays:
        """The features of the main table."""
        return self.main_table.arrays

    @property
    def preprocessor(self) -> TablePreprocessor:
        """What made them."""
        return self.main_table.preprocessor

    @property
    def images(self) -> ImageStore | None:
        """The images of the first image column, None without one."""
        stores = [side.store for side in self.modalities.values() if isinstance(side, ImageSide)]
        return stores[0] if stores else None

    @property
    def embeddings(self) -> list[EmbeddingSide]:
        """The ready features."""
        return [side for side in self.modalities.values() if isinstance(side, EmbeddingSide)]

    @property
    def table_width(self) -> int:
        """D, the number of features of the main table."""
        return self.table.features.shape[1]

    @property
    def class_counts(self) -> np.ndarray:
        """int64 [C], training rows of each class, at least one; empty for a quantity."""
        if self.target_scale is not None:
            return np.zeros(0, dtype=np.int64)
        return np.bincount(self.target[self.split.train], minlength=len(self.schema.classes))

    def save(self, folder: Path) -> None:
        """Write what predicting needs to know of the data: a preprocessor for each table, and how
        the files were read.
        """
        for name, side in self.modalities.items():
            if isinstance(side, TableSide):
                side.preprocessor.save(folder, "" if name == TABLE else name)
        save_embeddings(self.embeddings, folder)
        self.reading.save(folder)

    def describe(self) -> list[str]:
        """What was loaded, one line each, for the console."""
        sizes = ", ".join(f"{len(getattr(self.split, part))} {part}" for part in PARTS)
        lines = [
            f"rows: {len(self.frame)} ({sizes}; split {self.split.hash[:12]})",
            *self.reading.describe(),
            *self.schema.describe(),
        ]
        lines += [self.decided] if self.decided else []
        for name, side in self.modalities.items():
            if isinstance(side, TableSide) and name != TABLE:
                lines += [f"{name}: {line}" for line in side.reading.describe()]
                lines += [f"{name}: {line}" for line in side.preprocessor.schema.describe()]
                lines.append(f"{name} features: {side.arrays.features.shape[1]}")
        alone = "" if self.embeddings else " (only --method.name image can be trained)"
        lines.append(f"table features: {self.table_width or f'0{alone}'}")
        for one in self.embeddings:
            lines.append(f"{one.name}: embedding of {one.features.shape[1]} numbers")
        for name, side in self.modalities.items():
            used = not isinstance(side, TableSide) or side.usable
            if used and not side.present.all():
                lines.append(f"rows without {name}: {int((~side.present).sum())}")
        return lines


def dataset_of(
    rows: np.ndarray,
    target: np.ndarray,
    sides: Mapping[str, Side],
    augment: Preset = "none",
    seed: int = 0,
) -> FusionDataset:
    """Rows (int64) of some sides as a data set."""
    used = [side.modality(augment, seed) for side in trained_on(sides).values()]
    return FusionDataset(rows, target, used)
