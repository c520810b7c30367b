"""softmax_stats against the oracle, on every backend."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gaal_fast import ops
from tests.ops import helpers
from tests.ops.helpers import Backend
from tests.reference import oracle


def check(logits: Tensor, target: Tensor | None) -> None:
    """All three results, against the truth and the plain expressions."""
    entropy, lse, nll = ops.softmax_stats(logits, target)
    truth = oracle.softmax_stats(
        helpers.array(logits), None if target is None else target.cpu().numpy()
    )
    naive = helpers.naive_stats(logits, target)
    dtype = torch.float64 if logits.dtype is torch.float64 else torch.float32
    assert entropy.dtype is lse.dtype is dtype and entropy.device == logits.device
    # log s is near 0 where the entropy is small, with the rounding error of an s near 1.
    helpers.assert_no_worse(entropy, naive[0], truth.entropy, 1.0)
    impossible = (logits == -math.inf).all(dim=1)
    assert (
        lse[impossible].isnan() | (lse[impossible] == -math.inf)
    ).all()  # log 0, or NaN like the rest of such a row
    helpers.assert_no_worse(lse.masked_fill(impossible, math.nan), naive[1], truth.lse, 1.0)
    assert (nll is None) == (target is None)
    if target is not None:
        assert nll.dtype is dtype
        helpers.assert_no_worse(nll, naive[2], truth.nll, 1.0)


@pytest.mark.parametrize("dtype", helpers.DTYPES)
@pytest.mark.parametrize("classes", helpers.WIDTHS)
def test_every_width(backend: Backend, classes: int, dtype: torch.dtype) -> None:
    logits = helpers.random_logits(3, classes, dtype, seed=classes, device=backend.device)
    backend.require("softmax_stats", logits)
    logits[1] *= 0.01  # nearly uniform
    logits[2] *= 10.0  # nearly one-hot
    check(logits, helpers.random_labels(3, classes, device=backend.device))
    check(logits, None)


@pytest.mark.parametrize(
    ("rows", "classes"),
    [
        (0, 5),
        (1, 5),
        (2, 286),
        (31, 3),
        (64, 286),
        (65, 129),
        (257, 7),
        (1000, 33),
        (4096, 2),
        (4096, 7),
    ],
)
def test_every_height(backend: Backend, rows: int, classes: int) -> None:
    logits = helpers.random_logits(rows, classes, torch.float32, device=backend.device)
    backend.require("softmax_stats", logits)
    check(logits, helpers.random_labels(rows, classes, device=backend.device))


def adversarial_rows(classes: int, dtype: torch.dtype) -> Tensor:
    """Rows that break careless kernels. The finite extremes are those of the dtype, at most 1e4 or
    near the limit of float16.
    """
    limit = min(torch.finfo(dtype).max, 65504.0)
    rows = torch.zeros(15, classes, dtype=torch.float64)
    ramp = torch.linspace(-1.0, 1.0, classes, dtype=torch.float64)
    rows[1] = 1e4 * ramp
    rows[2] = -1e4
    rows[3] = limit
    rows[4] = limit * ramp
    rows[5, -1] = -math.inf
    rows[6] = -math.inf
    rows[6, classes // 2] = 3.0
    rows[7] = -math.inf
    rows[8, 0] = math.nan
    rows[9, -1] = math.inf
    rows[10] = torch.finfo(dtype).tiny / 4 * ramp  # subnormal
    rows[11, 0] = 30.0  # a converged row
    rows[12, : classes // 2] = -math.inf  # whole tiles of probability 0
    rows[13, -1] = math.nan
    rows[14] = -math.inf
    rows[14, -1] = -limit
    return rows.to(dtype)


@pytest.mark.parametrize("dtype", helpers.DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 33, 286, 1025])
def test_adversarial_rows(backend: Backend, classes: int, dtype: torch.dtype) -> None:
    logits = adversarial_rows(classes, dtype).to(backend.device)
    backend.require("softmax_stats", logits)
    target = torch.zeros(len(logits), dtype=torch.int64, device=backend.device)
    check(logits, target)
    check(logits, target + classes - 1)


def test_nothing_above_infinity_leaks_into_another_row(backend: Backend) -> None:
    """NaN and infinite rows between sound ones: rows share blocks in some kernels."""
    logits = helpers.random_logits(40, 5, torch.float32, device=backend.device)
    backend.require("softmax_stats", logits)
    alone = ops.softmax_stats(logits)[0]
    logits[1::2] = torch.tensor([math.nan, math.inf, -math.inf, 0.0, 1.0], device=backend.device)
    entropy = ops.softmax_stats(logits)[0]
    assert torch.equal(entropy[::2], alone[::2]) and entropy[1::2].isnan().all()


@pytest.mark.parametrize("layout", list(helpers.LAYOUTS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("classes", [2, 37, 286])
def test_layouts(backend: Backend, layout: str, dtype: torch.dtype, classes: int) -> None:
    plain = helpers.random_logits(9, classes, dtype, device=backend.device)
    logits = helpers.LAYOUTS[layout](plain)
    backend.require("softmax_stats", logits)
    assert torch.equal(logits, plain)
    target = helpers.random_labels(9, classes, device=backend.device)
    check(logits, target)
    strided = torch.stack((target, target), dim=1)[:, 1]
    assert torch.equal(ops.softmax_stats(logits, strided)[2], ops.softmax_stats(logits, target)[2])


def test_expanded_logits(backend: Backend) -> None:
    """Stride 0 over the rows, and over the columns."""
    row = helpers.random_logits(1, 50, torch.float32, device=backend.device)
    backend.require("softmax_stats", row.expand(6, 50))
    check(row.expand(6, 50), helpers.random_labels(6, 50, device=backend.device))
    check(row[:, :1].expand(1, 50), helpers.random_labels(1, 50, device=backend.device))
    assert ops.softmax_stats(row.expand(6, 50))[0].unique().numel() == 1


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_narrow_labels(backend: Backend, dtype: torch.dtype) -> None:
    logits = helpers.random_logits(8, 11, torch.float32, device=backend.device)
    target = helpers.random_labels(8, 11, device=backend.device)
    assert torch.equal(
        ops.softmax_stats(logits, target.to(dtype))[2], ops.softmax_stats(logits, target)[2]
    )


@pytest.mark.parametrize(("rows", "classes"), [(5, 3), (64, 286), (3, 1030)])
def test_reproducible(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, rows: int, classes: int
) -> None:
    logits = helpers.random_logits(rows, classes, torch.float32, device=backend.device)
    backend.require("softmax_stats", logits)
    target = helpers.random_labels(rows, classes, device=backend.device)
    before = helpers.bits((logits, target))
    helpers.assert_reproducible(monkeypatch, lambda: ops.softmax_stats(logits, target))
    assert helpers.bits((logits, target)) == before


@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(0, 9),
    classes=st.integers(1, 140),
    spread=st.sampled_from([1e-3, 1.0, 20.0]),
)
def test_properties(backend: Backend, seed: int, rows: int, classes: int, spread: float) -> None:
    """0 <= H <= log Y; a constant added to a row and a permutation of the classes change nothing;
    one of the rows permutes the results.
    """
    # Multiples of 1/8, so that adding a constant is exact.
    logits = (
        (helpers.random_logits(rows, classes, torch.float32, seed, spread) * 8)
        .round()
        .div(8)
        .to(backend.device)
    )
    target = helpers.random_labels(rows, classes, seed, device=backend.device)
    entropy, lse, nll = ops.softmax_stats(logits, target)
    slack = 8 * torch.finfo(torch.float32).eps * (1.0 + math.log(classes))
    assert (entropy >= 0.0).all() and (entropy <= math.log(classes) + slack).all()
    assert (nll >= -slack).all()

    shifted = ops.softmax_stats(logits + 64.0, target)
    torch.testing.assert_close(shifted[0], entropy, rtol=0, atol=slack)
    torch.testing.assert_close(shifted[2], nll, rtol=1e-6, atol=slack)
    torch.testing.assert_close(shifted[1], lse + 64.0, rtol=1e-6, atol=slack)

    rng = np.random.default_rng(seed)
    classes_order = torch.from_numpy(rng.permutation(classes)).to(backend.device)
    torch.testing.assert_close(
        ops.softmax_stats(logits[:, classes_order])[0], entropy, rtol=1e-6, atol=slack
    )
    rows_order = torch.from_numpy(rng.permutation(rows)).to(backend.device)
    assert torch.equal(
        ops.softmax_stats(logits[rows_order], target[rows_order])[0], entropy[rows_order]
    )


@pytest.mark.parametrize("classes", [2, 7, 64])
def test_uniform_rows_have_the_entropy_log_y(backend: Backend, classes: int) -> None:
    logits = torch.full((3, classes), 7.5, device=backend.device)
    entropy, lse, _ = ops.softmax_stats(logits)
    torch.testing.assert_close(
        entropy.cpu(), torch.full((3,), math.log(classes)), rtol=3e-7, atol=0
    )
    torch.testing.assert_close(
        lse.cpu(), torch.full((3,), 7.5 + math.log(classes)), rtol=3e-7, atol=0
    )


def test_labels_out_of_range(backend: Backend) -> None:
    """Refused where a look costs nothing; NaN elsewhere, for those rows alone."""
    logits = helpers.random_logits(4, 3, torch.float32, device=backend.device)
    target = torch.tensor([0, 3, -1, 2], device=backend.device)
    if backend.device == "cpu":
        with pytest.raises(
            ValueError, match=r"^target must lie in 0 \.\. 2, got values from -1 to 3$"
        ):
            ops.softmax_stats(logits, target)
    else:
        assert ops.softmax_stats(logits, target)[2].isnan().tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda z, y: ops.softmax_stats(z[0]), ValueError, "logits must have two dimensions"),
        (
            lambda z, y: ops.softmax_stats(z[:, :0]),
            ValueError,
            "logits must have at least one column",
        ),
        (lambda z, y: ops.softmax_stats(z.long()), TypeError, "logits must be float32"),
        (
            lambda z, y: ops.softmax_stats(z.tolist()),
            TypeError,
            "logits must be a tensor, got list",
        ),
        (
            lambda z, y: ops.softmax_stats(z, y[:-1]),
            ValueError,
            r"target must have shape \(4,\), got \(3,\)",
        ),
        (lambda z, y: ops.softmax_stats(z, y[:, None]), ValueError, "target must have shape"),
        (lambda z, y: ops.softmax_stats(z, y.float()), TypeError, "target must hold integers"),
        (lambda z, y: ops.softmax_stats(z, y.bool()), TypeError, "target must hold integers"),
        (
            lambda z, y: ops.softmax_stats(z, y.to("meta")),
            ValueError,
            "target must be on cpu, got meta",
        ),
    ],
)
def test_bad_arguments(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        call(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))
