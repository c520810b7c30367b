"""The order in which an update does things, and what it records."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import gaal_fast
from gaal_fast.engine.update import OptimizerUpdate


class Record:
    def __init__(self) -> None:
        self.rows: list[tuple[str, dict[str, float]]] = []

    def __call__(self, part: str, scalars: Mapping[str, Tensor]) -> None:
        self.rows.append((part, {name: value.item() for name, value in scalars.items()}))


@pytest.fixture
def model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def loss_of(model: nn.Linear) -> Tensor:
    return (model(torch.ones(2, 3)) - 5).square().mean()


def test_a_loss_is_gone_back_from_after_the_gradients_are_cleared(model: nn.Linear) -> None:
    model.weight.grad = torch.full_like(model.weight, 1e6)
    record = Record()
    update = OptimizerUpdate(torch.optim.SGD(model.parameters(), lr=0.1), record)
    expected = torch.autograd.grad(loss_of(model), [model.weight])[0]
    before = model.weight.detach().clone()
    loss = loss_of(model)
    update("table", loss, extra=torch.tensor(7.0))
    torch.testing.assert_close(model.weight.detach(), before - 0.1 * expected)
    assert record.rows == [("table", {"loss": loss.item(), "extra": 7.0})]


def test_a_function_fills_the_gradients_itself_and_says_what_is_recorded(model: nn.Linear) -> None:
    record = Record()
    update = OptimizerUpdate(torch.optim.SGD(model.parameters(), lr=1.0), record)
    before = model.weight.detach().clone()

    def fill() -> dict[str, Tensor]:
        assert model.weight.grad is None, "cleared before"
        model.weight.grad = torch.ones_like(model.weight)
        return {"loss": torch.tensor(0.5), "v": torch.tensor(2.0)}

    update("image", fill)
    torch.testing.assert_close(model.weight.detach(), before - 1)
    assert record.rows == [("image", {"loss": 0.5, "v": 2.0})]


def test_reduce_unscale_repair_clip_and_step_come_in_this_order(model: nn.Linear) -> None:
    order: list[str] = []

    class Watched(torch.optim.SGD):
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            order.append(f"step {grad().norm().item():.3f}")

    def grad() -> Tensor:
        assert model.weight.grad is not None
        return model.weight.grad

    def reduce(gradients: Sequence[Tensor]) -> None:
        assert len(gradients) == 2
        order.append("reduce")
        for gradient in gradients:
            gradient.fill_(8.0)

    def unscale(optimizer: torch.optim.Optimizer) -> None:
        order.append(f"unscale {grad()[0, 0].item()}")
        for p in model.parameters():
            assert p.grad is not None
            p.grad /= 4

    def repair() -> dict[str, Tensor]:
        order.append(f"repair {grad()[0, 0].item()}")
        grad().mul_(3)
        return {"cosine": torch.tensor(-0.25)}

    record = Record()
    update = OptimizerUpdate(
        Watched(model.parameters(), lr=1.0), record, reduce=reduce, unscale=unscale, clip_norm=1.0
    )
    update("image", loss_of(model), repair=repair)
    norm = (3 * 6.0**2 + 2.0**2) ** 0.5
    assert order == ["reduce", "unscale 8.0", "repair 2.0", f"step {(108**0.5) / norm:.3f}"]
    [(_, found)] = record.rows
    assert found["cosine"] == -0.25
    assert found["grad_norm"] == pytest.approx(norm)


def test_only_the_update_steps_an_optimizer() -> None:
    root = Path(gaal_fast.__file__).parent
    calls = [
        (str(file.relative_to(root)), ast.unparse(node.func))
        for file in sorted(root.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    found = [file for file, called in calls if re.search(r"optimi[sz]er\.step$", called)]
    assert found == ["engine/update.py"]
