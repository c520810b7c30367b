"""The head step on confident rows, whose small numbers have to keep their digits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gaal_fast.ops.backends.native import cuda as glue
from tests.native_cuda.test_confident import (
    GAPS,
    HALF,
    TOLERANCE,
    assert_near,
    confident,
    residuals,
    statistics,
)
from tests.native_cuda.test_paths import PATHS, arguments
from tests.ops import helpers
from tests.ops import test_guided_linear_ce as guided
from tests.ops.helpers import Backend
from tests.reference.oracle import Rule


def head(
    gap: float,
    dtype: torch.dtype,
    device: str,
    *,
    batch_gap: float,
    shift: float = 0.0,
    gain: float = 1.0,
) -> guided.Case:
    """A head that is ``gain`` times the identity on 70 of 75 features, which are logits / gain; two
    tiles of classes and of features.
    """
    classes, extra = 70, 5
    guide, guide_target = confident(66, classes, gap, seed=1)
    batch, largest = confident(40, classes, batch_gap, seed=2)
    generator = torch.Generator().manual_seed(3)
    features, guide_features = (
        torch.cat((logits / gain, torch.rand(len(logits), extra, generator=generator) + 1), 1)
        .to(dtype)
        .to(device)
        for logits in (batch, guide)
    )
    weight = gain * torch.eye(classes, classes + extra, dtype=dtype, device=device)
    bias = torch.full((classes,), shift, dtype=dtype, device=device)
    target = largest if batch_gap else (largest + 1) % classes
    return guided.Case(
        features,
        target.to(device),
        guide_features,
        guide_target.to(device),
        weight,
        bias,
        33,
        Rule(epsilon=0.3, relative=True),
    )


def check_step(case: guided.Case, path: str, sample_space: bool) -> None:
    loss, grad_features, grad_weight, grad_bias, v, dot, guide_norm2, grad_norm2, index = (
        glue.guided_linear_ce(*arguments(case), path=path, sample_space=sample_space)
    )
    u, w, all_guides = (
        helpers.array(case.features),
        helpers.array(case.weight),
        helpers.array(case.guide_features),
    )
    b = 0.0 if case.bias is None else helpers.array(case.bias)
    class_weights = None if case.class_weights is None else helpers.array(case.class_weights)
    rows, target = index.cpu().numpy(), case.target.cpu().numpy()
    entropy = statistics(all_guides @ w.T + b, case.guide_target.cpu().numpy())[0]
    np.testing.assert_allclose(entropy[rows], np.sort(entropy)[::-1][: len(rows)], rtol=1e-5)
    p = all_guides[rows]
    a = residuals(u @ w.T + b, target, class_weights)
    a_p = residuals(p @ w.T + b, case.guide_target.cpu().numpy()[rows], class_weights)
    with_bias = np.ones((1, 1)) if case.bias is not None else np.ones((1, 0))
    u_b, p_b = (np.hstack((x, np.repeat(with_bias, len(x), 0))) for x in (u, p))
    g, g_p = a.T @ u_b, a_p.T @ p_b
    products = (g * g_p).sum(), (g_p * g_p).sum(), (g * g).sum()
    factor = case.rule.factor(*products)
    assert factor > 0.0
    tolerance = TOLERANCE[case.features.dtype]
    wanted = g + factor * g_p
    scale = np.abs(a).T @ np.abs(u_b) + factor * np.abs(a_p).T @ np.abs(p_b)
    got = grad_weight if grad_bias is None else torch.cat((grad_weight, grad_bias[:, None]), 1)
    assert_near(got, wanted, scale)
    assert_near(grad_features, a @ w, np.abs(a) @ np.abs(w))
    nll = statistics(u @ w.T + b, target)[2]
    weights = np.ones(len(u)) if class_weights is None else class_weights[target]
    assert loss.item() == pytest.approx(
        (nll * weights).sum() / weights.sum(), rel=1e-5 if tolerance < 1e-3 else tolerance
    )
    for got_scalar, want in zip(
        (v, dot, guide_norm2, grad_norm2), (factor, *products), strict=True
    ):
        with np.errstate(over="ignore"):
            expected = float(np.float32(want))
        # Norms as small as 1e-70 are 0 in float32, and v as large as 1e40 is infinite: only the
        # reported numbers.
        assert got_scalar.item() == pytest.approx(expected, rel=max(tolerance, 1e-3), abs=1e-44)


@pytest.mark.parametrize("sample_space", [False, True], ids=["direct", "sample-space"])
@pytest.mark.parametrize("path", PATHS)
class TestHeadStep:
    @pytest.mark.parametrize("gap", GAPS)
    def test_confident_guide(self, place: Backend, path: str, sample_space: bool, gap: int) -> None:
        case = head(gap, torch.float32, place.device, batch_gap=0)
        check_step(case, path, sample_space)
        check_step(
            replace(
                case, bias=None, class_weights=torch.linspace(0.2, 3.0, 70, device=place.device)
            ),
            path,
            sample_space,
        )

    @pytest.mark.parametrize("gap", [20, 80])
    def test_confident_batch_and_guide(
        self, place: Backend, path: str, sample_space: bool, gap: int
    ) -> None:
        case = head(gap, torch.float32, place.device, batch_gap=gap)
        check_step(case, path, sample_space)
        check_step(
            replace(
                case, bias=None, class_weights=torch.linspace(0.2, 3.0, 70, device=place.device)
            ),
            path,
            sample_space,
        )

    @pytest.mark.parametrize("shift", [2.0**20, -3000.0])
    def test_shifted_logits(
        self, place: Backend, path: str, sample_space: bool, shift: float
    ) -> None:
        case = head(20, torch.float32, place.device, batch_gap=12, shift=shift)
        check_step(replace(case, features=case.features.mul(8).round().div(8)), path, sample_space)

    @pytest.mark.parametrize("dtype", HALF, ids=str)
    @pytest.mark.parametrize("gaps", [(12, 0), (20, 0), (80, 0), (12, 12), (20, 5)], ids=str)
    def test_half_precision(
        self,
        place: Backend,
        path: str,
        sample_space: bool,
        gaps: tuple[int, int],
        dtype: torch.dtype,
    ) -> None:
        check_step(head(gaps[0], dtype, place.device, batch_gap=gaps[1]), path, sample_space)

    @pytest.mark.parametrize("dtype", HALF, ids=str)
    def test_features_gradient_of_half_precision(
        self, place: Backend, path: str, sample_space: bool, dtype: torch.dtype
    ) -> None:
        """A weight so large that float16 has room for the gradient to the features, although not
        for the residuals.
        """
        check_step(head(12, dtype, place.device, batch_gap=15, gain=1024.0), path, sample_space)

    def test_weights_of_any_size(self, place: Backend, path: str, sample_space: bool) -> None:
        """A common factor of the class weights changes nothing, however far from 1."""
        case = head(12, torch.float32, place.device, batch_gap=0)
        for factor in (1e-25, 1e25):
            check_step(
                replace(
                    case, class_weights=factor * torch.linspace(0.5, 2.0, 70, device=place.device)
                ),
                path,
                sample_space,
            )

    def test_a_row_without_residuals_and_with_a_great_weight(
        self, place: Backend, path: str, sample_space: bool
    ) -> None:
        """Beside rows whose residuals are scaled by as much as there is."""
        case = head(84, torch.float32, place.device, batch_gap=84)
        weights = torch.ones(70, device=place.device)
        weights[case.target[0]] = weights[case.guide_target[0]] = 1e4
        for features, target in (
            (case.features, case.target),
            (case.guide_features, case.guide_target),
        ):
            features[:, :70] *= torch.where(weights[target] > 1.0, 3.0, 1.0)[
                :, None
            ]  # a gap of 252
        case = replace(case, class_weights=weights, top_k=66)
        results = glue.guided_linear_ce(*arguments(case), path=path, sample_space=sample_space)
        assert (
            all(result.isfinite().all() for result in (*results[:4], results[5]))
            and results[2].abs().max() > 0
        )

    def test_a_bound_for_a_saturated_guide(
        self, place: Backend, path: str, sample_space: bool
    ) -> None:
        """A residual below the normal numbers has few digits, but the step is as long as the bound
        says.
        """
        case = head(100, torch.float32, place.device, batch_gap=0)
        plain = glue.guided_linear_ce(
            *arguments(replace(case, rule=Rule(epsilon=-1e30))),
            path=path,
            sample_space=sample_space,
        )
        case.rule = Rule(epsilon=0.9, relative=True, max_correction=0.25)
        moved = glue.guided_linear_ce(*arguments(case), path=path, sample_space=sample_space)
        step, grad = (torch.cat((r[2], r[3][:, None]), 1).double() for r in (moved, plain))
        assert ((step - grad).norm() / grad.norm()).item() == pytest.approx(0.25, rel=1e-3)

    def test_a_guide_of_nothing(self, place: Backend, path: str, sample_space: bool) -> None:
        """Beyond a gap of 104 every residual is 0, and so is v."""
        case = head(200, torch.float32, place.device, batch_gap=0)
        result = glue.guided_linear_ce(*arguments(case), path=path, sample_space=sample_space)
        assert result[4].item() == 0.0 and result[2].isfinite().all() and result[2].abs().max() > 0
