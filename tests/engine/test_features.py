"""Features of a frozen encoder, row by row."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from gaal_fast.data.batch import Batch
from gaal_fast.engine.features import Thumbnails, features
from tests.engine.drawn import SIDE, drawn_values

CPU = torch.device("cpu")


def test_they_are_what_the_encoder_says_in_evaluation_mode_of_the_rows_with_the_input() -> None:
    data = drawn_values(300)
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3 * SIDE * SIDE), nn.Linear(192, 5))
    encoder.train()
    found, rows = features(encoder, data.val, "front", device=CPU, batch_size=50)
    assert encoder.training
    there = data.modalities[0].present[data.split.val]
    assert 0 < there.sum() < len(there)
    assert rows.tolist() == np.flatnonzero(there).tolist()
    assert found.dtype == np.float32
    batch: Batch = data.val.__getitems__(list(range(len(data.val))))
    with torch.no_grad():
        expected = encoder.eval()(batch.views["front"].values)
    torch.testing.assert_close(torch.from_numpy(found), expected)


def test_rows_that_all_lack_the_input_have_no_features() -> None:
    data = drawn_values(60)
    absent = data.dataset(np.flatnonzero(~data.modalities[0].present))
    found, rows = features(nn.Flatten(), absent, "front", device=CPU, batch_size=7)
    assert found.shape == (0, 0)
    assert rows.shape == (0,)


def test_a_thumbnail_is_the_mean_of_its_blocks_and_a_small_image_stays() -> None:
    """Antialiased halves of an image that is constant in blocks of two by two, inside."""
    blocks = torch.rand(2, 3, 16, 16)
    large = blocks.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    flat = torch.full((2, 3, 64, 64), 7, dtype=torch.uint8)
    assert Thumbnails()(large).shape == (2, 3 * 16 * 16)
    torch.testing.assert_close(Thumbnails()(flat), torch.full((2, 768), 7.0))
    torch.testing.assert_close(Thumbnails()(blocks), blocks.flatten(1))
    # Resizing keeps the mean of the whole image nearly, and does not skip pixels.
    stripes = torch.zeros(1, 3, 64, 64)
    stripes[..., ::2] = 1
    assert (Thumbnails()(stripes) - 0.5).abs().max() < 0.1
