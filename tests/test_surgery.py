"""Gradient surgery for foreign trainers."""

from __future__ import annotations

import doctest
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gaal_fast import ops, surgery
from gaal_fast.surgery import GradientSurgery, align_
from tests.reference import oracle


def test_the_examples_in_the_docstrings_run() -> None:
    results = doctest.testmod(surgery)
    assert results.attempted >= 10 and results.failed == 0


def shared_mlp(seed: int = 0) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 5),
        torch.nn.LayerNorm(5),
        torch.nn.ReLU(),
        torch.nn.Linear(5, 4, bias=False),
    )


def loss_of(model: torch.nn.Module, modality: str) -> Tensor:
    generator = torch.Generator().manual_seed(seed_of(modality))
    x = torch.randn(16, 6, generator=generator)
    return F.cross_entropy(model(x), torch.randint(0, 4, (16,), generator=generator))


def seed_of(name: str) -> int:
    return sum(map(ord, name))


def gradient(model: torch.nn.Module, modality: str) -> list[Tensor]:
    return list(torch.autograd.grad(loss_of(model, modality), list(model.parameters())))


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def set_grads(model: torch.nn.Module, values: list[Tensor]) -> None:
    for parameter, value in zip(model.parameters(), values, strict=True):
        parameter.grad = value.clone()


def conflicting(model: torch.nn.Module, guides: int = 1) -> tuple[list[Tensor], list[list[Tensor]]]:
    """A gradient and guides at obtuse angles to it, guides at an obtuse angle to each other too."""
    generator = torch.Generator().manual_seed(1)
    g = [torch.randn(p.shape, generator=generator) for p in model.parameters()]
    others = [
        [0.7 * torch.randn(x.shape, generator=generator) - 0.5 * x * (-1) ** (i // 2) for x in g]
        for i in range(guides)
    ]
    return g, others


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"epsilon": 0.3, "relative": True},
        {"rule": "official"},
        {"epsilon": 5.0, "max_correction": 0.2},
    ],
    ids=str,
)
def test_two_modalities_on_a_shared_mlp(options: dict) -> None:
    """The repaired gradient is that of ops.project_ on all parameters as one vector, and of the
    oracle.
    """
    model = shared_mlp()
    ours = GradientSurgery(model, **options)
    table = gradient(model, "table")
    image = [a - 0.8 * b for a, b in zip(gradient(model, "image"), table, strict=True)]
    ours.capture("table", table)
    set_grads(model, image)
    report = ours.repair("image")

    expected = [grad.clone() for grad in image]
    projection = ops.project_(expected, table, **options)
    assert list(report) == ["table"] and projection.v > 0.0
    assert all(torch.equal(a, b) for a, b in zip(report["table"], projection, strict=True))
    assert all(
        torch.equal(parameter.grad, want)
        for parameter, want in zip(model.parameters(), expected, strict=True)
    )
    truth = oracle.project(
        [g.double().numpy() for g in image],
        [g.double().numpy() for g in table],
        oracle.Rule(**options),
    )
    for parameter, want in zip(model.parameters(), truth.grads, strict=True):
        np.testing.assert_allclose(parameter.grad.numpy(), want, rtol=1e-4, atol=1e-6)


def test_training_in_turn() -> None:
    """The loop of the docstring against the same loop written out by hand."""
    ours, by_hand = shared_mlp(), shared_mlp()
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.01) for model in (ours, by_hand)]
    tool = GradientSurgery(ours, epsilon=0.2, relative=True)
    last: dict[str, list[Tensor]] = {}
    acted = 0
    for step in range(20):
        modality, other = ("image", "table") if step % 2 == 0 else ("table", "image")
        optimizers[0].zero_grad()
        loss_of(ours, modality).backward()
        tool.capture(modality)
        report = tool.repair(modality)
        optimizers[0].step()
        acted += sum(projection.v.item() > 0.0 for projection in report.values())

        g = gradient(by_hand, modality)
        last[modality] = [x.clone() for x in g]
        if other in last:
            a, b = flat(g).double(), flat(last[other]).double()
            v = max(0.0, ((0.2 * a.norm() * b.norm() - a @ b) / (b @ b)).item())
            g = [x + v * y for x, y in zip(g, last[other], strict=True)]
        set_grads(by_hand, g)
        optimizers[1].step()
    assert 0 < acted < 20
    for a, b in zip(ours.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_only_a_conflict_changes_anything() -> None:
    model = shared_mlp()
    tool = GradientSurgery(model)
    g, _ = conflicting(model)
    tool.capture("table", [2.0 * x for x in g])
    set_grads(model, g)
    assert tool.repair("image")["table"].v.item() == 0.0
    assert all(torch.equal(p.grad, x) for p, x in zip(model.parameters(), g, strict=True))
    tool.capture("table", [-x for x in g])
    assert tool.repair("image")["table"].v.item() == pytest.approx(1.0)
    assert all(p.grad.abs().max() < 1e-6 for p in model.parameters())


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_three_modalities_are_projected_in_the_given_order(order: tuple[str, str]) -> None:
    model = shared_mlp()
    g, (a, b) = conflicting(model, guides=2)
    guides = {"a": a, "b": b}
    tool = GradientSurgery(model)
    for name, guide in guides.items():
        tool.capture(name, guide)
    tool.capture("image", g)
    set_grads(model, g)
    report = tool.repair("image", against=order)
    expected = [x.clone() for x in g]
    for name in order:
        projection = ops.project_(expected, guides[name])
        assert all(torch.equal(x, y) for x, y in zip(report[name], projection, strict=True))
    assert list(report) == list(order)
    repaired = [p.grad for p in model.parameters()]
    assert all(torch.equal(x, y) for x, y in zip(repaired, expected, strict=True))
    # The last constraint always holds.
    assert flat(repaired) @ flat(guides[order[1]]) >= -1e-4

    set_grads(model, g)
    assert list(tool.repair("image")) == ["a", "b"], "by default in the order of capture"


def test_all_constraints_hold_if_the_guides_do_not_conflict() -> None:
    for seed in range(5):
        model = shared_mlp()
        generator = torch.Generator().manual_seed(seed)
        base = [torch.randn(p.shape, generator=generator) for p in model.parameters()]
        guides = {
            n: [x + 0.8 * torch.randn(x.shape, generator=generator) for x in base]
            for n in ("a", "b", "c")
        }
        assert all(flat(p) @ flat(q) >= 0.0 for p in guides.values() for q in guides.values())
        tool = GradientSurgery(model)
        for name, guide in guides.items():
            tool.capture(name, guide)
        set_grads(model, [torch.randn(x.shape, generator=generator) - x for x in base])
        report = tool.repair("image")
        assert report["a"].v > 0.0
        repaired = flat([p.grad for p in model.parameters()])
        assert all(repaired @ flat(guide) >= -1e-3 for guide in guides.values())


def test_the_first_step_has_no_guide() -> None:
    model = shared_mlp()
    tool = GradientSurgery(model)
    g, _ = conflicting(model)
    set_grads(model, g)
    assert tool.repair("image") == {}
    tool.capture("image")
    assert tool.repair("image") == {} and tool.captured == ("image",)
    assert all(torch.equal(p.grad, x) for p, x in zip(model.parameters(), g, strict=True))


def test_a_guide_is_a_copy() -> None:
    """zero_grad(set_to_none=False) and the next backward write to the same memory."""
    model = shared_mlp()
    tool = GradientSurgery(model)
    g, (guide,) = conflicting(model)
    for _ in range(2):  # the second time the copy goes into memory that is there already
        set_grads(model, guide)
        tool.capture("table")
        for parameter in model.parameters():
            parameter.grad.zero_()
    set_grads(model, g)
    report = tool.repair("image")
    assert report["table"].guide_norm2.item() == pytest.approx(
        (flat(guide) @ flat(guide)).item(), rel=1e-5
    )


def test_missing_gradients() -> None:
    """No current gradient: left out and still None. No guide: zero there."""
    model = shared_mlp()
    tool = GradientSurgery(model, epsilon=0.5, relative=True)
    g, (guide,) = conflicting(model)
    tool.capture("table", [guide[0], None, guide[2], *guide[3:]])
    set_grads(model, g)
    parameters = list(model.parameters())
    parameters[0].grad = None
    projection = tool.repair("image")["table"]
    assert parameters[0].grad is None
    zero = torch.zeros_like(g[1])
    expected = [x.clone() for x in g[1:]]
    want = ops.project_(expected, [zero, *guide[2:]], epsilon=0.5, relative=True)
    assert all(torch.equal(a, b) for a, b in zip(projection, want, strict=True))
    assert all(torch.equal(p.grad, x) for p, x in zip(parameters[1:], expected, strict=True))
    assert torch.equal(parameters[1].grad, g[1])

    # A parameter that this step does not move does not move: momentum alone would move it if its
    # gradient were 0.
    before = parameters[0].detach().clone()
    torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1).step()
    assert torch.equal(parameters[0], before)


def test_left_out_parameters_give_the_nearest_gradient_among_those_that_move() -> None:
    g, guide = [torch.tensor([1.0, -1.0]), None], [torch.tensor([0.0, 2.0]), torch.tensor([5.0])]
    projection = align_(g, guide, epsilon=1.0)
    assert projection.v.item() == 0.75 and g[0].tolist() == [1.0, 0.5] and g[1] is None


@pytest.mark.parametrize("scale", [2.0**16, 2.0**-3])
@pytest.mark.parametrize(
    "options", [{"epsilon": 0.5}, {"rule": "official"}, {"epsilon": 0.3, "relative": True}], ids=str
)
def test_grad_scaler(scale: float, options: dict) -> None:
    """A scaled run ends where the unscaled one does, also when the scale changes between capture
    and repair.
    """
    results = []
    for use_scaler in (False, True):
        model = shared_mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        scaler = torch.amp.GradScaler(
            "cpu", init_scale=scale, growth_interval=1, enabled=use_scaler
        )
        tool = GradientSurgery(model, **options)
        values = []
        for modality in ("table", "image", "table", "image"):
            optimizer.zero_grad()
            scaler.scale(
                -loss_of(model, modality) if modality == "table" else loss_of(model, modality)
            ).backward()
            tool.capture(modality, scaler=scaler)
            report = tool.repair(modality, scaler=scaler)
            values += [value.item() for projection in report.values() for value in projection]
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            scaler.step(optimizer)
            scaler.update()
        results.append((values, [p.detach().clone() for p in model.parameters()]))
        assert not use_scaler or scaler.get_scale() == scale * 2.0**4
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-4, abs=1e-6)
    assert any(v > 0.0 for v in results[0][0][::4])
    for a, b in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("overflow", ["guide", "current"])
def test_an_overflow_skips_the_step(overflow: str) -> None:
    model = shared_mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    tool = GradientSurgery(model)
    g, (guide,) = conflicting(model)
    (guide if overflow == "guide" else g)[0][0, 0] = math.inf
    scaler.scale(torch.ones(()))  # the scaler learns its device, as in the first scale(loss)
    tool.capture("table", guide, scaler=scaler)
    set_grads(model, g)
    tool.repair("image", scaler=scaler)
    before = [p.detach().clone() for p in model.parameters()]
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 4.0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    tool.forget("table")
    assert tool.captured == ()


def test_gradient_accumulation() -> None:
    """Parts collected one by one make the same guide as a gradient that added up by itself."""
    model = shared_mlp()
    parts = [[x / 3 for x in gradient(model, name)] for name in ("a", "b", "c")]
    parts[1][0] = None
    whole = [sum(part[i] for part in parts if part[i] is not None) for i in range(len(parts[0]))]
    g = [-x for x in whole]
    reports = []
    for accumulate in (False, True):
        tool = GradientSurgery(model)
        if accumulate:
            tool.capture("table", g)  # something stale
            tool.forget("table")
            for part in parts:
                tool.capture("table", part, accumulate=True)
        else:
            tool.capture("table", whole)
        set_grads(model, g)
        reports.append(tool.repair("image")["table"])
    torch.testing.assert_close(tuple(reports[0]), tuple(reports[1]), rtol=1e-5, atol=1e-6)
    assert reports[0].v.item() == pytest.approx(1.0, rel=1e-5)


def test_half_precision_and_mixed_modules() -> None:
    model = shared_mlp().to(torch.bfloat16)
    model[1].float()
    tool = GradientSurgery(model)
    g, (guide,) = conflicting(model)
    dtypes = [p.dtype for p in model.parameters()]
    assert len(set(dtypes)) == 2
    tool.capture("table", [x.to(dtype) for x, dtype in zip(guide, dtypes, strict=True)])
    for parameter, x in zip(model.parameters(), g, strict=True):
        parameter.grad = x.to(parameter.dtype)
    before = flat([p.grad.float() for p in model.parameters()])
    projection = tool.repair("image")["table"]
    after = flat([p.grad.float() for p in model.parameters()])
    guide_vector = flat([x.to(d).float() for x, d in zip(guide, dtypes, strict=True)])
    assert before @ guide_vector < 0.0 < projection.v
    assert abs((after @ guide_vector).item()) < 0.05 * abs((before @ guide_vector).item())


def test_align_takes_single_tensors_and_tensors_in_a_graph() -> None:
    g, guide = torch.tensor([1.0, -1.0]), torch.tensor([0.0, 1.0])
    assert align_(g, guide).v.item() == 1.0 and g.tolist() == [1.0, 0.0]
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    first = torch.autograd.grad((x**2).sum(), x, create_graph=True)
    result = align_(first, [torch.tensor([-1.0, 0.0], requires_grad=True)])
    assert first[0].tolist() == [0.0, 4.0] and not result.v.requires_grad


def test_parameters_and_repr() -> None:
    model = shared_mlp()
    model[1].requires_grad_(False)
    tool = GradientSurgery(model)
    assert [p.shape for p in tool.parameters] == [(5, 6), (5,), (4, 5)]
    again = GradientSurgery([*model.parameters(), *model.parameters()], rule="official")
    assert len(again.parameters) == 3
    assert repr(again).startswith(
        "GradientSurgery(3 parameters, rule='official', epsilon=0.0"
    ) and "captured=()" in repr(again)


def sparse_embedding() -> GradientSurgery:
    embedding = torch.nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    return GradientSurgery(embedding)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda t: GradientSurgery([]),
            ValueError,
            "shared has no parameter that requires a gradient",
        ),
        (lambda t: GradientSurgery(torch.nn.ReLU()), ValueError, "shared has no parameter"),
        (
            lambda t: GradientSurgery([3.0]),
            TypeError,
            r"shared must be a module or tensors, \[0\] is a float",
        ),
        (lambda t: GradientSurgery(torch.nn.Linear(1, 1), rule="gem"), ValueError, "rule must be"),
        (
            lambda t: t.capture("a"),
            ValueError,
            r"\.grad: no shared parameter has a gradient; call backward\(\) before",
        ),
        (lambda t: t.repair("a"), ValueError, r"\.grad: no shared parameter has a gradient"),
        (
            lambda t: t.capture("a", [None] * 5),
            ValueError,
            "grads: no shared parameter has a gradient",
        ),
        (
            lambda t: t.capture("a", [torch.ones(1)]),
            ValueError,
            "grads must hold one gradient per shared parameter: got 1 for 5",
        ),
        (
            lambda t: t.capture("a", [torch.ones(1)] * 5),
            ValueError,
            r"grads of parameter 0\.weight must have shape \(5, 6\), got \(1,\)",
        ),
        (
            lambda t: t.capture("a", [1.0] * 5),
            TypeError,
            r"grads of parameter 0\.weight must be a tensor or None, got float",
        ),
        (
            lambda t: sparse_embedding().capture("a"),
            TypeError,
            r"\.grad of parameter weight is sparse",
        ),
        (lambda t: t.forget("a"), ValueError, "modality: no gradient of 'a' was captured"),
        (
            lambda t: align_([None], [torch.ones(1)]),
            ValueError,
            "grads must hold at least one gradient: all are None",
        ),
        (
            lambda t: align_([torch.ones(1)], []),
            ValueError,
            "guides must hold as many gradients as grads: got 0 and 1",
        ),
        (
            lambda t: align_([torch.ones(2)], [torch.ones(3)]),
            ValueError,
            r"guides\[0\] must have the shape of grads\[0\]",
        ),
        (
            lambda t: align_([torch.ones(2)], [torch.ones(2).to_sparse()]),
            TypeError,
            r"guides\[0\] is sparse",
        ),
        (lambda t: align_([1.0], [torch.ones(1)]), TypeError, r"grads\[0\] must be a tensor"),
        (
            lambda t: align_(torch.ones(1), torch.ones(1), epsilon=math.nan),
            ValueError,
            "epsilon must be finite",
        ),
    ],
)
def test_bad_arguments(
    call: Callable[[GradientSurgery], object], error: type[Exception], message: str
) -> None:
    tool = GradientSurgery(shared_mlp())
    with pytest.raises(error, match=f"^{message}"):
        call(tool)


def test_an_unknown_guide_is_named_and_changes_nothing() -> None:
    model = shared_mlp()
    tool = GradientSurgery(model)
    g, (guide,) = conflicting(model)
    tool.capture("table", guide)
    set_grads(model, g)
    with pytest.raises(
        ValueError, match=r"^against: no gradient of 'tabel' was captured \(captured: 'table'\)$"
    ):
        tool.repair("image", against=["table", "tabel"])
    with pytest.raises(
        ValueError, match=r"^against: 'table' is the modality that is being repaired"
    ):
        tool.repair("table", against="table")
    assert all(torch.equal(p.grad, x) for p, x in zip(model.parameters(), g, strict=True))
