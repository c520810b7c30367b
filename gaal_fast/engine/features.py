"""What an image encoder makes of the images of some rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from gaal_fast.data import FusionDataset, dead_readers_as_user_errors, make_loader


class Features(NamedTuple):
    """Features of the rows that have an input.

    Attributes:
        values: ``[n, d]`` float32.
        rows: ``[n]`` int64, ascending: which rows of the data set these are.
    """

    values: np.ndarray
    rows: np.ndarray


@torch.no_grad()
def features(
    encoder: nn.Module,
    dataset: FusionDataset,
    modality: str,
    *,
    device: torch.device,
    batch_size: int = 64,
    workers: int | None = None,
    progress: bool = True,
) -> Features:
    """Run one encoder in evaluation mode over a data set, in its order.

    Args:
        encoder: of one modality, such as an ``ImageEncoder``, which normalizes its pixels itself.
            Its device becomes ``device``; its mode is put back.
        dataset: rows that are not augmented.
        modality: the input to read, and no other.
        device: where to compute.
        batch_size: rows at once.
        workers: reader processes; None for as many as help.
        progress: show a bar on a terminal.
    """
    loader = make_loader(dataset.only([modality]), batch_size, workers=workers)
    was_training = encoder.training
    encoder.to(device).eval()
    values, rows, seen = [], [], 0
    bar = tqdm(loader, desc=f"{modality} features", leave=False, disable=None if progress else True)
    with dead_readers_as_user_errors():
        for batch in bar:
            view = batch.views[modality]
            if len(view.rows):
                values.append(encoder(view.values.to(device)).float().cpu())
                rows.append(view.rows + seen)
            seen += len(batch)
    encoder.train(was_training)
    if not values:
        return Features(np.zeros((0, 0), np.float32), np.zeros(0, np.int64))
    return Features(torch.cat(values).numpy(), torch.cat(rows).numpy())
