"""Remove each mask, guard, cast and order of the C++ kernels for the CPU, and see a test fail.

``python -m tests.native.mutations`` applies every change of ``changes.py`` to a copy of ``csrc/``,
one at a time, builds what depends on it, runs the tests of this folder against it, and prints which
change was caught by which test. It takes some minutes and exits with 1 if a change survives.
``test_mutations.py`` keeps the list in step with the sources.

Not listed, because no result can show them: that the lanes of a vector are summed in float64 (it
costs nothing, and merging takes float64 anyway), and that only one segment of a row writes its
label's residual (all would write the same).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.mutating import verdict
from tests.native.changes import MUTATIONS

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "csrc"
TESTS = [
    f"tests/native/test_{name}.py"
    for name in ("row_kernels", "residual_kernels", "flat_kernels", "backend")
]
FLAGS = [
    "-O1",
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-w",
]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
# Object files, and the flags they are compiled with.
UNITS = {
    "cpu/kernels_portable.cpp": [],
    "cpu/kernels_avx2.cpp": AVX2,
    "cpu/kernels_avx512.cpp": AVX512,
    "cpu/bindings.cpp": [],
    "cpu/gradients.cpp": [],
    "cpu/isa.cpp": [],
    "cpu/parallel.cpp": [],
    "cpu/residuals.cpp": [],
    "cpu/rows.cpp": [],
}


def _compile(unit: str, folder: Path, objects: Path) -> None:
    import pybind11

    includes = (
        [f"-I{folder}"]
        if unit != "cpu/bindings.cpp"
        else [f"-I{folder}", f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
    )
    output = objects / Path(unit).with_suffix(".o").name
    command = [
        os.environ.get("CXX", "g++"),
        *FLAGS,
        *UNITS[unit],
        *includes,
        "-c",
        str(folder / unit),
        "-o",
        str(output),
    ]
    subprocess.run(command, check=True)


def build(folder: Path, units: Sequence[str], objects: Path, output: Path) -> None:
    """Compile ``units`` of the sources in ``folder`` into ``objects``, and link what is there."""
    for unit in units:
        _compile(unit, folder, objects)
    subprocess.run(
        [
            "g++",
            "-shared",
            *map(str, sorted(objects.glob("*.o"))),
            "-o",
            str(output),
            "-ldl",
            "-lpthread",
        ],
        check=True,
    )


def run_tests(module: str) -> int:
    """In a process of its own: the tests with the compiled module of that path."""
    import pytest

    spec = importlib.util.spec_from_file_location("gaal_fast._native_cpu", module)
    assert spec is not None and spec.loader is not None
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])
    import gaal_fast

    gaal_fast._native_cpu = sys.modules[spec.name]
    return int(
        pytest.main(["-q", "-x", "--tb=no", "-p", "no:cacheprovider", "-k", "not forced", *TESTS])
    )


def check(module: Path) -> tuple[bool, str]:
    """(caught, by which test) for one build."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("GAAL_FAST_BACKEND", None)
    script = (
        "import sys; from tests.native.mutations import run_tests;"
        f" sys.exit(run_tests({str(module)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    return verdict(done.returncode, done.stdout + done.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Print a table of all changes; returns how many survived, at most 1."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.native.mutations", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--only", default="", help="changes whose file or description contains this"
    )
    options = parser.parse_args(arguments)
    survivors = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder, plain, mixed = (Path(temporary) / name for name in ("csrc", "plain", "mixed"))
        shutil.copytree(SOURCES, folder)
        plain.mkdir()
        module = Path(temporary) / "module.so"
        build(folder, list(UNITS), plain, module)
        if check(module)[0]:
            raise SystemExit("the tests fail on the sources as they are")
        for number, mutation in enumerate(MUTATIONS):
            if options.only not in f"{mutation.file} {mutation.what}":
                continue
            source = (SOURCES / mutation.file).read_text()
            (folder / mutation.file).write_text(mutation.applied(source))
            shutil.rmtree(mixed, ignore_errors=True)
            shutil.copytree(plain, mixed)
            module = Path(temporary) / f"module{number}.so"
            build(folder, mutation.units, mixed, module)
            (folder / mutation.file).write_text(source)
            caught, by = check(module)
            survivors += not caught
            result = by if caught else "SURVIVED"
            print(f"{number:>3}  {mutation.file:<20} {mutation.what:<48} {result}", flush=True)
    return min(survivors, 1)


if __name__ == "__main__":
    raise SystemExit(main())
