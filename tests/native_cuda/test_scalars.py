"""v beyond the range of float32, and options that are numbers on the device."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from gaal_fast.ops.backends.native import cuda as glue
from tests.native_cuda.test_paths import PATHS, arguments
from tests.ops import helpers
from tests.ops import test_guided_linear_ce as guided
from tests.ops.helpers import Backend
from tests.reference.oracle import Rule

HALF = [torch.float16, torch.bfloat16]


def project(
    grad: list[float],
    guide: list[float],
    rule: Rule,
    device: str,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, ...]:
    grads = [torch.tensor(grad, dtype=dtype, device=device)]
    return (
        *glue.project_(
            grads, [torch.tensor(guide, dtype=dtype, device=device)], helpers.rule_of(rule)
        ),
        grads[0],
    )


# Gradient, guide, rule, and the gradient after it.
TINY = [
    ([1.0, 1.0], [0.0, 1e-40], Rule(epsilon=1.0, max_correction=1.0), [1.0, 1.0 + math.sqrt(2.0)]),
    ([1.0, 1.0], [0.0, 1e-45], Rule(epsilon=1.0, max_correction=1.0), [1.0, 1.0 + math.sqrt(2.0)]),
    ([1.0, 0.0], [-1e-30, 0.0], Rule(), [0.0, 0.0]),  # v = 1e30, |g_p|^2 = 1e-60
    ([1.0, 0.0], [-1e-40, 1e-40], Rule(), [0.5, 0.5]),
    ([0.0, 0.0], [1e-40, 0.0], Rule(epsilon=1e-10), [1e30, 0.0]),  # v = 1e70
    ([0.0, 0.0], [0.0, 1.4e-45], Rule(epsilon=1e-10), [0.0, 1e-10 / 2.0**-149]),  # v = 2^265
    ([1e-25, 0.0], [-1e35, 1e35], Rule(), [0.5e-25, 0.5e-25]),  # v = 5e-61
    ([1e30, 1e30], [-1e30, 0.0], Rule(), [0.0, 1e30]),  # norms of 1e60
    (
        [1e-30, 1e-30],
        [-1e-30, 0.0],
        Rule(epsilon=0.5, relative=True),
        [-math.sqrt(0.5) * 1e-30, 1e-30],
    ),
    # v = max(margin, 1e-40 / ridge), too short a step to see
    ([1.0, 2.0], [-1e-40, 0.0], Rule("official"), [1.0, 2.0]),
    ([1.0, 0.0], [0.0, 1e-45], Rule(epsilon=1e30), [1.0, math.inf]),  # v = 2^397
]  # fmt: skip


@pytest.mark.parametrize(("grad", "guide", "rule", "want"), TINY)
def test_v_beyond_float32(
    place: Backend, grad: list[float], guide: list[float], rule: Rule, want: list[float]
) -> None:
    """v is known in float64, and a step that float32 can represent is taken."""
    v, _, guide_norm2, _, moved = project(grad, guide, rule, place.device)
    g, p = (np.asarray(torch.tensor(x).double()) for x in (grad, guide))
    truth = g + rule.factor(float(g @ p), float(p @ p), float(g @ g)) * p
    truth[np.abs(truth) > torch.finfo(torch.float32).max] = math.inf
    np.testing.assert_allclose(
        helpers.array(moved), truth, rtol=1e-6, atol=1e-6 * float(np.abs(g).max())
    )
    np.testing.assert_allclose(truth, want, rtol=1e-3, atol=1e-6 * float(np.abs(g).max()))
    with np.errstate(over="ignore"):
        assert guide_norm2.item() == pytest.approx(float(np.float32(p @ p)), rel=1e-6, abs=0.0)
        assert v.item() == pytest.approx(
            float(np.float32(rule.factor(float(g @ p), float(p @ p), float(g @ g)))), rel=1e-6
        )


def test_a_step_out_of_range_is_infinite_where_it_is_and_nowhere_else(place: Backend) -> None:
    v, *_, moved = project([1.0, 1.0, 3.0], [0.0, 1e-40, 0.0], Rule(epsilon=1.0), place.device)
    assert v.item() == math.inf and moved.tolist() == [1.0, math.inf, 3.0]  # v g_p = 1e40
    assert project([1.0, math.nan], [0.0, 1e-40], Rule(epsilon=1.0), place.device)[0].isnan()


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_tiny_guide_of_half_precision(place: Backend, dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).smallest_normal
    moved = project(
        [1.0, 1.0], [0.0, tiny], Rule(epsilon=1.0, max_correction=1.0), place.device, dtype
    )[-1]
    torch.testing.assert_close(
        moved.float().cpu(), torch.tensor([1.0, 1.0 + math.sqrt(2.0)]), rtol=1e-2, atol=0.0
    )


@pytest.mark.parametrize(
    "rule",
    [Rule(epsilon=0.3, relative=True), Rule(epsilon=2.5), Rule("official", margin=1.5)],
    ids=lambda r: r.rule,
)
class TestNumbersOnTheDevice:
    """epsilon and margin as 0-d float64 tensors give what the same floats give, to the bit, in as
    many launches.
    """

    def on_device(self, rule: Rule, device: str) -> Rule:
        def number(value: float) -> Tensor:
            return torch.tensor(value, dtype=torch.float64, device=device)

        return replace(rule, epsilon=number(rule.epsilon), margin=number(rule.margin))

    def test_project(self, place: Backend, rule: Rule) -> None:
        results = [
            project([1.0, -2.0, 3.0], [-1.0, 0.5, 0.25], r, place.device)
            for r in (rule, self.on_device(rule, place.device))
        ]
        assert helpers.bits(results[0]) == helpers.bits(results[1])
        assert results[0][0].item() > 0.0

    @pytest.mark.parametrize("sample_space", [False, True], ids=["direct", "sample-space"])
    @pytest.mark.parametrize("path", PATHS)
    def test_head_step(self, place: Backend, path: str, sample_space: bool, rule: Rule) -> None:
        case = guided.make(20, 23, 18, 33, 7, torch.float32, place.device, rule, conflict=True)
        moved = replace(case, rule=self.on_device(rule, place.device))
        results = [
            glue.guided_linear_ce(*arguments(c), path=path, sample_space=sample_space)
            for c in (case, moved)
        ]
        assert helpers.bits(results[0]) == helpers.bits(results[1])
        assert results[0][4].item() > 0.0

    def test_a_number_that_changes(self, place: Backend, rule: Rule) -> None:
        """The kernels read it when they run: a new value needs no new arguments."""
        moving = self.on_device(rule, place.device)
        first = project([1.0, -2.0, 3.0], [-1.0, 0.5, 0.25], moving, place.device)
        moving.epsilon.mul_(2.0)
        moving.margin.mul_(20.0)
        second = project([1.0, -2.0, 3.0], [-1.0, 0.5, 0.25], moving, place.device)
        changed = replace(rule, epsilon=2.0 * rule.epsilon, margin=20.0 * rule.margin)
        assert helpers.bits(second) == helpers.bits(
            project([1.0, -2.0, 3.0], [-1.0, 0.5, 0.25], changed, place.device)
        )
        assert first[0].item() != second[0].item()

    def test_nan_stays(self, place: Backend, rule: Rule) -> None:
        nan = torch.tensor(torch.nan, dtype=torch.float64, device=place.device)
        assert project(
            [1.0, -2.0, 3.0],
            [-1.0, 0.5, 0.25],
            replace(rule, epsilon=nan, margin=nan),
            place.device,
        )[0].isnan()
