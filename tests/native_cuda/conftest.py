"""The CUDA kernels on a machine without a GPU: a fixture that puts them, run thread by thread on
the CPU, behind the public ops.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from gaal_fast.ops import _dispatch
from gaal_fast.ops.backends.native import cpu as native
from gaal_fast.ops.backends.native import cuda as glue
from gaal_fast.ops.backends.native import cuda_composed as composed
from gaal_fast.ops.backends.native import cuda_host as host
from tests.native_cuda import build
from tests.ops.helpers import Backend

PLACES = ["emulated", pytest.param("cuda", marks=pytest.mark.gpu)]

# As for the ops' own suite: the same examples every time, and fixtures of the function's scope
# under @given.
settings.register_profile(
    "emulated",
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("emulated")


@pytest.fixture(scope="session")
def build_folder(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if build.compiler() is None:
        pytest.skip("needs a C++ compiler")
    cache = getattr(pytestconfig, "cache", None)  # None with -p no:cacheprovider
    return Path(cache.mkdir("cuda-emulator")) if cache else tmp_path_factory.mktemp("cuda-emulator")


@pytest.fixture(scope="session")
def emulated(build_folder: Path) -> build.Emulated:
    return build.emulated_module(build_folder)


@pytest.fixture
def device(emulated: build.Emulated, monkeypatch: pytest.MonkeyPatch) -> build.Emulated:
    """The emulated device behind the glue, which then takes CPU tensors."""
    monkeypatch.setattr(host, "load", lambda: emulated.module)
    monkeypatch.setattr(host, "stream", lambda device: 0)
    # A product of half precision with float32 results exists on GPUs only.
    monkeypatch.setattr(composed, "gram", lambda x: x.float() @ x.float().t())
    emulated.seed(0)
    emulated.counts()
    return emulated


@pytest.fixture
def backend(device: build.Emulated, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """Backend "native" on CPU tensors, with the CUDA kernels in place of the CPU's."""
    for name in (*_dispatch.OPS, "supports"):
        monkeypatch.setattr(native, name, getattr(glue, name))
    monkeypatch.setattr(native, "availability", lambda device: None)
    _dispatch._plans.clear()
    case = Backend("native", "cpu", most_elements=250_000)
    with case.in_force():
        yield case
    _dispatch._plans.clear()


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Backend "native" with the CUDA kernels, on the emulated device and on a GPU."""
    if request.param == "emulated":
        yield request.getfixturevalue("backend")
        return
    case = Backend("native", "cuda")
    with case.in_force():
        yield case


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The shared suite without its cases in float64, which belong to backend "torch"."""

    def wide(item: pytest.Item) -> bool:
        call = getattr(item, "callspec", None)
        return (
            item.path.name == "test_shared_suite.py"
            and call is not None
            and call.params.get("dtype") is torch.float64
        )

    dropped = [item for item in items if wide(item)]
    if dropped:
        items[:] = [item for item in items if not wide(item)]
        config.hook.pytest_deselected(items=dropped)
