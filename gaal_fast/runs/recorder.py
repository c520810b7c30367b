"""What happened in a training, as rows of the run's CSV files.

Scalars stay on the device until they are asked for, so that a step waits for nothing.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gaal_fast.errors import UserError
from gaal_fast.runs import folder as run_folder
from gaal_fast.runs.folder import RunFolder

# The columns of steps.csv for every method; a further scalar is a further column.
STEP_COLUMNS = ("step", "epoch", "modality", "loss", "cosine", "v")
PHASE = "phase"

Cell = float | int | str | None
Row = dict[str, Cell]
ScoreTable = Mapping[str, Mapping[str, float | int | None]]


class Recorder(Protocol):
    """Where a trainer notes what happened: files on one rank, nothing on the others.

    Attributes:
        rows: the updates of the epoch under way that were written.
        history: the finished epochs.
    """

    rows: list[Row]
    history: list[Row]

    def step(
        self, step: int, epoch: int, phase: str, part: str, scalars: Mapping[str, Tensor]
    ) -> None:
        """Note one update.

        Args:
            step: batches used so far, with this one.
            epoch: the epoch under way, from 1.
            phase: the phase under way.
            part: whose update it was, such as a modality.
            scalars: 0-d tensors by name, the loss among them.
        """
        ...

    def flush(self) -> None:
        """Write what was noted. Raises ``UserError`` at the first loss that is not a number."""
        ...

    def epoch(self, row: Row, validation: ScoreTable, seconds: float) -> None:
        """Close an epoch.

        Args:
            row: ``epoch``, ``step`` and what else is to stand before the means of its updates.
            validation: the scores by name, then by ``"fused"`` or modality.
            seconds: spent in training steps so far.
        """
        ...

    def recent(self, count: int) -> list[Row]:
        """The last updates that were noted; reading them waits for the device."""
        ...

    def state(self) -> dict[str, list[Row]]:
        """What a checkpoint holds of it."""
        ...

    def restore(self, state: Mapping[str, list[Row]], *, step: int, epoch: int) -> None:
        """Go on from a checkpoint that was saved after a step and an epoch."""
        ...


@dataclass(frozen=True)
class _Noted:
    step: int
    epoch: int
    phase: str
    part: str
    scalars: Mapping[str, Tensor]


class CsvRecorder:
    """Writes ``steps.csv`` and ``metrics.csv`` of a run folder.

    Args:
        folder: the run.
        phases: whether the rows say which phase they are of.
    """

    def __init__(self, folder: RunFolder, *, phases: bool = False) -> None:
        self.folder, self.phases = folder, phases
        self.rows: list[Row] = []
        self.history: list[Row] = []
        self._waiting: list[_Noted] = []

    def step(
        self, step: int, epoch: int, phase: str, part: str, scalars: Mapping[str, Tensor]
    ) -> None:
        self._waiting.append(_Noted(step, epoch, phase, part, scalars))

    def flush(self) -> None:
        rows = self._read(self._waiting)
        self._waiting = []
        self.rows += rows
        self._append(rows)

    def epoch(self, row: Row, validation: ScoreTable, seconds: float) -> None:
        scores = {
            f"val.{score}.{name}": value
            for score, values in validation.items()
            for name, value in values.items()
        }
        self.history.append(row | means(self.rows) | scores | {"seconds": seconds})
        self.rows = []
        columns = list(dict.fromkeys(name for entry in self.history for name in entry))
        self.folder.write_rows(run_folder.METRICS, self.history, columns)

    def recent(self, count: int) -> list[Row]:
        """The last updates that were noted; reading them waits for the device."""
        return self._read(self._waiting[-count:])

    def state(self) -> dict[str, list[Row]]:
        """What a checkpoint holds of it."""
        return {"rows": self.rows, "history": self.history}

    def restore(self, state: Mapping[str, list[Row]], *, step: int, epoch: int) -> None:
        """Go on from a checkpoint; rows that were written after it are dropped from the files."""
        self.rows, self.history = state["rows"], state["history"]
        self.folder.keep_rows(run_folder.STEPS, "step", step)
        self.folder.keep_rows(run_folder.METRICS, "epoch", epoch)

    def _read(self, noted: Sequence[_Noted]) -> list[Row]:
        numbers = iter(_to_host([value for n in noted for value in n.scalars.values()]))
        rows: list[Row] = []
        for entry in noted:
            found = dict(zip(entry.scalars, numbers, strict=False))
            if not math.isfinite(found["loss"]):
                raise UserError(
                    f"the {entry.part} loss is {found['loss']} at step {entry.step}: training"
                    " diverged; lower --optim.lr"
                )
            row: Row = {"step": entry.step, "epoch": entry.epoch, "modality": entry.part}
            if self.phases:
                row[PHASE] = entry.phase
            rows.append({**row, **found})
        return rows

    def _append(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        former = self._header()
        first = former or [*STEP_COLUMNS, *([PHASE] if self.phases else [])]
        columns = list(dict.fromkeys((*first, *(name for row in rows for name in row))))
        if former and len(columns) > len(former):
            with self.folder.file(run_folder.STEPS).open(newline="", encoding="utf-8") as stream:
                written: list[dict[str, str]] = list(csv.DictReader(stream))
            self.folder.write_rows(run_folder.STEPS, written, columns)
        self.folder.append_rows(run_folder.STEPS, rows, columns)

    def _header(self) -> list[str]:
        """The columns of steps.csv; none where it is not there."""
        if not self.folder.file(run_folder.STEPS).exists():
            return []
        with self.folder.file(run_folder.STEPS).open(newline="", encoding="utf-8") as stream:
            return next(csv.reader(stream), [])


def _to_host(values: Sequence[Tensor]) -> list[float]:
    """0-d tensors as numbers, in one transfer for each dtype and device."""
    kinds: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for place, value in enumerate(values):
        kinds.setdefault((value.dtype, value.device), []).append(place)
    found = [0.0] * len(values)
    for places in kinds.values():
        numbers = torch.stack([values[place].detach() for place in places]).tolist()
        for place, number in zip(places, numbers, strict=True):
            found[place] = float(number)
    return found


def means(rows: Sequence[Row]) -> Row:
    """Means over updates, by part: of the loss as ``train.loss.PART``, of v the share of steps that
    it moved as ``projected.PART``, and of any other scalar as ``NAME.PART``.
    """
    result: Row = {}
    for part in dict.fromkeys(str(row["modality"]) for row in rows):
        mine = [row for row in rows if row["modality"] == part]
        names = dict.fromkeys(name for row in mine for name in row)
        for name in names:
            if name in ("step", "epoch", "modality", PHASE):
                continue
            cells = [row.get(name) for row in mine]
            values = [float(cell) for cell in cells if isinstance(cell, float | int)]
            if name == "v":
                result[f"projected.{part}"] = float(np.mean([value != 0 for value in values]))
                continue
            # A guide without gradient has no direction, so its cosine is not a number and does not
            # count.
            known = [value for value in values if not math.isnan(value)]
            key = f"train.loss.{part}" if name == "loss" else f"{name}.{part}"
            result[key] = float(np.mean(known)) if known else None
    return result


def step_words(rows: Sequence[Row]) -> str:
    """The words of a progress bar on some updates: losses, mean cosine and the share of projected
    steps.
    """
    found = means(rows)
    losses = list(_with_prefix(found, "train.loss."))
    if not losses:
        return ""
    words = ["loss", *(f"{name} {value:.3f}" for name, value in losses)]
    cosines = [value for _, value in _with_prefix(found, "cosine.")]
    if cosines:
        projected = [value for _, value in _with_prefix(found, "projected.")]
        words.append(f"cos {np.mean(cosines):+.2f} projected {np.mean(projected):.0%}")
    return " ".join(words)


def _with_prefix(row: Row, prefix: str) -> Iterable[tuple[str, float]]:
    for name, value in row.items():
        if name.startswith(prefix) and isinstance(value, float | int):
            yield name.removeprefix(prefix), value
