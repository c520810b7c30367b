"""The modalities of a table's rows, and some of the rows with them as a data set."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from gaal_fast.data.batch import Batch, InputSpec, Loaded, Modality, View
from gaal_fast.data.images.augment import Preset, augment, sample_rng
from gaal_fast.data.images.store import ImageStore, available_cpus

Key = int | tuple[int, int]


class TableModality:
    """The preprocessed table, or ready features.

    Args:
        features: ``[N, D]`` float32.
        present: ``[N]`` bool, the rows that have a table value.
        name: of the modality.
        kind: which of both it is.
    """

    def __init__(
        self,
        features: np.ndarray,
        present: np.ndarray,
        name: str = "table",
        kind: Literal["table", "embedding"] = "table",
    ) -> None:
        self.name: str = name
        self.kind: Literal["table", "embedding"] = kind
        self.features, self.present = torch.from_numpy(features), present

    @property
    def spec(self) -> InputSpec:
        return InputSpec(self.kind, (self.features.shape[1],))

    def load(self, rows: np.ndarray, epochs: np.ndarray, views: int = 1) -> Loaded:
        """Features of the rows that have any; every view of a row is the same."""
        positions = np.flatnonzero(self.present[rows])
        values = self.features[torch.from_numpy(rows[positions])]
        if views > 1:
            values = values[:, None].expand(-1, views, -1)
        return Loaded(values, torch.from_numpy(positions), [])

    def is_slow(self) -> bool:
        return False


class ImageModality:
    """The images of a store, augmented; uint8 pixels, which their encoder normalizes.

    Args:
        store: the decoded images.
        preset: how they are augmented, as a function of (seed, epoch, row) alone.
        seed: of the augmentation.
        name: of the modality.
    """

    def __init__(
        self, store: ImageStore, preset: Preset = "none", seed: int = 0, name: str = "image"
    ) -> None:
        self.name = name
        self.store, self.preset, self.seed = store, preset, seed

    @property
    def present(self) -> np.ndarray:
        return self.store.present

    @property
    def spec(self) -> InputSpec:
        return InputSpec("image", (3, self.store.size, self.store.size))

    def load(self, rows: np.ndarray, epochs: np.ndarray, views: int = 1) -> Loaded:
        """Images of the rows that have one; the first of several views is that of ``views=1``."""
        size = self.store.size
        images, positions, issues = [], [], []
        for position, (row, epoch) in enumerate(zip(rows.tolist(), epochs.tolist(), strict=True)):
            image, issue = self.store.get(row)
            if issue is not None:
                issues.append(issue)
            if image is not None:
                images += self._views(image, epoch, row, views)
                positions.append(position)
        values = (
            torch.stack(images) if images else torch.empty((0, 3, size, size), dtype=torch.uint8)
        )
        if views > 1:
            values = values.unflatten(0, (len(positions), views))
        return Loaded(values, torch.tensor(positions, dtype=torch.int64), issues)

    def _views(self, image: torch.Tensor, epoch: int, row: int, views: int) -> list[torch.Tensor]:
        if self.preset == "none":
            return [image] * views
        rng = sample_rng(self.seed, epoch, row)
        return [augment(image, self.preset, rng) for _ in range(views)]

    def is_slow(self) -> bool:
        # The paper's augmentation takes about a millisecond an image: worth processes where there
        # are processors to spare.
        busy = not self.store.cached or (self.preset == "paper" and available_cpus() >= 4)
        return busy and bool(self.store.files)


class FusionDataset(Dataset[Batch]):
    """Some rows of a table (a part of the split, or all) with their modalities.

    A key is a position 0..n-1, or (epoch, position): the epoch matters to augmentation only and
    defaults to 0.

    Args:
        rows: ``[n]`` int64, row numbers in the table.
        target: of every row of the table: ``[N]`` whole numbers, the class, -1 where unknown; or
            ``[N]`` or ``[N, t]`` floating values, NaN where unknown.
        modalities: the inputs, in order.
        views: augmented views of each row.
    """

    def __init__(
        self, rows: np.ndarray, target: np.ndarray, modalities: Sequence[Modality], views: int = 1
    ) -> None:
        self.rows = np.asarray(rows, dtype=np.int64)
        target = np.asarray(target)
        if target.dtype.kind == "f":
            self.target = target.astype(np.float64).reshape(len(target), -1)
        else:
            self.target = target.astype(np.int64)
        self.modalities = list(modalities)
        self.views = views

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def modality_names(self) -> list[str]:
        return [modality.name for modality in self.modalities]

    @property
    def specs(self) -> dict[str, InputSpec]:
        """What each modality's inputs are."""
        return {modality.name: modality.spec for modality in self.modalities}

    def only(self, names: Collection[str], views: int = 1) -> FusionDataset:
        """The same rows with no other modalities than these, so that the others are not read."""
        kept = [modality for modality in self.modalities if modality.name in names]
        return FusionDataset(self.rows, self.target, kept, views)

    def present(self) -> dict[str, np.ndarray]:
        """modality -> ``[n]`` bool: which of the rows have it."""
        return {modality.name: modality.present[self.rows] for modality in self.modalities}

    def __getitem__(self, key: Key) -> Batch:
        """A batch of one row."""
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        """A batch of the rows with these keys, in their order."""
        pairs = np.array(
            [key if isinstance(key, tuple) else (0, key) for key in keys], dtype=np.int64
        ).reshape(-1, 2)
        index = self.rows[pairs[:, 1]]
        loaded = {m.name: m.load(index, pairs[:, 0], self.views) for m in self.modalities}
        return Batch(
            target=torch.from_numpy(self.target[index]),
            index=torch.from_numpy(index),
            views={name: View(item.values, item.positions) for name, item in loaded.items()},
            issues=[issue for item in loaded.values() for issue in item.issues],
        )
