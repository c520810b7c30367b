"""Rows that are sure of their class, in the interpreter: what is left of them is the sum of the
others, down to e^-80.

Truth is float64 without cancellation, from the same float32 logits (``helpers.exact_*``).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from gaal_fast.kernels import _device, softmax_stats
from gaal_fast.kernels import linear_ce_grad as head
from gaal_fast.kernels.entropy_topk import entropy_topk
from tests.triton import helpers

GAPS = [0, 5, 12, 15, 17, 20, 40, 60, 80]
SHIFTS = {"around 0": 0.0, "negative": -3000.0, "2^20": 2.0**20, "-2^20": -(2.0**20)}


def confident(
    gaps: list[float], classes: int, shift: float = 0.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """One row per gap and place of the largest logit (first, last, between): (logits, the largest
    class).

    The other classes lie up to 1 below the gap, in steps of 1/8, which float32 has at 2^20 too.
    """
    rows = [(gap, place) for gap in gaps for place in sorted({0, classes - 1, classes // 3})]
    source = torch.Generator().manual_seed(seed)
    logits = -torch.tensor([float(gap) for gap, _ in rows])[:, None]
    logits = logits - torch.randint(0, 9, (len(rows), classes), generator=source) / 8
    largest = torch.tensor([place for _, place in rows])
    logits[torch.arange(len(rows)), largest] = 0.0
    return logits + shift, largest


@triton.jit
def _numbers_kernel(x_ptr, log_ptr, lift_ptr, inverse_ptr, N: tl.constexpr):
    place = tl.arange(0, N)
    x = tl.load(x_ptr + place)
    power = _device.lift(x)
    tl.store(log_ptr + place, _device.log1p(x))
    tl.store(lift_ptr + place, power)
    tl.store(inverse_ptr + place, _device.inverse(power))


def test_log1p_and_lift() -> None:
    x = torch.cat(
        [
            torch.logspace(-44, 5, 1021, dtype=torch.float64).float(),
            torch.tensor([0.0, 0.9999999, 1.0]),
        ]
    )
    log, power, inverse = torch.empty(1024), torch.empty(1024), torch.empty(1024)
    _numbers_kernel[(1,)](x, log, power, inverse, 1024)
    truth = np.log1p(helpers.array(x))
    assert (np.abs(helpers.array(log) - truth) <= 4e-7 * truth + 2e-45).all()
    assert (power.log2() == power.log2().round()).all() and (power * inverse == 1.0).all()
    assert power.min() == 1.0 and power.max() == 2.0**96
    lifted = x * power
    inside = (power > 1.0) & (power < 2.0**96)
    assert inside.sum() > 500 and ((lifted >= 0.5) & (lifted < 1.0))[inside].all()
    assert (power[x >= 0.5] == 1.0).all() and (power[x < 2.0**-97] == 2.0**96).all()


@pytest.mark.parametrize("shift", list(SHIFTS))
@pytest.mark.parametrize(
    ("classes", "tile"), [(2, None), (20, None), (300, None), (300, 64), (517, 64)]
)
def test_entropy_and_loss(
    classes: int, tile: int | None, shift: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tile; several; and several programs per row. The target is the largest class, and another
    one.
    """
    if tile is not None:
        monkeypatch.setattr(softmax_stats, "MAX_TILE", tile)
        assert softmax_stats.split_columns(3 * len(GAPS), classes)[0] > 1
    logits, largest = confident(GAPS, classes, SHIFTS[shift])
    for target in (largest, (largest + 1) % classes):
        entropy, lse, nll = softmax_stats.softmax_stats(logits, target)
        truth = helpers.exact_stats(logits, target)
        np.testing.assert_allclose(entropy.double(), truth.entropy, rtol=5e-6)
        np.testing.assert_allclose(nll.double(), truth.nll, rtol=5e-6)
        np.testing.assert_allclose(lse.double(), truth.lse, rtol=5e-7, atol=1e-6)
    entropy, index = entropy_topk(logits, len(logits))
    truth = helpers.exact_stats(logits, largest).entropy
    np.testing.assert_allclose(entropy.double(), truth[index], rtol=5e-6)
    assert (np.diff(truth[index]) <= 5e-6 * truth[index][:-1]).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_entropy_of_half_precision_logits(dtype: torch.dtype) -> None:
    logits, largest = confident(GAPS, 20)
    logits = logits.to(dtype)
    entropy, _, nll = softmax_stats.softmax_stats(logits, largest)
    truth = helpers.exact_stats(logits, largest)
    np.testing.assert_allclose(entropy.double(), truth.entropy, rtol=5e-6)
    np.testing.assert_allclose(nll.double(), truth.nll, rtol=5e-6)


@pytest.mark.parametrize("tile", [None, 4])
def test_ties_of_the_largest(tile: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One copy is left out, in whatever tile it stands; the others count. Alone among -inf a class
    is certain.
    """
    if tile is not None:
        monkeypatch.setattr(softmax_stats, "MAX_TILE", tile)
    inf = math.inf
    logits = torch.full((6, 13), -70.0)
    logits[0], logits[1, [0, 12]], logits[2, [4, 5, 7]] = 9.0, 3.0, -5.0
    logits[3, 5:], logits[4], logits[4, 11], logits[5, 1:] = -inf, -inf, 2.0**20, 2.0**20
    entropy, lse, nll = softmax_stats.softmax_stats(logits, torch.tensor([3, 12, 0, 0, 11, 4]))
    few, many = math.log(5), math.log(12)
    np.testing.assert_allclose(
        entropy, [math.log(13), math.log(2), math.log(3), few, 0.0, many], rtol=1e-6
    )
    np.testing.assert_allclose(
        nll, [math.log(13), math.log(2), 65 + math.log(3), few, 0.0, many], rtol=1e-6
    )
    np.testing.assert_allclose(
        lse,
        [9 + math.log(13), 3 + math.log(2), -5 + math.log(3), few - 70, 2.0**20, 2.0**20 + many],
        rtol=1e-6,
    )


@pytest.mark.parametrize("classes", [7, 33])
def test_equal_rows_have_equal_bits(classes: int) -> None:
    """At every place of the batch, at any address, with any stride."""
    row, _ = confident([17], classes)
    rows = row[:1].expand(21, classes)
    around, odd = torch.full((42, classes + 5), math.nan), torch.full((21 * classes + 1,), math.nan)
    around[::2, 3 : 3 + classes], odd[1:] = rows, rows.reshape(-1)
    target = torch.full((21,), 2)
    expected = helpers.bits([x[:1] for x in softmax_stats.softmax_stats(rows.contiguous(), target)])
    for z in (rows, rows.contiguous(), around[::2, 3 : 3 + classes], odd[1:].view(21, classes)):
        results = softmax_stats.softmax_stats(z, target)
        assert all(helpers.bits([x[i : i + 1] for x in results]) == expected for i in range(21))
        assert entropy_topk(z, 21)[1].tolist() == list(range(21))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("other", [False, True], ids=["target is largest", "target is another"])
@pytest.mark.parametrize("gap", GAPS)
def test_head_gradient(gap: int, other: bool, weighted: bool) -> None:
    normal = helpers.generator(gap)
    logits, target = confident([gap] * 11, 20, shift=-7.0)
    features = normal(len(logits), 9)
    target = (target + 1) % 20 if other else target
    class_weights = normal(20).abs() + 0.5 if weighted else None
    weight, bias = head.linear_ce_grad(features, logits, target, None, class_weights)
    truth = helpers.exact_head_gradient(features, logits, target, class_weights)
    for got, want in zip((weight, bias), truth, strict=True):
        assert np.linalg.norm(helpers.array(got) - want) < 1e-5 * np.linalg.norm(want)


@pytest.mark.parametrize("tile", [None, 64])
def test_float16_head_gradient(tile: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Residuals of 4e-8, which float16 rounds to one of its smallest numbers, beside features of
    2^14, which make them normal ones. A row of weight 0 and one that is not selected are wrong with
    certainty, and do not matter. More peaks than one step reads.
    """
    if tile is not None:
        monkeypatch.setattr(softmax_stats, "MAX_TILE", tile)
    classes = 300 if tile else 20
    logits, target = confident([17] * 1001, classes)
    logits = logits[: 290 if tile else 1100].half()
    target = target[: len(logits)].clone()
    features = (helpers.generator(0)(len(logits), 5) + 2.0).sign() * 2.0**14
    features[1:] *= torch.tensor([1.0, 0.5]).repeat(len(logits))[: len(logits) - 1, None]
    class_weights = torch.ones(classes)
    class_weights[1] = 0.0
    target[[3, -1]] = torch.tensor([1, 2])
    index = torch.arange(len(logits) - 1)
    weight, bias = head.linear_ce_grad(features.half(), logits, target, index, class_weights)
    truth = helpers.exact_head_gradient(features[:-1], logits[:-1], target[:-1], class_weights)
    assert np.linalg.norm(helpers.array(weight) - truth[0]) < 2e-3 * np.linalg.norm(truth[0])
    np.testing.assert_allclose(bias.double(), truth[1], rtol=1e-3, atol=2.0**-25)
    assert softmax_stats.n_peaks(len(index), classes) > 1


@pytest.mark.parametrize("place", [0, -1])
def test_the_largest_of_all_peaks_counts(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first program's or the last one's: lifted by the others' power of two it would leave
    float16.
    """
    monkeypatch.setattr(head, "PEAK_BLOCK", 2)
    logits, target = confident([15] * 111, 20)
    target[place] = 1
    features = torch.ones(len(logits), 3, dtype=torch.float16)
    assert softmax_stats.n_peaks(len(logits), 20) > 4
    weight, bias = head.linear_ce_grad(features, logits.half(), target)
    truth = helpers.exact_head_gradient(features, logits, target)
    for got, want in zip((weight, bias), truth, strict=True):
        assert np.linalg.norm(helpers.array(got) - want) < 2e-3 * np.linalg.norm(want)


def test_gradient_of_broken_rows() -> None:
    """A row of nothing but -inf has no gradient, at its label neither."""
    for value in (-math.inf, math.inf, math.nan):
        logits, target = confident([20], 5)
        logits[1] = value
        assert all(
            x.isnan().all() for x in head.linear_ce_grad(torch.ones(3, 2), logits, target)
        ), value
