"""The layers import downwards only: csrc and kernels, ops, then everything else."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Folder -> the parts of gaal_fast that its modules may import; anything from outside the project is
# free unless listed below.
LAYERS = {
    "kernels": {"gaal_fast.kernels"},
    "gaal_fast/ops": {
        "gaal_fast.ops",
        "gaal_fast.kernels",
        "gaal_fast._native_cpu",
        "gaal_fast._native_cuda",
    },
    "gaal_fast/tasks": {
        "gaal_fast.tasks",
        "gaal_fast.ops",
        "gaal_fast.surgery",
        "gaal_fast.data.batch",
        "gaal_fast.errors",
    },
    "gaal_fast/models": {
        "gaal_fast.models",
        "gaal_fast.config",
        "gaal_fast.data.batch",
        "gaal_fast.errors",
    },
    "gaal_fast/methods": {
        "gaal_fast.methods",
        "gaal_fast.models",
        "gaal_fast.tasks",
        "gaal_fast.ops",
        "gaal_fast.config",
        "gaal_fast.data.batch",
        "gaal_fast.errors",
    },
    "gaal_fast/_gradients.py": {"gaal_fast.ops"},
    "gaal_fast/surgery.py": {"gaal_fast._gradients", "gaal_fast.ops"},
    "gaal_fast/config": {"gaal_fast.config", "gaal_fast.errors", "gaal_fast.files"},
    "gaal_fast/runs": {
        "gaal_fast.__version__",
        "gaal_fast.runs",
        "gaal_fast.config",
        "gaal_fast.data",
        "gaal_fast.errors",
        "gaal_fast.files",
    },
}
KERNEL_DEPENDENCIES = {"triton", "torch"}


def modules(place: str) -> list[Path]:
    path = ROOT / place
    return [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))


def imported(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1, (
                f"{file}: imports from above its own package hide the layer they come from"
            )
            if node.level == 0:
                found |= {
                    (
                        f"{node.module}.{alias.name}"
                        if node.module == "gaal_fast"
                        else str(node.module)
                    )
                    for alias in node.names
                }
    return found


@pytest.mark.parametrize("place", sorted(LAYERS))
def test_a_layer_imports_nothing_above_it(place: str) -> None:
    files = modules(place)
    assert files
    for file in files:
        for name in imported(file):
            if name.split(".")[0] == "gaal_fast":
                assert any(
                    name == allowed or name.startswith(f"{allowed}.") for allowed in LAYERS[place]
                ), f"{file} imports {name}"


def test_kernels_need_triton_and_torch_only() -> None:
    for file in modules("kernels"):
        roots = {name.split(".")[0] for name in imported(file)}
        assert roots - set(sys.stdlib_module_names) - {"gaal_fast"} <= KERNEL_DEPENDENCIES, file


def test_no_library_module_imports_tests_or_benchmarks() -> None:
    for file in modules("gaal_fast") + modules("kernels"):
        assert not {name.split(".")[0] for name in imported(file)} & {"tests", "bench"}, file


def test_importing_the_ops_loads_neither_triton_nor_a_native_module() -> None:
    program = (
        "import sys, gaal_fast.ops, gaal_fast.surgery; print([m for m in sys.modules if 'triton' in"
        " m or '_native' in m])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    # torch itself looks whether triton is there; what counts is that our kernels and native code
    # wait for their first use.
    assert "gaal_fast" not in loaded
