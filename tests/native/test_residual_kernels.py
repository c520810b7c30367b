"""Residual rows, selection and the guided step of the C++ kernels, on every instruction set of this
machine.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.native.conftest import DTYPES, Kernels, guarded, wide
from tests.native.test_row_kernels import (
    BLOCK,
    EPS,
    LAYOUTS,
    SEGMENT,
    assert_stats,
    labels_of,
    logits_of,
)
from tests.reference import oracle


@pytest.mark.parametrize("out_dtype", ["same", "float32"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_residual_of_every_tail(kernels: Kernels, dtype: torch.dtype, out_dtype: str) -> None:
    out_dtype = dtype if out_dtype == "same" else torch.float32
    eps = float(torch.finfo(out_dtype).eps)
    tiny = float(torch.finfo(out_dtype).smallest_normal) * eps
    for columns in [*range(1, 71), 286, BLOCK + 3]:
        gap, shift = LAYOUTS[columns % 3]
        logits, target = (
            guarded(logits_of(7, columns, dtype, columns), gap, shift),
            labels_of(7, columns),
        )
        index = torch.tensor([6, 0, 3, 3, 5])
        weights = torch.rand(columns, generator=torch.Generator().manual_seed(2)) + 0.1
        out = guarded(torch.full((5, columns), torch.nan, dtype=out_dtype), (gap + 1) % 4, shift)
        sums = guarded(torch.full((1, columns), torch.nan, dtype=out_dtype), 0, shift)
        loss = kernels.residual(logits.matrix, target, out.matrix, sums.matrix, index, weights)
        rows, labels = wide(logits.matrix)[index], target[index].numpy()
        want = oracle.residual(rows, labels, weights.numpy())
        # e^{x - m} inherits the rounding of x - m, up to |x - m| / 2 ulp, and the sum grows by
        # rounding with the terms of a lane.
        bound = 2 * eps + EPS * columns / 1024 + EPS * (rows.max(axis=1, keepdims=True) - rows) / 2
        bound[np.arange(len(rows)), labels] += 2 * EPS
        assert (np.abs(wide(out.matrix) - want) <= bound * np.abs(want) + 2 * tiny).all()
        # The sums are those of what was written, rounded once.
        exact = wide(out.matrix).sum(axis=0)
        assert (np.abs(wide(sums.matrix)[0] - exact) <= 0.51 * eps * np.abs(exact) + tiny).all()
        assert loss == pytest.approx(
            oracle.cross_entropy(rows, labels, weights.numpy()), rel=4 * EPS
        )
        for memory in (logits, out, sums):
            memory.assert_intact()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [2, 37, 286, SEGMENT + 7])
def test_residual_in_place(kernels: Kernels, dtype: torch.dtype, columns: int) -> None:
    logits, target = logits_of(6, columns, dtype), labels_of(6, columns)
    apart, sums = torch.empty_like(logits), torch.empty(columns, dtype=dtype)
    loss = kernels.residual(logits, target, apart, sums)
    in_place, sums_in_place = guarded(logits), torch.empty_like(sums)
    assert kernels.residual(in_place.matrix, target, in_place.matrix, sums_in_place) == loss
    assert torch.equal(in_place.matrix, apart) and torch.equal(sums, sums_in_place)
    in_place.assert_intact()


def test_target_of_a_confident_row_keeps_its_relative_precision(kernels: Kernels) -> None:
    """p - 1 would be 0 in float32."""
    logits = torch.tensor([[30.0, 0.0, -1.0], [0.0, 20.0, 0.5]])
    out = torch.empty_like(logits)
    kernels.residual(logits, torch.tensor([0, 1]), out, torch.empty(3))
    z = wide(logits)
    for row, label in ((0, 0), (1, 1)):
        rest = np.exp(np.delete(z[row], label) - z[row, label]).sum()
        assert out[row, label].item() == pytest.approx(-rest / (1 + rest) / 2, rel=4 * EPS, abs=0.0)


@pytest.mark.parametrize("columns", [2, 19, 64, BLOCK + 7, SEGMENT + 3])
def test_ties_for_the_maximum(kernels: Kernels, columns: int) -> None:
    """The target among them, or not."""
    logits = logits_of(4, columns, torch.float32)
    logits[0] = 1.5
    logits[1, 0] = logits[1, columns - 1] = 30.0
    logits[2, columns // 2 :] = 12.25
    logits[3, 0] = logits[3, columns - 1] = 9.0
    target = torch.tensor([columns // 3, columns - 1, columns // 2, 1 if columns > 2 else 0])
    assert_stats(kernels.softmax_stats(logits, target), logits, target, ulps=8)
    out, sums = torch.empty_like(logits), torch.empty(columns)
    kernels.residual(logits, target, out, sums)
    want = oracle.residual(wide(logits), target.numpy())
    np.testing.assert_allclose(wide(out), want, rtol=4e-6)


@pytest.mark.parametrize("columns", [1, 2, 33, 300])
def test_selection_is_exact(kernels: Kernels, columns: int) -> None:
    """The order is that of the entropies the kernels give, ties and NaN as documented."""
    logits = logits_of(70, columns, torch.float32)
    logits[10:20] = logits[3]
    logits[40:44] = torch.nan
    logits[44] = torch.inf  # inf - inf is a NaN of the other sign
    logits[45:47] = -torch.inf
    logits[50:54] = 0.0
    entropy = kernels.softmax_stats(logits)[0]
    for k in (0, 1, 2, 5, 8, 35, 69, 70):
        values, index = kernels.entropy_topk(logits, k)
        want = oracle.topk(entropy.numpy(), k)
        assert np.array_equal(index.numpy(), want)
        assert torch.equal(values.nan_to_num(nan=9.0), entropy[index].nan_to_num(nan=9.0))


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("columns", "rows", "guide_rows", "k"),
    [
        (1, 3, 3, 2),
        (2, 9, 7, 3),
        (33, 20, 31, 31),
        (286, 40, 17, 8),
        (SEGMENT + 5, 3, 4, 2),
        (5, 4, 0, 0),
    ],
)
def test_guided_residuals_are_the_single_steps(
    kernels: Kernels,
    dtype: torch.dtype,
    columns: int,
    rows: int,
    guide_rows: int,
    k: int,
    biased: bool,
) -> None:
    logits, guide_logits = (
        logits_of(rows, columns, dtype, 1),
        logits_of(guide_rows, columns, dtype, 2),
    )
    bias = logits_of(1, columns, dtype, 3, 1.0)[0] if biased else None
    target, guide_target = labels_of(rows, columns, 4), labels_of(guide_rows, columns, 5)
    features = logits_of(guide_rows, 11, dtype, 6)
    weights = torch.rand(columns) + 0.5
    loss, out, sums, index, selected, guide_out, guide_sums = kernels.guided_residuals(
        logits, target, bias, guide_logits, guide_target, features, k, weights
    )
    # In float32 the sum with the bias is the same before and within; lower precisions would round
    # it in between.
    plus, guide_plus = (
        (z.float() + bias.float() if biased else z.float()) for z in (logits, guide_logits)
    )
    want_index = kernels.entropy_topk(guide_plus, k)[1]
    assert torch.equal(index, want_index) and torch.equal(selected, features[index])
    for got, got_sums, z, y, rows_ in (
        (out, sums, plus, target, None),
        (guide_out, guide_sums, guide_plus, guide_target, index),
    ):
        want, want_sums = torch.empty(len(got), columns), torch.empty(columns)
        want_loss = kernels.residual(z, y, want, want_sums, rows_, weights)
        if rows_ is None:
            assert loss == want_loss
        assert torch.equal(got, want.to(dtype))
        eps = float(torch.finfo(dtype).eps)
        exact = wide(got).sum(axis=0)
        np.testing.assert_allclose(
            wide(got_sums), exact, rtol=0.51 * eps, atol=1e-7 if dtype is torch.float16 else 1e-37
        )


def test_single_half_precision_logits_are_read_exactly(kernels: Kernels) -> None:
    """The label's logit is read by itself: subnormal numbers, infinities and NaN too."""
    values = (
        torch.tensor([0, 1, 513, 1023, 1024, 0x7BFF, 0x8001, 0x83FF], dtype=torch.int32)
        .to(torch.int16)
        .view(torch.float16)
    )
    values[5] = 6e-5  # as small as the others, so that nothing drowns them
    target = torch.arange(8)
    nll = wide(kernels.softmax_stats(values.repeat(8, 1).contiguous(), target))[2]
    np.testing.assert_allclose(
        nll, oracle.softmax_stats(wide(values.repeat(8, 1)), target.numpy()).nll, rtol=0, atol=5e-7
    )


@pytest.mark.parametrize(("dtype", "weight"), [(torch.bfloat16, 257.0), (torch.float16, 2049.0)])
def test_single_residuals_are_rounded_to_nearest_even(
    kernels: Kernels, dtype: torch.dtype, weight: float
) -> None:
    """-(2^n + 1) / 2^(n + 2) lies half-way between two numbers of this dtype, of which -1/4 is
    even.
    """
    logits, out, sums = (
        torch.zeros(2, 2, dtype=dtype),
        torch.empty(2, 2, dtype=dtype),
        torch.empty(2, dtype=dtype),
    )
    kernels.residual(
        logits, torch.tensor([0, 1]), out, sums, None, torch.tensor([weight, weight - 2.0])
    )
    assert out[0, 0].item() == -0.25


def test_the_mean_of_no_rows_is_nan(kernels: Kernels) -> None:
    sums = torch.full((5,), torch.nan)
    loss = kernels.residual(
        torch.empty(0, 5), torch.empty(0, dtype=torch.int64), torch.empty(0, 5), sums
    )
    assert loss != loss and (sums == 0).all()
