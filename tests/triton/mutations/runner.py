"""Applies a change to a copy of the kernels, and runs the tests against the copy."""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

from tests.mutating import verdict
from tests.triton.mutations import MUTATIONS
from tests.triton.mutations.change import AOT, Mutation

ROOT = Path(__file__).parents[3]
KERNELS = ROOT / "kernels"


class _Kernels(importlib.abc.MetaPathFinder):
    """Finds ``gaal_fast.kernels`` in another folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != "gaal_fast.kernels":
            return None
        return importlib.util.spec_from_file_location(
            name, f"{self.folder}/__init__.py", submodule_search_locations=[self.folder]
        )


def run_tests(folder: str, arguments: Sequence[str]) -> int:
    """In a process of its own: pytest with the kernels of ``folder``."""
    import pytest

    sys.meta_path.insert(0, _Kernels(folder))
    options = ["-q", "-x", "--tb=no", "-p", "no:cacheprovider", "-W", "ignore::RuntimeWarning"]
    return int(pytest.main([*options, *arguments]))


def check(
    mutation: Mutation | None, suite: str, tests: str, fork: bool = False
) -> tuple[bool, str]:
    """(caught, by which test) for one change, or for the sources as they are.

    With ``fork`` the tests run in a copy of this process, which has to be under the interpreter if
    they need it: that saves the seconds of importing PyTorch each time.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "kernels"
        shutil.copytree(KERNELS, copy, ignore=shutil.ignore_patterns("__pycache__"))
        if mutation is not None:
            file = copy / mutation.file
            file.write_text(mutation.applied(file.read_text()))
        arguments = [suite, "-k", tests]
        if fork:
            code, output = _forked(str(copy), arguments, Path(folder) / "log")
        else:
            environment = os.environ | {
                "OMP_NUM_THREADS": "1",
                "CUDA_VISIBLE_DEVICES": "",
                "TRITON_INTERPRET": str(int(suite != AOT)),
            }
            script = (
                "import sys; from tests.triton.mutations.runner import run_tests;"
                f" sys.exit(run_tests({str(copy)!r}, {arguments!r}))"
            )
            done = subprocess.run(
                [sys.executable, "-c", script],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
            )
            code, output = done.returncode, done.stdout + done.stderr
    return verdict(code, output)


def _forked(folder: str, arguments: Sequence[str], log: Path) -> tuple[int, str]:
    """(exit code, or minus the signal, output) of `run_tests` in a copy of this process."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 3
        try:
            with open(log, "w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            code = run_tests(folder, arguments)
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), log.read_text()


def main(arguments: list[str] | None = None) -> int:
    """Print a table of all changes; returns how many survived, at most 1."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.triton.mutations", description="See a test fail for every change."
    )
    parser.add_argument(
        "--only", default="", help="changes whose file or description contains this"
    )
    parser.add_argument("--first", type=int, default=0, help="number of the first change")
    parser.add_argument(
        "--last", type=int, default=len(MUTATIONS), help="number after the last change"
    )
    options = parser.parse_args(arguments)
    os.environ |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    os.chdir(ROOT)
    # Everything heavy, once, before the copies; the kernels themselves are not imported here.
    import tests.ops.helpers  # noqa: F401

    survivors = 0
    for number, mutation in list(enumerate(MUTATIONS))[options.first : options.last]:
        if options.only not in f"{mutation.file} {mutation.what}":
            continue
        fork = mutation.suite != AOT
        caught, by = check(mutation, mutation.suite, mutation.tests, fork)
        survivors += not caught
        told = by if caught else "SURVIVED"
        print(f"{number:>3}  {mutation.file:<20} {mutation.what:<48} {told}", flush=True)
    return min(survivors, 1)
