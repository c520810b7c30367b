"""Compile the kernels for GPUs that are not here, and report what each one needs.

``python -m gaal_fast.kernels.aot --out kernels.csv`` compiles every kernel in the configurations the host functions pick (recorded
with ``_common.trace``, so that nothing is listed twice) for sm_80, sm_90 and sm_100. Needs Triton's NVIDIA back end and its bundled
``ptxas``, but no GPU and no driver. No kernel spills registers with the compilers in `MEASURED`; another one may.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import _common
from .entropy_topk import MAX_ROWS, entropy_topk
from .guided_linear_ce import guided_linear_ce
from .linear_ce_grad import linear_ce_grad
from .project import project_
from .softmax_stats import softmax_stats

ARCHITECTURES = (80, 90, 100)
# Shared memory that one program may use after opting in, bytes (CUDA C++ programming guide, technical specifications).
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}

# (Triton, ptxas) versions with which the whole table was made, and nothing spilled. The second ptxas is the one for sm_100.
MEASURED = frozenset({("3.6.0", "12.8"), ("3.6.0", "12.9"), ("3.8.0", "12.9"), ("3.8.0", "13.3")})

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
    """The specialisation that Triton's launcher would compile: an integer 1 is a constant, a multiple of 16 is known to be one, unless
    the kernel asks not to know."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], object] = {}
    attributes: dict[tuple[int, ...], list] = {}
    values = launch.arguments | launch.constants
    for position, (name, parameter) in enumerate(zip(launch.kernel.arg_names, launch.kernel.params, strict=True)):
        value = values[name]
        known = not parameter.do_not_specialize
        if name in launch.constants or value is None or (known and type(value) is int and value == 1):
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
            signature[name] = parameter.annotation_type or "fp32"
            divisible = False
        if divisible and known and not parameter.do_not_specialize_on_alignment:
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
            options=launch.options,
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
        num_warps=launch.options["num_warps"],
        registers=int(registers[1]),
        shared=compiled.metadata.shared,
        stack=stack,
        spill_stores=stores,
        spill_loads=loads,
    )
    return resources, compiled.asm["ptx"]


def compiler(architecture: int) -> tuple[str, str]:
    """Versions of Triton and of the ptxas it takes for ``architecture``; "unknown" where this Triton does not say."""
    try:
        from triton.backends.nvidia.compiler import get_ptxas

        return triton.__version__, get_ptxas(architecture).version
    except (ImportError, AttributeError, TypeError):
        return triton.__version__, "unknown"


def record(call: Callable[[], object]) -> list[_common.Launch]:
    """The launches of ``call``, which is not executed."""
    with _common.trace(execute=False) as launches:
        call()
    return launches


@contextlib.contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """PyTorch's precision of float32 products, which the kernels follow: ``"ieee"`` or ``"tf32"``."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = precision
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def cases() -> dict[str, list[_common.Launch]]:
    """The launches at the sizes of the benchmarks: every kernel, form, tile shape and type that the host functions choose there."""

    def floats(*size: int) -> torch.Tensor:
        return torch.empty(*size, dtype=dtype, device="meta")

    def rows(count: int) -> torch.Tensor:
        return torch.empty(count, dtype=torch.int64, device="meta")

    def step(active: int, guides: int, classes: int, width: int, k: int, **options: object) -> None:
        head = floats(classes, width), floats(classes)
        guided_linear_ce(floats(active, width), rows(active), floats(guides, width), rows(guides), *head, None, k, **options)

    def classes_step() -> None:
        """Every option that changes the code: class weights, a relative bound, a correction bound."""
        weights = torch.empty(286, dtype=torch.float32, device="meta")
        inputs = floats(64, 512), rows(64), floats(64, 512), rows(64), floats(286, 512), None
        guided_linear_ce(*inputs, weights, 32, relative=True, max_correction=1.0)

    recorded: dict[str, list[_common.Launch]] = {}
    for label, dtype, precision in (  # noqa: B007 - the calls are recorded within the same turn of the loop
        ("float32", torch.float32, "ieee"),
        ("tf32", torch.float32, "tf32"),
        ("bfloat16", torch.bfloat16, "ieee"),
        ("float16", torch.float16, "ieee"),
    ):
        with matmul_precision(precision):
            if label != "tf32":
                for batch, classes in ((256, 2), (256, 20), (256, 100), (256, 286), (256, 717), (256, 2000), (1024, 10_000), (64, 100_000)):
                    recorded[f"softmax_stats {label} {batch}x{classes}"] = record(
                        lambda b=batch, c=classes: softmax_stats(floats(b, c), rows(b))
                    )
                for batch, classes in ((256, 286), (MAX_ROWS, 717), (64, 100_000)):
                    recorded[f"entropy_topk {label} {batch}x{classes}"] = record(
                        lambda b=batch, c=classes: entropy_topk(floats(b, c), b // 2)
                    )
                pairs = [floats(717, 2048), floats(717)], [floats(717, 2048), floats(717)]
                held = torch.empty((), dtype=torch.float64, device="meta")
                recorded[f"project_ {label} 717x2048"] = record(lambda p=pairs: project_(*p, "official"))
                recorded[f"project_ {label} 717x2048, epsilon on the GPU"] = record(lambda p=pairs, e=held: project_(*p, epsilon=e))
            recorded[f"linear_ce_grad {label} 256x717x2048"] = record(
                lambda: linear_ce_grad(floats(256, 2048), floats(256, 717), rows(256), rows(128))
            )
            recorded[f"guided_linear_ce {label} 256x717x2048"] = record(lambda: step(256, 256, 717, 2048, 128))
            recorded[f"guided_linear_ce {label} 64x286x512"] = record(classes_step)
            recorded[f"guided_linear_ce {label} 4096x10000x2048"] = record(lambda: step(4096, 4096, 10_000, 2048, 2048, rule="official"))
    return recorded


def distinct(recorded: dict[str, list[_common.Launch]]) -> list[tuple[str, _common.Launch]]:
    """The launches that compile to different code, each with the first case that needs it."""
    seen: dict[str, tuple[str, _common.Launch]] = {}
    for case, launches in recorded.items():
        for launch in launches:
            key = f"{source(launch).hash()} {launch.options}"
            seen.setdefault(key, (case, launch))
    return list(seen.values())


def write_csv(path: str, rows: Iterable[Resources]) -> None:
    """One line per kernel, case and architecture."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Resources)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def main(arguments: list[str] | None = None) -> int:
    """Compile everything, print a line per kernel, write the table. Returns 1 if a kernel spills registers, whatever the compiler."""
    parser = argparse.ArgumentParser(prog="python -m gaal_fast.kernels.aot", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", help="CSV file for the table")
    parser.add_argument("--arch", type=int, nargs="*", default=list(ARCHITECTURES), help="compute capabilities, for example 80 90 100")
    options = parser.parse_args(arguments)
    for architecture in options.arch:
        versions = compiler(architecture)
        print(f"sm_{architecture}: Triton {versions[0]}, ptxas {versions[1]}{'' if versions in MEASURED else ', not measured before'}")
    table = []
    for case, launch in distinct(cases()):
        for architecture in options.arch:
            row, _ = compile_launch(case, launch, architecture)
            table.append(row)
            spills = f"{row.spill_stores} + {row.spill_loads} bytes spilled" if row.spill_stores or row.spill_loads else "no spills"
            needs = f"{row.registers:>4} registers {row.shared:>7} bytes shared  {spills}"
            print(f"sm_{architecture:<4}{row.kernel:<26}{needs}  {case}", flush=True)
    if options.out:
        write_csv(options.out, table)
    return int(any(row.spill_stores or row.spill_loads for row in table))


if __name__ == "__main__":
    raise SystemExit(main())
