"""What the kernels share: launching, the last-program ticket, and the arithmetic of online softmax statistics.

Online statistics of a row. With a reference m (the largest logit seen so far) keep

    s = sum_j e^(x_j - m)          t = sum_j e^(x_j - m) (x_j - m)

When the reference moves from m to m', write d = m - m' (never positive). Every term e^(x-m)(x-m) must become e^(x-m')(x-m'), and
x - m' = (x - m) + d, so e^(x-m')(x-m') = e^d [e^(x-m)(x-m) + d e^(x-m)]. Summed:

    s' = e^d s          t' = e^d (t + d s)

At the end, with p_j = e^(x_j - m) / s, the entropy (equation (6) of the paper) is

    H = -sum_j p_j log p_j = -sum_j p_j ((x_j - m) - log s) = log s - t / s

which needs one read of the row, no stored probability and no second pass. A logit of -inf has e = 0 and contributes 0 to t; e > 0 is
tested before the product so that 0 * (-inf) never appears. While every logit so far is -inf the reference is taken as 0, for
(-inf) - (-inf) would be NaN. NaN and +inf reach s through e^(x - m) whether or not the hardware maximum drops NaN, and s then makes
every result NaN.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

# Enough programs for two per multiprocessor on the largest current GPU. A constant, not the device's own count, so that the same
# input gives the same bits on every GPU.
TARGET_PROGRAMS = 264


@dataclass(frozen=True)
class Launch:
    """One kernel launch as the host function asked for it."""

    kernel: Any
    programs: int
    arguments: dict[str, Any]
    constants: dict[str, Any]
    options: dict[str, Any]  # num_warps, num_stages, maxnreg, enable_fp_fusion, as Triton takes them


_trace: list[Launch] | None = None
_execute = True


@contextlib.contextmanager
def trace(execute: bool = True) -> Iterator[list[Launch]]:
    """Collect every launch made inside the block; with ``execute=False`` nothing runs, so tensors may live on ``meta``."""
    global _trace, _execute
    outer = _trace, _execute
    _trace, _execute = [], execute
    try:
        yield _trace
    finally:
        _trace, _execute = outer


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter (``TRITON_INTERPRET=1`` before its first import).

    Asked of a kernel, not of the environment: the decision was taken when the kernels were defined.
    """
    return not isinstance(arrive_last, triton.JITFunction)


def launch(
    kernel: Any,
    programs: int,
    arguments: dict[str, Any],
    constants: dict[str, Any],
    *,
    device: torch.device,
    num_warps: int = 4,
    num_stages: int = 3,
    max_registers: int | None = None,
) -> None:
    """Launch ``programs`` instances on the current stream of ``device``, whichever device is current; nothing for no program.

    ``max_registers=255``, the hardware's limit, keeps ptxas from spilling a few registers to fit one more program on a multiprocessor.
    """
    if programs == 0:
        return
    # Fused multiply-add is stated because its default differs between Triton versions.
    options = {"num_warps": num_warps, "num_stages": num_stages, "maxnreg": max_registers, "enable_fp_fusion": True}
    if _trace is not None:
        _trace.append(Launch(kernel, programs, arguments, constants, options))
    if not _execute:
        return
    guard = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    with guard:
        kernel[(programs,)](**arguments, **constants, **options)


_tickets: dict[tuple[int, int], torch.Tensor] = {}


def ticket(device: torch.device) -> torch.Tensor:
    """A zero int32 counter for `arrive_last`, which no two kernels can use at the same time.

    Kernels of one stream run one after another and the last program puts the counter back to zero, so eager launches share one
    counter per (device, stream) and need no memset. A captured graph may be replayed on any stream, beside other graphs, so a
    capture gets a counter of its own, from the graph's own memory, and the memset that zeroes it is a node of that graph.
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


def rows_contiguous(tensor: torch.Tensor) -> torch.Tensor:
    """The same values with a contiguous last dimension; a copy only where the layout needs one. Row strides stay as they are."""
    if tensor.dim() == 2 and (tensor.stride(1) == 1 or tensor.shape[1] == 1):
        return tensor
    return tensor.contiguous()


def next_power_of_2(n: int) -> int:
    """Smallest power of two that is at least ``n``, and at least 2 (a one-element block has no lane to reduce over)."""
    return max(2, 1 << (n - 1).bit_length())


def dot_precision(dtype: torch.dtype) -> str:
    """``input_precision`` of ``tl.dot``: full float32 unless the user let PyTorch's own matrix products use TF32."""
    if dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32":
        return "tf32"
    return "ieee"


@triton.jit
def arrive_last(ticket_ptr, total):
    """Count this program as done; true for the one that arrives last, which then sees every other program's stores.

    The barrier puts the stores of all threads of this program before the ticket; release makes them visible to the GPU before the
    count, acquire orders the last program's loads after it.
    """
    tl.debug_barrier()
    return tl.atomic_add(ticket_ptr, 1, sem="acq_rel", scope="gpu") == total - 1


@triton.jit
def rescale(m, s, t, reference):
    """(s, t) of a row with maximum ``m``, expressed against ``reference`` >= m."""
    d = m - reference
    scale = tl.exp(d)
    return s * scale, tl.where(scale > 0, scale * (t + d * s), 0.0)


@triton.jit
def reference_of(m):
    """The maximum itself, or 0 while nothing but -inf was seen."""
    return tl.where(m == float("-inf"), 0.0, m)


@triton.jit
def merge_stats(m, s, t, m2, s2, t2):
    """Statistics of the union of two disjoint parts of a row."""
    m_new = tl.maximum(m, m2)
    reference = reference_of(m_new)
    s, t = rescale(m, s, t, reference)
    s2, t2 = rescale(m2, s2, t2, reference)
    return m_new, s + s2, t + t2


@triton.jit
def add_tile(m, s, t, x):
    """Statistics of rows after one more tile ``x[rows, columns]``; columns outside the row hold -inf."""
    m_new = tl.maximum(m, tl.max(x, axis=1))
    reference = reference_of(m_new)
    s, t = rescale(m, s, t, reference)
    z = x - reference[:, None]
    e = tl.exp(z)
    return m_new, s + tl.sum(e, axis=1), t + tl.sum(tl.where(e > 0, e * z, 0.0), axis=1)


@triton.jit
def finish_stats(m, s, t):
    """(entropy, log s, log-sum-exp) of finished rows; NaN for a row that is all -inf or holds NaN or +inf."""
    log_s = tl.log(s)
    entropy = log_s - t / s
    lse = tl.where(s > 0, m + log_s, float("nan"))
    return entropy, log_s, lse


@triton.jit
def label_weight(target, class_weights_ptr, valid, n_cols):
    """Weight of each row's label: its class weight (1 without weights), NaN for a label outside [0, n_cols), 0 for no row.

    NaN instead of an error: a check would have to wait for the GPU, and a NaN loss cannot be overlooked.
    """
    legal = (target >= 0) & (target < n_cols)
    if class_weights_ptr is not None:
        weight = tl.load(class_weights_ptr + target, mask=valid & legal, other=0.0).to(tl.float32)
    else:
        weight = tl.full(target.shape, 1.0, tl.float32)
    return tl.where(valid, tl.where(legal, weight, float("nan")), 0.0)


@triton.jit
def _count_kernel(out_ptr, n):
    total = 0
    for i in range(0, n):
        total += i
    tl.store(out_ptr, total)


def probe() -> None:
    """Run a loop with a bound known only at run time on the CPU, which the interpreter of some Triton and NumPy versions cannot."""
    out = torch.zeros(1, dtype=torch.int32)
    launch(_count_kernel, 1, {"out_ptr": out, "n": 4}, {}, device=out.device)
    if out.item() != 6:
        raise RuntimeError(f"Triton's interpreter counts wrongly: {out.item()} instead of 6")
