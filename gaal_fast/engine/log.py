"""Turns what happened on the device into rows of the run's CSV files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gaal_fast.errors import UserError
from gaal_fast.methods import HalfStep

STEP_COLUMNS = ("step", "epoch", "modality", "loss", "cosine", "v")


def step_rows(halves: Sequence[tuple[int, HalfStep]], epoch: int) -> list[dict[str, Any]]:
    """One row for each update, read from the device in a single transfer.

    Raises ``UserError`` at the first loss that is not a number: nothing after it could be of use.
    """
    if not halves:
        return []
    numbers = torch.stack(
        [
            torch.stack([_number(h.loss, h.loss), _number(h.cosine, h.loss), _number(h.v, h.loss)])
            for _, h in halves
        ]
    )
    rows = []
    for (step, half), (loss, cosine, v) in zip(halves, numbers.tolist(), strict=True):
        if not math.isfinite(loss):
            raise UserError(
                f"the {half.modality} loss is {loss} at step {step}: training diverged; lower"
                " --optim.lr"
            )
        guided = half.v is not None
        row = {"step": step, "epoch": epoch, "modality": half.modality, "loss": loss}
        rows.append({**row, "cosine": cosine if guided else None, "v": v if guided else None})
    return rows


def _number(value: Tensor | None, like: Tensor) -> Tensor:
    return torch.full_like(like, math.nan) if value is None else value.to(like.dtype)


def epoch_row(
    steps: Sequence[dict[str, Any]], validation: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Means over an epoch's updates by modality, and the validation scores."""
    row: dict[str, Any] = {}
    for name in dict.fromkeys(s["modality"] for s in steps):
        mine = [s for s in steps if s["modality"] == name]
        guided = [s for s in mine if s["v"] is not None]
        row[f"train.loss.{name}"] = float(np.mean([s["loss"] for s in mine]))
        if guided:
            # A guide without gradient has no direction, so its cosine is not a number and does not
            # count.
            cosines = [s["cosine"] for s in guided if not math.isnan(s["cosine"])]
            row[f"cosine.{name}"] = float(np.mean(cosines)) if cosines else None
            row[f"projected.{name}"] = float(np.mean([s["v"] != 0 for s in guided]))
    for score in ("accuracy", "balanced_accuracy", "nll"):
        row |= {f"val.{score}.{name}": value for name, value in validation.get(score, {}).items()}
    return row


def describe(steps: Sequence[dict[str, Any]]) -> str:
    """The progress bar's words on recent updates: losses, mean cosine and the share of projected
    steps.
    """
    row = epoch_row(steps, {})
    parts = [
        f"{name[11:]} {value:.3f}" for name, value in row.items() if name.startswith("train.loss.")
    ]
    cosines = [
        value for name, value in row.items() if name.startswith("cosine.") and value is not None
    ]
    if cosines:
        projected = [value for name, value in row.items() if name.startswith("projected.")]
        parts.append(f"cos {np.mean(cosines):+.2f} projected {np.mean(projected):.0%}")
    return "loss " + " ".join(parts) if parts else ""


def accuracy_words(accuracy: dict[str, float | None]) -> str:
    """``fused 0.953  image 0.812  table 0.840``, fused first."""
    order = sorted(accuracy, key=lambda name: (name != "multi", name))
    return "  ".join(
        f"{'fused' if n == 'multi' else n}"
        f" {'-' if accuracy[n] is None else format(accuracy[n], '.3f')}"
        for n in order
    )
