"""Batches in which each modality has only the rows that possess it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from gaal_fast.data.images.augment import Preset, augment, normalise, sample_rng
from gaal_fast.data.images.store import ImageStore, available_cpus
from gaal_fast.data.issues import DataIssue

Key = int | tuple[int, int]


@dataclass
class Batch:
    """B rows of the data.

    target: int64 [B], the class, -1 where unknown. index: int64 [B], the rows' numbers in the
    table. inputs: modality -> the inputs of the n_m rows that have it: "image" float32 [n_I, 3, H,
    W], "table" float32 [n_T, D]. rows: modality -> int64 [n_m], ascending: where those rows stand
    in the batch. issues: images that turned out to be broken while this batch was read.
    """

    target: torch.Tensor
    index: torch.Tensor
    inputs: dict[str, torch.Tensor]
    rows: dict[str, torch.Tensor]
    issues: list[DataIssue] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.target)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        return self.map(torch.Tensor.pin_memory)

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """The same batch with every tensor put through `change`."""
        inputs = {name: change(tensor) for name, tensor in self.inputs.items()}
        rows = {name: change(tensor) for name, tensor in self.rows.items()}
        return Batch(change(self.target), change(self.index), inputs, rows, self.issues)


class Loaded(NamedTuple):
    """values: [n, ...] of the rows that have the modality; positions: int64 [n], which of the rows
    asked for these are.
    """

    values: torch.Tensor
    positions: torch.Tensor
    issues: list[DataIssue]


class Modality(Protocol):
    """One kind of input. `present` is bool [N], the rows of the table that have it; one may still
    turn out broken in `load`.
    """

    name: str
    present: np.ndarray

    def load(self, rows: np.ndarray, epochs: np.ndarray) -> Loaded:
        """The inputs of some rows of the table (int64 [B]) in the given epochs (int64 [B])."""
        ...

    def is_slow(self) -> bool:
        """Whether loading is worth processes of its own."""
        ...


class TableModality:
    """The preprocessed table. features: float32 [N, D]; present: bool [N]."""

    name = "table"

    def __init__(self, features: np.ndarray, present: np.ndarray):
        self.features, self.present = torch.from_numpy(features), present

    def load(self, rows: np.ndarray, epochs: np.ndarray) -> Loaded:
        positions = np.flatnonzero(self.present[rows])
        return Loaded(
            self.features[torch.from_numpy(rows[positions])], torch.from_numpy(positions), []
        )

    def is_slow(self) -> bool:
        return False


class ImageModality:
    """The images of a store: augmented by a preset as a function of (seed, epoch, row), then
    normalised.
    """

    name = "image"

    def __init__(self, store: ImageStore, preset: Preset = "none", seed: int = 0):
        self.store, self.preset, self.seed = store, preset, seed

    @property
    def present(self) -> np.ndarray:
        return self.store.present

    def load(self, rows: np.ndarray, epochs: np.ndarray) -> Loaded:
        size = self.store.size
        images, positions, issues = [], [], []
        for position, (row, epoch) in enumerate(zip(rows.tolist(), epochs.tolist(), strict=True)):
            image, issue = self.store.get(row)
            if issue is not None:
                issues.append(issue)
            if image is not None:
                if self.preset != "none":
                    image = augment(image, self.preset, sample_rng(self.seed, epoch, row))
                images.append(image)
                positions.append(position)
        stacked = (
            torch.stack(images) if images else torch.empty((0, 3, size, size), dtype=torch.uint8)
        )
        return Loaded(normalise(stacked), torch.tensor(positions, dtype=torch.int64), issues)

    def is_slow(self) -> bool:
        # The paper's augmentation takes about a millisecond an image: worth processes where there
        # are processors to spare.
        busy = not self.store.cached or (self.preset == "paper" and available_cpus() >= 4)
        return busy and bool(self.store.files)


class FusionDataset(Dataset):
    """Some rows of a table (a part of the split, or all) with their modalities.

    rows: int64 [n], row numbers in the table. target: int64 [N], the class of every row of the
    table, -1 = unknown. A key is a position 0..n-1, or (epoch, position): the epoch matters to
    augmentation only and defaults to 0.
    """

    def __init__(self, rows: np.ndarray, target: np.ndarray, modalities: Sequence[Modality]):
        self.rows = np.asarray(rows, dtype=np.int64)
        self.target = np.asarray(target, dtype=np.int64)
        self.modalities = list(modalities)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def modality_names(self) -> list[str]:
        return [modality.name for modality in self.modalities]

    def only(self, names: Sequence[str]) -> "FusionDataset":
        """The same rows with no other modalities than these, so that the others are not read."""
        kept = [modality for modality in self.modalities if modality.name in names]
        return FusionDataset(self.rows, self.target, kept)

    def present(self) -> dict[str, np.ndarray]:
        """modality -> bool [n]: which of the rows have it."""
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
        loaded = {modality.name: modality.load(index, pairs[:, 0]) for modality in self.modalities}
        return Batch(
            target=torch.from_numpy(self.target[index]),
            index=torch.from_numpy(index),
            inputs={name: item.values for name, item in loaded.items()},
            rows={name: item.positions for name, item in loaded.items()},
            issues=[issue for item in loaded.values() for issue in item.issues],
        )
