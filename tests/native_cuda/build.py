"""Builds the CUDA kernels' own source for the CPU, against the headers in ``emulator/``."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
EMULATOR = Path(__file__).parent / "emulator"
BINDINGS = "cuda/bindings.cpp"

FLAGS = [
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
]


def compiler() -> str | None:
    """The C++ compiler, if there is one."""
    return shutil.which((os.environ.get("CXX") or "c++").split()[0])


def compile_and_link(
    sources: Sequence[Path],
    flags: Sequence[str],
    output: Path,
    csrc: Path = CSRC,
    link: Sequence[str] = (),
) -> Path:
    """Compile each source on its own, with the stand-in headers before those of ``csrc``, and link
    them into ``output``.

    What was built before from the same text with the same flags is taken as it is.
    """
    compiler_path = compiler()
    assert compiler_path is not None
    command = [compiler_path, *FLAGS, *flags, f"-I{EMULATOR}", f"-I{csrc}"]
    included = [*headers(csrc), *sorted(EMULATOR.glob("*.h"))]
    output.parent.mkdir(parents=True, exist_ok=True)

    def state(command: Sequence[str], files: Sequence[Path]) -> str:
        return hashlib.sha256(
            b"\0".join([" ".join(command).encode(), *(path.read_bytes() for path in files)])
        ).hexdigest()

    def make(target: Path, command: list[str], made_from: list[Path]) -> Path:
        stamp, wanted = Path(f"{target}.stamp"), state(command, made_from)
        if not (target.exists() and stamp.exists() and stamp.read_text() == wanted):
            run([*command, "-o", str(target)])
            stamp.write_text(wanted)
        return target

    def compile_one(source: Path) -> Path:
        language = ["-x", "c++"] if source.suffix == ".cu" else []
        target = output.parent / f"{output.name.partition('.')[0]}-{source.stem}.o"
        return make(target, [*command, *language, "-c", str(source)], [source, *included])

    with open(f"{output}.lock", "w") as lock, ThreadPoolExecutor(os.cpu_count()) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may want it at once
        objects = [
            *pool.map(compile_one, sources),
            *(Path(item) for item in link if not item.startswith("-")),
        ]
        return make(
            output,
            [
                compiler_path,
                *flags,
                *(item for item in link if item.startswith("-")),
                *map(str, objects),
            ],
            objects,
        )


def run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


# What each part of checked_run.cpp needs.
PARTS = {
    "rows": (1, ["cuda/softmax.cu"]),
    "gradients": (2, ["cuda/softmax.cu", "cuda/linear_ce_grad.cu", "cuda/composed.cu"]),
    "project": (4, ["cuda/project.cu"]),
    "guided": (8, ["cuda/guided_linear_ce.cu"]),
}
CHECKERS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}


def checked_program(
    folder: Path, checker: str, part: str, csrc: Path = CSRC, level: str = "-O1"
) -> Path:
    """A program that runs a part of the kernels under a checker."""
    bit, names = PARTS[part]
    flags = [level, "-g1", *CHECKERS[checker], f"-DGAAL_PARTS={bit}"]
    output = folder / f"checked-{checker}-{part}"
    # The scheduler itself is not instrumented: under the thread checker it announces what orders
    # the emulated threads.
    flag = f"-DGAAL_EMULATOR_TSAN={int(checker == 'thread')}"
    scheduler = compile_and_link(
        [EMULATOR / "emulator.cpp"], ["-O1", flag], folder / f"scheduler-{checker}.o", link=["-r"]
    )
    return compile_and_link(
        [*(csrc / name for name in names), EMULATOR / "checked_run.cpp"],
        flags,
        output,
        csrc,
        link=[str(scheduler)],
    )


def kernel_sources(csrc: Path = CSRC) -> list[Path]:
    return sorted((csrc / "cuda").glob("*.cu"))


def headers(csrc: Path = CSRC) -> list[Path]:
    """What the kernels' sources may include."""
    return sorted(
        path
        for folder in ("common", "cuda")
        for path in (csrc / folder).rglob("*")
        if path.suffix in (".h", ".cuh")
    )


@dataclass
class Emulated:
    """The compiled module on the emulated devices, and these devices themselves.

    Number 0 has 3 multiprocessors with room for 2 blocks each, number 1 has one with room for one
    block, number 2 has 132 with 4.
    """

    module: ModuleType
    device: ctypes.CDLL

    def seed(self, seed: int) -> None:
        """Start a schedule of threads and blocks."""
        self.device.gaal_emulator_seed(ctypes.c_ulonglong(seed))

    def current(self) -> int:
        """The number of the current device."""
        return self.device.gaal_emulator_current_device()

    def counts(self) -> tuple[int, int, int]:
        """Kernels, cooperative ones among them, and memsets since the last call."""
        numbers = [ctypes.c_int() for _ in range(3)]
        self.device.gaal_emulator_counts(*(ctypes.byref(number) for number in numbers))
        kernels, cooperative, memsets = (number.value for number in numbers)
        return kernels, cooperative, memsets


def emulated_module(folder: Path, csrc: Path = CSRC, level: str = "-O2") -> Emulated:
    """``gaal_fast._native_cuda`` with every kernel run on this CPU."""
    import pybind11

    includes = [
        f"-isystem{path}" for path in (pybind11.get_include(), sysconfig.get_path("include"))
    ]
    output = folder / f"_native_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    sources = [*kernel_sources(csrc), csrc / BINDINGS, EMULATOR / "emulator.cpp"]
    compile_and_link(sources, [level, *includes], output, csrc, link=["-shared"])
    spec = importlib.util.spec_from_file_location("_native_cuda", output)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Emulated(module, ctypes.CDLL(str(output)))
