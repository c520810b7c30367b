"""Data that is drawn and not read: what a trainer needs of a data set, for any modalities."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch

from gaal_fast.data.batch import InputSpec, Loaded, Modality
from gaal_fast.data.dataset import FusionDataset, TableModality
from gaal_fast.data.issues import DataIssue

SIDE = 8


class Shades:
    """Images ``[N, 3, SIDE, SIDE]`` that are there for some rows, with noise of their own."""

    def __init__(self, name: str, values: np.ndarray, present: np.ndarray) -> None:
        self.name, self.present = name, present
        noise = np.random.default_rng(1).normal(0, 0.3, (len(values), 3, SIDE, SIDE))
        self.images = torch.from_numpy((values[:, None, None, None] + noise).astype(np.float32))

    @property
    def spec(self) -> InputSpec:
        return InputSpec("image", (3, SIDE, SIDE))

    def load(self, rows: np.ndarray, epochs: np.ndarray, views: int = 1) -> Loaded:
        places = np.flatnonzero(self.present[rows])
        values = self.images[torch.from_numpy(rows[places])]
        if views > 1:
            values = values[:, None].expand(-1, views, -1, -1, -1)
        return Loaded(values, torch.from_numpy(places), [])

    def is_slow(self) -> bool:
        return False


@dataclass
class Drawn:
    """The part of ``FusionData`` that a trainer reads."""

    target: np.ndarray
    modalities: list[Modality]
    seed: int = 0
    fingerprint: str = "drawn"
    issues: list[DataIssue] = field(default_factory=list)
    class_weights: torch.Tensor | None = None

    def __post_init__(self) -> None:
        rows = np.arange(len(self.target))
        train, val = int(0.6 * len(rows)), int(0.8 * len(rows))
        self.split = SimpleNamespace(
            train=rows[:train], val=rows[train:val], test=rows[val:], hash="drawn"
        )
        for part in ("train", "val", "test"):
            setattr(self, part, self.dataset(getattr(self.split, part)))

    def dataset(self, rows: np.ndarray) -> FusionDataset:
        return FusionDataset(rows, self.target, self.modalities)

    @property
    def classes(self) -> list[int]:
        return list(range(int(self.target.max()) + 1))

    @property
    def class_counts(self) -> np.ndarray:
        return np.bincount(self.target[self.split.train])


def table(name: str, values: np.ndarray, present: np.ndarray) -> TableModality:
    """Four noisy columns of a value."""
    noise = np.random.default_rng(2).normal(0, 0.3, (len(values), 4))
    return TableModality((values[:, None] + noise).astype(np.float32), present, name)


def drawn_values(rows: int = 500) -> Drawn:
    """A value that is the sum of what a table, an image and another image each know a part of; one
    row in ten lacks one of them.
    """
    rng = np.random.default_rng(0)
    parts = rng.normal(0, 1, (3, rows))
    absent = rng.integers(0, 30, rows)
    front = Shades("front", parts[0], absent != 0)
    kitchen = Shades("kitchen", parts[1], absent != 1)
    target = 100.0 + 25.0 * (parts.sum(axis=0) + rng.normal(0, 0.1, rows))
    return Drawn(target, [front, kitchen, table("facts", parts[2], absent != 2)])


def drawn_classes(rows: int = 240) -> Drawn:
    """The same with three classes."""
    values = drawn_values(rows)
    edges = np.quantile(values.target, [1 / 3, 2 / 3])
    return Drawn(np.digitize(values.target, edges), values.modalities)
