"""Algorithm 1 to the letter: who moves, what it costs, and that the head goes where the equations
say.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gaal_fast.methods import AlternatingLearning, JointLearning
from gaal_fast.methods.alternating import SurgeryOptions
from gaal_fast.models import ConcatModel, SharedHeadModel, TableEncoder
from tests.reference.released import ReleasedStep

CLASSES, WIDTH, ROWS = 7, 12, 20
SIZES = {"image": 9, "table": 5, "sound": 4}
PROJECTION = {
    "rule": "paper",
    "epsilon": 0.0,
    "relative": False,
    "margin": 0.75,
    "ridge": 1e-3,
    "max_correction": None,
}


@dataclass
class Rows:
    target: Tensor
    inputs: dict[str, Tensor]
    rows: dict[str, Tensor]


def make_batch(
    seed: int,
    names: tuple[str, ...] = ("image", "table"),
    size: int = ROWS,
    dtype: torch.dtype = torch.float64,
) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(CLASSES, (size,), generator=generator)
    inputs = {
        n: torch.randn(size, SIZES[n], generator=generator).to(dtype) + target[:, None] / 3
        for n in names
    }
    return Rows(target, inputs, {n: torch.arange(size) for n in names})


def make_model(
    names: tuple[str, ...] = ("image", "table"), dtype: torch.dtype = torch.float64
) -> SharedHeadModel:
    torch.manual_seed(1)
    return SharedHeadModel({n: TableEncoder(SIZES[n], WIDTH) for n in names}, WIDTH, CLASSES).to(
        dtype
    )


def make_method(
    model: SharedHeadModel | None = None, *, order: tuple[str, ...] = ("image", "table"), fractions: dict[str, float] | None = None,
    guide: str = "fresh", **projection: Any,
) -> AlternatingLearning:  # fmt: skip
    model = model or make_model(order)
    fractions = dict.fromkeys(order, 0.5) if fractions is None else fractions
    return AlternatingLearning(
        model, order=order, surgery=SurgeryOptions(fractions, PROJECTION | projection, guide)
    )


class Recorder:
    """Logs every forward pass of the encoders: which one, its output, and whether a gradient was
    recorded.
    """

    def __init__(self, model: SharedHeadModel) -> None:
        self.passes: list[tuple[str, np.ndarray, bool]] = []
        self.backwards: Counter[str] = Counter()
        for name, encoder in model.encoders.items():
            encoder.register_forward_hook(lambda _m, _i, out, name=name: self._forward(name, out))

    def _forward(self, name: str, output: Tensor) -> None:
        self.passes.append((name, output.detach().numpy().copy(), output.requires_grad))
        if output.requires_grad:
            output.register_hook(lambda _g, name=name: self.backwards.update([name]))


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
    method = make_method(
        fractions={"image": 0.35, "table": 0.6}, guide=guide, rule=rule, epsilon=epsilon
    )
    model, record = method.model, Recorder(method.model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-4)
    truth = HeadInNumpy(model.head, lr=1e-2, decay=1e-4)
    lambdas, last, projected = {"image": 0.35, "table": 0.6}, {}, 0
    for step in range(50):
        batch = make_batch(step)
        target = batch.target.numpy()
        record.passes.clear()
        reports = method.training_step(batch, optimizer)
        passes = list(record.passes)
        for active, other, report in zip(
            ("image", "table"), ("table", "image"), reports, strict=True
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
            np.testing.assert_allclose(report.v.item(), v, rtol=1e-8, atol=1e-12)
            projected += v > 0
            last[active] = features, target
        assert not passes
        found = torch.cat([model.head.weight, model.head.bias[:, None]], dim=1).detach().numpy()
        np.testing.assert_allclose(found, truth.theta, rtol=1e-7, atol=1e-9)
    assert 5 < projected < 100, "the trajectory must see both repaired and untouched gradients"


def test_a_batch_costs_four_forward_and_two_backward_passes_and_two_forward_with_a_cached_guide() -> (
    None
):
    for guide, forwards in (("fresh", 4), ("cached", 2)):
        method = make_method(guide=guide)
        record = Recorder(method.model)
        optimizer = torch.optim.Adam(method.model.parameters())
        method.training_step(make_batch(0), optimizer)
        before = {
            n: e.layers[1].num_batches_tracked.item() for n, e in method.model.encoders.items()
        }
        record.passes.clear()
        record.backwards.clear()
        method.training_step(make_batch(1), optimizer)
        assert len(record.passes) == forwards
        assert record.backwards == {"image": 1, "table": 1}
        for name, encoder in method.model.encoders.items():
            own = sum(n == name for n, _, _ in record.passes)
            assert encoder.layers[1].num_batches_tracked.item() == before[name] + own, (
                "statistics move once a forward pass"
            )


def test_only_the_active_encoder_and_the_head_move() -> None:
    method = make_method()
    model = method.model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-2)
    method.training_step(
        make_batch(0), optimizer
    )  # gives every parameter a momentum that could make it drift

    def snapshot(module: nn.Module) -> list[Tensor]:
        state = [t for p in module.parameters() for t in optimizer.state[p].values()]
        return [t.clone() for t in (*module.parameters(), *state)]

    original = optimizer.step
    turns: list[str] = []

    def watched(*args: Any, **kwargs: Any) -> None:
        before = {n: snapshot(e) for n, e in model.encoders.items()} | {
            "head": snapshot(model.head)
        }
        original(*args, **kwargs)
        after = {n: snapshot(e) for n, e in model.encoders.items()} | {"head": snapshot(model.head)}
        moved = {
            n
            for n in before
            if any(not torch.equal(a, b) for a, b in zip(before[n], after[n], strict=True))
        }
        active = next(iter(moved - {"head"}))
        assert moved == {active, "head"}
        inactive = next(n for n in model.encoders if n != active)
        assert all(p.grad is None for p in model.encoders[inactive].parameters())
        turns.append(active)

    optimizer.step = watched
    method.training_step(make_batch(1), optimizer)
    assert turns == ["image", "table"]


def test_order_of_the_turns_is_the_one_asked_for() -> None:
    method = make_method(make_model(), order=("table", "image"))
    reports = method.training_step(make_batch(0), torch.optim.Adam(method.model.parameters()))
    assert [r.modality for r in reports] == ["table", "image"]


def test_three_modalities_are_each_guided_by_the_one_before() -> None:
    names = ("image", "table", "sound")
    method = make_method(order=names)
    record = Recorder(method.model)
    reports = method.training_step(
        make_batch(0, names), torch.optim.Adam(method.model.parameters())
    )
    assert [r.modality for r in reports] == list(names)
    assert [(n, g) for n, _, g in record.passes] == [
        ("image", True), ("sound", False), ("table", True), ("image", False), ("sound", True), ("table", False),
    ]  # fmt: skip
    assert record.backwards == {"image": 1, "table": 1, "sound": 1}


def test_switches_of_table_ii() -> None:
    def head_after(surgery: SurgeryOptions | None) -> Tensor:
        method = AlternatingLearning(make_model(), order=("image", "table"), surgery=surgery)
        method.training_step(make_batch(0), torch.optim.SGD(method.model.parameters(), lr=1.0))
        return method.model.head.weight.detach()

    margin = PROJECTION | {"epsilon": 0.2}  # large enough to act on every step
    off, whole, hard = head_after(None), head_after(SurgeryOptions(None, margin)), head_after(
        SurgeryOptions({"image": 0.2, "table": 0.2}, margin)
    )  # fmt: skip
    assert not torch.allclose(off, whole)
    assert not torch.allclose(whole, hard)
    everything = head_after(SurgeryOptions({"image": 1.0, "table": 1.0}, margin))
    torch.testing.assert_close(whole, everything)
    # Without surgery a turn is ordinary training: compare with autograd on a copy.
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    batch = make_batch(0)
    for name in ("image", "table"):
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(
            model.head(model.encoders[name](batch.inputs[name])), batch.target
        ).backward()
        optimizer.step()
    torch.testing.assert_close(off, model.head.weight.detach())


@pytest.mark.parametrize(
    ("fraction", "rows", "k"),
    [(0.5, 20, 10), (0.01, 20, 1), (0.7, 10, 7), (1.0, 3, 3), (0.34, 3, 1)],
)
def test_lambda_is_a_fraction_of_the_rows_and_selects_at_least_one(
    fraction: float, rows: int, k: int
) -> None:
    method = make_method(fractions={"image": fraction, "table": fraction})
    assert method._guiding_rows("image", rows) == k


def test_rows_without_a_modality_sit_out_its_turn_and_guide_nobody() -> None:
    batch = make_batch(3)
    have = torch.tensor([0, 2, 3, 5, 8, 9, 11])
    batch.rows["image"], batch.inputs["image"] = have, batch.inputs["image"][have]
    method = make_method()
    record = Recorder(method.model)
    method.training_step(batch, torch.optim.Adam(method.model.parameters()))
    assert [len(features) for _, features, _ in record.passes] == [7, ROWS, ROWS, 7]

    batch.rows["image"], batch.inputs["image"] = have[:1], batch.inputs["image"][:1]
    reports = method.training_step(batch, torch.optim.Adam(method.model.parameters()))
    assert [(r.modality, r.v) for r in reports] == [("table", None)], (
        "one image gives no turn and no guide"
    )


def test_class_weights_reach_loss_and_guide() -> None:
    weights = torch.rand(CLASSES, dtype=torch.float64) + 0.1
    batch = make_batch(4)
    method = make_method()
    method.class_weights = weights
    expected_model = make_model()
    logits = expected_model.head(expected_model.encoders["image"](batch.inputs["image"]))
    expected = nn.functional.cross_entropy(logits, batch.target, weight=weights)
    report = method.training_step(batch, torch.optim.SGD(method.model.parameters(), lr=0.1))[0]
    torch.testing.assert_close(report.loss, expected.detach(), check_dtype=False)


def test_one_released_step_ends_in_the_same_parameters() -> None:
    """Rule official against the authors' step, apart from its drift of the inactive encoder."""
    ours, theirs = make_model(), make_model()
    projected = 0
    optimizer = torch.optim.Adam(ours.parameters(), lr=1e-3, weight_decay=1e-4)
    other = torch.optim.Adam(theirs.parameters(), lr=1e-3, weight_decay=1e-4)
    method = make_method(ours, rule="official")
    released = ReleasedStep(
        theirs.encoders["image"], theirs.encoders["table"], theirs.head, other, isolate=True
    )
    for step in range(30):
        batch = make_batch(step)
        reports = method.training_step(batch, optimizer)
        losses = released(batch.inputs["image"], batch.inputs["table"], batch.target)
        projected += sum(r.v.item() > 0 for r in reports)
        for report, loss in zip(reports, losses, strict=True):
            torch.testing.assert_close(report.loss, loss, rtol=1e-9, atol=1e-12)
        for (name, a), b in zip(
            ours.state_dict().items(), theirs.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(
                a, b, rtol=1e-7, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}"
            )
    assert projected


def test_joint_learning_is_one_step_on_the_concatenation() -> None:
    def make() -> ConcatModel:
        torch.manual_seed(2)
        encoders = {n: TableEncoder(SIZES[n], WIDTH) for n in ("image", "table")}
        return ConcatModel(encoders, {"image": WIDTH, "table": WIDTH}, CLASSES).double()

    batch, ours, plain = make_batch(5), make(), make()
    report = JointLearning(ours).training_step(batch, torch.optim.SGD(ours.parameters(), lr=0.5))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.5)
    joined = torch.cat([plain.encoders[n](batch.inputs[n]) for n in ("image", "table")], dim=1)
    loss = nn.functional.cross_entropy(plain.head(joined), batch.target)
    loss.backward()
    optimizer.step()
    torch.testing.assert_close(report[0].loss, loss.detach())
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_fused_logits_use_what_a_row_has() -> None:
    model = make_model().eval()
    image, table = torch.randn(2, SIZES["image"]).double(), torch.randn(3, SIZES["table"]).double()
    rows = {"image": torch.tensor([0, 2]), "table": torch.tensor([1, 2, 4])}
    logits = model.predict_logits({"image": image, "table": table}, rows, 5)
    torch.testing.assert_close(logits["fused"][0], logits["image"][0])
    torch.testing.assert_close(logits["fused"][1], logits["table"][0])
    torch.testing.assert_close(logits["fused"][2], (logits["image"][1] + logits["table"][1]) / 2)
    assert logits["fused"][3].eq(0).all()
