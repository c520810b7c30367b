"""One command for a machine with an NVIDIA GPU: build, test, sanitize, check, measure; ten minutes
at most.

``python -m bench.gpu_day --out DIR`` writes ``summary.json``, ``log.txt``, ``checks.csv`` and the
files of ``bench.ops`` and ``bench.step``. Every part has a time limit; one that fails or is stopped
is recorded and the next one goes on. Nothing is installed and no network is used: where the package
is not installed, or its native part not built, everything runs from a copy of the source tree that
is built in place. Without a GPU the parts that can run do so on tiny shapes, and the summary says
which did not.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bench import machine, report

RESULTS = Path(__file__).parent / "results" / "gpu"
PARTS = ("build", "tests gpu", "tests cpu", "sanitizer", "live checks", "step", "ops", "checks")
TAIL = 25  # lines of a failed part's output on the screen
LOG_CHARACTERS = 400_000  # of each part's output in the log
LEAST_SECONDS = 15  # for a part to be begun

_AVAILABLE = (
    "import json; from gaal_fast import ops; print(); print(json.dumps(ops.availability()))"
)


@dataclass
class Part:
    """One subprocess. ``limit`` in seconds; ``needs_gpu`` parts are left out without one."""

    name: str
    command: list[str]
    limit: float
    needs_gpu: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    status: str = "not run"
    seconds: float = 0.0
    output: str = ""

    def run(self, folder: Path, environment: dict[str, str], limit: float) -> None:
        """Run it; at the limit it and everything it started are ended."""
        began = time.monotonic()
        try:
            process = self._start(folder, environment)
        except OSError as error:
            self.status = f"could not be started: {error}"
            return
        try:
            self.output, _ = process.communicate(timeout=limit)
            self.status = "ok" if process.returncode == 0 else f"exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            self.output, _ = process.communicate()
            self.status = f"stopped after {limit:.0f} s"
        self.seconds = time.monotonic() - began

    def _start(self, folder: Path, environment: dict[str, str]) -> subprocess.Popen:
        return subprocess.Popen(
            self.command,
            cwd=folder,
            env=environment | self.environment,
            text=True,
            errors="replace",
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def last_line(self) -> str:
        lines = self.output.strip().splitlines()
        return lines[-1][:200] if lines else ""

    def line(self) -> str:
        return f"{self.name:<12}{self.seconds:6.0f} s  {self.status}" + (
            f"  ({self.last_line()})" if self.output.strip() else ""
        )


# -- a tree that runs
# --------------------------------------------------------------------------------------------------


def availability(folder: Path, environment: dict[str, str]) -> dict[str, dict[str, str | None]]:
    """``ops.availability()`` of the package as seen from ``folder``; empty where it cannot be
    imported.
    """
    done = subprocess.run(
        [sys.executable, "-c", _AVAILABLE],
        cwd=folder,
        env=environment,
        text=True,
        capture_output=True,
    )
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if done.returncode == 0 and lines else {}


def is_complete(found: dict[str, dict[str, str | None]], gpu: bool) -> bool:
    """Whether every backend that this machine can have is there."""
    wanted = (
        [("native", "cuda:0"), ("triton", "cuda:0"), ("native", "cpu")]
        if gpu
        else [("native", "cpu")]
    )
    return all(found.get(backend, {}).get(device, "missing") is None for backend, device in wanted)


def copy_of_the_tree(to: Path) -> Path:
    """The source tree with the Triton kernels where an installed package has them, and without
    anything built.
    """
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "results")
    to.mkdir(parents=True)
    for name in ("bench", "csrc", "gaal_fast", "kernels", "tests"):
        shutil.copytree(machine.ROOT / name, to / name, ignore=ignore)
    for file in machine.ROOT.iterdir():
        if file.is_file():
            shutil.copy2(file, to)
    shutil.copytree(machine.ROOT / "kernels", to / "gaal_fast" / "kernels", ignore=ignore)
    return to


def build_part() -> Part:
    """Both extension modules in place, for the GPU at hand only."""
    environment = {}
    if torch.cuda.is_available() and not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        major, minor = torch.cuda.get_device_capability()
        environment["TORCH_CUDA_ARCH_LIST"] = (
            "9.0a" if (major, minor) == (9, 0) else f"{major}.{minor}"
        )
    return Part(
        "build",
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        200,
        environment=environment,
    )


# -- the parts
# --------------------------------------------------------------------------------------------------


def plan(out: Path, gpu: bool) -> list[list[Part]]:
    """Parts by group: those of one group run at once, as they only check and do not measure."""
    python = [sys.executable, "-m"]
    workers = ["-n", str(min(8, os.cpu_count() or 1))] if importlib.util.find_spec("xdist") else []
    pytest = [
        *python,
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--no-header",
        "--tb=short",
        *workers,
    ]
    results = ["--out", str(out)]
    tiny_step = [
        "--device",
        "cpu",
        "--image",
        "small",
        "--pixels",
        "16",
        "--batch",
        "8",
        "--classes",
        "10",
        "--seconds",
        "2",
    ]
    tiny_ops = ["--device", "cpu", "--quick", "--no-compile", "--seconds", "10"]
    return [
        [
            Part("tests gpu", [*pytest, "-m", "gpu"], 170),
            Part("tests cpu", [*pytest, "-m", "not gpu"], 170, needs_gpu=True),
            Part(
                "sanitizer", [*python, "bench.sanitizer", "--seconds", "150"], 170, needs_gpu=True
            ),
        ],
        [Part("live checks", [*python, "bench.gpu_checks", *results], 60, needs_gpu=True)],
        [
            Part(
                "step",
                [
                    *python,
                    "bench.step",
                    *(["--seconds", "25", "--preparation", "70"] if gpu else tiny_step),
                    *results,
                ],
                150,
            )
        ],
        [
            Part(
                "ops",
                [
                    *python,
                    "bench.ops",
                    *(["--seconds", "120", "--case-seconds", "0.4"] if gpu else tiny_ops),
                    *results,
                ],
                170,
            )
        ],
        [
            Part(
                "checks",
                [
                    *python,
                    "bench.gpu_checks",
                    "--no-live",
                    "--append",
                    "--results",
                    str(out),
                    *results,
                ],
                30,
            )
        ],
    ]


def run(out: Path, minutes: float, wanted: Sequence[str]) -> list[Part]:
    """Run the wanted parts within the time; what no longer fits is not begun."""
    began = time.monotonic()
    gpu = torch.cuda.is_available()
    environment = os.environ | {
        machine.COMMIT_VARIABLE: machine.commit(),
        "PYTHONUNBUFFERED": "1",
        "MPLBACKEND": "Agg",
    }
    done: list[Part] = []

    def left() -> float:
        return 60 * minutes - (time.monotonic() - began)

    with tempfile.TemporaryDirectory() as scratch:
        folder = machine.ROOT
        if "build" in wanted:
            folder, part = build(Path(scratch, "tree"), environment, gpu, left())
            done.append(part)
            print(part.line(), flush=True)
        for group in plan(out, gpu):
            group = [part for part in group if part.name in wanted]
            running = []
            for part in group:
                if part.needs_gpu and not gpu:
                    part.status = "not run: no GPU that torch can use"
                elif left() < LEAST_SECONDS:
                    part.status = "not run: no time was left"
                else:
                    running.append(
                        threading.Thread(
                            target=part.run, args=(folder, environment, min(part.limit, left()))
                        )
                    )
                    running[-1].start()
            for thread in running:
                thread.join()
            done += group
            for part in group:
                print(part.line(), flush=True)
    return done


def build(scratch: Path, environment: dict[str, str], gpu: bool, left: float) -> tuple[Path, Part]:
    """A folder to run from, and what was done for it: nothing, where everything this machine can
    have is there.
    """
    folder = machine.ROOT
    found = availability(folder, environment)
    if is_complete(found, gpu):
        part = Part("build", [], 0.0, status="ok", output="everything is there already")
    else:
        folder = copy_of_the_tree(scratch)
        part = build_part()
        part.run(folder, environment, min(part.limit, left))
        found = availability(folder, environment)
        if part.status == "ok" and not is_complete(found, gpu):
            part.status = "built, but not everything is available"
    part.output += "".join(
        f"\n{name} on {device}: {reason or 'ready'}"
        for name, devices in found.items()
        for device, reason in devices.items()
    )
    return folder, part


def write(out: Path, parts: Sequence[Part], seconds: float) -> None:
    """``summary.json`` with the facts and each part's fate, ``log.txt`` with their output."""
    device = machine.pick_device(None)
    summary = {
        "machine": machine.facts(device) | {"clocks": machine.clocks()},
        "seconds": round(seconds, 1),
        "parts": {
            p.name: {"status": p.status, "seconds": round(p.seconds, 1), "last": p.last_line()}
            for p in parts
        },
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    with (out / "log.txt").open("w") as stream:
        for part in parts:
            stream.write(
                f"===== {part.name}: {part.status}, {part.seconds:.0f} s\n$"
                f" {' '.join(part.command)}\n{part.output[-LOG_CHARACTERS:]}\n\n"
            )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu_day",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path(os.environ.get("OUT") or RESULTS),
        help="default: $OUT, else bench/results/gpu",
    )
    parser.add_argument("--minutes", type=float, default=9.5, help="for everything")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of: " + ", ".join(PARTS))
    parser.add_argument("--commit", help="name of the commit, where this is no git checkout")
    arguments = parser.parse_args(argv)
    wanted = [part.strip() for part in arguments.parts.split(",")]
    unknown = [part for part in wanted if part not in PARTS]
    if unknown:
        parser.error(f"--parts: no part {unknown[0]!r}; choose from {', '.join(PARTS)}")
    if arguments.commit:
        os.environ[machine.COMMIT_VARIABLE] = arguments.commit
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    parts = run(out, arguments.minutes, wanted)
    write(out, parts, time.monotonic() - began)
    for part in parts:
        if part.status != "ok" and not part.status.startswith("not run"):
            print(f"\n--- {part.name}\n" + "\n".join(part.output.strip().splitlines()[-TAIL:]))
    print(f"\n{report.facts_line(machine.facts(machine.pick_device(None)))}")
    for part in parts:
        print(part.line())
    if not torch.cuda.is_available():
        print("no GPU: this was a dry run on the CPU with tiny shapes; its numbers mean nothing")
    print(f"{time.monotonic() - began:.0f} s; results are in {out}")
    return (
        0
        if all(part.status == "ok" or part.status.startswith("not run: no GPU") for part in parts)
        else 1
    )


if __name__ == "__main__":
    sys.exit(main())
