"""Softmax statistics of rows by the C++ kernels, on every instruction set of this machine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.native.conftest import DTYPES, Kernels, guarded, wide
from tests.reference import oracle

EPS = float(np.finfo(np.float32).eps)
SEGMENT = 16384  # columns after which a row is shared out over the threads
BLOCK = 4096  # columns whose statistics are merged with those before
LAYOUTS = [(0, 0), (3, 1), (5, 7)]  # elements between rows, elements off a 64-byte boundary


def logits_of(
    rows: int, columns: int, dtype: torch.dtype, seed: int = 0, scale: float = 3.0
) -> Tensor:
    return (torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * scale).to(
        dtype
    )


def labels_of(rows: int, columns: int, seed: int = 1) -> Tensor:
    return torch.randint(0, columns, (rows,), generator=torch.Generator().manual_seed(seed))


def assert_stats(got: Tensor, logits: Tensor, target: Tensor, ulps: float = 4.0) -> None:
    """Each within a few ulp, relative where there is no cancellation: the entropy even of a row
    that is all but certain.
    """
    z, (entropy, lse, nll) = wide(logits), wide(got)
    truth, top = oracle.softmax_stats(z, target.numpy()), z.max(axis=1)
    np.testing.assert_allclose(entropy, truth.entropy, rtol=ulps * EPS, atol=0.0)
    assert (
        np.abs(lse - truth.lse)
        <= EPS * (np.abs(top) + ulps * np.abs(truth.lse - top) + np.abs(truth.lse))
    ).all()
    spread = top - z[np.arange(len(z)), target]
    assert (np.abs(nll - truth.nll) <= EPS * (spread + ulps * np.abs(truth.nll))).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_stats_of_every_tail(kernels: Kernels, dtype: torch.dtype) -> None:
    for columns in range(1, 71):
        gap, shift = LAYOUTS[columns % 3]
        rows = 37 if columns < 10 else 5  # few classes go several rows to a vector
        logits = guarded(logits_of(rows, columns, dtype, columns), gap, shift)
        target, out = labels_of(rows, columns), guarded(torch.full((3, rows), torch.nan), 2, shift)
        kernels.softmax_stats(logits.matrix, target, out.matrix)
        assert_stats(out.matrix, logits.matrix, target)
        logits.assert_intact()
        out.assert_intact()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "columns",
    [127, 286, BLOCK - 1, BLOCK, BLOCK + 1, 10007, SEGMENT - 1, SEGMENT, SEGMENT + 1, 40009],
)
def test_stats_across_blocks_and_segments(
    kernels: Kernels, dtype: torch.dtype, columns: int
) -> None:
    logits = guarded(logits_of(4, columns, dtype, columns), 3, 1)
    # The largest logit of a row in its first, a middle and its last part.
    for row, column in enumerate((0, columns // 2, columns - 1)):
        logits.matrix[row, column] = 20.0
    target = labels_of(4, columns)
    assert_stats(kernels.softmax_stats(logits.matrix, target), logits.matrix, target, ulps=8)
    logits.assert_intact()


@pytest.mark.parametrize("columns", [100, 1023, 2000, BLOCK - 1, 10007, SEGMENT - 1, 70001])
@pytest.mark.parametrize("scale", [0.0, 1e-7, 1e-6, 1e-3])
def test_sums_of_nearly_equal_terms(kernels: Kernels, columns: int, scale: float) -> None:
    """Every addition rounds the same way: one float32 sum per lane would lose three units in the
    last place of lse.
    """
    for seed in range(3):
        logits = logits_of(4, columns, torch.float32, seed, scale)
        lse = wide(kernels.softmax_stats(logits))[1]
        np.testing.assert_allclose(
            lse,
            oracle.softmax_stats(wide(logits)).lse,
            rtol=0.0,
            atol=0.75 * np.spacing(np.float32(lse.max())),
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [2, 3, 5, 7, 8, 16, 20, 33, 100, 286, 717, 10007, 70001])
def test_equal_rows_have_equal_bits(kernels: Kernels, columns: int, dtype: torch.dtype) -> None:
    """Several to a vector or alone, off any boundary, with gaps between rows, and whatever the
    number of rows.
    """
    row = logits_of(1, columns, dtype, columns)
    target = torch.full((40,), columns // 2)
    stats, residuals = set(), set()
    for rows in (1, 2, 3, 17, 40) if columns < 70001 else (1, 3):
        for gap, shift in LAYOUTS:
            logits = guarded(row.expand(rows, columns), gap, shift).matrix
            stats |= {
                tuple(column)
                for column in kernels.softmax_stats(logits, target[:rows]).t().tolist()
            }
            out = torch.empty(rows, columns, dtype=torch.float32)
            kernels.residual(
                logits,
                target[:rows],
                out,
                torch.empty(columns),
                torch.zeros(rows, dtype=torch.int64),
            )
            residuals |= {(rows, one.numpy().tobytes()) for one in out}
    assert len(stats) == 1
    assert len(residuals) == len({rows for rows, _ in residuals})


def test_entropy_of_confident_rows_keeps_its_relative_precision(kernels: Kernels) -> None:
    margins = torch.linspace(0.0, 100.0, 2001)
    logits = torch.stack(
        [margins, torch.zeros_like(margins), torch.full_like(margins, -1.5)], dim=1
    )
    target = torch.zeros(len(logits), dtype=torch.int64)
    got = wide(kernels.softmax_stats(logits, target))
    z = wide(logits)
    rest = np.exp(z[:, 1:] - z[:, :1])
    truth = np.log1p(rest.sum(1)) - (rest * (z[:, 1:] - z[:, :1])).sum(1) / (1 + rest.sum(1))
    normal = rest.min(axis=1) > 1e-37  # subnormal terms have fewer digits
    # Every term inherits the rounding of x - m, up to |x - m| / 2 ulp.
    bound = EPS * (4 + margins.numpy() / 2)
    assert (np.abs(got[0] - truth) <= bound * truth)[normal].all()
    assert (np.abs(got[2] - np.log1p(rest.sum(1))) <= bound * truth)[normal].all()
    assert (got[0][~normal] >= 0).all() and (got[0][~normal] < 1e-34).all()


def test_exp_within_two_ulp_down_to_the_subnormals(kernels: Kernels) -> None:
    """With one huge class, the probability of the others is e^x itself, rounded once more by the
    factor 1 / sum.
    """
    x = -np.linspace(17.5, 104.5, 3 * 4095, dtype=np.float32).reshape(3, 4095)
    logits = torch.from_numpy(np.concatenate([np.zeros((3, 1), np.float32), x], axis=1))
    out, sums = torch.empty_like(logits), torch.empty(4096)
    kernels.residual(logits, torch.zeros(3, dtype=torch.int64), out, sums)
    got = wide(out)[:, 1:] * 3
    truth = np.exp(x.astype(np.float64)) / (
        1 + np.exp(x.astype(np.float64)).sum(axis=1, keepdims=True)
    )
    spacing = np.spacing(truth.astype(np.float32)).astype(np.float64)
    assert (np.abs(got - truth) <= 3 * 2.0 * np.maximum(spacing, 2.0**-149)).all()
    assert (wide(out)[:, 1:][x < -103.98] == 0).all()
    near = torch.from_numpy(np.linspace(-18.0, 0.0, 4096, dtype=np.float32))[None]
    entry = torch.empty_like(near)
    kernels.residual(near, torch.zeros(1, dtype=torch.int64), entry, torch.empty(4096))
    p = np.exp(wide(near)) / np.exp(wide(near)).sum()
    assert (
        np.abs(wide(entry)[:, 1:] - p[:, 1:]) <= 2.0 * np.spacing(p.astype(np.float32))[:, 1:]
    ).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [3, 40, 2 * BLOCK + 5, SEGMENT + 9])
def test_special_values(kernels: Kernels, dtype: torch.dtype, columns: int) -> None:
    inf, nan = torch.inf, torch.nan
    logits = logits_of(10, columns, dtype)
    big = 1e4 if dtype is not torch.float16 else 6e4
    logits[0] = -inf  # no class at all
    logits[1, : columns - 1] = -inf  # one class is left, in the last part
    logits[2, 1:] = -inf  # one class is left, in the first part
    logits[3, columns - 1] = nan
    logits[4, 0] = nan
    logits[5] = -inf
    logits[5, columns // 2] = nan  # a NaN in a part that is -inf otherwise
    logits[6, columns - 1] = inf
    logits[7] = -big
    logits[7, columns - 2] = big
    logits[8, : columns // 2] = -inf
    logits[9, : 3 * columns // 4] = -inf  # likewise, beside parts that are finite
    logits[9, 0] = nan
    target = torch.tensor(
        [0, columns - 1, 0, 0, 0, columns // 2, columns - 1, 0, columns - 1, columns - 1]
    )
    got = wide(kernels.softmax_stats(logits, target))
    truth = oracle.softmax_stats(wide(logits), target.numpy())
    undefined = np.array([True, False, False, True, True, True, True, False, False, True])
    assert np.array_equal(np.isnan(got[0]), undefined) and np.array_equal(
        np.isnan(got[2]), undefined
    )
    assert np.array_equal(np.isfinite(got[1]), ~undefined)
    assert (got[0, [1, 2, 7]] == 0).all() and got[1, 0] == -inf
    for values, want in zip(got, (truth.entropy, truth.lse, truth.nll), strict=True):
        np.testing.assert_allclose(values[~undefined], want[~undefined], rtol=8 * EPS)

    out, sums = torch.empty_like(logits), torch.empty(columns, dtype=dtype)
    weights = torch.ones(columns)
    kernels.residual(logits, target, out, sums, None, weights)
    assert np.array_equal(np.isnan(wide(out)).all(axis=1), undefined)
    want = oracle.residual(wide(logits), target.numpy())[~undefined]
    np.testing.assert_allclose(
        wide(out)[~undefined],
        want,
        atol=float(torch.finfo(dtype).eps),
        rtol=float(torch.finfo(dtype).eps),
    )


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_every_half_precision_number_is_read_exactly(kernels: Kernels, dtype: torch.dtype) -> None:
    """With one class, lse is the logit."""
    logits = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype)[:, None]
    single = kernels.softmax_stats(logits)[1]
    want = logits[:, 0].float()
    finite = want.isfinite()
    assert torch.equal(single[finite], want[finite])
    assert single[want.isnan() | (want == torch.inf)].isnan().all()
    # Whole vectors take another way in than single columns.
    many = logits.repeat(1, 64).contiguous()
    np.testing.assert_allclose(
        kernels.softmax_stats(many)[1][finite], wide(want[finite]) + np.log(64), rtol=2 * EPS
    )


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_every_half_precision_number_is_rounded_to_nearest_even(
    kernels: Kernels, dtype: torch.dtype
) -> None:
    numbers = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype)
    guide = torch.where(numbers.isfinite(), numbers, torch.zeros_like(numbers))
    for v in (0.75, 1.0 + 2.0**-9, 2.0**-7):
        # <g, g_p> is -1 by the first pair alone, so that the official rule acts, and v is its
        # margin.
        first, rounded = torch.ones(1, dtype=dtype), torch.zeros_like(numbers)
        assert kernels.project([first, rounded], [-first, guide], True, 0.0, False, v, 1e9, -1.0)[
            :2
        ] == (v, -1.0)
        assert torch.equal(rounded, (guide.float() * v).to(dtype))
