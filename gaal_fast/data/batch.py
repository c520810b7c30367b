"""What a batch holds, and what an input of a row (a *modality*) is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from gaal_fast.data.issues import DataIssue

__all__ = ["Batch", "DataIssue", "InputSpec", "Loaded", "Modality", "View"]


@dataclass(frozen=True)
class InputSpec:
    """All that an encoder needs to be built for a modality.

    Attributes:
        kind: ``"image"``, ``"table"`` or ``"embedding"`` (ready features), which chooses the
            encoder.
        shape: of the input of one row: ``(3, H, W)`` of an image, ``(D,)`` of the others.
    """

    kind: Literal["image", "table", "embedding"]
    shape: tuple[int, ...]

    @property
    def features(self) -> int:
        """Numbers that stand for one row."""
        return int(np.prod(self.shape))


class View(NamedTuple):
    """One modality of a batch.

    Attributes:
        values: ``[n, ...]`` inputs of the n rows that have the modality; ``[n, views, ...]`` where
            a phase asks for several augmented views. Images are uint8 pixels, which their encoder
            normalizes.
        rows: ``[n]`` int64, ascending: where in the batch they stand.
    """

    values: Tensor
    rows: Tensor


@dataclass
class Batch:
    """B rows of the data.

    Attributes:
        target: ``[B]`` int64 classes, -1 where unknown; or ``[B, t]`` float64 values, NaN where
            unknown.
        index: ``[B]`` int64, the rows' numbers in the table.
        views: the inputs by modality, in the data's order.
        issues: images that turned out to be broken while this batch was read.
    """

    target: Tensor
    index: Tensor
    views: Mapping[str, View]
    issues: list[DataIssue] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.target)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in memory that a GPU can copy from."""
        return self.map(torch.Tensor.pin_memory)

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with every tensor put through ``change``."""
        views = {
            name: View(change(view.values), change(view.rows)) for name, view in self.views.items()
        }
        return Batch(change(self.target), change(self.index), views, self.issues)

    def only(self, names: Collection[str]) -> Batch:
        """The same rows with no other modalities than these."""
        return replace(self, views={n: view for n, view in self.views.items() if n in names})


class Loaded(NamedTuple):
    """What a modality gives for some rows.

    Attributes:
        values: ``[n, ...]`` of the rows that have the modality.
        positions: ``[n]`` int64, which of the rows asked for these are.
        issues: inputs that turned out to be broken.
    """

    values: Tensor
    positions: Tensor
    issues: list[DataIssue]


class Modality(Protocol):
    """One kind of input of a row.

    Attributes:
        name: what flags, columns and encoders call it.
        present: ``[N]`` bool, the rows of the table that have it; one may still turn out to be
            broken in ``load``.
        spec: kind and shape.
    """

    name: str

    @property
    def present(self) -> np.ndarray: ...

    @property
    def spec(self) -> InputSpec: ...

    def load(self, rows: np.ndarray, epochs: np.ndarray, views: int = 1) -> Loaded:
        """The inputs of some rows of the table.

        Args:
            rows: ``[B]`` int64 row numbers.
            epochs: ``[B]`` int64, which the augmentation depends on.
            views: augmented views of each row; more than one is a dimension of its own.
        """
        ...

    def is_slow(self) -> bool:
        """Whether loading is worth processes of its own."""
        ...
