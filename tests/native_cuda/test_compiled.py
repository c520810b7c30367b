"""What the compiler made of the kernels: registers, stack and spills, the width of memory accesses,
fences. Needs no GPU.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from tests.native_cuda import build

# Beyond these, fewer blocks fit into the 65536 registers of a multiprocessor than a kernel is
# written for: 512 threads twice, 256 threads three or four times, 128 threads three times.
MOST_REGISTERS = {
    "rows_by": 64,
    "inner_products": 64,
    "add_scaled": 80,
    "write_residuals": 64,
    "scale_residuals": 64,
    "head_gradient": 168,
    "guided_step": 168,
}
# Two blocks of 128 threads: the half-precision head step spills with room for three.
HALF_STEPS, MOST_IN_HALF_STEPS = ("guided_stepI6__half", "guided_stepI13__nv_bfloat16"), 255


@dataclass
class Kernel:
    """One kernel for one architecture."""

    architecture: str
    name: str
    registers: int
    stack: int
    local: int
    instructions: Counter[str] = field(default_factory=Counter)

    def count(self, pattern: str) -> int:
        return sum(
            n for instruction, n in self.instructions.items() if re.match(pattern, instruction)
        )


def tool(name: str) -> str | None:
    """A tool of the CUDA toolkit, from the PATH or from Triton's own copy."""
    found = shutil.which(name)
    spec = importlib.util.find_spec("triton")
    if found is None and spec is not None and spec.origin is not None:
        own = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / name
        found = str(own) if own.is_file() else None
    return found


def dump(what: str, binary: Path) -> str:
    return subprocess.run(
        [tool("cuobjdump"), what, str(binary)], capture_output=True, text=True, check=True
    ).stdout


def inspect(binary: Path) -> list[Kernel]:
    kernels: dict[tuple[str, str], Kernel] = {}
    architecture = name = ""
    for line in dump("--dump-resource-usage", binary).splitlines():
        if match := re.match(r"arch = (\S+)", line):
            architecture = match[1]
        elif match := re.match(r"\s*Function (\S+):", line):
            name = match[1]
        elif match := re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", line):
            kernels[architecture, name] = Kernel(
                architecture, name, *(int(number) for number in match.groups())
            )
    for line in dump("--dump-sass", binary).splitlines():
        if match := re.match(r"\s*arch = (\S+)", line):
            architecture = match[1]
        elif match := re.search(r"Function : (\S+)", line):
            name = match[1]
        elif (
            match := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", line)
        ) and (architecture, name) in kernels:
            kernels[architecture, name].instructions[match[1]] += 1
    return list(kernels.values())


@pytest.fixture(scope="session")
def binaries(build_folder: Path) -> list[Path]:
    """The installed extension where there is one, otherwise the kernels compiled for one
    architecture.
    """
    if tool("cuobjdump") is None:
        pytest.skip("needs cuobjdump")
    spec = importlib.util.find_spec("gaal_fast._native_cuda")
    if spec is not None and spec.origin is not None:
        return [Path(spec.origin)]
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("the CUDA kernels are not built, and there is no nvcc")
    made = []
    for source in build.kernel_sources():
        made.append(build_folder / f"{source.stem}.sm_90a.o")
        newest = max(path.stat().st_mtime for path in [source, *build.headers()])
        if not (made[-1].exists() and made[-1].stat().st_mtime > newest):
            options = [
                "-O3",
                "-std=c++17",
                "-Xcompiler",
                "-fPIC,-Wall,-Wextra",
                "-Werror",
                "all-warnings",
                f"-I{build.CSRC}",
            ]
            build.run(
                [
                    nvcc,
                    *options,
                    "-gencode",
                    "arch=compute_90a,code=sm_90a",
                    "-c",
                    str(source),
                    "-o",
                    str(made[-1]),
                ]
            )
    return made


@pytest.fixture(scope="session")
def kernels(binaries: list[Path]) -> list[Kernel]:
    return [kernel for binary in binaries for kernel in inspect(binary)]


def test_every_kernel_is_there_for_every_element_type(kernels: list[Kernel]) -> None:
    for architecture in {kernel.architecture for kernel in kernels}:
        names = [kernel.name for kernel in kernels if kernel.architecture == architecture]
        for part in ("rows_by_lanes", "rows_by_blocks", *list(MOST_REGISTERS)[1:]):
            if part == "inner_products":  # in Gram matrices there is a second one, of float32 only
                names = [name for name in names if "gram_inner_products" not in name]
            for element in ("If", "I6__half", "I13__nv_bfloat16"):
                assert sum(part + element in name for name in names) == 1, (
                    f"{part} of {element} for {architecture}"
                )


def test_nothing_is_spilled(kernels: list[Kernel]) -> None:
    """No stack frame, no local memory, and no instruction that uses either."""
    assert kernels
    for kernel in kernels:
        assert kernel.instructions, kernel.name
        assert kernel.stack == kernel.local == kernel.count(r"LDL|STL") == 0, kernel


def test_registers_leave_room_for_the_blocks_that_are_wanted(kernels: list[Kernel]) -> None:
    for kernel in kernels:
        most = next((limit for part, limit in MOST_REGISTERS.items() if part in kernel.name), 64)
        if any(part in kernel.name for part in HALF_STEPS):
            most = MOST_IN_HALF_STEPS
        assert kernel.registers <= most, kernel


def test_memory_is_read_sixteen_bytes_at_a_time(kernels: list[Kernel]) -> None:
    for kernel in kernels:
        if any(
            part in kernel.name
            for part in (
                "rows_by",
                "inner_productsI",
                "add_scaled",
                "write_residuals",
                "head_gradient",
                "guided_step",
            )
        ):
            assert kernel.count(r"LDG\.E\.(\w+\.)*128") >= 1, kernel
        if "add_scaled" in kernel.name or "write_residuals" in kernel.name:
            assert kernel.count(r"STG\.E\.(\w+\.)*128") >= 1, kernel
        # The pairs of packs that are in flight at once are whole.
        if "inner_productsI" in kernel.name and "gram" not in kernel.name:
            assert kernel.count(r"LDG\.E\.(\w+\.)*128") >= 10, kernel


def test_products_use_the_units_that_are_meant(kernels: list[Kernel]) -> None:
    """IEEE multiply-adds for float32, tensor cores for half precision, and no tensor core for
    float32.
    """
    for kernel in kernels:
        if "head_gradient" in kernel.name or "guided_step" in kernel.name:
            if kernel.name.count("If"):
                assert kernel.count("FFMA") >= 200 and kernel.count("HMMA") == 0, kernel
            else:
                assert kernel.count("HMMA") >= 16, kernel


def test_the_ticket_stands_between_two_fences(kernels: list[Kernel]) -> None:
    for kernel in kernels:
        tickets = kernel.count(r"ATOMG?\.E\.INC")
        assert kernel.count("MEMBAR") >= 2 * tickets, kernel
        assert kernel.count(r"ATOMG?\.E\.(ADD|MAX|MIN|CAS|EXCH).*F(16|32|64)") == 0, (
            "an atomic on floating numbers is not reproducible"
        )
        if any(
            part in kernel.name
            for part in ("rows_by", "inner_products", "head_gradient", "guided_step")
        ):
            assert tickets >= 1, kernel


def test_the_installed_extension_has_every_architecture_it_should(binaries: list[Path]) -> None:
    if binaries[0].suffix == ".o" or os.environ.get("TORCH_CUDA_ARCH_LIST"):
        pytest.skip("the extension is not installed, or was built for other architectures")
    nvcc = shutil.which("nvcc")
    known = (
        subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True).stdout
        if nvcc
        else ""
    )
    found = set(re.findall(r"\.(sm_\w+)\.cubin", dump("--list-elf", binaries[0])))
    assert {"sm_80", "sm_86", "sm_89", "sm_90a"} <= found
    if "compute_120" in known:
        assert {"sm_100", "sm_120"} <= found
        assert "sm_120.ptx" in dump("--list-ptx", binaries[0])


def test_the_installed_module_loads_and_says_what_is_missing() -> None:
    """On a machine without a driver it still loads, and gives a reason instead of an error."""
    if importlib.util.find_spec("gaal_fast._native_cuda") is None:
        pytest.skip("the CUDA kernels are not built")
    from gaal_fast import _native_cuda

    if torch.cuda.is_available():
        assert _native_cuda.obstacle(0) == ""
    else:
        assert "cuda" in _native_cuda.obstacle(0).lower()
