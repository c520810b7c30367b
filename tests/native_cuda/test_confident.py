"""Confident rows and tiny guides: what is small beside 1 keeps its digits, and no product of small
numbers is lost.

The truth is float64 arithmetic without cancellation on the very numbers that the kernels get:
logits are made so that they are exact in every dtype, by a head whose weight is the identity.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gaal_fast.ops.backends.native import cuda as glue
from tests.native_cuda.test_paths import arguments
from tests.ops import helpers
from tests.ops import test_guided_linear_ce as guided
from tests.ops.helpers import Backend
from tests.reference.oracle import Rule

GAPS = [0, 5, 12, 15, 17, 20, 40, 60, 80]
HALF = [torch.float16, torch.bfloat16]
TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def confident(rows: int, classes: int, gap: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows whose largest logit is 0, at a random place, and the others ``gap`` to ``gap + 3.5``
    lower; and where the largest ones are.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = -gap - torch.randint(0, 8, (rows, classes), generator=generator) / 2
    largest = torch.randint(0, classes, (rows,), generator=generator)
    logits[torch.arange(rows), largest] = 0.0
    return logits, largest


def statistics(logits: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entropy, lse and nll."""
    rows = np.arange(len(logits))
    top = logits.argmax(1)
    shifted = logits - logits[rows, top][:, None]
    others = np.exp(shifted)
    others[rows, top] = 0.0
    rest = others.sum(1)
    log_sum = np.log1p(rest)
    entropy = log_sum - (others * shifted).sum(1) / (1.0 + rest)
    return entropy, logits[rows, top] + log_sum, log_sum - shifted[rows, target]


def residuals(
    logits: np.ndarray, target: np.ndarray, class_weights: np.ndarray | None
) -> np.ndarray:
    """w_i (p - onehot) / sum of w, with minus the sum of the others at the target."""
    rows = np.arange(len(logits))
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    residual = shifted / shifted.sum(1, keepdims=True)
    residual[rows, target] = 0.0
    residual[rows, target] = -residual.sum(1)
    weights = np.ones(len(logits)) if class_weights is None else class_weights[target]
    return residual * (weights / weights.sum())[:, None]


def assert_near(got: Tensor, want: np.ndarray, scale: np.ndarray) -> None:
    """Near as a whole, and near element by element in units of the parts that were summed."""
    tolerance, result = TOLERANCE[got.dtype], helpers.array(got)
    # Below the normal numbers of a dtype precision is absolute.
    floor = torch.finfo(got.dtype).smallest_normal
    assert np.linalg.norm(result - want) <= tolerance * (
        np.linalg.norm(want) + math.sqrt(want.size) * floor
    )
    assert (np.abs(result - want) <= tolerance * (scale + floor)).all()


# Widths of one lane, of several, of a warp, of a block, and of several blocks.
@pytest.mark.parametrize("classes", [2, 7, 33, 717, 1500, 17003])
@pytest.mark.parametrize("shift", [0.0, 2.0**20, -1000.0])
@pytest.mark.parametrize("gap", GAPS)
def test_statistics(place: Backend, gap: int, shift: float, classes: int) -> None:
    logits, largest = confident(3, classes, gap, seed=classes)
    logits += shift
    other = (largest + 1) % classes
    for target in (largest, other):
        results = glue.softmax_stats(logits.to(place.device), target.to(place.device))
        for result, want in zip(
            results, statistics(helpers.array(logits), target.numpy()), strict=True
        ):
            np.testing.assert_allclose(helpers.array(result), want, rtol=1e-5)
    entropy, index = glue.entropy_topk(logits.to(place.device), 3)
    want = statistics(helpers.array(logits), largest.numpy())[0]
    np.testing.assert_allclose(helpers.array(entropy), want[index.cpu().numpy()], rtol=1e-5)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("gap", GAPS)
def test_statistics_of_half_precision(place: Backend, gap: int, dtype: torch.dtype) -> None:
    """Every logit is exact in these dtypes (the lowest from half a step on), and the arithmetic is
    that of float32.
    """
    logits, largest = confident(5, 700, gap)
    logits = logits.to(dtype)
    results = glue.softmax_stats(logits.to(place.device), largest.to(place.device))
    for result, want in zip(
        results, statistics(helpers.array(logits), largest.numpy()), strict=True
    ):
        np.testing.assert_allclose(helpers.array(result), want, rtol=1e-5)


@pytest.mark.parametrize("classes", [5, 64, 1500, 17003])
@pytest.mark.parametrize("ties", [2, 3, 5])
def test_ties_of_the_largest(place: Backend, classes: int, ties: int) -> None:
    """All but one copy of the largest count, side by side or far apart: over lanes, turns of a
    loop, and blocks.
    """
    for places in (
        range(ties),
        range(classes - ties, classes),
        [i * (classes - 1) // (ties - 1) for i in range(ties)],
    ):
        logits = torch.full((2, classes), -50.0)
        logits[0, list(places)] = 3.0
        logits[1, list(places)] = -7.0
        target = torch.full((2,), max(places))
        entropy, lse, nll = (
            helpers.array(result)
            for result in glue.softmax_stats(logits.to(place.device), target.to(place.device))
        )
        np.testing.assert_allclose(entropy, math.log(ties), rtol=1e-6)
        np.testing.assert_allclose(lse, [3.0 + math.log(ties), -7.0 + math.log(ties)], rtol=1e-6)
        np.testing.assert_allclose(nll, math.log(ties), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("classes", [7, 21, 285, 717, 10007])
def test_equal_rows_have_equal_bits_in_every_layout(
    place: Backend, classes: int, dtype: torch.dtype
) -> None:
    """At another position, of an odd width, at every offset from an aligned address, between other
    rows, and with other strides.
    """
    row = helpers.random_logits(1, classes, dtype, seed=classes)
    matrix = row.expand(9, classes).contiguous().to(place.device)
    target = torch.full((9,), classes // 2, device=place.device)
    features = helpers.random_logits(9, 5, dtype, seed=1, device=place.device)
    layouts = [matrix]
    for offset in range(8):
        memory = torch.full((9 * classes + 8,), torch.nan, dtype=dtype, device=place.device)
        layouts.append(memory[offset : offset + 9 * classes].view(9, classes).copy_(matrix))
        wide = torch.full((9, classes + 9), torch.nan, dtype=dtype, device=place.device)
        layouts.append(wide[:, offset : offset + classes].copy_(matrix))
    layouts += [layout(matrix) for layout in helpers.LAYOUTS.values()]
    statistics_seen, gradients_seen = set(), set()
    for logits in layouts:
        entropy, lse, nll = glue.softmax_stats(logits, target)
        top, index = glue.entropy_topk(logits, 9)
        statistics_seen |= {
            tuple(helpers.bits(list(values))) for values in zip(entropy, lse, nll, strict=True)
        }
        assert index.tolist() == list(range(9)) and helpers.bits(top) == helpers.bits(entropy)
        gradients_seen.add(
            tuple(helpers.bits(glue.linear_ce_grad(features, logits, target, None, None)))
        )
    assert len(statistics_seen) == 1 and len(gradients_seen) == 1


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize(
    "path", ["cooperative", "launches"]
)  # a composed step has the logits of the library's product
def test_equal_guide_rows_are_taken_in_their_order(
    place: Backend, path: str, dtype: torch.dtype
) -> None:
    """In any tile, from any address: an entropy that differs in its last bit would select by where
    a row lies.
    """
    case = guided.make(5, 130, 21, 33, 100, dtype, place.device, Rule(epsilon=0.2, relative=True))
    row = case.guide_features[:1].clone()
    seen = set()
    for offset in range(8):
        memory = torch.full((130, 33 + 8), torch.nan, dtype=dtype, device=place.device)
        case.guide_features = memory[:, offset : offset + 33]
        case.guide_features[:] = row
        result = glue.guided_linear_ce(*arguments(case), path=path, sample_space=False)
        assert result[-1].tolist() == list(range(100))
        seen.add(tuple(helpers.bits(result)))
    assert len(seen) == 1


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("indexed", [False, True], ids=["", "indexed"])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("product", ["kernel", "library"])
def test_head_gradient(
    place: Backend,
    monkeypatch: pytest.MonkeyPatch,
    product: str,
    gap: int,
    dtype: torch.dtype,
    indexed: bool,
    weighted: bool,
) -> None:
    """All rows sure of their label, in more than one split of the rows; features so large that
    float16 has room for most gradients.
    """
    if product == "library":
        monkeypatch.setattr(glue, "_MOST_MULTIPLY_ADDS", 0)
    logits, target = confident(300, 7, gap)
    features = (
        torch.rand(300, 5, generator=torch.Generator().manual_seed(1)).mul(1024).to(dtype) + 1024
    )
    logits = logits.to(dtype)
    index = torch.arange(0, 300, 3) if indexed else None
    weights = torch.linspace(0.5, 2.0, 7) if weighted else None
    rows = slice(None) if index is None else index
    a = residuals(
        helpers.array(logits[rows]),
        target[rows].numpy(),
        None if weights is None else weights.double().numpy(),
    )
    u = helpers.array(features[rows])
    moved = [
        None if t is None else t.to(place.device)
        for t in (features, logits, target, index, weights)
    ]
    grad_weight, grad_bias = glue.linear_ce_grad(*moved)
    assert_near(grad_weight, a.T @ u, np.abs(a).T @ np.abs(u))
    assert_near(grad_bias, a.sum(0), np.abs(a).sum(0))
