"""Whole steps, and projections, of batches that are sure of their classes, in the interpreter.

Truth is float64 without cancellation, from the same float32 logits (``helpers.exact_*``).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.triton import helpers
from tests.triton.steps import project, run_guided


def whole_step(
    margin: float,
    active_margin: float,
    dtype: torch.dtype = torch.float32,
    bias: float | None = 0.0,
) -> dict:
    """A step whose logits are exact in float32, whatever the order of their sums: small multiples
    of 1/64.

    The surest row of the guide, its first, is wrong, and not selected.
    """
    classes, width, rows, guides = 11, 15, 34, 9
    source = torch.Generator().manual_seed(0)

    def eighths(*size: int) -> Tensor:
        return torch.randint(-4, 5, size, generator=source) / 8

    weight = torch.cat([torch.eye(classes), eighths(classes, width - classes)], 1)
    target, guide_target = torch.arange(rows) % classes, torch.arange(guides) % classes
    guide_target[0] = 5

    def features(label: Tensor, margins: Tensor) -> Tensor:
        u = torch.cat([torch.zeros(len(label), classes), eighths(len(label), width - classes)], 1)
        u[torch.arange(len(label)), label] = margins
        return u

    margins = margin + torch.arange(guides) / 4
    margins[0] += 7.0
    u, v = (
        features(target, torch.full((rows,), active_margin)),
        features(torch.arange(guides) % classes, margins),
    )
    return {
        "features": u.to(dtype),
        "target": target,
        "guide_features": v.to(dtype),
        "guide_target": guide_target,
        "weight": weight.to(dtype),
        "bias": None if bias is None else torch.full((classes,), bias, dtype=dtype),
        "class_weights": None,
        "top_k": guides - 1,
    }


def exact_step(
    arguments: dict, epsilon: float, relative: bool
) -> tuple[Tensor, dict[str, np.ndarray]]:
    """(selection, results) in float64."""
    weight, bias = arguments["weight"].float(), arguments["bias"]
    shift = 0.0 if bias is None else bias.float()
    u, p = arguments["features"].float(), arguments["guide_features"].float()
    z, z_p = u @ weight.t() + shift, p @ weight.t() + shift
    entropy = helpers.exact_stats(z_p, arguments["guide_target"]).entropy
    index = torch.from_numpy(np.argsort(-entropy)[: arguments["top_k"]])
    assert (np.diff(entropy[index]) < -1e-3 * entropy[index][1:]).all(), (
        "entropies too near to each other"
    )
    z_p = z_p[index]
    target, guide_target = arguments["target"], arguments["guide_target"][index]
    weights = arguments["class_weights"]
    g, guide = (
        helpers.exact_head_gradient(u, z, target, weights),
        helpers.exact_head_gradient(p[index], z_p, guide_target, weights),
    )
    parts = slice(0, 1 if bias is None else 2)
    dot, guide_norm2, grad_norm2 = (
        sum((a * b).sum() for a, b in zip(x[parts], y[parts], strict=True))
        for x, y in ((g, guide), (guide, guide), (g, g))
    )
    floor = epsilon * math.sqrt(grad_norm2 * guide_norm2) if relative else epsilon
    v = max(0.0, (floor - dot) / guide_norm2)
    a = helpers.exact_residual(z, target, weights)
    total = len(a) if weights is None else helpers.array(weights)[target.numpy()].sum()
    return index, {
        "grad_weight": g[0] + v * guide[0],
        "grad_bias": g[1] + v * guide[1],
        "grad_features": a @ helpers.array(weight) / total,
        "v": np.float64(v),
        "loss": (
            helpers.exact_stats(z, target).nll
            * (1.0 if weights is None else helpers.array(weights)[target.numpy()])
        ).sum()
        / total,
    }


def assert_step(arguments: dict, epsilon: float, relative: bool, bound: float) -> dict[str, Tensor]:
    step = run_guided(arguments | {"epsilon": epsilon, "relative": relative})
    index, truth = exact_step(arguments, epsilon, relative)
    assert step["index"].tolist() == index.tolist() and 0 not in index
    for name, want in truth.items():
        if step[name] is not None and np.abs(want).max() < 3e38:
            got = helpers.array(step[name])
            assert np.linalg.norm(got - want) <= bound * np.linalg.norm(want), name
    assert truth["v"] > 0.0
    return step


@pytest.mark.parametrize("bias", [None, 0.0, -40.0, 2.0**20])
@pytest.mark.parametrize("margin", [5, 12, 15, 17, 20, 40, 60, 80])
def test_guided_step(form: str, margin: float, bias: float | None) -> None:
    """The corrected head gradient, the loss, the feature gradient, with the guide sure of its rows;
    then with both sure of theirs.
    """
    for active in (1.0, float(margin)):
        arguments = whole_step(float(margin), active, bias=bias)
        assert_step(arguments, 2.0, True, 2e-5)


def test_guided_step_with_class_weights(form: str) -> None:
    """The wrong row of the active batch has the weight 0, so that it hides nothing."""
    arguments = whole_step(70.0, 70.0)
    arguments["class_weights"] = 0.5 + torch.arange(11) / 11
    arguments["class_weights"][10] = 0.0
    arguments["target"] = arguments["target"].clone()
    arguments["target"][3] = 10
    assert_step(arguments, 2.0, True, 2e-5)


def test_guided_step_of_a_v_beyond_float32(form: str) -> None:
    """epsilon / |g_p|^2 of 1e65 or more, and v g_p of the size of epsilon / |g_p|: finite, and
    right.
    """
    for margin in (60.0, 75.0):
        arguments = whole_step(margin, margin)
        largest = np.abs(exact_step(arguments, 1.0, False)[1]["grad_weight"]).max()
        for epsilon in (1.0, 1e38 / largest):
            step = assert_step(arguments, epsilon, False, 2e-5)
            assert (
                step["v"] == math.inf
                and step["grad_weight"].isfinite().all()
                and step["grad_weight"].abs().max() > 1e20
            )


@pytest.mark.parametrize("margin", [12, 17, 20])
def test_float16_guided_step(form: str, margin: float) -> None:
    """The operands of the products are float16, which has no number below 6e-8. So are the results:
    features of 2^10 lift them.
    """
    assert_step(whole_step(float(margin), 1.0, torch.float16), 2.0, True, 4e-3)
    arguments = whole_step(float(margin), 12.0, torch.float16)
    arguments["features"][:, -1], arguments["guide_features"][:, -1], arguments["weight"][:, -1] = (
        2.0**12,
        2.0**12,
        0.0,
    )
    step = run_guided(arguments | {"epsilon": 2.0, "relative": True})
    _, truth = exact_step(arguments, 2.0, True)
    got, want = helpers.array(step["grad_weight"]), truth["grad_weight"]
    assert np.linalg.norm(got - want) < 4e-3 * np.linalg.norm(want) and np.abs(want).max() < 1.0


def test_tiny_guide_and_the_bound_on_v() -> None:
    """v = sqrt(2) / 1e-40, which float32 does not have; v g_p is of the size of g. The reported v
    is honest: infinite.
    """
    g, p = torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1e-40])
    v, _, guide_norm2, grad_norm2 = project([g], [p], epsilon=1.0, max_correction=1.0)
    np.testing.assert_allclose(g, [1.0, 1.0 + math.sqrt(2.0)], rtol=1e-6)
    assert v == math.inf and guide_norm2 == 0.0 and grad_norm2 == 2.0
    grads = [torch.ones(2, 2), torch.ones(3)]
    project(
        grads, [torch.zeros(2, 2), torch.tensor([1e-42, 0.0, 0.0])], epsilon=1.0, max_correction=0.5
    )
    np.testing.assert_allclose(grads[1][0], 1.0 + 0.5 * math.sqrt(7.0), rtol=1e-6)
    assert (grads[0] == 1.0).all() and (grads[1][1:] == 1.0).all()


def test_huge_guide() -> None:
    """v = 2e-41 has four digits in float32; g + v g_p still has seven."""
    g, p = torch.tensor([-1e-3]), torch.tensor([1e38])
    v, *_ = project([g], [p], epsilon=1e35)
    np.testing.assert_allclose(helpers.array(g), 1e35 / helpers.array(p), rtol=1e-6)
    assert 0.0 < v < 1e-40


def test_options_on_the_gpu() -> None:
    """epsilon and margin as float64 tensors: the bits of the numbers. A NaN stays visible."""

    def projected(rule: str, **options: object) -> list[bytes]:
        g, p = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.25, 1.0, -1.0])
        return helpers.bits([*project([g], [p], rule=rule, **options), g])

    def held(value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64)

    for value in (0.1, 3.0, 1e-300, 1e300):
        assert projected("paper", epsilon=held(value)) == projected("paper", epsilon=value)
        assert projected("official", margin=held(value)) == projected("official", margin=value)
    assert projected("paper", epsilon=held(0.1)) != projected("paper", epsilon=0.2)
    for rule, name in (("paper", "epsilon"), ("official", "margin")):
        for bound in (None, 1.0):
            g = torch.tensor([-1.0, 2.0])
            v, *_ = project(
                [g],
                [torch.tensor([1.0, 0.0])],
                rule=rule,
                max_correction=bound,
                **{name: held(math.nan)},
            )
            assert v.isnan() and g.isnan().all()


def test_options_on_the_gpu_of_a_step(form: str) -> None:
    arguments = whole_step(2.0, 1.0)
    for options in ({"epsilon": 0.3, "relative": True}, {"rule": "official", "margin": 0.6}):
        name = "margin" if "margin" in options else "epsilon"
        held = options | {name: torch.tensor(options[name], dtype=torch.float64)}
        got = run_guided(arguments | held)
        assert helpers.bits(got.values()) == helpers.bits(run_guided(arguments | options).values())
