"""Checks that fail once a mask, guard or rounding of the CUDA kernels is taken away.

They run on the emulated device. ``changes.py`` says which change each of them has to notice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from gaal_fast.ops.backends.native import cuda as glue
from tests.native_cuda import test_confident as confident
from tests.native_cuda import test_confident_step as confident_step
from tests.native_cuda import test_scalars as scalars
from tests.native_cuda.test_paths import arguments
from tests.ops import helpers
from tests.ops import test_guided_linear_ce as guided
from tests.ops.helpers import Backend
from tests.reference import oracle
from tests.reference.oracle import Rule

EDGES = torch.tensor([
    [0.0, 1.0, 2.0, 3.0, 4.0],
    [-math.inf, -math.inf, -math.inf, -math.inf, 1.0],
    [-math.inf] * 5,
    [math.inf, 0.0, 0.0, 0.0, 0.0],
    [1.0, math.nan, 0.0, 0.0, -math.inf],
    [-math.inf, 1e4, -1e4, -3e38, 3e38],
])  # fmt: skip


def special_rows() -> None:
    for logits in (EDGES, EDGES.repeat(1, 300)):  # a warp or less per row, and a block
        got = glue.softmax_stats(logits, torch.zeros(len(logits), dtype=torch.int64))
        for result, want in zip(
            got,
            oracle.softmax_stats(helpers.array(logits), np.zeros(len(logits), dtype=int)),
            strict=True,
        ):
            np.testing.assert_allclose(helpers.array(result), want, rtol=1e-5, atol=1e-5)


def ties() -> None:
    logits = torch.tensor(
        [
            [1.0, 1.0, 1.0],
            [0.0, 5.0, 0.0],
            [2.0, 2.0, 2.0],
            [math.nan, 0.0, 0.0],
            [0.0, 5.0, 0.0],
            [math.inf, 0.0, 0.0],
        ]
    )
    logits = torch.cat((logits, -logits[3:4]))  # a negative NaN is no other one
    assert glue.entropy_topk(logits, 7)[1].tolist() == [3, 5, 6, 0, 2, 1, 4]


def among_nan(matrix: torch.Tensor) -> torch.Tensor:
    """The same matrix with NaN beside and below it, its rows at multiples of 16 bytes, so that they
    are read in whole packs.
    """
    rows, columns = matrix.shape
    memory = torch.full((rows + 4, (columns + 15) // 8 * 8), math.nan, dtype=matrix.dtype)
    memory[:rows, :columns] = matrix
    return memory[:rows, :columns]


def head_step(path: str, sample_space: bool) -> Callable[[], None]:
    def check() -> None:
        for dtype, packs in itertools.product((torch.float32, torch.bfloat16), (False, True)):
            case = guided.make(
                20, 23, 18, 33, 7, dtype, "cpu", Rule(epsilon=0.3, relative=True), conflict=True
            )
            case.class_weights = torch.linspace(0.5, 2.0, 18)
            truth = case.oracle()
            if packs:
                case = replace(
                    case,
                    **{
                        name: among_nan(getattr(case, name))
                        for name in ("features", "guide_features", "weight")
                    },
                )
            results = [
                t
                for t in glue.guided_linear_ce(
                    *arguments(case), path=path, sample_space=sample_space
                )[:-1]
                if t is not None
            ]
            wanted = (
                truth.loss,
                truth.grad_features,
                truth.grad_weight,
                truth.grad_bias,
                truth.v,
                truth.dot,
                truth.guide_norm2,
                truth.grad_norm2,
            )
            tolerance = 1e-4 if dtype is torch.float32 else 5e-2
            for result, want in zip(results, wanted, strict=True):
                scale = np.abs(want).max()
                np.testing.assert_allclose(
                    helpers.array(result), want, rtol=tolerance, atol=tolerance * float(scale)
                )

    return check


def low_logits() -> None:
    """Far below 0, where the exponential of a logit that is read as 0 is infinite."""
    case = guided.make(20, 23, 18, 33, 7, torch.float32, "cpu", Rule(), conflict=True)
    case.bias = case.bias - 200.0
    features = glue.guided_linear_ce(*arguments(case), path="launches", sample_space=False)[1]
    np.testing.assert_allclose(
        helpers.array(features), case.oracle().grad_features, rtol=1e-3, atol=1e-4
    )


def head_gradient() -> None:
    features, logits = (
        helpers.random_logits(37, 19, torch.float32, 1),
        helpers.random_logits(37, 70, torch.float32, 2),
    )
    target, index = helpers.random_labels(37, 70), torch.arange(1, 37, 2)
    truth = oracle.linear_ce_grad(
        helpers.array(features), helpers.array(logits), target.numpy(), index.numpy()
    )
    for lay in (torch.clone, among_nan):
        weight, bias = glue.linear_ce_grad(lay(features), lay(logits), target, index, None)
        np.testing.assert_allclose(helpers.array(weight), truth.weight, atol=1e-6)
        np.testing.assert_allclose(helpers.array(bias), truth.bias, atol=1e-6)


def illegal_labels() -> None:
    features, logits = (
        helpers.random_logits(5, 4, torch.float32, 1),
        helpers.random_logits(5, 3, torch.float32, 2),
    )
    target = torch.tensor([0, 1, 3, 2, 1])
    assert all(
        gradient.isnan().all()
        for gradient in glue.linear_ce_grad(features, logits, target, None, None)
    )
    for row in (5, 10**12):  # beside the matrix, and where nothing can be read
        assert all(
            gradient.isnan().all()
            for gradient in glue.linear_ce_grad(
                features, logits, target % 3, torch.tensor([0, row]), None
            )
        )
    assert glue.softmax_stats(logits, target)[2].isnan().tolist() == [
        False,
        False,
        True,
        False,
        False,
    ]


def projections() -> None:
    def project(grad: list[float], guide: list[float], rule: Rule) -> tuple[torch.Tensor, ...]:
        grads = [torch.tensor(grad)]
        return (*glue.project_(grads, [torch.tensor(guide)], helpers.rule_of(rule)), grads[0])

    assert project([1.0, math.nan], [0.0, 0.0], Rule())[0].isnan()
    assert project([1.0, 2.0], [math.inf, 0.0], Rule())[0].isnan()
    # Four elements are scaled together.
    assert project([1.0, 0.0, 0.0, 3e38], [-1.0, 0.0, 0.0, 0.0], Rule())[-1].tolist() == [
        0.0,
        0.0,
        0.0,
        pytest.approx(3e38),
    ]
    assert project([1.0, 2.0], [0.0, 0.0], Rule(epsilon=1.0))[0] == 0.0
    assert project([1.0, 2.0], [1.0, 0.0], Rule(epsilon=-5.0))[0] == 0.0
    assert project([1.0, 2.0], [-1.0, 0.0], Rule("official"))[0] == pytest.approx(1.0 / 1.001)
    assert project([0.1, 2.0], [-1.0, 0.0], Rule("official"))[0] == 0.75
    assert project([1.0, 0.0], [-1e-3, 0.0], Rule(max_correction=0.5))[0] == pytest.approx(500.0)
    assert math.copysign(1.0, project([-0.0, 2.0], [0.0, 1.0], Rule())[-1][0].item()) == -1.0


HERE = Backend("native", "cpu")


def confident_rows() -> None:
    for classes in (33, 1500, 17003):
        confident.test_statistics(HERE, 40, 0.0, classes)


def tied_rows() -> None:
    for classes in (64, 1500, 17003):
        confident.test_ties_of_the_largest(HERE, classes, 3)


def confident_head(path: str, sample_space: bool, gap: int = 40) -> Callable[[], None]:
    def check() -> None:
        confident_step.check_step(
            confident_step.head(gap, torch.float32, "cpu", batch_gap=gap), path, sample_space
        )

    return check


def confident_gradient() -> None:
    with pytest.MonkeyPatch.context() as patch:
        for product in ("kernel", "library"):
            confident.test_head_gradient(HERE, patch, product, 15, torch.float16, False, False)


def features_gradient() -> None:
    confident_step.TestHeadStep().test_features_gradient_of_half_precision(
        HERE, "launches", False, torch.float16
    )


def great_weight() -> None:
    confident_step.TestHeadStep().test_a_row_without_residuals_and_with_a_great_weight(
        HERE, "launches", False
    )


def saturated(path: str, sample_space: bool) -> Callable[[], None]:
    def saturated_guide() -> None:
        confident_step.TestHeadStep().test_a_bound_for_a_saturated_guide(HERE, path, sample_space)

    return saturated_guide


def tiny_guides() -> None:
    for grad, guide, rule, want in scalars.TINY:
        scalars.test_v_beyond_float32(HERE, grad, guide, rule, want)


def numbers_on_the_device() -> None:
    for rule in (Rule(epsilon=2.5), Rule("official", margin=1.5)):
        scalars.TestNumbersOnTheDevice().test_project(HERE, rule)


def label_of_one_row() -> None:
    case = guided.make(6, 5, 4, 3, 2, torch.float32, "cpu", Rule())
    case.target[2] = 9
    features = glue.guided_linear_ce(*arguments(case), path="composed", sample_space=False)[1]
    assert features.isnan().all(1).tolist() == [row == 2 for row in range(6)]
