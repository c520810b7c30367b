"""Which backend a call takes, and how the choice is made."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from gaal_fast import ops
from gaal_fast.ops import _dispatch
from gaal_fast.ops._rule import Rule
from gaal_fast.ops.backends import torch as torch_backend

LOGITS = torch.tensor([[0.0, 1.0], [2.0, 0.0]])


class FakeBackend(ModuleType):
    """A backend that notes its calls and leaves the work to backend ``torch``."""

    def __init__(
        self,
        name: str,
        reason: str | None = None,
        dtypes: tuple[torch.dtype, ...] = (torch.float32,),
    ) -> None:
        super().__init__(f"gaal_fast.ops.backends.{name}")
        self.reason, self.dtypes, self.calls = reason, dtypes, []
        for op in _dispatch.OPS:
            setattr(self, op, self._noting(op))

    def _noting(self, op: str):
        def call(*args):
            self.calls.append((op, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
            return getattr(torch_backend, op)(*args)

        return call

    def availability(self, device: torch.device) -> str | None:
        return self.reason

    def supports(self, op: str, *tensors: Tensor) -> bool:
        return all(tensor.dtype in self.dtypes for tensor in tensors)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """Put a fake backend (or None: cannot be imported) in place of a real one, with the choice and
    its caches reset around.
    """
    monkeypatch.setattr(_dispatch, "_plans", {})
    monkeypatch.setattr(_dispatch, "_default", "auto")

    def put(name: str, module: ModuleType | None) -> ModuleType | None:
        place = _dispatch.module_name(name, torch.device("cpu"))
        monkeypatch.setitem(sys.modules, place, module)
        _dispatch._plans.clear()
        return module

    yield put


def test_auto_takes_native_on_the_cpu_where_it_can(install) -> None:
    native = install("native", FakeBackend("native"))
    assert ops.selected_backend("softmax_stats", LOGITS) == "native"
    assert ops.selected_backend("softmax_stats", LOGITS.double()) == "torch"
    ops.softmax_stats(LOGITS)
    ops.softmax_stats(LOGITS.double())
    assert [op for op, *_ in native.calls] == ["softmax_stats"]


@pytest.mark.parametrize(
    "module",
    [None, FakeBackend("native", reason="no compiler was found")],
    ids=["absent", "unavailable"],
)
def test_auto_falls_back_without_an_error(install, module: ModuleType | None) -> None:
    install("native", module)
    for op, tensors in (
        ("entropy_topk", (LOGITS,)),
        ("project_", (LOGITS, LOGITS)),
        ("guided_linear_ce", (LOGITS,) * 3),
    ):
        assert ops.selected_backend(op, *tensors) == "torch"
    assert ops.entropy_topk(LOGITS, 1)[1].tolist() == [0]


def test_triton_on_the_cpu_is_only_taken_by_name(install) -> None:
    install("native", None)
    triton = install("triton", FakeBackend("triton"))
    assert ops.selected_backend("softmax_stats", LOGITS) == "torch"
    with ops.backend("triton"):
        assert ops.selected_backend("softmax_stats", LOGITS) == "triton"
        ops.softmax_stats(LOGITS)
    assert len(triton.calls) == 1


def test_a_forced_backend_that_cannot_says_why(install) -> None:
    install("native", FakeBackend("native", reason="it was not built: no compiler was found"))
    install("triton", None)
    with (
        ops.backend("native"),
        pytest.raises(
            RuntimeError,
            match=r"^backend 'native' cannot be used on cpu: it was not built: no compiler",
        ),
    ):
        ops.softmax_stats(LOGITS)
    with (
        ops.backend("triton"),
        pytest.raises(
            RuntimeError, match=r"^backend 'triton' cannot be used on cpu: it cannot be imported"
        ),
    ):
        ops.softmax_stats(LOGITS)
    install("native", FakeBackend("native"))
    refused = r"^backend 'native' does not take entropy_topk of float64\[2, 2\] on cpu"
    with ops.backend("native"), pytest.raises(RuntimeError, match=refused):
        ops.entropy_topk(LOGITS.double(), 1)


def test_mixed_dtypes_are_shown_whole_to_the_backend(install) -> None:
    install("native", FakeBackend("native"))
    assert ops.selected_backend("project_", LOGITS, LOGITS.half(), LOGITS, LOGITS.half()) == "torch"


@pytest.mark.parametrize(
    "choose",
    [ops.set_backend, lambda name: ops.backend(name).__enter__()],
    ids=["set_backend", "backend"],
)
@pytest.mark.parametrize(
    ("name", "nearest"), [("natve", "native"), ("Triton", "triton"), ("", "auto"), (None, "native")]
)
def test_an_unknown_name_is_refused_with_the_nearest(
    install, choose, name: str | None, nearest: str
) -> None:
    with pytest.raises(ValueError, match=f"unknown backend {name!r}") as caught:
        choose(name)
    assert "did you mean" in str(caught.value) and "auto, torch, native, triton" in str(
        caught.value
    )
    if name:
        assert f"did you mean {nearest!r}" in str(caught.value)
    assert ops.requested_backend() == "auto"


def test_blocks_nest_and_beat_set_backend(install) -> None:
    ops.set_backend("torch")
    assert ops.requested_backend() == "torch"
    with ops.backend("triton"):
        assert ops.requested_backend() == "triton"
        ops.set_backend("native")
        with ops.backend("auto"):
            assert ops.requested_backend() == "auto"
        assert ops.requested_backend() == "triton"
        with pytest.raises(KeyError), ops.backend("torch"):
            raise KeyError
        assert ops.requested_backend() == "triton"
    assert ops.requested_backend() == "native"


def test_a_block_is_private_to_its_thread_and_task(install) -> None:
    seen = {}

    def other_thread() -> None:
        seen["thread"] = ops.requested_backend()

    async def task(name: str) -> None:
        with ops.backend(name):
            await asyncio.sleep(0)
            seen[name] = ops.requested_backend()

    async def both() -> None:
        await asyncio.gather(task("native"), task("triton"))

    with ops.backend("torch"):
        thread = threading.Thread(target=other_thread)
        thread.start()
        thread.join()
        asyncio.run(both())
    assert seen == {"thread": "auto", "native": "native", "triton": "triton"}


def test_a_backend_runs_without_autograd_and_autocast(install) -> None:
    """A matrix product inside a backend neither records a graph nor changes its precision; outside
    all is as before.
    """
    native = install("native", FakeBackend("native"))
    logits = LOGITS.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ops.softmax_stats(logits)
        assert torch.is_autocast_enabled("cpu")
    ops.softmax_stats(logits)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        ops.softmax_stats(logits)
        assert not torch.is_grad_enabled()
    assert native.calls == [("softmax_stats", False, False)] * 3

    def failing(*args):
        raise MemoryError

    native.softmax_stats = failing
    _dispatch._plans.clear()
    with pytest.raises(MemoryError):
        ops.softmax_stats(logits)
    assert torch.is_grad_enabled()


def test_autocast_does_not_change_a_result() -> None:
    x, w = torch.randn(8, 5), torch.randn(3, 5)
    y = torch.arange(8) % 3
    plain = ops.guided_linear_ce(x, y, x, y, w, None, top_k=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = ops.guided_linear_ce(x, y, x, y, w, None, top_k=4)
        compiled = torch.ops.gaal_fast.guided_linear_ce(
            x, y, x, y, w, None, None, 4, "paper", 0.0, False, 0.75, 1e-3, None
        )
    assert cast.grad_weight.dtype is torch.float32
    assert torch.equal(cast.grad_weight, plain.grad_weight) and torch.equal(
        compiled[2], plain.grad_weight
    )


def test_selected_backend_refuses_what_is_no_op() -> None:
    with pytest.raises(ValueError, match=r"^op: unknown op 'project', did you mean 'project_'"):
        ops.selected_backend("project", LOGITS)
    with pytest.raises(ValueError, match=r"^tensors: give the floating tensors"):
        ops.selected_backend("project_")
    with pytest.raises(TypeError, match=r"^tensors must be tensors, got list"):
        ops.selected_backend("project_", [LOGITS])


def test_backend_torch_takes_epsilon_and_margin_as_tensors() -> None:
    """As a GPU has them: there they stay on the device."""
    for rule, relative in (("paper", False), ("paper", True), ("official", False)):
        results = []
        for convert in (float, lambda value: torch.tensor(value, dtype=torch.float64)):
            g = torch.tensor([1.0, -1.0])
            options = Rule(rule, convert(0.5), relative, convert(0.75))
            results.append((*torch_backend.project_([g], [torch.tensor([0.0, 2.0])], options), g))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_availability_tells_every_backend_and_device(install) -> None:
    install("native", FakeBackend("native", reason="no compiler was found"))
    install("triton", None)
    report = ops.availability()
    assert set(report) == {"torch", "native", "triton"}
    devices = {"cpu"} | {f"cuda:{i}" for i in range(torch.cuda.device_count())}
    assert all(set(by_device) == devices for by_device in report.values())
    assert report["torch"]["cpu"] is None
    assert report["native"]["cpu"] == "no compiler was found"
    assert report["triton"]["cpu"].startswith("it cannot be imported")


def test_an_available_backend_takes_every_op_in_float32() -> None:
    """No backend may be there and quietly leave an ordinary call to another one."""
    for name, by_device in ops.availability().items():
        for device, reason in by_device.items():
            if reason is not None:
                continue
            logits, features, weight = (
                torch.zeros(shape, device=device) for shape in ((8, 5), (8, 4), (5, 4))
            )
            with ops.backend(name):
                assert ops.selected_backend("softmax_stats", logits) == name
                assert ops.selected_backend("entropy_topk", logits) == name
                assert ops.selected_backend("linear_ce_grad", features, logits) == name
                assert ops.selected_backend("project_", weight, weight) == name
                assert ops.selected_backend("guided_linear_ce", features, features, weight) == name


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_environment_variable() -> None:
    """Read on first use; a wrong value is named, and does not break the import."""
    asked = "import torch, gaal_fast.ops as ops; print(ops.requested_backend())"
    code = f"{asked}; print(ops.selected_backend('entropy_topk', torch.zeros(2, 2)))"
    chosen = run_python(code, GAAL_FAST_BACKEND="torch")
    assert chosen.stdout.split() == ["torch", "torch"], chosen.stderr
    unset = run_python(asked, GAAL_FAST_BACKEND="")
    assert unset.stdout.split() == ["auto"], unset.stderr
    wrong = run_python(code, GAAL_FAST_BACKEND="troch")
    assert wrong.returncode != 0 and not wrong.stdout
    assert (
        "ValueError: GAAL_FAST_BACKEND: unknown backend 'troch', did you mean 'torch'?"
        in wrong.stderr
    )


def test_importing_the_ops_loads_no_backend_and_no_gpu() -> None:
    code = (
        "import sys, gaal_fast.ops, torch\n"
        "loaded = [m for m in sys.modules if m.startswith('gaal_fast.ops.backends.')]\n"
        "assert not loaded, loaded\n"
        "assert 'gaal_fast.kernels' not in sys.modules\n"
        "assert not torch.cuda.is_initialized()\n"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr
