"""The kernels run: a process with Triton's interpreter on takes the suite of the operations and the
tests of the kernels.

The interpreter has to be chosen before Triton is imported, which is why it is another process. By
hand: ``TRITON_INTERPRET=1 python -m pytest tests/ops tests/triton``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from tests.triton.conftest import INTERPRETED_FILES

ROOT = Path(__file__).parents[2]
INTERPRETED = "triton-interpreted"


def paths(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/triton/test_{name}.py" for name in names)


# The files that only such a process takes, in two parts of about the same time, with the least
# number of tests in each.
KERNELS = {
    "kernels": (paths("arithmetic", "memory", "softmax_stats", "linear_ce_grad", "project"), 240),
    "launches": (paths("launches", "confident", "confident_step", "guided"), 320),
}


def run(code: list[str]) -> str:
    """The output of a process under the interpreter, which has to succeed."""
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    for inherited in ("GAAL_FAST_BACKEND", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        environment.pop(inherited, None)
    done = subprocess.run(
        [sys.executable, *code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def interpreter() -> None:
    """Skip where this Triton's interpreter does not work with this NumPy; the reason is the
    backend's own.
    """
    reason = run(
        [
            "-c",
            (
                "import torch; from gaal_fast.ops.backends import triton;"
                " print(triton.availability(torch.device('cpu')) or '')"
            ),
        ]
    )
    if reason.strip():
        pytest.skip(reason.strip())


@pytest.mark.parametrize(
    ("files", "selection", "at_least"),
    [
        (["tests/ops/test_guided_linear_ce.py"], INTERPRETED, 100),
        (["tests/ops", "--ignore", "tests/ops/test_guided_linear_ce.py"], INTERPRETED, 300),
        *((list(group), "", at_least) for group, at_least in KERNELS.values()),
    ],
    ids=["guided", "ops", *KERNELS],
)
def test_suite(interpreter: None, files: list[str], selection: str, at_least: int) -> None:
    output = run(
        [
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-W",
            "ignore::RuntimeWarning",
            *files,
            "-k",
            selection,
        ]
    )
    passed = re.search(r"(\d+) passed", output)
    assert passed and int(passed[1]) >= at_least, (
        f"only {passed and passed[1]} tests ran:\n{output[-2000:]}"
    )


def test_every_interpreted_file_is_run() -> None:
    run_by_us = {name for group, _ in KERNELS.values() for name in group}
    assert run_by_us == {f"tests/triton/{name}" for name in INTERPRETED_FILES}


def test_available_where_it_can_run() -> None:
    """Neither on a CPU without the interpreter nor on a device without kernels, and the reason is
    one line.
    """
    from gaal_fast.ops.backends import triton as backend

    assert "TRITON_INTERPRET" in backend.availability(torch.device("cpu"))
    assert "mps" in backend.availability(torch.device("mps"))
    for device in ("cpu", "mps"):
        assert "\n" not in backend.availability(torch.device(device))


def test_supports() -> None:
    """No float64, no more rows than one program sorts, and on the CPU no bfloat16 product."""
    from gaal_fast.kernels.entropy_topk import MAX_ROWS
    from gaal_fast.ops.backends import triton as backend

    def x(*size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(size, dtype=dtype)

    assert backend.supports(
        "softmax_stats", x(2, 3, dtype=torch.bfloat16)
    ) and not backend.supports("softmax_stats", x(2, 3, dtype=torch.float64))
    assert backend.supports("entropy_topk", x(MAX_ROWS, 1)) and not backend.supports(
        "entropy_topk", x(MAX_ROWS + 1, 1)
    )
    assert backend.supports("guided_linear_ce", x(MAX_ROWS + 1, 1), x(MAX_ROWS, 1), x(1, 1))
    assert not backend.supports("guided_linear_ce", x(1, 1), x(MAX_ROWS + 1, 1), x(1, 1))
    half = [x(2, 3, dtype=torch.bfloat16)] * 3
    assert not backend.supports("guided_linear_ce", *half) and not backend.supports(
        "linear_ce_grad", *half[:2]
    )
    assert backend.supports("project_", *half) and not backend.supports(
        "project_", x(2), x(2, dtype=torch.float64)
    )


def test_importing_the_package_loads_no_triton() -> None:
    """And touches no GPU: both wait for the first call."""
    code = (
        "import sys, gaal_fast, gaal_fast.ops, gaal_fast.kernels, gaal_fast.ops.backends, torch; "
    )
    code += (
        "print([m for m in ('triton', 'gaal_fast.kernels._launch') if m in sys.modules],"
        " torch.cuda.is_initialized())"
    )
    assert run(["-c", code]).strip() == "[] False"
