"""The gradient of the head in the interpreter, around the edges of its tiles."""

from __future__ import annotations

import math

import pytest
import torch

from gaal_fast.kernels import softmax_stats
from gaal_fast.kernels.linear_ce_grad import linear_ce_grad
from tests.ops.helpers import assert_no_worse, naive_head_gradient
from tests.reference import oracle
from tests.triton import helpers
from tests.triton.steps import make_guided, run_guided

HEADS = [(1, 1, 1, 1), (17, 64, 64, 17), (33, 65, 63, 20), (40, 130, 129, 1), (5, 3, 0, 2)]


@pytest.mark.parametrize("dtype", helpers.DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("rows", "classes", "width", "k"), HEADS)
def test_head_gradient(
    rows: int, classes: int, width: int, k: int, weighted: bool, dtype: torch.dtype
) -> None:
    """Around the edges of the tiles; a row that is chosen twice counts twice, one that is not
    chosen may hold anything.
    """
    normal = helpers.generator(rows)
    features, logits = (
        normal(rows, width, dtype=dtype),
        normal(rows, classes, dtype=dtype, scale=3.0),
    )
    target = helpers.labels(rows, classes, 0)
    index = torch.randperm(rows, generator=torch.Generator().manual_seed(0))[:k]
    if k > 1:
        index[-1] = index[0]
    class_weights = normal(classes).abs() + 0.1 if weighted else None
    others = torch.ones(rows, dtype=torch.bool).index_fill(0, index, False)
    features[others], logits[others] = math.nan, math.nan
    weight, bias = linear_ce_grad(features, logits, target, index, class_weights)
    plain_weights = None if class_weights is None else class_weights.numpy()
    truth = oracle.linear_ce_grad(
        helpers.array(features), helpers.array(logits), target.numpy(), index.numpy(), plain_weights
    )
    naive = naive_head_gradient(features, logits, target, index, class_weights)
    assert_no_worse(weight, naive[0], truth.weight, truth.weight_scale)
    assert_no_worse(bias, naive[1], truth.bias, truth.bias_scale)


@pytest.mark.parametrize("bad", ["label below", "label above", "row below", "row above"])
def test_what_nobody_checks_on_a_gpu_becomes_nan(bad: str) -> None:
    """And reads nothing out of bounds. Labels of rows that are not chosen do not matter."""
    normal = helpers.generator(0)
    features, logits, target, index = (
        normal(6, 4),
        normal(6, 3),
        torch.tensor([0, 1, 2, 0, 7, 1]),
        torch.tensor([0, 2]),
    )
    for class_weights in (None, normal(3).abs()):
        assert all(
            x.isfinite().all()
            for x in linear_ce_grad(features, logits, target, index, class_weights)
        )
    far = -(10**12) if "below" in bad else 10**12  # where nothing can be read
    near = -1 if "below" in bad else 3 if "label" in bad else 6
    for value in (far, near):
        (target if bad.startswith("label") else index)[1 if bad.startswith("row") else 2] = value
        for class_weights in (None, normal(3).abs()):
            assert all(
                x.isnan().all()
                for x in linear_ce_grad(features, logits, target, index, class_weights)
            )
        if bad.startswith("label"):
            nll = softmax_stats.softmax_stats(logits, target)[2]
            assert nll.isnan().tolist() == [False, False, True, False, True, False]
            step = run_guided(make_guided(6, 6, 3, 4, 2) | {"target": target})
            assert all(
                x.isnan().all() for x in (step["loss"], step["grad_features"], step["grad_weight"])
            )
            step = run_guided(make_guided(6, 6, 3, 4, 6) | {"guide_target": target})
            assert step["loss"].isfinite() and step["grad_features"].isfinite().all()
            assert step["v"].isnan() and step["grad_weight"].isnan().all()
