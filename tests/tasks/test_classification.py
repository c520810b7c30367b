"""Cross-entropy, entropy, the mean of logits, and the scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gaal_fast.data.batch import Batch, View
from gaal_fast.errors import UserError
from gaal_fast.ops._rule import Rule
from gaal_fast.tasks import FUSED, Classification, Guide, Predictions

LABELS = ("ash", "birch", "oak")


@pytest.fixture
def task() -> Classification:
    return Classification(LABELS, np.array([2, 1, 1]))


def test_fused_logits_use_what_a_row_has(task: Classification) -> None:
    rows = {"image": torch.tensor([0, 2]), "table": torch.tensor([1, 2, 4])}
    views = {name: View(torch.zeros(len(r), 1), r) for name, r in rows.items()}
    batch = Batch(torch.zeros(5, dtype=torch.int64), torch.arange(5), views)
    logits = {name: torch.randn(len(r), 3) for name, r in rows.items()}
    fused = task.fuse(logits, batch)
    torch.testing.assert_close(fused[0], logits["image"][0])
    torch.testing.assert_close(fused[1], logits["table"][0])
    torch.testing.assert_close(fused[2], (logits["image"][1] + logits["table"][1]) / 2)
    assert fused[3].eq(0).all()
    assert task.fuse({}, batch).eq(0).all()


def test_uncertainty_is_the_entropy(task: Classification) -> None:
    logits = torch.randn(6, 3)
    p = logits.softmax(dim=1)
    torch.testing.assert_close(task.uncertainty(logits), -(p * p.log()).sum(dim=1))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_fused_head_step_is_the_plain_one(weighted: bool) -> None:
    """Both ways to the same equations; the plain one is for several ranks and for other tasks."""
    torch.manual_seed(0)
    weights = torch.rand(3) + 0.1 if weighted else None
    task = Classification(LABELS, np.ones(3), weights)
    head, rule = nn.Linear(5, 3), Rule(epsilon=0.3, relative=True)
    features, target = torch.randn(12, 5), torch.randint(3, (12,))
    guide = Guide(torch.randn(10, 5), torch.randint(3, (10,)), 4)
    fused = task.guided_head_step(head, features, target, guide, rule)
    plain = task.guided_head_step(head, features, target, guide, rule, reduce=lambda tensors: None)
    assert fused.index.tolist() == plain.index.tolist()
    for one, other in zip(fused[:4], plain[:4], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(fused.projection.v, plain.projection.v, rtol=1e-4, atol=1e-6)
    assert head.weight.grad is None, "it is the caller who writes gradients"


def test_scores_and_columns_of_a_few_rows(task: Classification) -> None:
    logits = np.log(
        np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.5, 0.25, 0.25]])
    )
    predictions = Predictions(
        {"image": logits[:0], FUSED: logits},
        {"image": np.zeros(0, np.int64)},
        np.array([0, 1, 1, -1]),
    )
    scores = task.scores(predictions)
    assert scores["accuracy"] == {"image": None, FUSED: pytest.approx(2 / 3)}
    assert scores["balanced_accuracy"][FUSED] == pytest.approx(0.75)
    assert scores["nll"][FUSED] == pytest.approx(-np.log([0.7, 0.8, 0.3]).mean())
    assert scores["rows"] == {"image": 0, FUSED: 3}
    columns = task.columns(predictions)
    assert list(columns) == [
        "prediction",
        "probability_ash",
        "probability_birch",
        "probability_oak",
    ]
    assert list(columns["prediction"]) == ["ash", "birch", "oak", "ash"]
    np.testing.assert_allclose(columns["probability_oak"], [0.1, 0.1, 0.4, 0.25])
    np.testing.assert_allclose(np.exp(task.prior()), [0.5, 0.25, 0.25])


def test_what_selects_is_one_of_its_scores(task: Classification) -> None:
    assert [task.selection(s) for s in ("auto", "accuracy", "balanced", "loss")] == [
        "accuracy",
        "accuracy",
        "balanced_accuracy",
        "-nll",
    ]
    assert (task.score, task.higher_is_better) == ("accuracy", True)
    with pytest.raises(UserError, match=r"^--train\.select must be one of .* for classification"):
        task.selection("r2")


def test_a_readout_is_what_the_columns_hold_at_a_temperature(task: Classification) -> None:
    logits = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    predictions = Predictions({FUSED: logits.numpy()}, {}, np.full(6, -1))
    columns = task.columns(predictions)[task.readout_columns]
    np.testing.assert_array_equal(columns, task.readout(logits))
    temperature = torch.tensor([[0.5], [1.0], [2.0], [4.0], [1.0], [9.0]], dtype=torch.float64)
    expected = task.readout(logits) ** (1 / temperature)
    expected /= expected.sum(dim=1, keepdim=True)
    torch.testing.assert_close(task.readout(logits, temperature), expected)
    assert task.readout_unit.tolist() == [1, 1, 1]
