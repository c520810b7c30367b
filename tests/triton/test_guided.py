"""Whole steps in the interpreter, in every form, against the oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.reference import oracle
from tests.triton import helpers
from tests.triton.steps import make_guided, run_guided


def assert_guided(arguments: dict) -> dict[str, Tensor]:
    """Against float64; errors relative to the sizes of the parts, with the error of PyTorch's own
    float32 or float16 allowed for.
    """
    step = run_guided(arguments)
    features, weight = arguments["features"], arguments["weight"]
    eps = torch.finfo(features.dtype).eps
    plain = {
        name: helpers.array(x) if isinstance(x, Tensor) and x.is_floating_point() else x
        for name, x in arguments.items()
    }
    rule = oracle.Rule(**{key: plain[key] for key in vars(oracle.Rule()) if key in plain})
    truth = oracle.guided_linear_ce(
        plain["features"],
        arguments["target"].numpy(),
        plain["guide_features"],
        arguments["guide_target"].numpy(),
        plain["weight"],
        plain["bias"],
        plain["top_k"],
        rule,
        plain["class_weights"],
        step["index"].numpy(),
    )
    assert sorted(step["index"].tolist()) == sorted(
        oracle.topk(truth.guide_entropy, plain["top_k"]).tolist()
    )
    # A logit is off by its rounding, and so is log p; every part of a gradient is then off by that
    # relative amount.
    off = (
        16
        * eps
        * (
            1
            + np.abs(plain["features"]).sum(1).max(initial=0.0)
            * np.abs(weight.double().numpy()).max(initial=0.0)
        )
    )
    tiny = torch.finfo(features.dtype).smallest_normal

    def near(name: str, want: np.ndarray | float, scale: np.ndarray | float) -> None:
        got, scale = helpers.array(step[name]), scale + np.abs(want)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        assert (np.nan_to_num(np.abs(got - want)) <= np.nan_to_num(off * scale) + tiny).all(), (
            name,
            np.abs(got - want).max(),
            off,
        )

    dot_scale = (truth.plain.weight_scale * truth.guide.weight_scale).sum() + (
        truth.plain.bias_scale * truth.guide.bias_scale
    ).sum()
    guide_scale = (truth.guide.weight_scale**2).sum() + (truth.guide.bias_scale**2).sum()
    grad_scale = (truth.plain.weight_scale**2).sum() + (truth.plain.bias_scale**2).sum()
    near("loss", truth.loss, 1 + abs(truth.loss))
    near("grad_features", truth.grad_features, truth.feature_scale)
    near("dot", truth.dot, dot_scale)
    near("guide_norm2", truth.guide_norm2, guide_scale)
    near("grad_norm2", truth.grad_norm2, grad_scale)
    v_scale = 0.0
    if truth.guide_norm2:
        v_scale = (
            (dot_scale + rule.epsilon * math.sqrt(guide_scale * grad_scale))
            / truth.guide_norm2
            * guide_scale
            / truth.guide_norm2
        )
    near("v", truth.v, v_scale)
    allowed = np.abs(truth.plain.weight_scale) + (truth.v + v_scale) * truth.guide.weight_scale
    near("grad_weight", truth.grad_weight, allowed)
    if arguments["bias"] is not None:
        near(
            "grad_bias",
            truth.grad_bias,
            truth.plain.bias_scale + (truth.v + v_scale) * truth.guide.bias_scale,
        )
    return step


GUIDED = [
    (1, 1, 1, 1, 1),
    (5, 7, 2, 3, 3),
    (33, 31, 65, 20, 16),
    (31, 34, 63, 65, 33),
    (64, 65, 64, 7, 32),
    (3, 130, 130, 4, 1),
]


@pytest.mark.parametrize("dtype", helpers.DTYPES)
@pytest.mark.parametrize(("rows", "guides", "classes", "width", "k"), GUIDED)
def test_guided_step(
    form: str, rows: int, guides: int, classes: int, width: int, k: int, dtype: torch.dtype
) -> None:
    arguments = make_guided(rows, guides, classes, width, k, dtype, seed=rows)
    assert_guided(arguments)
    if rows == 33:
        assert_guided(arguments | {"bias": None, "rule": "official"})
        assert_guided(
            arguments
            | {"class_weights": helpers.generator(9)(classes).abs() + 0.1, "max_correction": 0.2}
        )


def test_guided_step_of_nothing(form: str) -> None:
    """No rows, no guide, nothing selected, no features."""
    for sizes in [
        (0, 5, 3, 4, 2),
        (4, 0, 3, 4, 0),
        (4, 5, 3, 4, 0),
        (0, 0, 3, 4, 0),
        (4, 5, 3, 0, 2),
    ]:
        step = assert_guided(make_guided(*sizes) | {"relative": False})
        assert step["loss"].isnan().item() == (sizes[0] == 0)


def test_without_a_guide_nothing_looks_at_the_gradient(form: str) -> None:
    """0 * NaN is not 0: with nothing selected v is 0 even where g is broken."""
    arguments = make_guided(4, 5, 3, 4, 0)
    arguments["features"][2, 1] = math.nan
    step = run_guided(arguments)
    assert (
        step["v"] == step["dot"] == step["guide_norm2"] == 0.0 and step["grad_weight"].isnan().any()
    )


def test_satisfied_constraint_leaves_the_plain_gradient(form: str) -> None:
    """v = 0: bit for bit what the same launches give without a guide's correction."""
    for dtype in (torch.float32, torch.float16):
        arguments = make_guided(20, 20, 9, 6, 10, dtype=dtype) | {
            "epsilon": -1e6,
            "relative": False,
        }
        step = run_guided(arguments)
        assert step["v"] == 0.0
        alone = run_guided(arguments | {"top_k": 0})
        assert helpers.bits([step["grad_weight"], step["grad_bias"]]) == helpers.bits(
            [alone["grad_weight"], alone["grad_bias"]]
        )
        features, weight = arguments["features"].double(), arguments["weight"].double()
        probability = torch.softmax(features @ weight.t() + arguments["bias"].double(), 1)
        residual = (probability - torch.nn.functional.one_hot(arguments["target"], 9)) / 20
        plain = (residual.t() @ features).to(dtype)
        torch.testing.assert_close(
            step["grad_weight"], plain, rtol=1e-2, atol=1e-3 if dtype is torch.float16 else 1e-6
        )


def test_guide_of_zeros(form: str) -> None:
    """Rows that are certain of their label: |g_p| is 0, or the rounding error of it, and never
    negative.
    """
    arguments = make_guided(20, 6, 4, 5, 3)
    arguments["weight"] *= 0
    arguments["bias"] = torch.tensor([200.0, 0.0, 0.0, 0.0])
    arguments["guide_target"] *= 0
    step = run_guided(arguments)
    assert step["guide_norm2"] == 0.0 and step["v"] == 0.0 and step["grad_weight"].isfinite().all()
