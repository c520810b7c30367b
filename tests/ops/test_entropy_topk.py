"""entropy_topk against the oracle, on every backend."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gaal_fast import ops
from tests.ops import helpers
from tests.ops.helpers import Backend
from tests.reference import oracle


def check(logits: torch.Tensor, k: int) -> torch.Tensor:
    entropy, index = ops.entropy_topk(logits, k)
    assert entropy.dtype is (torch.float64 if logits.dtype is torch.float64 else torch.float32)
    assert entropy.device == index.device == logits.device
    helpers.assert_selection(entropy, index, oracle.softmax_stats(helpers.array(logits)).entropy, k)
    return index


@pytest.mark.parametrize("dtype", helpers.DTYPES)
@pytest.mark.parametrize("classes", helpers.WIDTHS)
def test_every_width(backend: Backend, classes: int, dtype: torch.dtype) -> None:
    logits = helpers.random_logits(5, classes, dtype, seed=classes, device=backend.device)
    backend.require("entropy_topk", logits)
    for k in (1, 3, 5):
        check(logits, k)


@pytest.mark.parametrize(
    ("rows", "classes", "ks"),
    [
        (0, 4, [0]),
        (1, 4, [0, 1]),
        (2, 3, [1, 2]),
        (33, 5, [1, 16, 33]),
        (64, 286, [1, 32, 64]),
        (255, 2, [127, 255]),
        (257, 7, [1, 128, 256, 257]),
        (1025, 3, [1, 512, 1025]),
        (4096, 2, [1, 2048, 4096]),
        (4096, 9, [3276]),
    ],
)
def test_every_height(backend: Backend, rows: int, classes: int, ks: list[int]) -> None:
    logits = helpers.random_logits(rows, classes, torch.float32, seed=rows, device=backend.device)
    backend.require("entropy_topk", logits)
    for k in ks:
        check(logits, k)


@pytest.mark.parametrize("rows", [1, 7, 64, 300])
@pytest.mark.parametrize("classes", [1, 6])
def test_equal_rows_are_taken_in_order(backend: Backend, rows: int, classes: int) -> None:
    logits = helpers.random_logits(1, classes, torch.float32, device=backend.device).expand(
        rows, classes
    )
    backend.require("entropy_topk", logits)
    for k in {1, rows // 2, rows}:
        assert ops.entropy_topk(logits, k)[1].tolist() == list(range(k))


def test_ties_at_the_edge_of_the_selection(backend: Backend) -> None:
    """Two levels of entropy; the cut goes through the lower one."""
    sharp, flat = [4.0, 0.0, 0.0], [0.5, 0.0, 0.0]
    pattern = [flat, sharp, sharp, flat, sharp, flat, sharp]
    logits = torch.tensor(pattern, device=backend.device)
    assert ops.entropy_topk(logits, 5)[1].tolist() == [0, 3, 5, 1, 2]
    # The same entropy from permuted classes is a tie as well where the sums are exact.
    exact = torch.tensor(
        [[0.0, -math.inf, 0.0], [-math.inf, 0.0, 0.0], [0.0, 0.0, -math.inf]], device=backend.device
    )
    assert ops.entropy_topk(exact, 2)[1].tolist() == [0, 1]


def test_broken_rows_come_first(backend: Backend) -> None:
    """NaN counts as greatest, as in torch.topk, so that it is seen and not skipped."""
    nan, inf = math.nan, math.inf
    rows = [[0.0, 0.0], [nan, 0.0], [5.0, 0.0], [-inf, -inf], [inf, 0.0], [0.0, -inf]]
    logits = torch.tensor(rows, device=backend.device)
    entropy, index = ops.entropy_topk(logits, 6)
    assert index.tolist() == [1, 3, 4, 0, 2, 5]
    assert entropy.isnan().tolist() == [True] * 3 + [False] * 3 and entropy[-1] == 0.0
    assert ops.entropy_topk(logits, 2)[1].tolist() == [1, 3]


@pytest.mark.parametrize("dtype", helpers.DTYPES)
def test_adversarial_rows(backend: Backend, dtype: torch.dtype) -> None:
    limit = min(torch.finfo(dtype).max, 65504.0)
    logits = torch.zeros(7, 40, dtype=dtype)
    logits[1] = limit
    logits[2] = torch.linspace(-limit, limit, 40)
    logits[3, :20] = -math.inf
    logits[4, 1:] = -math.inf
    logits[5, 0] = 1e4
    logits[6] = -1e4
    logits = logits.to(backend.device)
    backend.require("entropy_topk", logits)
    check(logits, 7)


@pytest.mark.parametrize("layout", list(helpers.LAYOUTS))
def test_layouts(backend: Backend, layout: str) -> None:
    plain = helpers.random_logits(20, 37, torch.float32, device=backend.device)
    logits = helpers.LAYOUTS[layout](plain)
    backend.require("entropy_topk", logits)
    assert torch.equal(check(logits, 9), check(plain, 9))


@pytest.mark.parametrize(("rows", "classes"), [(6, 3), (200, 33), (64, 286)])
def test_reproducible(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, rows: int, classes: int
) -> None:
    logits = helpers.random_logits(rows, classes, torch.float32, device=backend.device)
    backend.require("entropy_topk", logits)
    helpers.assert_reproducible(monkeypatch, lambda: ops.entropy_topk(logits, rows // 2))


def test_workspaces_of_another_call_do_not_show(backend: Backend) -> None:
    """Larger, smaller and broken calls in between leave nothing behind."""
    logits = helpers.random_logits(40, 9, torch.float32, device=backend.device)
    expected = helpers.bits(ops.entropy_topk(logits, 10))
    for rows, k in ((200, 200), (3, 1), (0, 0), (64, 7)):
        other = helpers.random_logits(rows, 17, torch.float32, seed=rows, device=backend.device)
        other[: rows // 2] = math.nan
        ops.entropy_topk(other, k)
        assert helpers.bits(ops.entropy_topk(logits, 10)) == expected


@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 40),
    classes=st.integers(1, 12),
    distinct=st.integers(1, 6),
    data=st.data(),
)
def test_properties(
    backend: Backend, seed: int, rows: int, classes: int, distinct: int, data: st.DataObject
) -> None:
    """Many exact ties: the selection is a prefix of the full order, and permuting the rows permutes
    it up to the rule for ties.
    """
    palette = helpers.random_logits(distinct, classes, torch.float32, seed)
    rng = np.random.default_rng(seed)
    logits = palette[torch.from_numpy(rng.integers(0, distinct, rows))].to(backend.device)
    k = data.draw(st.integers(0, rows))
    index = check(logits, k)
    assert torch.equal(index, ops.entropy_topk(logits, rows)[1][:k])

    order = torch.from_numpy(rng.permutation(rows)).to(backend.device)
    permuted = ops.entropy_topk(logits[order], k)
    assert torch.equal(permuted[0], ops.entropy_topk(logits, k)[0])
    entropy = ops.entropy_topk(logits, rows)[0]
    by_row = torch.empty_like(entropy)
    by_row[ops.entropy_topk(logits, rows)[1]] = entropy
    expected = sorted(range(rows), key=lambda i: (-by_row[order[i]].item(), i))[:k]
    assert permuted[1].tolist() == expected


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda z: ops.entropy_topk(z[0], 1), ValueError, "logits must have two dimensions"),
        (
            lambda z: ops.entropy_topk(z[:, :0], 1),
            ValueError,
            "logits must have at least one column",
        ),
        (lambda z: ops.entropy_topk(z.int(), 1), TypeError, "logits must be float32"),
        (
            lambda z: ops.entropy_topk(z, 5),
            ValueError,
            r"k must lie in 0 \.\. 4 \(the rows of logits\), got 5",
        ),
        (lambda z: ops.entropy_topk(z, -1), ValueError, r"k must lie in 0 \.\. 4"),
        (lambda z: ops.entropy_topk(z, 2.0), TypeError, "k must be an integer, got float"),
    ],
)
def test_bad_arguments(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        call(torch.zeros(4, 3))
