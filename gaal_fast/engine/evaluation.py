"""Predictions over a whole data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from gaal_fast.data.batch import Batch
from gaal_fast.methods import Method
from gaal_fast.tasks import FUSED, Predictions


@torch.no_grad()
def predict_batches(
    method: Method,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    also: Callable[[Batch], None] | None = None,
) -> Predictions:
    """Run a method's model in evaluation mode over batches in data order.

    A row with no modality at all gets the task's prior. The model's mode is put back.

    Args:
        method: What predicts.
        batches: Of rows in data order.
        device: Where to compute.
        also: Called with every batch, on the device, after its prediction.
    """
    was_training = method.training
    method.eval()
    outputs: dict[str, list[Tensor]] = {m: [] for m in (*method.modalities, FUSED)}
    rows: dict[str, list[Tensor]] = {m: [] for m in method.modalities}
    target, issues, seen = [], [], 0
    for batch in batches:
        issues += batch.issues
        there = batch.to(device)
        for name, values in method(there).items():
            outputs[name].append(values.cpu())
        if also is not None:
            also(there)
        for name in method.modalities:
            rows[name].append(batch.views[name].rows + seen)
        target.append(batch.target)
        seen += len(batch)
    method.train(was_training)
    found = {
        name: (torch.cat(parts) if parts else torch.zeros(0, method.task.outputs)).double().numpy()
        for name, parts in outputs.items()
    }
    places = {
        name: (torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)).numpy()
        for name, parts in rows.items()
    }
    blind = np.setdiff1d(np.arange(seen), np.concatenate(list(places.values())))
    found[FUSED][blind] = method.task.prior()
    whole = torch.cat(target).numpy() if target else np.zeros(0, np.int64)
    return Predictions(found, places, whole, issues)
