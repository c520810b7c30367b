"""What the kernels share: launching, the last-program ticket, and the arithmetic of online softmax statistics.

Online statistics of a row. With a reference m (the largest logit seen so far) keep

    r = sum over all classes but one of the largest of e^(x_j - m)          t = sum_j e^(x_j - m) (x_j - m)

Exactly one copy of the largest logit is left out of r; a further class with the same logit counts in it with e^0 = 1. The whole sum
is s = 1 + r, but it is never stored: a float32 1 + r has lost every r below 2^-24, and a confident row is nothing but its r.

When the reference moves from m to m', write d = m - m' (never positive). Every term e^(x-m)(x-m) must become e^(x-m')(x-m'), and
x - m' = (x - m) + d, so e^(x-m')(x-m') = e^d [e^(x-m)(x-m) + d e^(x-m)]. Summed:

    s' = e^d (1 + r)          t' = e^d (t + d (1 + r))

Of two parts, the one with the larger m keeps its r and gains all of the other's s'. A part of nothing but -inf has m = -inf and
r = -1, so that its s is 0. At the end, with p_j = e^(x_j - m) / s, the entropy (equation (6) of the paper) is

    H = -sum_j p_j log p_j = -sum_j p_j ((x_j - m) - log s) = log(1 + r) - t / (1 + r)

two terms that are not negative, so that nothing cancels. It needs one read of the row, no stored probability and no second pass. A
logit of -inf has e = 0 and contributes 0 to t; e > 0 is tested before the product so that 0 * (-inf) never appears. While every logit
so far is -inf the reference is taken as 0, for (-inf) - (-inf) would be NaN. NaN and +inf reach r through e^(x - m) whether or not
the hardware maximum drops NaN, and r then makes every result NaN.

The residual of the target, p_y - 1, is minus the sum of the others: -r / (1 + r) where the target is the largest class, and p_y - 1
itself where it is not, for p_y <= 1/2 there (`target_residual`). Those of confident rows are so small that their products leave
float32, and they themselves float16: matrix products take them times one power of two for all rows (`lift`).
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
def log1p(r):
    """log(1 + r) of r >= 0, relatively accurate however small r is: below 1 as 2 atanh(z) of z = r / (2 + r) <= 1/3, by its series.

    Eight terms leave (1/9)^8 / 17, below half a unit in the last place. A GPU's logarithm is absolutely accurate only, near 1.
    """
    z = r / (2.0 + r)
    q = z * z
    tail = 1.0 / 13.0 + q * (1.0 / 15.0)
    tail = 1.0 / 9.0 + q * (1.0 / 11.0 + q * tail)
    tail = 1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q * tail))
    return tl.where(r < 1.0, 2.0 * (z + z * q * tail), tl.log(1.0 + r))


@triton.jit
def rescale(m, r, t, reference):
    """(d, s, t) of a row with maximum ``m``: its distance from ``reference`` >= m, and its sums expressed against that."""
    d = m - reference
    scale = tl.exp(d)
    s = 1.0 + r
    return d, s * scale, tl.where(scale > 0, scale * (t + d * s), 0.0)


@triton.jit
def reference_of(m):
    """The maximum itself, or 0 while nothing but -inf was seen."""
    return tl.where(m == float("-inf"), 0.0, m)


@triton.jit
def merge_stats(m, r, t, m2, r2, t2):
    """Statistics of the union of two disjoint parts of a row."""
    m_new = tl.maximum(m, m2)
    reference = reference_of(m_new)
    d, s, t = rescale(m, r, t, reference)
    _, s2, t2 = rescale(m2, r2, t2, reference)
    return m_new, tl.where(d == 0, r + s2, s + r2), t + t2


@triton.jit
def add_tile(m, r, t, x):
    """Statistics of rows after one more tile ``x[rows, columns]``; columns outside the row hold -inf."""
    m_new = tl.maximum(m, tl.max(x, axis=1))
    reference = reference_of(m_new)
    d, s, t = rescale(m, r, t, reference)
    z = x - reference[:, None]
    e = tl.exp(z)
    # By z, not by x: a largest logit of +inf is no maximum but a broken row.
    largest = z == 0
    ties = tl.sum(largest.to(tl.int32), axis=1).to(tl.float32)
    rest = tl.sum(tl.where(largest, 0.0, e), axis=1)
    # The copy that is left out stands in the earlier tiles, or in this one.
    r = tl.where(d == 0, r + ties, s + (ties - 1.0)) + rest
    return m_new, r, t + tl.sum(tl.where(e > 0, e * z, 0.0), axis=1)


@triton.jit
def finish_stats(m, r, t):
    """(entropy, log s, log-sum-exp) of finished rows; NaN for a row that is all -inf or holds NaN or +inf."""
    log_s = log1p(r)
    entropy = log_s - t / (1.0 + r)
    lse = tl.where(r > -1.0, m + log_s, float("nan"))
    return entropy, log_s, lse


@triton.jit
def target_residual(x, m, r, scale):
    """p_y - 1 of rows whose target has the logit ``x``, with ``scale`` = 1 / (1 + r). NaN for broken rows, all -inf included."""
    distance = x - m
    return tl.where(distance == 0, -r * scale, tl.exp(distance) * scale - 1.0)


@triton.jit
def lift(peak):
    """The power of two in [1, 2^96] that brings ``peak`` >= 0 up to [1/2, 1), or as near as that range allows; 1 for NaN."""
    missing = 126 - ((peak.to(tl.int32, bitcast=True) >> 23) & 0xFF)
    return ((127 + tl.minimum(tl.maximum(missing, 0), 96)) << 23).to(tl.float32, bitcast=True)


@triton.jit
def inverse(power):
    """1 / ``power`` of a power of two that `lift` made, exactly: the hardware's reciprocal need not be."""
    return ((254 << 23) - power.to(tl.int32, bitcast=True)).to(tl.float32, bitcast=True)


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
