"""Features of a data set's rows from a frozen encoder."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from tqdm import tqdm

from gaal_fast.data import FusionDataset, dead_readers_as_user_errors, make_loader

# Side of a thumbnail, in pixels.
THUMBNAIL = 16


class Features(NamedTuple):
    """Features of the rows of a data set that have a modality.

    Attributes:
        values: Float32 ``[n, d]``; d = 0 where no row has it.
        rows: Int64 ``[n]``, ascending: their positions in the data set.
    """

    values: np.ndarray
    rows: np.ndarray


class Thumbnails(nn.Module):
    """Images as they are, small: ``[B, 3, H, W]`` to ``[B, 3 * 16 * 16]``, resized with
    antialiasing. Smaller images keep their size.
    """

    def forward(self, images: Tensor) -> Tensor:
        images = images.float()
        if max(images.shape[-2:]) > THUMBNAIL:
            images = interpolate(
                images, size=(THUMBNAIL, THUMBNAIL), mode="bilinear", antialias=True
            )
        return images.flatten(1)


@torch.no_grad()
def features(
    encoder: nn.Module,
    dataset: FusionDataset,
    modality: str,
    *,
    device: torch.device,
    batch_size: int = 64,
    workers: int | None = None,
    progress: bool = False,
) -> Features:
    """What an encoder in evaluation mode makes of one modality; its mode is put back.

    Args:
        encoder: From inputs ``[n, ...]`` to features ``[n, d]``.
        dataset: Its rows, in order.
        modality: The name of the input.
        device: Where to compute.
        batch_size: Rows at once.
        workers: Reader processes; None for as many as help.
        progress: Show a bar on a terminal.

    Raises:
        UserError: Where one of the reader processes fails.
    """
    was_training = encoder.training
    encoder.to(device).eval()
    found, rows, seen = [], [], 0
    loader = make_loader(dataset.only([modality]), batch_size, workers=workers)
    bar = tqdm(
        loader,
        desc=f"features of {modality}",
        unit="batch",
        leave=False,
        delay=1,
        disable=None if progress else True,  # None: only on a terminal
    )
    with dead_readers_as_user_errors():
        for batch in bar:
            view = batch.views[modality]
            if len(view.rows):
                found.append(encoder(view.values.to(device)).float().cpu())
                rows.append(view.rows + seen)
            seen += len(batch)
    encoder.train(was_training)
    if not found:
        return Features(np.zeros((0, 0), np.float32), np.zeros(0, np.int64))
    return Features(torch.cat(found).numpy(), torch.cat(rows).numpy())
