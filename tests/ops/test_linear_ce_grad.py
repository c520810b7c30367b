"""linear_ce_grad against the oracle and against autograd, on every backend."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gaal_fast import ops
from tests.ops import helpers
from tests.ops.helpers import Backend
from tests.reference import oracle


def make(
    rows: int, classes: int, width: int, dtype: torch.dtype, device: str, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    features = helpers.random_logits(rows, width, dtype, seed + 1, spread=1.0, device=device)
    return (
        features,
        helpers.random_logits(rows, classes, dtype, seed, device=device),
        helpers.random_labels(rows, classes, seed, device),
    )


def check(
    features: Tensor,
    logits: Tensor,
    target: Tensor,
    index: Tensor | None = None,
    class_weights: Tensor | None = None,
) -> None:
    weight, bias = ops.linear_ce_grad(features, logits, target, index, class_weights=class_weights)
    assert (
        weight.dtype is bias.dtype is features.dtype
        and weight.device == bias.device == features.device
    )
    truth = oracle.linear_ce_grad(
        helpers.array(features),
        helpers.array(logits),
        target.cpu().numpy(),
        None if index is None else index.cpu().numpy(),
        None if class_weights is None else helpers.array(class_weights),
    )
    naive = helpers.naive_head_gradient(features, logits, target, index, class_weights)
    helpers.assert_no_worse(weight, naive[0], truth.weight, truth.weight_scale)
    helpers.assert_no_worse(bias, naive[1], truth.bias, truth.bias_scale)


@pytest.mark.parametrize("dtype", helpers.DTYPES)
@pytest.mark.parametrize("classes", helpers.WIDTHS)
def test_every_width(backend: Backend, classes: int, dtype: torch.dtype) -> None:
    features, logits, target = make(6, classes, 5, dtype, backend.device, seed=classes)
    backend.require("linear_ce_grad", features, logits)
    check(features, logits, target)
    check(features, logits, target, torch.tensor([4, 0, 5], device=backend.device))


@pytest.mark.parametrize("width", [1, 2, 31, 33, 128, 257, 2048, 2049])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_feature_width(backend: Backend, width: int, dtype: torch.dtype) -> None:
    features, logits, target = make(5, 3, width, dtype, backend.device)
    backend.require("linear_ce_grad", features, logits)
    check(features, logits, target, torch.tensor([3, 1], device=backend.device))


@pytest.mark.parametrize(
    ("rows", "classes", "width"),
    [
        (0, 3, 2),
        (1, 3, 2),
        (2, 1, 1),
        (31, 33, 4),
        (64, 286, 16),
        (129, 7, 65),
        (1024, 3, 33),
        (4096, 2, 4),
    ],
)
def test_every_height(backend: Backend, rows: int, classes: int, width: int) -> None:
    features, logits, target = make(rows, classes, width, torch.float32, backend.device)
    backend.require("linear_ce_grad", features, logits)
    everything = torch.arange(rows, device=backend.device)
    for k in {0, 1, rows // 2, rows}:
        check(features, logits, target, everything.flip(0)[: min(k, rows)])
    if rows:
        check(features, logits, target)


@pytest.mark.parametrize("dtype", helpers.DTYPES)
def test_class_weights(backend: Backend, dtype: torch.dtype) -> None:
    features, logits, target = make(40, 6, 9, dtype, backend.device)
    backend.require("linear_ce_grad", features, logits)
    weights = torch.tensor([0.5, 1.0, 2.0, 0.0, 10.0, 0.25], device=backend.device)
    for given_weights in (
        weights,
        weights.to(dtype),
        weights.double(),
        torch.stack((weights, weights), 1)[:, 0],
    ):
        check(features, logits, target, None, given_weights)
        check(
            features,
            logits,
            target,
            torch.tensor([7, 3, 21, 39], device=backend.device),
            given_weights,
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_residuals_are_not_rounded(dtype: torch.dtype) -> None:
    """On the torch backend the only rounding to half precision is that of the result. A residual of
    1e-7 is 0 in float16, many are not.
    """
    features, logits, target = make(4096, 2, 3, dtype, "cpu")
    logits[:, 0], target[:], features[:, 0] = 8.0, 0, 1.0
    logits[:, 1] = 1.0
    truth = oracle.linear_ce_grad(helpers.array(features), helpers.array(logits), target.numpy())
    with ops.backend("torch"):
        weight, bias = ops.linear_ce_grad(features, logits, target)
    eps = torch.finfo(dtype).eps
    np.testing.assert_allclose(helpers.array(bias), truth.bias, rtol=0.51 * eps)
    np.testing.assert_allclose(helpers.array(weight[:, 0]), truth.weight[:, 0], rtol=0.51 * eps)


def test_no_rows_give_zeros(backend: Backend) -> None:
    features, logits, target = make(4, 3, 5, torch.float32, backend.device)
    none = torch.zeros(0, dtype=torch.int64, device=backend.device)
    for weights in (None, torch.ones(3, device=backend.device)):
        for result in (
            ops.linear_ce_grad(features, logits, target, none, class_weights=weights),
            ops.linear_ce_grad(features[:0], logits[:0], target[:0], class_weights=weights),
        ):
            assert result[0].shape == (3, 5) and result[1].shape == (3,)
            assert not result[0].any() and not result[1].any()


def test_weights_that_sum_to_zero_give_nan_as_in_torch(backend: Backend) -> None:
    features, logits, target = make(4, 3, 5, torch.float32, backend.device)
    weight, bias = ops.linear_ce_grad(
        features, logits, target, class_weights=torch.zeros(3, device=backend.device)
    )
    assert weight.isnan().all() and bias.isnan().all()


def test_a_repeated_row_counts_each_time(backend: Backend) -> None:
    features, logits, target = make(4, 3, 5, torch.float32, backend.device)
    check(features, logits, target, torch.tensor([2, 2, 2, 1], device=backend.device))


@pytest.mark.parametrize("dtype", helpers.DTYPES)
@pytest.mark.parametrize("classes", [2, 40, 286])
def test_adversarial_rows(backend: Backend, classes: int, dtype: torch.dtype) -> None:
    """Large, -inf and converged logits give finite gradients; the broken rows are not selected and
    must not show.
    """
    limit = min(torch.finfo(dtype).max, 65504.0)
    features, logits, _ = make(8, classes, 6, dtype, "cpu")
    logits[0] = limit
    logits[1] = torch.linspace(-limit, limit, classes)
    logits[2, 1:] = -math.inf
    logits[3, 0] = 1e4
    logits[4, -1] = 30.0
    logits[5], logits[6], logits[7] = math.nan, math.inf, -math.inf
    features[5:] = math.nan
    target = torch.tensor([0, classes - 1, 0, 1, classes - 1, 0, 0, 0])
    features, logits, target = (
        features.to(backend.device),
        logits.to(backend.device),
        target.to(backend.device),
    )
    backend.require("linear_ce_grad", features, logits)
    check(features, logits, target, torch.arange(5, device=backend.device))
    for broken in (5, 6, 7):
        sound = torch.zeros_like(features)
        weight, bias = ops.linear_ce_grad(
            sound, logits, target, torch.tensor([0, broken], device=backend.device)
        )
        assert bias.isnan().all() and weight.isnan().all()


@pytest.mark.parametrize("layout", list(helpers.LAYOUTS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_layouts(backend: Backend, layout: str, dtype: torch.dtype) -> None:
    features, logits, target = make(12, 37, 19, dtype, backend.device)
    lay = helpers.LAYOUTS[layout]
    backend.require("linear_ce_grad", lay(features), lay(logits))
    index = torch.stack([torch.tensor([11, 3, 6, 0], device=backend.device)] * 2, dim=1)[:, 0]
    check(lay(features), logits, target)
    check(features, lay(logits), target, index)
    check(lay(features), lay(logits), target, index.int())


def test_expanded_inputs(backend: Backend) -> None:
    features, logits, target = make(7, 5, 3, torch.float32, backend.device)
    check(features[:1].expand(7, 3), logits[:1].expand(7, 5), target)
    check(
        features[:, :1].expand(7, 3),
        logits[:, :1].expand(7, 5),
        target,
        torch.tensor([6, 2], device=backend.device),
    )


@pytest.mark.parametrize(("rows", "classes", "width"), [(9, 3, 5), (64, 286, 64)])
def test_reproducible(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, rows: int, classes: int, width: int
) -> None:
    features, logits, target = make(rows, classes, width, torch.float32, backend.device)
    backend.require("linear_ce_grad", features, logits)
    index = torch.arange(0, rows, 2, device=backend.device)
    before = helpers.bits((features, logits, target, index))
    helpers.assert_reproducible(
        monkeypatch, lambda: ops.linear_ce_grad(features, logits, target, index), runs=10
    )
    helpers.assert_reproducible(
        monkeypatch, lambda: ops.linear_ce_grad(features, logits, target), runs=10
    )
    assert helpers.bits((features, logits, target, index)) == before


@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 12),
    classes=st.integers(1, 40),
    width=st.integers(0, 9),
)
def test_properties(backend: Backend, seed: int, rows: int, classes: int, width: int) -> None:
    """The bias gradient sums to 0 over the classes; the gradient is linear in the features; the
    order of the rows does not matter.
    """
    features, logits, target = make(rows, classes, width, torch.float32, backend.device, seed)
    rng = np.random.default_rng(seed)
    index = torch.from_numpy(rng.permutation(rows)[: rng.integers(1, rows + 1)]).to(backend.device)
    weight, bias = ops.linear_ce_grad(features, logits, target, index)
    slack = 1e-6 * (1.0 + features.abs().max().item() if width else 1.0)
    assert abs(bias.sum().item()) <= slack
    assert (weight.sum(dim=0).abs() <= slack).all()
    doubled, same_bias = ops.linear_ce_grad(2.0 * features, logits, target, index)
    torch.testing.assert_close(doubled, 2.0 * weight, rtol=0, atol=slack)
    torch.testing.assert_close(same_bias, bias, rtol=0, atol=slack)
    flipped = ops.linear_ce_grad(features, logits, target, index.flip(0))
    torch.testing.assert_close(flipped[0], weight, rtol=0, atol=slack)


@pytest.mark.parametrize("with_weights", [False, True])
def test_equals_autograd_in_float64(with_weights: bool) -> None:
    features, _, target = make(10, 5, 7, torch.float64, "cpu")
    weight, bias = (
        torch.randn(5, 7, dtype=torch.float64).requires_grad_(),
        torch.randn(5, dtype=torch.float64).requires_grad_(),
    )
    c = torch.rand(5, dtype=torch.float64) if with_weights else None
    logits = F.linear(features, weight, bias)
    index = torch.tensor([1, 8, 3])
    F.cross_entropy(logits[index], target[index], weight=c).backward()
    got = ops.linear_ce_grad(features, logits, target, index, class_weights=c)
    torch.testing.assert_close(got[0], weight.grad, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(got[1], bias.grad, rtol=1e-12, atol=1e-14)


def test_labels_and_rows_out_of_range(backend: Backend) -> None:
    features, logits, target = make(4, 3, 2, torch.float32, backend.device)
    target[1] = 3
    if backend.device == "cpu":
        with pytest.raises(
            ValueError, match=r"^target must lie in 0 \.\. 2, got values from \d to 3$"
        ):
            ops.linear_ce_grad(features, logits, target)
        target[1] = 0
        for row in (-1, 4):
            with pytest.raises(ValueError, match=r"^index must lie in 0 \.\. 3, got"):
                ops.linear_ce_grad(features, logits, target, torch.tensor([0, row]))
    else:
        assert all(
            gradient.isnan().all() for gradient in ops.linear_ce_grad(features, logits, target)
        )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda x, z, y: ops.linear_ce_grad(x[0], z, y),
            ValueError,
            "features must have two dimensions",
        ),
        (
            lambda x, z, y: ops.linear_ce_grad(x[:3], z, y),
            ValueError,
            "logits must have as many rows as features: got 4 and 3",
        ),
        (
            lambda x, z, y: ops.linear_ce_grad(x, z.half(), y),
            TypeError,
            "logits must have the dtype of features",
        ),
        (
            lambda x, z, y: ops.linear_ce_grad(x, z[:, :0], y),
            ValueError,
            "logits must have at least one column",
        ),
        (lambda x, z, y: ops.linear_ce_grad(x, z, y[:2]), ValueError, "target must have shape"),
        (
            lambda x, z, y: ops.linear_ce_grad(x, z, None),
            TypeError,
            "target must be a tensor, got NoneType",
        ),
        (
            lambda x, z, y: ops.linear_ce_grad(x, z, y, y[:, None]),
            ValueError,
            r"index must have shape \(k,\)",
        ),
        (
            lambda x, z, y: ops.linear_ce_grad(x, z, y, [0, 1]),
            TypeError,
            "index must be a tensor, got list",
        ),
        (lambda x, z, y: ops.linear_ce_grad(x, z, y, y > 0), TypeError, "index must hold integers"),
        (
            lambda x, z, y: ops.linear_ce_grad(x, z, y, class_weights=torch.ones(4)),
            ValueError,
            r"class_weights must have shape \(3,\)",
        ),
        (
            lambda x, z, y: ops.linear_ce_grad(x, z, y, class_weights=y[:3]),
            TypeError,
            "class_weights must be float32",
        ),
    ],
)
def test_bad_arguments(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        call(torch.zeros(4, 2), torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))
