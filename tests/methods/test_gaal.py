"""Algorithm 1 to the letter: who moves, what it costs, and that the head goes where the equations
say.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gaal_fast.errors import UserError
from gaal_fast.methods import Gaal
from tests.methods.helpers import (
    CLASSES,
    ROWS,
    Passes,
    Steps,
    build,
    classification,
    encoders,
    make_batch,
    with_rows,
)
from tests.reference.released import ReleasedStep

# The options of these tests but for those that they name: equation (3) as it stands.
PLAIN = {"epsilon": 0.0, "relative": False}


def make_method(names: tuple[str, ...] = ("image", "table"), **options: Any) -> Gaal:
    method = build("gaal", names, **{**PLAIN, **options})
    assert isinstance(method, Gaal)
    return method


def adam(method: Gaal, **options: float) -> Steps:
    return Steps(torch.optim.Adam(method.parameters(), **options))


class HeadInNumpy:
    """The shared classifier's part of Algorithm 1 in float64 NumPy: equations (2) to (8) and Adam
    with L2 decay.
    """

    def __init__(self, head: nn.Linear, *, lr: float, decay: float) -> None:
        self.theta = np.concatenate(
            [head.weight.detach().numpy(), head.bias.detach().numpy()[:, None]], axis=1
        ).astype(np.float64)
        self.lr, self.decay, self.steps = lr, decay, 0
        self.first, self.second = np.zeros_like(self.theta), np.zeros_like(self.theta)

    def gradient(self, features: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        extended = np.concatenate([features, np.ones((len(features), 1))], axis=1).astype(
            np.float64
        )
        logits = extended @ self.theta.T
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        entropy = -(p * np.log(p)).sum(1)
        return (p - np.eye(CLASSES)[target]).T @ extended / len(target), entropy

    def update(
        self,
        active: np.ndarray,
        guide: np.ndarray,
        target: np.ndarray,
        guide_target: np.ndarray,
        k: int,
        rule: str,
        epsilon: float,
    ) -> float:
        g, _ = self.gradient(active, target)
        _, entropy = self.gradient(guide, guide_target)
        hard = np.argsort(-entropy, kind="stable")[:k]
        g_p, _ = self.gradient(guide[hard], guide_target[hard])
        dot, norm2 = (g * g_p).sum(), (g_p * g_p).sum()
        if rule == "paper":
            v = max(0.0, (epsilon - dot) / norm2)
        else:
            v = max(0.75, -dot / (norm2 + 1e-3)) if dot < 0 else 0.0
        g = g + v * g_p + self.decay * self.theta
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * g
        self.second = 0.999 * self.second + 0.001 * g * g
        denominator = np.sqrt(self.second / (1 - 0.999**self.steps)) + 1e-8
        self.theta = self.theta - self.lr / (1 - 0.9**self.steps) * self.first / denominator
        return v


@pytest.mark.parametrize("guide", ["fresh", "cached"])
@pytest.mark.parametrize(("rule", "epsilon"), [("paper", 0.0), ("paper", 0.05), ("official", 0.0)])
def test_head_follows_the_equations_for_fifty_steps(rule: str, epsilon: float, guide: str) -> None:
    lambdas = {"image": 0.35, "table": 0.6}
    method = make_method(
        lambda_image=0.35, lambda_table=0.6, guide=guide, rule=rule, epsilon=epsilon
    )
    record = Passes(method)
    update = adam(method, lr=1e-2, weight_decay=1e-4)
    truth = HeadInNumpy(method.head, lr=1e-2, decay=1e-4)
    last: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    projected = 0
    for step in range(50):
        batch = make_batch(step)
        target = batch.target.numpy()
        record.forwards.clear()
        update.clear()
        method.step(batch, update)
        passes = list(record.forwards)
        for active, other, report in zip(
            ("image", "table"), ("table", "image"), update.found, strict=True
        ):
            name, features, with_gradient = passes.pop(0)
            assert (name, with_gradient) == (active, True)
            if guide == "cached" and other in last:
                guide_features, guide_target = last[other]
            else:
                name, guide_features, with_gradient = passes.pop(0)
                guide_target = target
                assert (name, with_gradient) == (other, False)
            k = max(1, int(np.floor(lambdas[other] * ROWS)))
            v = truth.update(features, guide_features, target, guide_target, k, rule, epsilon)
            np.testing.assert_allclose(report["v"].item(), v, rtol=1e-8, atol=1e-12)
            projected += v > 0
            last[active] = features, target
        assert not passes
        found = torch.cat([method.head.weight, method.head.bias[:, None]], dim=1).detach().numpy()
        np.testing.assert_allclose(found, truth.theta, rtol=1e-7, atol=1e-9)
    assert 5 < projected < 100, "the trajectory must see both repaired and untouched gradients"


@pytest.mark.parametrize(("guide", "forwards"), [("fresh", 4), ("cached", 2)])
def test_a_batch_costs_four_forward_and_two_backward_passes_and_two_forward_with_a_cached_guide(
    guide: str, forwards: int
) -> None:
    method = make_method(guide=guide)
    record, update = Passes(method), adam(method)
    method.step(make_batch(0), update)
    before = {n: e.layers[1].num_batches_tracked.item() for n, e in encoders(method).items()}
    record.forwards.clear()
    record.backwards.clear()
    method.step(make_batch(1), update)
    assert len(record.forwards) == forwards
    assert record.backwards == {"image": 1, "table": 1}
    for name, encoder in encoders(method).items():
        own = sum(n == name for n, _, _ in record.forwards)
        assert encoder.layers[1].num_batches_tracked.item() == before[name] + own, (
            "statistics move once a forward pass"
        )


def test_only_the_active_encoder_and_the_head_move() -> None:
    method = make_method()
    update = adam(method, lr=1e-2, weight_decay=1e-2)
    optimizer = update.optimizer
    # Gives every parameter a momentum that could make it drift.
    method.step(make_batch(0), update)
    parts: dict[str, nn.Module] = {**encoders(method), "head": method.head}

    def snapshot(module: nn.Module) -> list[Tensor]:
        state = [t for p in module.parameters() for t in optimizer.state[p].values()]
        return [t.clone() for t in (*module.parameters(), *state)]

    original = optimizer.step
    turns: list[str] = []

    def watched(*args: Any, **kwargs: Any) -> None:
        before = {n: snapshot(part) for n, part in parts.items()}
        original(*args, **kwargs)
        after = {n: snapshot(part) for n, part in parts.items()}
        moved = {
            n
            for n in before
            if any(not torch.equal(a, b) for a, b in zip(before[n], after[n], strict=True))
        }
        active = next(iter(moved - {"head"}))
        assert moved == {active, "head"}
        inactive = next(n for n in encoders(method) if n != active)
        assert all(p.grad is None for p in parts[inactive].parameters())
        turns.append(active)

    optimizer.step = watched  # type: ignore[assignment]
    method.step(make_batch(1), update)
    assert turns == ["image", "table"]


def test_three_modalities_are_each_guided_by_the_one_before() -> None:
    names = ("image", "table", "sound")
    method = make_method(names)
    record, update = Passes(method), adam(method)
    method.step(make_batch(0, names), update)
    assert update.parts == list(names)
    assert [(n, g) for n, _, g in record.forwards] == [
        *(("image", True), ("sound", False)),
        *(("table", True), ("image", False)),
        *(("sound", True), ("table", False)),
    ]
    assert record.backwards == {"image": 1, "table": 1, "sound": 1}


def test_switches_of_table_ii() -> None:
    def head_after(**options: Any) -> Tensor:
        # A margin large enough to act on every step.
        method = make_method(epsilon=0.2, **options)
        method.step(make_batch(0), Steps(torch.optim.SGD(method.parameters(), lr=1.0)))
        return method.head.weight.detach()

    off, whole = head_after(surgery=False), head_after(selection=False)
    hard = head_after(lambda_image=0.2, lambda_table=0.2)
    assert not torch.allclose(off, whole)
    assert not torch.allclose(whole, hard)
    everything = head_after(lambda_image=1.0, lambda_table=1.0)
    torch.testing.assert_close(whole, everything)
    plain = build("alternating")
    plain.step(make_batch(0), Steps(torch.optim.SGD(plain.parameters(), lr=1.0)))
    assert torch.equal(off, plain.head.weight)


@pytest.mark.parametrize(
    ("fraction", "rows", "k"),
    [(0.5, 20, 10), (0.01, 20, 1), (0.7, 10, 7), (1.0, 3, 3), (0.34, 3, 1)],
)
def test_lambda_is_a_fraction_of_the_rows_and_selects_at_least_one(
    fraction: float, rows: int, k: int
) -> None:
    method = make_method(lambda_image=fraction, lambda_table=fraction)
    assert method.guiding_rows("image", rows) == k


def test_every_further_modality_has_a_lambda_of_its_own() -> None:
    names = ("image", "table", "sound")
    method = make_method(names, **{"lambda-sound": 0.1, "lambda-image": 0.3})
    assert method.fractions == {"image": 0.3, "table": 0.5, "sound": 0.1}
    with pytest.raises(UserError, match=r"^--method\.lambda-sond: there is no modality sond; did"):
        make_method(names, **{"lambda-sond": 0.1})


def test_rows_without_a_modality_sit_out_its_turn_and_guide_nobody() -> None:
    have = torch.tensor([0, 2, 3, 5, 8, 9, 11])
    batch = with_rows(make_batch(3), "image", have)
    method = make_method()
    record, update = Passes(method), adam(method)
    method.step(batch, update)
    assert [len(features) for _, features, _ in record.forwards] == [7, ROWS, ROWS, 7]

    update.clear()
    method.step(with_rows(make_batch(3), "image", have[:1]), update)
    assert update.parts == ["table"], "one image gives no turn and no guide"
    assert "v" not in update.found[0]


def test_class_weights_reach_loss_and_guide() -> None:
    weights = torch.rand(CLASSES, dtype=torch.float64) + 0.1
    batch = make_batch(4)
    method = make_method(task=classification(weights))
    same = make_method()
    logits = same.head(same.features("image", batch)[0])
    expected = nn.functional.cross_entropy(logits, batch.target, weight=weights)
    update = Steps(torch.optim.SGD(method.parameters(), lr=0.1))
    method.step(batch, update)
    torch.testing.assert_close(update.found[0]["loss"], expected.detach(), check_dtype=False)


def test_one_released_step_ends_in_the_same_parameters() -> None:
    """Rule official against the authors' step, apart from its drift of the inactive encoder."""
    ours, theirs = make_method(rule="official"), make_method()
    update = adam(ours, lr=1e-3, weight_decay=1e-4)
    other = torch.optim.Adam(theirs.parameters(), lr=1e-3, weight_decay=1e-4)
    released = ReleasedStep(
        theirs.encoders.of("image"), theirs.encoders.of("table"), theirs.head, other, isolate=True
    )
    projected = 0
    for step in range(30):
        batch = make_batch(step)
        update.clear()
        ours.step(batch, update)
        losses = released(batch.views["image"].values, batch.views["table"].values, batch.target)
        projected += sum(report["v"].item() > 0 for report in update.found)
        for report, loss in zip(update.found, losses, strict=True):
            torch.testing.assert_close(report["loss"], loss, rtol=1e-9, atol=1e-12)
        for (name, a), b in zip(
            ours.state_dict().items(), theirs.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(
                a, b, rtol=1e-7, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}"
            )
    assert projected


def test_cached_guides_are_part_of_the_one_state() -> None:
    def trained(steps: int) -> tuple[Gaal, Steps]:
        method = make_method(guide="cached")
        update = Steps(torch.optim.SGD(method.parameters(), lr=0.1))
        for seed in range(steps):
            method.step(make_batch(seed, size=ROWS - seed), update)
        return method, update

    method, _ = trained(2)
    kept = [name for name in method.state_dict() if name.startswith("last_turn.")]
    assert len(kept) == 4, "features and targets of two modalities"
    again, update = trained(1)
    again.load_state_dict(method.state_dict())
    method.step(make_batch(2), Steps(torch.optim.SGD(method.parameters(), lr=0.1)))
    again.step(make_batch(2), update)
    for name, value in method.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    fresh = make_method(guide="cached")
    fresh.load_state_dict(method.state_dict())
    assert "image" in fresh.last_turn and "sound" not in fresh.last_turn


def test_ranks_average_the_two_raw_gradients_before_they_are_compared() -> None:
    seen: list[list[Tensor]] = []

    def halve(gradients: Any) -> None:
        seen.append([g.clone() for g in gradients])
        for gradient in gradients:
            gradient.mul_(0.5)

    one, several = make_method(epsilon=0.2), make_method(epsilon=0.2)
    plain = Steps(torch.optim.SGD(one.parameters(), lr=0.1))
    reduced = Steps(torch.optim.SGD(several.parameters(), lr=0.1))
    reduced.reduce = halve
    one.step(make_batch(0), plain)
    several.step(make_batch(0), reduced)
    assert len(seen[0]) == 4, "weight and bias of the gradient and of its guide"
    # With both gradients halved the same margin asks for v = (0.2 - <g, g_p>/4) / (|g_p|^2/4).
    g, g_p = (torch.cat([t.flatten() for t in seen[0][i : i + 2]]) for i in (0, 2))
    expected = ((0.2 - g @ g_p / 4) / (g_p @ g_p / 4)).clamp(min=0)
    torch.testing.assert_close(reduced.found[0]["v"], expected, check_dtype=False)
    unhalved = ((0.2 - g @ g_p) / (g_p @ g_p)).clamp(min=0)
    torch.testing.assert_close(plain.found[0]["v"], unhalved, check_dtype=False, rtol=1e-6, atol=0)
