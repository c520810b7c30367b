"""What host functions share: a launch as a value, the ticket, and the layout of their arguments."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Enough programs for two per multiprocessor on the largest current GPU. A constant, not the
# device's own count, so that the same input gives the same bits on every GPU.
TARGET_PROGRAMS = 264


@dataclass(frozen=True)
class Launch:
    """One kernel launch as shapes decide it. ``run`` adds the tensors.

    Attributes:
        kernel: a function that ``triton.jit`` made, compiled or interpreted.
        programs: how many instances; none is launched for 0.
        constants: the compile-time arguments.
        num_warps: warps per program.
        num_stages: depth of the software pipeline of loops with matrix products.
        max_registers: registers per thread at most. 255, the hardware's limit, keeps ptxas from
            spilling a few registers to fit one more program on a multiprocessor.
        arguments: the run-time arguments, once they are known.
    """

    kernel: Any  # Triton's own types for the two differ from version to version
    programs: int
    constants: Mapping[str, object]
    num_warps: int = 4
    num_stages: int = 3
    max_registers: int | None = None
    arguments: Mapping[str, object] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, int | bool | None]:
        """How the kernel is compiled, as Triton takes it."""
        return {
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
            "maxnreg": self.max_registers,
            "enable_fp_fusion": True,  # its default differs between Triton versions
        }

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The run-time arguments that the kernel takes."""
        return tuple(name for name in self.kernel.arg_names if name not in self.constants)

    def run(self, arguments: Mapping[str, object], device: torch.device) -> None:
        """Launch on the current stream of ``device``, whichever device is current.

        Args:
            arguments: the run-time arguments by name.
            device: where the tensors among them are.
        """
        if self.programs == 0:
            return
        if _trace is not None:
            _trace.append(replace(self, arguments=arguments))
        if not _execute:
            return
        guard = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
        with guard:
            self.kernel[(self.programs,)](**arguments, **self.constants, **self.options)


_trace: list[Launch] | None = None
_execute = True


@contextlib.contextmanager
def trace(execute: bool = True) -> Iterator[list[Launch]]:
    """Collect every launch made inside the block.

    Args:
        execute: False to run nothing, so that tensors may be on ``meta``.
    """
    global _trace, _execute
    outer = _trace, _execute
    _trace, _execute = [], execute
    try:
        yield _trace
    finally:
        _trace, _execute = outer


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter (``TRITON_INTERPRET=1`` before its import).

    Asked of a kernel, not of the environment: the decision was taken when kernels were defined.
    """
    return not isinstance(_count_kernel, triton.JITFunction)


_tickets: dict[tuple[int, int], Tensor] = {}


def ticket(device: torch.device) -> Tensor:
    """A zero int32 counter for ``_device.arrive_last``, which no two kernels can use at once.

    Kernels of one stream run one after another and the last program puts the counter back to zero,
    so eager launches share one counter per (device, stream) and need no memset. A captured graph
    may be replayed on any stream, beside other graphs, so a capture gets a counter of its own, from
    the graph's own memory, and the memset that zeroes it is a node of that graph.
    """
    if device.type != "cuda":
        return torch.zeros(1, dtype=torch.int32, device=device)
    with torch.cuda.device(device):
        if torch.cuda.is_current_stream_capturing():
            return torch.zeros(1, dtype=torch.int32, device=device)
        key = (device.index, torch.cuda.current_stream().cuda_stream)
        if key not in _tickets:
            _tickets[key] = torch.zeros(1, dtype=torch.int32, device=device)
        return _tickets[key]


def rows_contiguous(tensor: Tensor) -> Tensor:
    """The same values with a contiguous last dimension, copied only where the layout needs it.

    Rows keep their stride.
    """
    if tensor.dim() == 2 and (tensor.stride(1) == 1 or tensor.shape[1] == 1):
        return tensor
    return tensor.contiguous()


def contiguous(tensor: Tensor | None) -> Tensor | None:
    """The same values in contiguous memory; None for None."""
    return None if tensor is None else tensor.contiguous()


def blocks(n: int, size: int) -> int:
    """How many blocks of ``size`` cover ``n`` elements."""
    return -(-n // size)


def next_power_of_2(n: int) -> int:
    """Smallest power of two >= ``n`` and >= 2: a block of one has no lane to reduce over."""
    return max(2, 1 << (n - 1).bit_length())


def dot_precision(dtype: torch.dtype) -> str:
    """``input_precision`` of ``tl.dot``.

    Full float32 unless the user let PyTorch's own matrix products use TF32.
    """
    if dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32":
        return "tf32"
    return "ieee"


@triton.jit
def _count_kernel(out_ptr, n):
    total = 0
    for i in range(0, n):
        total += i
    tl.store(out_ptr, total)


def probe() -> None:
    """Run a loop whose bound is known at run time only, on the CPU.

    Raises:
        Exception: Triton's ``InterpreterError``, from an interpreter that does not work with the
            NumPy installed here.
        RuntimeError: it works, wrongly.
    """
    out = torch.zeros(1, dtype=torch.int32)
    Launch(_count_kernel, 1, {}).run({"out_ptr": out, "n": 4}, out.device)
    if out.item() != 6:
        raise RuntimeError(f"Triton's interpreter counts wrongly: {out.item()} instead of 6")
