"""The Python half of backend ``native`` on the CPU: which way it goes, and that the ways agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from gaal_fast import ops
from gaal_fast.ops import _dispatch
from gaal_fast.ops.backends.native import cpu as native
from tests.native.conftest import ISAS, Kernels, wide
from tests.reference import oracle

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    native.availability(CPU) is not None, reason="the C++ kernels were not built"
)


@pytest.fixture(autouse=True)
def in_force() -> Iterator[None]:
    with ops.backend("native"):
        yield


def problem(
    rows: int, classes: int, width: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=generator) * scale).to(dtype)

    return {
        "features": normal(rows, width).relu(),
        "target": torch.randint(0, classes, (rows,), generator=generator),
        "guide_features": normal(rows + 3, width).relu(),
        "guide_target": torch.randint(0, classes, (rows + 3,), generator=generator),
        "weight": normal(classes, width, scale=width**-0.5),
        "bias": normal(classes, scale=0.1),
    }


def step(arguments: dict[str, Tensor], k: int, **options: object) -> list[Tensor | None]:
    loss, grad_features, grad_weight, grad_bias, projection, index = ops.guided_linear_ce(
        **arguments, top_k=k, **options
    )
    return [loss, grad_features, grad_weight, grad_bias, *projection, index]


@pytest.fixture(params=["direct", "sample space"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Takes the one way whatever the shapes, and fails if the other was taken."""
    monkeypatch.setattr(
        native, "sample_space_is_cheaper", lambda *shape: request.param == "sample space"
    )
    taken = []
    inner = native._project_in_sample_space
    monkeypatch.setattr(
        native, "_project_in_sample_space", lambda *args: taken.append(inner(*args)) or taken[-1]
    )
    yield request.param
    assert len(taken) > 0 if request.param == "sample space" else not taken
    assert None not in taken


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"epsilon": 0.5, "relative": True},
        {"rule": "official"},
        {"epsilon": -1e9},
        {"epsilon": 1.0, "max_correction": 0.1},
    ],
)
def test_both_ways_to_the_projection(way: str, biased: bool, options: dict[str, object]) -> None:
    arguments = problem(24, 70, 40)
    if not biased:
        arguments["bias"] = None
    got = step(arguments, 9, **options)
    truth = oracle.guided_linear_ce(
        *(
            wide(arguments["features"]),
            arguments["target"].numpy(),
            wide(arguments["guide_features"]),
            arguments["guide_target"].numpy(),
        ),
        *(wide(arguments["weight"]), wide(arguments["bias"]) if biased else None),
        top_k=9,
        rule=oracle.Rule(**options),
    )
    size = np.sqrt(truth.grad_norm2 * truth.guide_norm2)
    assert got[5].item() == pytest.approx(truth.dot, abs=1e-6 * size)
    assert got[6].item() == pytest.approx(truth.guide_norm2, rel=1e-6)
    assert got[7].item() == pytest.approx(truth.grad_norm2, rel=1e-6)
    assert got[4].item() == pytest.approx(
        truth.v, abs=3e-6 * np.sqrt(truth.grad_norm2 / truth.guide_norm2)
    )
    assert (got[4].item() == 0.0) == (truth.v == 0.0)
    scale = np.abs(truth.grad_weight).max()
    np.testing.assert_allclose(got[2], truth.grad_weight, atol=1e-5 * scale)
    if biased:
        np.testing.assert_allclose(
            got[3], truth.grad_bias, atol=1e-5 * np.abs(truth.grad_bias).max()
        )
    else:
        assert got[3] is None


def test_a_broken_feature_stays_visible_both_ways(way: str) -> None:
    for where, value in (
        ("features", torch.nan),
        ("guide_features", torch.nan),
        ("features", torch.inf),
    ):
        arguments = problem(10, 20, 30)
        arguments[where][2, 3] = value
        got = step(arguments, len(arguments["guide_features"]))
        assert got[4].isnan() and got[2].isnan().all() and got[3].isnan().all(), where


def test_cancellation_is_noticed_and_goes_the_direct_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guide rows in pairs whose gradients all but cancel: the Gram matrices hold none of what is
    left.
    """
    arguments = problem(40, 30, 50)
    one, two = arguments["guide_features"][:20].clone(), arguments["guide_features"][:20].clone()
    two[:, 0] += 1e-4
    arguments["guide_features"] = torch.cat([one, two])
    arguments["weight"].zero_()
    arguments["bias"] = torch.zeros(2)
    arguments["weight"] = torch.zeros(2, 50)
    arguments["target"] = arguments["target"] % 2
    arguments["guide_target"] = torch.tensor([0] * 20 + [1] * 20)
    want = step(arguments, 40, epsilon=1e-6)
    monkeypatch.setattr(native, "sample_space_is_cheaper", lambda *shape: True)
    seen = []
    inner = native._project_in_sample_space
    monkeypatch.setattr(native, "_project_in_sample_space", lambda *args: seen.append(inner(*args)))
    got = step(arguments, 40, epsilon=1e-6)
    assert seen == [None]
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize(
    ("gap", "options"),
    [
        (
            60.0,
            {"epsilon": 0.3, "relative": True},
        ),  # the products of two residuals are no numbers of float32
        (10.0, {"epsilon": 1e33}),  # v is none
    ],
)
def test_what_leaves_float32_goes_the_direct_way(
    monkeypatch: pytest.MonkeyPatch, gap: float, options: dict[str, object]
) -> None:
    arguments = problem(5, 40, 30)
    arguments["weight"] = torch.eye(40, 30) * gap
    arguments["guide_features"], arguments["guide_target"] = torch.eye(8, 30), torch.arange(8)
    want = step(arguments, 6, **options)
    monkeypatch.setattr(native, "sample_space_is_cheaper", lambda *shape: True)
    seen = []
    inner = native._project_in_sample_space
    monkeypatch.setattr(native, "_project_in_sample_space", lambda *args: seen.append(inner(*args)))
    got = step(arguments, 6, **options)
    assert seen == [None]
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert got[2].isfinite().all() and got[4] > 1e24


def test_which_way_is_decided_from_shapes() -> None:
    assert native.sample_space_is_cheaper(64, 32, 10_000, 2048)
    assert native.sample_space_is_cheaper(256, 128, 10_000, 2048)
    assert not native.sample_space_is_cheaper(256, 128, 286, 2048)
    assert not native.sample_space_is_cheaper(256, 128, 2, 2048)
    assert not native.sample_space_is_cheaper(4096, 2048, 10_000, 2048)


@pytest.mark.parametrize("classes", [1, 2, 8, 9])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "every other column"])
def test_product_with_few_classes(classes: int, layout: str) -> None:
    """Small heads take a kernel of ours in place of BLAS, as far as the weight's rows are
    contiguous.
    """
    weight = problem(3, classes, 60)["weight"]
    weight = {
        "contiguous": weight,
        "transposed": weight.t().contiguous().t(),
        "every other column": weight[:, ::2],
    }[layout]
    residual = torch.randn(17, classes, generator=torch.Generator().manual_seed(1))
    want = wide(residual) @ wide(weight)
    np.testing.assert_allclose(
        native._times_weight(residual, weight), want, atol=1e-6 * np.abs(want).max()
    )


def test_memory_of_a_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient without gaps is projected where it lies, in whatever order, without a copy."""
    plain = torch.empty_like

    def of_a_scalar(tensor: Tensor) -> Tensor:
        assert tensor.dim() == 0, "a copy"
        return plain(tensor)

    for grad in (
        torch.randn(8, 6, 5, 5).to(memory_format=torch.channels_last),
        torch.randn(30, 20).t(),
        torch.randn(7),
    ):
        guide = torch.randn_like(grad)
        monkeypatch.setattr(torch, "empty_like", of_a_scalar)
        monkeypatch.setattr(torch, "clone", lambda *args, **kwargs: pytest.fail("a copy"))
        monkeypatch.setattr(Tensor, "contiguous", lambda *args, **kwargs: pytest.fail("a copy"))
        before, place = grad * 1.0, grad.data_ptr()
        v = ops.project_([grad], [guide], epsilon=1e3).v
        monkeypatch.undo()
        assert grad.data_ptr() == place
        torch.testing.assert_close(grad, before + v * guide)


def test_results_own_their_memory() -> None:
    """No result is a view of another one or of a workspace."""
    results = [t for t in step(problem(12, 15, 20), 5) if t is not None]
    places = [t.untyped_storage().data_ptr() for t in results]
    assert len(set(places)) == len(places)
    assert all(
        t._base is None and t.untyped_storage().nbytes() == t.numel() * t.element_size()
        for t in results
    )


def test_ambient_defaults_are_not_looked_at() -> None:
    arguments = problem(12, 15, 20)
    want = step(arguments, 5)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            got = step(arguments, 5)
            stats = ops.softmax_stats(arguments["features"], arguments["target"])
            top = ops.entropy_topk(arguments["features"], 3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert all(t.dtype is torch.float32 and t.device == CPU for t in (*stats, top[0]))


def test_float64_is_left_to_torch() -> None:
    logits = torch.zeros(3, 4, dtype=torch.float64)
    assert not native.supports("softmax_stats", logits)
    assert not native.supports("project_", torch.zeros(3), torch.zeros(3, dtype=torch.float64))
    with ops.backend("auto"):
        assert ops.selected_backend("softmax_stats", logits) == "torch"
        assert ops.selected_backend("softmax_stats", logits.float()) == "native"


def run(code: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


REASON = (
    "import torch; from gaal_fast.ops.backends.native import cpu;"
    " print(cpu.availability(torch.device('cpu')))"
)


def test_the_reason_why_it_cannot_be_used() -> None:
    assert (
        _dispatch.load("native", torch.device("meta"))
        == "there are no kernels for device type 'meta'"
    )
    assert "CPU tensors only" in str(native.availability(torch.device("meta")))
    hidden = "import sys; sys.modules['gaal_fast._native_cpu'] = None; "
    assert run(hidden + REASON).startswith("the C++ kernels were not built: ")
    use = (
        "import gaal_fast.ops as ops, torch; x = torch.zeros(2, 2); "
        "print(ops.selected_backend('softmax_stats', x), ops.softmax_stats(x)[0][0])"
    )
    assert run(hidden + use) == "torch tensor(0.6931)"


@pytest.mark.parametrize("isa", ISAS)
def test_the_instruction_set_can_be_forced(isa: str, module: ModuleType) -> None:
    logits = torch.linspace(-5.0, 5.0, 8000).view(8, 1000)
    code = (
        "import torch, gaal_fast.ops as ops; print(ops.softmax_stats(torch.linspace(-5.0, 5.0,"
        " 8000).view(8, 1000))[0].tolist())"
    )
    if isa not in module.isas():
        assert (
            run(REASON, GAAL_FAST_ISA=isa)
            == f"GAAL_FAST_ISA asks for {isa}, which this machine or this build lacks"
        )
        return
    assert (
        json.loads(run(code, GAAL_FAST_ISA=isa, GAAL_FAST_BACKEND="native"))
        == Kernels(module, isa).softmax_stats(logits)[0].tolist()
    )


def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run(REASON, GAAL_FAST_ISA="avx1024")
    assert "GAAL_FAST_ISA: unknown instruction set 'avx1024'" in failed.value.stderr


@pytest.mark.parametrize("rows", [2048, 2049, 3072, 4100])
def test_a_product_in_parts_is_the_product(rows: int) -> None:
    arguments = problem(rows, 130, 17)
    found = native._logits(arguments["features"], arguments["weight"].t())
    torch.testing.assert_close(
        found,
        (arguments["features"].double() @ arguments["weight"].double().t()).float(),
        rtol=1e-5,
        atol=1e-5,
    )
