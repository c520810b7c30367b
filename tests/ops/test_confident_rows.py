"""Rows that are all but certain, on every backend: their entropy, loss and gradient are small
numbers that keep their relative precision.

1 + e^-20 is 1 in float32, so whoever adds the largest class to the others, or subtracts 1 from its
probability, loses them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from gaal_fast import ops
from tests.ops import helpers
from tests.ops.conftest import CASES_OF_EVERY_SET
from tests.ops.helpers import Backend
from tests.reference import oracle
from tests.reference.oracle import Rule

# Between the largest logit of a row and the next one.
GAPS = (0.0, 0.125, 1.0, 5.0, 10.0, 15.0, 16.0, 17.0, 20.0, 25.0, 30.0, 40.0, 60.0, 80.0)
# Added to all logits of a row; with 2^20 the neighbors of a float32 number are 1/8 away.
SHIFTS = (0.0, -100.0, 2.0**20, -(2.0**20))


@pytest.fixture(params=CASES_OF_EVERY_SET)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    with request.param.in_force():
        yield request.param


def confident_rows(
    gaps: tuple[float, ...], classes: int, shift: float = 0.0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, multiples of 1/8, the column of the largest, and that of the next one. The largest is
    first, last or in between.
    """
    generator = torch.Generator().manual_seed(seed)
    below = torch.randint(0, 17, (len(gaps), classes), generator=generator).double() / 8
    rows = torch.arange(len(gaps))
    largest = torch.tensor([(0, classes - 1, classes // 2)[i % 3] for i in range(len(gaps))])
    following = (largest + 1 + rows % max(1, classes - 1)) % classes
    below[rows, following] = 0.0
    logits = shift - torch.tensor(gaps).double()[:, None] - below
    logits[rows, largest] = shift
    return logits, largest, following


def assert_relative(got: Tensor, want: np.ndarray, bound: float) -> None:
    """Element by element; what is 0 has to be 0."""
    np.testing.assert_allclose(helpers.array(got), want, rtol=bound, atol=0.0)


def relative_error(got: Tensor, want: np.ndarray) -> float:
    return float(np.linalg.norm(helpers.array(got) - want) / np.linalg.norm(want))


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("classes", [2, 3, 8, 9, 33, 286, 1030, 10007, 20011])
def test_entropy_and_loss(backend: Backend, classes: int, shift: float) -> None:
    logits, largest, following = confident_rows(GAPS, classes, shift, seed=classes)
    logits = logits.float().to(backend.device)
    backend.require("softmax_stats", logits)
    for target in (largest, following):
        entropy, lse, nll = ops.softmax_stats(logits, target.to(backend.device))
        truth = oracle.softmax_stats(helpers.array(logits), target.numpy())
        assert_relative(entropy, truth.entropy, 1e-5)
        assert_relative(nll, truth.nll, 1e-5)
        assert_relative(lse, truth.lse, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("classes", [2, 40, 286])
def test_entropy_and_loss_of_other_dtypes(
    backend: Backend, classes: int, dtype: torch.dtype
) -> None:
    logits, largest, _ = confident_rows(GAPS, classes)
    logits = logits.to(dtype).to(backend.device)
    backend.require("softmax_stats", logits)
    entropy, _, nll = ops.softmax_stats(logits, largest.to(backend.device))
    truth = oracle.softmax_stats(helpers.array(logits), largest.numpy())
    bound = 1e-12 if dtype is torch.float64 else 1e-5
    assert_relative(entropy, truth.entropy, bound)
    assert_relative(nll, truth.nll, bound)


def test_the_least_certain_of_confident_rows_are_selected(backend: Backend) -> None:
    """In float32 arithmetic with the largest class among the others, all of them have the entropy 0
    and the first rows win.
    """
    gaps = tuple(float(gap) for gap in range(80, 20, -4))
    logits = confident_rows(gaps, 20)[0].float().to(backend.device)
    backend.require("entropy_topk", logits)
    entropy, index = ops.entropy_topk(logits, 5)
    assert index.tolist() == [14, 13, 12, 11, 10]
    assert_relative(entropy, oracle.entropy_topk(helpers.array(logits), 5)[0], 1e-5)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("classes", [2, 9, 286, 1030, 20011])
def test_gradient_of_every_row(
    backend: Backend, classes: int, shift: float, weighted: bool
) -> None:
    """The features are unit vectors, so that every column of the gradient is the residual of one
    row.
    """
    logits, largest, following = confident_rows(GAPS, classes, shift, seed=classes)
    features, logits = (
        torch.eye(len(GAPS), device=backend.device),
        logits.float().to(backend.device),
    )
    backend.require("linear_ce_grad", features, logits)
    weights = torch.linspace(0.5, 2.0, classes, device=backend.device) if weighted else None
    plain = helpers.array(features), helpers.array(logits)
    for target in (largest, following):
        got, _ = ops.linear_ce_grad(
            features, logits, target.to(backend.device), class_weights=weights
        )
        want = oracle.linear_ce_grad(
            *plain, target.numpy(), None, None if weights is None else helpers.array(weights)
        )
        assert_relative(got, want.weight, 1e-4)


@pytest.mark.parametrize("gap", [20.0, 40.0, 80.0])
def test_gradient_of_a_confident_batch(backend: Backend, gap: float) -> None:
    logits, largest, _ = confident_rows((gap,) * 30, 12)
    features = helpers.random_logits(30, 17, torch.float32, spread=1.0, device=backend.device)
    logits = logits.float().to(backend.device)
    backend.require("linear_ce_grad", features, logits)
    weight, bias = ops.linear_ce_grad(features, logits, largest.to(backend.device))
    want = oracle.linear_ce_grad(helpers.array(features), helpers.array(logits), largest.numpy())
    assert relative_error(weight, want.weight) < 1e-4
    assert relative_error(bias, want.bias) < 1e-4


# Rows of either batch, classes, features: few rows take the sample space where a backend has it,
# many rows never.
SIZES = [(4, 20, 16), (24, 5, 24), (3, 1030, 6), (3, 20011, 4)]


@pytest.mark.parametrize(
    ("guide_at_largest", "biased", "weighted"),
    [(True, True, False), (True, False, True), (False, True, True)],
    ids=["bias", "class weights", "another target"],
)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    ("gap", "guide_gap", "shift"),
    [
        (0.5, 0.5, 0.0),
        (0.5, 20.0, 0.0),
        (0.5, 50.0, -100.0),
        (0.5, 80.0, 2.0**20),
        (80.0, 0.5, 0.0),
        (35.0, 45.0, 0.0),
        (80.0, 80.0, 0.0),
    ],
)
def test_corrected_gradient(
    backend: Backend,
    gap: float,
    guide_gap: float,
    shift: float,
    size: tuple[int, int, int],
    guide_at_largest: bool,
    biased: bool,
    weighted: bool,
) -> None:
    """The features are unit vectors, so that the columns of the weight are the logits, in float32
    exactly.
    """
    rows, classes, width = size
    logits, largest, following = confident_rows((gap,) * rows, classes, shift, seed=1)
    guide_logits, guide_largest, guide_following = confident_rows(
        (guide_gap,) * rows + (guide_gap + 6.0,) * 2, classes, shift, seed=2
    )
    target = torch.where(torch.arange(rows) % 2 == 0, largest, following) if gap < 1.0 else largest
    guide_target = guide_largest if guide_at_largest else guide_following
    # The second half of the batch shares its features, and so its logits, with the guide.
    weight = (
        torch.cat([logits[: rows // 2], guide_logits, torch.zeros(width, classes)])[:width]
        .t()
        .contiguous()
    )
    everything = torch.eye(max(width, rows // 2 + rows + 2))[:, :width]
    features, guide_features = everything[:rows], everything[rows // 2 : rows // 2 + rows + 2]
    if everything.shape[0] > width:  # no unit vector is left for the last ones
        guide_features = guide_features + everything[rows // 2] * (
            guide_features.sum(dim=1, keepdim=True) == 0
        )
    bias = torch.arange(classes).remainder(3).sub(1.0) / 8 if biased else None
    arguments = [
        features.contiguous(),
        target,
        guide_features.contiguous(),
        guide_target,
        weight.float(),
        bias,
    ]
    arguments = [None if a is None else a.to(backend.device) for a in arguments]
    backend.require("guided_linear_ce", arguments[0], arguments[2], arguments[4])
    weights = torch.linspace(0.5, 2.0, classes, device=backend.device) if weighted else None
    rule = Rule(epsilon=1.5, relative=True)  # beyond any cosine, so that it always acts
    step = ops.guided_linear_ce(
        *arguments, top_k=rows, class_weights=weights, **helpers.options(rule)
    )

    plain = [
        None if a is None else a.cpu().numpy() if a.dtype is torch.int64 else helpers.array(a)
        for a in arguments
    ]
    plain_weights = None if weights is None else helpers.array(weights)
    truth = oracle.guided_linear_ce(*plain, rows, rule, plain_weights, step.index.cpu().numpy())
    assert math.isfinite(truth.v) and truth.v > 0.0
    assert sorted(step.index.tolist()) == sorted(oracle.topk(truth.guide_entropy, rows).tolist())
    assert step.loss.item() == pytest.approx(truth.loss, rel=1e-5)
    assert relative_error(step.grad_weight, truth.grad_weight) < 1e-4
    if biased:
        assert relative_error(step.grad_bias, truth.grad_bias) < 1e-4


LAYOUTS = {"contiguous": lambda x: x, **helpers.LAYOUTS}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("classes", [2, 3, 5, 7, 8, 16, 20, 33, 100, 286, 717, 10007])
def test_equal_rows_have_equal_bits(backend: Backend, classes: int, dtype: torch.dtype) -> None:
    """Wherever in the batch and in memory they lie: the order of rows of one entropy is that of
    their numbers.
    """
    row = helpers.random_logits(1, classes, dtype, seed=classes, device=backend.device)
    seen = set()
    for rows in (1, 2, 3, 19):
        batch = helpers.random_logits(rows, classes, dtype, device=backend.device)
        batch[::2] = row
        for layout in LAYOUTS.values():
            logits = layout(batch)
            backend.require("softmax_stats", logits)
            target = torch.full((rows,), classes // 2, device=backend.device)
            entropy, lse, nll = (
                result[::2].tolist() for result in ops.softmax_stats(logits, target)
            )
            seen |= set(zip(entropy, lse, nll, strict=True))
            assert ops.entropy_topk(layout(row.expand(rows, classes).contiguous()), rows)[
                1
            ].tolist() == list(range(rows))
    assert len(seen) == 1
