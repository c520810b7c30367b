"""Compile the kernels for GPUs that are not here, and report what each one needs.

``python -m gaal_fast.kernels.aot --out kernels.csv`` compiles every kernel in the configurations the host functions pick (recorded
with ``_common.trace``, so that nothing is listed twice) for sm_80, sm_90 and sm_100. Needs Triton's NVIDIA back end and its bundled
``ptxas``, but no GPU and no driver.
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import _common

ARCHITECTURES = (80, 90, 100)
# Shared memory that one program may use after opting in, bytes (CUDA C++ programming guide, technical specifications).
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}

_TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float64: "fp64",
    torch.int32: "i32",
    torch.int64: "i64",
}


@dataclass(frozen=True)
class Resources:
    """What one kernel needs on one architecture. Registers are per thread; shared memory, stack and spills are bytes."""

    case: str
    kernel: str
    architecture: int
    types: str
    constants: str
    num_warps: int
    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int


def source(launch: _common.Launch) -> ASTSource:
    """The specialisation that Triton's launcher would compile: an integer 1 is a constant, a multiple of 16 is known to be one."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], object] = {}
    attributes: dict[tuple[int, ...], list] = {}
    values = launch.arguments | launch.constants
    for position, name in enumerate(launch.kernel.arg_names):
        value = values[name]
        if name in launch.constants or value is None or (type(value) is int and value == 1):
            signature[name] = "constexpr"
            constants[(position,)] = value
            continue
        if isinstance(value, torch.Tensor):
            signature[name] = "*" + _TYPES[value.dtype]
            divisible = value.data_ptr() % 16 == 0
        elif isinstance(value, int):
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            divisible = value % 16 == 0
        else:
            signature[name] = "fp32"
            divisible = False
        if divisible:
            attributes[(position,)] = [["tt.divisibility", 16]]
    return ASTSource(launch.kernel, signature, constants, attributes)


def compile_launch(case: str, launch: _common.Launch, architecture: int) -> tuple[Resources, str]:
    """Compile one recorded launch. Returns its resources, as ptxas reported them for this very object, and its PTX."""
    if _common.interpreted():
        raise RuntimeError("TRITON_INTERPRET is set: interpreted kernels cannot be compiled")
    src = source(launch)
    log = io.StringIO()
    knobs = triton.knobs
    with knobs.compilation.scope(), knobs.nvidia.scope(), contextlib.redirect_stdout(log):
        # A cached object comes without the report of ptxas.
        knobs.compilation.always_compile = True
        knobs.nvidia.dump_ptxas_log = True
        compiled = triton.compile(
            src,
            target=GPUTarget("cuda", architecture, 32),
            options={"num_warps": launch.num_warps, "num_stages": launch.num_stages, "enable_fp_fusion": True},
        )
    report = log.getvalue()
    frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
    registers = re.search(r"Used (\d+) registers", report)
    if frame is None or registers is None:
        raise RuntimeError(f"ptxas gave no resource report for {launch.kernel.__name__}: {report!r}")
    stack, stores, loads = map(int, frame.groups())
    types = {kind for kind in src.signature.values() if kind in ("*fp32", "*fp16", "*bf16")}
    resources = Resources(
        case=case,
        kernel=launch.kernel.__name__,
        architecture=architecture,
        types=" ".join(sorted(kind[1:] for kind in types)),
        constants=" ".join(f"{name}={getattr(value, 'name', value)}" for name, value in launch.constants.items()),
        num_warps=launch.num_warps,
        registers=int(registers[1]),
        shared=compiled.metadata.shared,
        stack=stack,
        spill_stores=stores,
        spill_loads=loads,
    )
    return resources, compiled.asm["ptx"]


def record(call: Callable[[], object]) -> list[_common.Launch]:
    """The launches of ``call``, which is not executed."""
    with _common.trace(execute=False) as launches:
        call()
    return launches


def write_csv(path: str, rows: Iterable[Resources]) -> None:
    """One line per kernel, case and architecture."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Resources)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
