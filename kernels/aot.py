"""Compile the kernels for GPUs that are not here, and report what each one needs.

``python -m gaal_fast.kernels.aot --out kernels.csv`` compiles every kernel in the configurations
the host functions pick (recorded with ``_launch.trace``, so that nothing is listed twice) for
sm_80, sm_90 and sm_100. Needs Triton's NVIDIA back end and its bundled ``ptxas``, but no GPU and no
driver. No kernel spills registers with the compilers in ``MEASURED``; another one may.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import _launch
from ._launch import Launch
from .entropy_topk import MAX_ROWS, entropy_topk
from .guided import guided_linear_ce
from .linear_ce_grad import linear_ce_grad
from .project import project_
from .softmax_stats import softmax_stats

ARCHITECTURES = (80, 90, 100)
# Shared memory that one program may use after opting in, bytes (CUDA C++ programming guide,
# technical specifications).
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}

# (Triton, ptxas) versions with which the whole table was made, and nothing spilled. The second
# ptxas is the one for sm_100.
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
    """What one kernel needs on one architecture.

    Registers are per thread; shared memory, stack and spills are bytes.
    """

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


def source(launch: Launch) -> ASTSource:
    """The specialization that Triton's launcher would compile.

    An integer 1 is a constant, a multiple of 16 is known to be one, unless the kernel asks not to
    know.
    """
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], object] = {}
    attributes: dict[tuple[int, ...], list[list[object]]] = {}
    values = {**launch.arguments, **launch.constants}
    parameters = zip(launch.kernel.arg_names, launch.kernel.params, strict=True)
    for position, (name, parameter) in enumerate(parameters):
        value = values[name]
        known = not parameter.do_not_specialize
        one = known and type(value) is int and value == 1
        if name in launch.constants or value is None or one:
            signature[name] = "constexpr"
            constants[(position,)] = value
            continue
        if isinstance(value, Tensor):
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


def _numbers(pattern: str, launch: Launch, report: str) -> list[int]:
    """The groups of ``pattern`` in what ptxas said of a launch."""
    found = re.search(pattern, report)
    if found is None:
        name = launch.kernel.__name__
        raise RuntimeError(f"ptxas gave no resource report for {name}: {report!r}")
    return [int(number) for number in found.groups()]


def compile_launch(case: str, launch: Launch, architecture: int) -> tuple[Resources, str]:
    """Compile one recorded launch for a compute capability such as 90.

    Returns:
        Its resources, as ptxas reported them for this very object, and its PTX.

    Raises:
        RuntimeError: the kernels are interpreted, or ptxas reported nothing.
    """
    if _launch.interpreted():
        raise RuntimeError("TRITON_INTERPRET is set: interpreted kernels cannot be compiled")
    src = source(launch)
    log = io.StringIO()
    knobs = triton.knobs
    with knobs.compilation.scope(), knobs.nvidia.scope(), contextlib.redirect_stdout(log):
        # A cached object comes without the report of ptxas.
        knobs.compilation.always_compile = True
        knobs.nvidia.dump_ptxas_log = True
        target = GPUTarget("cuda", architecture, 32)
        compiled = triton.compile(src, target=target, options=launch.options)
    report = log.getvalue()
    frame = r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    stack, stores, loads = _numbers(frame, launch, report)
    (registers,) = _numbers(r"Used (\d+) registers", launch, report)
    types = {kind for kind in src.signature.values() if kind in ("*fp32", "*fp16", "*bf16")}
    constants = (
        f"{name}={getattr(value, 'name', value)}" for name, value in launch.constants.items()
    )
    resources = Resources(
        case=case,
        kernel=launch.kernel.__name__,
        architecture=architecture,
        types=" ".join(sorted(kind[1:] for kind in types)),
        constants=" ".join(constants),
        num_warps=launch.num_warps,
        registers=registers,
        shared=compiled.metadata.shared,
        stack=stack,
        spill_stores=stores,
        spill_loads=loads,
    )
    return resources, compiled.asm["ptx"]


def compiler(architecture: int) -> tuple[str, str]:
    """Versions of Triton and of the ptxas it takes for ``architecture``.

    "unknown" in place of the second where this Triton does not say.
    """
    try:
        from triton.backends.nvidia.compiler import get_ptxas

        return triton.__version__, get_ptxas(architecture).version
    except (ImportError, AttributeError, TypeError):
        return triton.__version__, "unknown"


def record(call: Callable[[], object]) -> list[Launch]:
    """The launches of ``call``, which is not executed."""
    with _launch.trace(execute=False) as launches:
        call()
    return launches


@contextlib.contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """PyTorch's precision of float32 products, which the kernels follow.

    Args:
        precision: ``"ieee"`` or ``"tf32"``.
    """
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = precision
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


class _Rule(NamedTuple):
    rule: str = "paper"
    epsilon: float | Tensor = 0.0
    relative: bool = False
    margin: float | Tensor = 0.75
    ridge: float = 1e-3
    max_correction: float | None = None


class _Calls:
    """Calls at the sizes of the benchmarks, on tensors of one dtype without memory."""

    def __init__(self, label: str, dtype: torch.dtype) -> None:
        self.label = label
        self.dtype = dtype
        self.recorded: dict[str, list[Launch]] = {}

    def floats(self, *size: int) -> Tensor:
        return torch.empty(*size, dtype=self.dtype, device="meta")

    def rows(self, count: int) -> Tensor:
        return torch.empty(count, dtype=torch.int64, device="meta")

    def add(self, op: str, sizes: str, call: Callable[[], object]) -> None:
        self.recorded[f"{op} {self.label} {sizes}"] = record(call)

    def row_ops(self) -> None:
        """Statistics and selection: every shape of work."""
        for B, Y in (
            *((256, 2), (256, 20), (256, 100), (256, 286), (256, 717), (256, 2000)),
            *((1024, 10_000), (64, 100_000)),
        ):
            logits, target = self.floats(B, Y), self.rows(B)
            self.add("softmax_stats", f"{B}x{Y}", partial(softmax_stats, logits, target))
        for B, Y in ((256, 286), (MAX_ROWS, 717), (64, 100_000)):
            logits = self.floats(B, Y)
            self.add("entropy_topk", f"{B}x{Y}", partial(entropy_topk, logits, B // 2))

    def projections(self) -> None:
        """Both rules, and an option on the GPU."""
        grads, guides = ([self.floats(717, 2048), self.floats(717)] for _ in range(2))
        held = _Rule(epsilon=torch.empty((), dtype=torch.float64, device="meta"))
        sizes = "717x2048"
        self.add("project_", sizes, partial(project_, grads, guides, _Rule("official")))
        self.add("project_", f"{sizes}, epsilon on the GPU", partial(project_, grads, guides, held))

    def products(self) -> None:
        """The head's gradient, and every form of the whole step."""
        head = self.floats(256, 2048), self.floats(256, 717), self.rows(256), self.rows(128)
        self.add("linear_ce_grad", "256x717x2048", partial(linear_ce_grad, *head))
        # Every option that changes the code: class weights, a relative bound, a correction bound.
        weights = torch.empty(286, dtype=torch.float32, device="meta")
        options = _Rule(relative=True, max_correction=1.0)
        self.step(256, 717, 2048, True, None, 128, _Rule())
        self.step(64, 286, 512, False, weights, 32, options)
        self.step(4096, 10_000, 2048, True, None, 2048, _Rule("official"))

    def step(
        self, B: int, Y: int, d: int, bias: bool, class_weights: Tensor | None, k: int, rule: _Rule
    ) -> None:
        """A whole step of ``B`` rows of both batches."""
        batch, guide = ((self.floats(B, d), self.rows(B)) for _ in range(2))
        weight, shift = self.floats(Y, d), self.floats(Y) if bias else None
        call = partial(guided_linear_ce, *batch, *guide, weight, shift, class_weights, k, rule)
        self.add("guided_linear_ce", f"{B}x{Y}x{d}", call)


def cases() -> dict[str, list[Launch]]:
    """The launches at the sizes of the benchmarks.

    Every kernel, form, tile shape and type that the host functions choose there.
    """
    recorded: dict[str, list[Launch]] = {}
    for label, dtype, precision in (
        ("float32", torch.float32, "ieee"),
        ("tf32", torch.float32, "tf32"),
        ("bfloat16", torch.bfloat16, "ieee"),
        ("float16", torch.float16, "ieee"),
    ):
        calls = _Calls(label, dtype)
        with matmul_precision(precision):
            if label != "tf32":
                calls.row_ops()
                calls.projections()
            calls.products()
        recorded |= calls.recorded
    return recorded


def distinct(recorded: dict[str, list[Launch]]) -> list[tuple[str, Launch]]:
    """The launches that compile to different code, each with the first case that needs it."""
    seen: dict[str, tuple[str, Launch]] = {}
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


def _line(row: Resources, case: str) -> str:
    spilled = f"{row.spill_stores} + {row.spill_loads} bytes spilled"
    spills = spilled if row.spill_stores or row.spill_loads else "no spills"
    needs = f"{row.registers:>4} registers {row.shared:>7} bytes shared  {spills}"
    return f"sm_{row.architecture:<4}{row.kernel:<26}{needs}  {case}"


def main(arguments: list[str] | None = None) -> int:
    """Compile everything, print a line per kernel, write the table.

    Returns:
        1 if a kernel spills registers, whatever the compiler, else 0.
    """
    parser = argparse.ArgumentParser(
        prog="python -m gaal_fast.kernels.aot", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--out", help="CSV file for the table")
    parser.add_argument(
        "--arch",
        type=int,
        nargs="*",
        default=list(ARCHITECTURES),
        help="compute capabilities, for example 80 90 100",
    )
    options = parser.parse_args(arguments)
    for architecture in options.arch:
        versions = compiler(architecture)
        unknown = "" if versions in MEASURED else ", not measured before"
        print(f"sm_{architecture}: Triton {versions[0]}, ptxas {versions[1]}{unknown}")
    table = []
    for case, launch in distinct(cases()):
        for architecture in options.arch:
            row, _ = compile_launch(case, launch, architecture)
            table.append(row)
            print(_line(row, case), flush=True)
    if options.out:
        write_csv(options.out, table)
    return int(any(row.spill_stores or row.spill_loads for row in table))


if __name__ == "__main__":
    raise SystemExit(main())
