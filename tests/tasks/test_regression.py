"""Standardized values, their likelihood, and what is said of them in their own units."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gaal_fast.data.batch import Batch, View
from gaal_fast.ops._rule import Rule
from gaal_fast.tasks import FUSED, Guide, Predictions, Regression

VALUES = np.array([[10.0], [20.0], [30.0], [60.0]])


def test_a_target_is_standardized_by_the_training_rows() -> None:
    task = Regression(1, "mse").fit(VALUES)
    mean, std = VALUES.mean(), VALUES.std()
    guess = torch.tensor([[0.5], [-1.0]], dtype=torch.float64)
    target = torch.tensor([[20.0], [60.0]], dtype=torch.float64)
    error = guess - (target - mean) / std
    torch.testing.assert_close(task.loss(guess, target), 0.5 * error.square().mean())
    again = Regression(1, "mse")
    again.load_state_dict(task.state_dict())
    assert torch.equal(again.mean, task.mean) and torch.equal(again.std, task.std)
    assert Regression(1).fit(np.ones((3, 1))).std.item() == 1, "a constant target has no spread"


@pytest.mark.parametrize("targets", [1, 2])
def test_the_likelihood_is_that_of_a_gaussian_but_for_its_constant(targets: int) -> None:
    task = Regression(targets)
    output, target = torch.randn(6, 2 * targets), torch.randn(6, targets, dtype=torch.float64)
    mean, spread = output[:, :targets], output[:, targets:]
    gaussian = torch.distributions.Normal(mean, (0.5 * spread).exp())
    constant = 0.5 * np.log(2 * np.pi)
    expected = -gaussian.log_prob(target.float()).mean() - constant
    torch.testing.assert_close(task.loss(output, target), expected)
    uncertainty = task.uncertainty(output)
    assert uncertainty is not None
    torch.testing.assert_close(uncertainty, spread.exp().sum(dim=1))
    assert Regression(targets, "mse").uncertainty(mean) is None


def batch_of(rows: dict[str, list[int]], size: int) -> Batch:
    views = {n: View(torch.zeros(len(r), 1), torch.tensor(r)) for n, r in rows.items()}
    return Batch(torch.zeros(size, 1), torch.arange(size), views)


def test_fusion_is_the_mean_with_the_variance_of_the_mixture() -> None:
    task, batch = Regression(1), batch_of({"image": [0, 1], "table": [1, 2]}, 4)
    outputs = {
        "image": torch.tensor([[1.0, 0.2], [3.0, -1.0]]),
        "table": torch.tensor([[1.0, 0.5], [4.0, 0.1]]),
    }
    fused = task.fuse(outputs, batch)
    torch.testing.assert_close(fused[0], outputs["image"][0])
    torch.testing.assert_close(fused[2], outputs["table"][1])
    assert fused[3].eq(0).all(), "the mean and the variance of the training rows"
    generator = torch.Generator().manual_seed(0)
    draws = torch.cat(
        [
            m + s * torch.randn(400_000, generator=generator)
            for m, s in ((3.0, np.exp(-0.5)), (1.0, np.exp(0.25)))
        ]
    )
    assert fused[1, 0].item() == pytest.approx(2.0)
    assert fused[1, 1].exp().item() == pytest.approx(draws.var().item(), rel=0.01)


def test_the_head_step_repairs_by_the_most_uncertain_rows() -> None:
    torch.manual_seed(0)
    task, head = Regression(1), nn.Linear(4, 2)
    features, target = torch.randn(9, 4), torch.randn(9, 1).double()
    guide = Guide(torch.randn(8, 4), torch.randn(8, 1).double(), 3)
    rule = Rule(epsilon=0.3, relative=True)
    step = task.guided_head_step(head, features, target, guide, rule)
    spread = head(guide.features)[:, 1]
    assert sorted(step.index.tolist()) == sorted(spread.topk(3).indices.tolist())

    def gradient(x: Tensor, y: Tensor) -> Tensor:
        parts = torch.autograd.grad(task.loss(head(x), y), list(head.parameters()))
        return torch.cat([part.flatten() for part in parts])

    g, g_p = (
        gradient(features, target),
        gradient(guide.features[step.index], guide.target[step.index]),
    )
    v = ((0.3 * g.norm() * g_p.norm() - g @ g_p) / (g_p @ g_p)).clamp(min=0)
    torch.testing.assert_close(step.projection.v, v, rtol=1e-4, atol=1e-6)
    assert step.grad_bias is not None
    found = torch.cat([step.grad_weight.flatten(), step.grad_bias])
    torch.testing.assert_close(found, g + v * g_p, rtol=1e-4, atol=1e-6)
    plain = Regression(1, "mse")
    step = plain.guided_head_step(nn.Linear(4, 1), features, target, guide, rule)
    assert len(step.index) == 8, "without a variance every row guides"


def test_scores_and_columns_are_in_the_targets_own_units() -> None:
    task = Regression(1).fit(VALUES)
    mean, std = VALUES.mean(), VALUES.std()
    wanted = np.array([[12.0], [18.0], [33.0], [np.nan]])
    guess = np.array([[10.0], [20.0], [30.0], [60.0]])
    output = np.concatenate([(guess - mean) / std, np.log([[0.25], [1.0], [1.0], [4.0]])], axis=1)
    predictions = Predictions(
        {"table": output[:1], FUSED: output}, {"table": np.array([0])}, wanted
    )
    scores = task.scores(predictions)
    assert scores["mae"][FUSED] == pytest.approx((2 + 2 + 3) / 3)
    assert scores["rmse"][FUSED] == pytest.approx(np.sqrt((4 + 4 + 9) / 3))
    total = ((wanted[:3] - wanted[:3].mean()) ** 2).sum()
    assert scores["r2"] == {"table": None, FUSED: pytest.approx(1 - 17 / total)}
    assert scores["rows"] == {"table": 1, FUSED: 3}
    columns = task.columns(predictions)
    np.testing.assert_allclose(columns["prediction"], guess[:, 0])
    np.testing.assert_allclose(columns["prediction_std"], std * np.array([0.5, 1, 1, 2]))
    assert list(Regression(1, "mse").fit(VALUES).columns(predictions)) == ["prediction"]


def test_a_readout_is_what_the_columns_hold_and_a_temperature_widens_it_alone() -> None:
    task = Regression(2).fit(np.random.default_rng(0).normal(5, 3, (50, 2)))
    output = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    output[0, 2] = 50.0  # beyond the bounds of a logarithm of a variance
    plain = task.readout(output)
    columns = task.columns(Predictions({FUSED: output.numpy()}, {}, np.zeros((6, 2))))
    assert list(columns) == task.readout_columns
    assert list(columns) == [f"prediction{part}_{i}" for part in ("", "_std") for i in (1, 2)]
    np.testing.assert_array_equal(columns, plain)
    temperature = torch.tensor([[0.25], [4.0], [1.0], [1.0], [2.0], [3.0]], dtype=torch.float64)
    warm = task.readout(output, temperature)
    assert torch.equal(warm[:, :2], plain[:, :2])
    torch.testing.assert_close(warm[1:, 2:], (plain[:, 2:] * temperature.sqrt())[1:])
    assert task.readout(output.float()).dtype == torch.float64, "large values keep their digits"
    torch.testing.assert_close(task.readout_unit, task.std.repeat(2))
    assert Regression(1, "mse").readout(output[:, :1], 7.0).shape == (6, 1)


@pytest.mark.parametrize("targets", [1, 2])
def test_no_rows_at_all_have_no_scores(targets: int) -> None:
    """As where there is no test part: what was predicted then does not even have a width."""
    task = Regression(targets)
    none = np.zeros((0, task.outputs))
    predictions = Predictions(
        {"table": none, FUSED: none}, {"table": np.zeros(0, np.int64)}, np.zeros(0, np.int64)
    )
    scores = task.scores(predictions)
    assert scores["rows"] == {"table": 0, FUSED: 0}
    assert scores["r2"] == {"table": None, FUSED: None}
