"""Statistics of rows in the interpreter, at the sizes where their launches change shape.

``tests/ops`` runs the suite of the public operations over the same kernels; here are the forms that
its sizes would not reach.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gaal_fast.kernels import _launch, softmax_stats
from gaal_fast.kernels.entropy_topk import entropy_topk
from tests.ops.helpers import assert_no_worse, naive_stats
from tests.reference import oracle
from tests.triton import helpers


def assert_stats(logits: Tensor, target: Tensor | None) -> None:
    entropy, lse, nll = softmax_stats.softmax_stats(logits, target)
    truth, naive = oracle.softmax_stats(helpers.array(logits), target), naive_stats(logits, target)
    assert_no_worse(entropy, naive[0], truth.entropy, 1.0)
    assert_no_worse(lse, naive[1], truth.lse, 1.0)
    if target is not None:
        assert_no_worse(nll, naive[2], truth.nll, 1.0)


@pytest.mark.parametrize("dtype", [*helpers.DTYPES, pytest.param(torch.bfloat16, id="bfloat16")])
@pytest.mark.parametrize(("rows", "classes"), [(129, 2), (3, 4096), (2, 4097), (2, 10007)])
def test_tiles_of_a_row(rows: int, classes: int, dtype: torch.dtype) -> None:
    logits = helpers.generator(classes)(rows, classes, dtype=dtype, scale=4.0)
    assert_stats(logits, helpers.labels(rows, classes, 0))


@pytest.mark.parametrize(
    "kind",
    [
        "rising",
        "falling",
        "-inf first",
        "-inf last",
        "one logit",
        "+inf last",
        "NaN last",
        "NaN first",
        "far",
    ],
)
def test_the_maximum_moves_between_tiles(kind: str) -> None:
    """Two rows of 4096 + 904 columns, so that what is special stands in the first tile or in the
    second.
    """
    logits = helpers.generator(1)(2, 5000)
    if kind == "rising":
        logits += torch.linspace(0, 200, 5000)
    elif kind == "falling":
        logits -= torch.linspace(0, 200, 5000)
    elif kind == "-inf first":
        logits[:, :4500] = -math.inf
    elif kind == "-inf last":
        logits[:, 300:] = -math.inf
    elif kind == "one logit":
        logits[:] = -math.inf
        logits[0, 4999], logits[1, 0] = 3.0, 3.0
    elif kind == "far":
        logits[0, :4096], logits[0, 4096:], logits[1, :4096], logits[1, 4096:] = (
            -3e38,
            3e38,
            3e38,
            -3e38,
        )
    else:
        value, _, where = kind.partition(" ")
        logits[0, 4999 if where == "last" else 0] = float(value)
    assert_stats(logits, torch.tensor([4999, 0]))


def test_several_programs_share_a_row() -> None:
    """Merged by the last program to arrive; with -inf, NaN and the maximum in parts of their own,
    and a selection of the rows.
    """
    classes = 4 * 4096 + 5
    splits, width = softmax_stats.split_columns(5, classes)
    assert splits == 2 and width == 3 * 4096
    logits = helpers.generator(2)(5, classes, scale=3.0)
    logits[1, :width], logits[2, width:] = -math.inf, -math.inf
    logits[3, -1] = math.nan
    logits[4, width] = 90.0
    assert_stats(logits, torch.tensor([0, width, 5, 7, classes - 1]))
    entropy, index = entropy_topk(logits, 5)
    truth = oracle.softmax_stats(helpers.array(logits)).entropy
    assert index.tolist() == oracle.topk(truth, 5).tolist()
    assert helpers.bits(entropy) == helpers.bits(softmax_stats.softmax_stats(logits)[0][index])

    chosen, target = torch.tensor([4, 0]), torch.tensor([0, 1, 2, 3, width])
    maximum, scale, residual = (torch.full((5,), -1.0) for _ in range(3))
    softmax_stats.launch_stats(
        logits, target=target, index=chosen, row_max=maximum, row_scale=scale, row_residual=residual
    )
    assert (
        maximum.tolist() == [logits[0].max(), -1.0, -1.0, -1.0, 90.0]
        and scale[1:4].tolist() == [-1.0] * 3
    )
    probability = torch.softmax(logits[chosen].double(), 1).max(1).values
    np.testing.assert_allclose(scale[chosen].double(), probability, rtol=1e-6)
    expected = helpers.exact_residual(logits[chosen], target[chosen])[[0, 1], target[chosen]]
    np.testing.assert_allclose(residual[chosen].double(), expected, rtol=1e-5)
    assert residual[1:4].tolist() == [-1.0] * 3


def test_programs_of_many_rows_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lanes without a row leave the other rows' partial statistics alone."""
    monkeypatch.setattr(softmax_stats, "MAX_TILE", 64)
    rows, _, _ = softmax_stats.tile_shape(300)
    assert rows > 1 and 37 % rows and softmax_stats.split_columns(37, 300)[0] > 1
    assert_stats(helpers.generator(3)(37, 300, scale=3.0), torch.arange(37))


def test_shapes_of_work() -> None:
    """One row per thread at Y = 2, about one warp per row at 286 and 717, and no split that leaves
    a program without columns.
    """
    assert softmax_stats.tile_shape(2) == (128, 2, 4)
    for classes in (286, 717):
        rows, _, warps = softmax_stats.tile_shape(classes)
        assert rows == warps
    for classes in (
        1,
        2,
        31,
        33,
        128,
        129,
        257,
        1025,
        4096,
        4097,
        16384,
        16385,
        100_000,
        1_000_003,
    ):
        rows, columns, _ = softmax_stats.tile_shape(classes)
        assert rows * columns <= 4096 and columns >= min(classes, 4096)
        for batch in (0, 1, 7, 64, 133, 4096):
            splits, width = softmax_stats.split_columns(batch, classes)
            assert (splits - 1) * width < classes <= splits * width and width % columns == 0
            assert splits == 1 or (
                -(-batch // rows) * splits <= _launch.TARGET_PROGRAMS and width >= 2 * columns
            )
    assert softmax_stats.split_columns(8, 100_000)[0] > 8
