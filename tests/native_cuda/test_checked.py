"""The kernels' own source under checkers of memory and of races, on the emulated device, with
several schedules of blocks and threads.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.native_cuda import build


def run_checked(program: Path, schedules: int, types: int = 3) -> subprocess.CompletedProcess[str]:
    command = [str(program), str(schedules), str(types)]
    # The race checker of some compilers cannot place its memory where the addresses of a process
    # are random.
    if shutil.which("setarch"):
        plain = ["setarch", "-R", *command]
        if subprocess.run(["setarch", "-R", "true"], capture_output=True).returncode == 0:
            command = plain
    environment = os.environ | {
        "TSAN_OPTIONS": "exitcode=66 halt_on_error=1",
        "ASAN_OPTIONS": "detect_leaks=1",
    }
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="session")
def checker(build_folder: Path, request: pytest.FixtureRequest) -> str:
    """A checker that this machine has."""
    name: str = request.param
    source = build_folder / "probe.cpp"
    source.write_text("int main() { return 0; }\n")
    program = build_folder / f"probe-{name}"
    made = subprocess.run(
        [str(build.compiler()), *build.CHECKERS[name], str(source), "-o", str(program)],
        capture_output=True,
    )
    if made.returncode or run_checked(program, 1).returncode:
        pytest.skip(f"the {name} checker does not work here")
    return name


@pytest.mark.parametrize("part", list(build.PARTS))
@pytest.mark.parametrize("checker", list(build.CHECKERS), indirect=True)
def test_no_bad_access_no_race_and_equal_bits(build_folder: Path, checker: str, part: str) -> None:
    """Every access lies inside buffers of the promised size, is aligned and ordered, and no
    schedule changes a bit of any result.

    For the head step the cooperative launch and the three launches take turns, so they are shown to
    be equal too.
    """
    program = build.checked_program(build_folder, checker, part)
    done = (
        run_checked(program, schedules=4)
        if checker == "address"
        else run_checked(program, schedules=2, types=2)
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[:4000]
    lines = done.stdout.splitlines()
    assert len(lines) >= 5 and all(line.endswith(" equal") for line in lines)


# What the checkers must find, or their silence above would mean nothing: each fence and barrier of
# the last block's finish.
BROKEN = {
    "no release before the ticket": (
        "    __threadfence();\n    const unsigned taken",
        "    const unsigned taken",
    ),
    "no acquire after the ticket": ("    __threadfence();\n    *flag", "    *flag"),
    "no barrier before the ticket": (
        "  __syncthreads();\n  if (threadIdx.x == 0) {\n    __threadfence();",
        "  if (threadIdx.x == 0) {\n    __threadfence();",
    ),
    "no barrier after the ticket": ("  __syncthreads();\n  return *flag", "  return *flag"),
}


@pytest.mark.parametrize("checker", ["thread"], indirect=True)
@pytest.mark.parametrize("what", list(BROKEN))
def test_the_race_checker_finds_what_is_missing(
    build_folder: Path, tmp_path: Path, checker: str, what: str
) -> None:
    csrc = tmp_path / "csrc"
    shutil.copytree(build.CSRC, csrc)
    header = csrc / "cuda/device.cuh"
    before, after = BROKEN[what]
    text = header.read_text()
    assert text.count(before) == 1
    header.write_text(text.replace(before, after))
    done = run_checked(
        build.checked_program(tmp_path / "out", checker, "rows", csrc), schedules=2, types=1
    )
    assert done.returncode != 0 and ("data race" in done.stderr or "launch" in done.stderr), (
        done.stderr[:2000]
    )
