"""What the tests of the kernels share: guarded memory, shuffled programs, cases."""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

DTYPES = [pytest.param(torch.float32, id="float32"), pytest.param(torch.float16, id="float16")]

_BORDER = 256  # bytes in front of every allocation that have to survive
_CANARY = 0xA5
_PROT_NONE = 0
_libc = ctypes.CDLL(None, use_errno=True)
_plain_new_empty = Tensor.new_empty


def _poison(dtype: torch.dtype) -> float:
    return math.nan if dtype.is_floating_point else torch.iinfo(dtype).min // 2


class Arena:
    """Poisoned allocations (NaN, or for integers a huge negative number) between a canary and a
    page that may not be touched.

    A kernel that reads or writes one element too far ends the process with a segmentation fault,
    whatever the element would have been used for; one that writes in front of its tensor changes
    the canary. Allocations end at the page, so most of them also begin off the alignment that
    PyTorch's have.
    """

    def __init__(self) -> None:
        self._canaries: list[Tensor] = []

    def allocate(self, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A contiguous poisoned tensor."""
        count = math.prod(size)
        used = _BORDER + count * dtype.itemsize
        room = -(-used // mmap.PAGESIZE) * mmap.PAGESIZE
        memory = mmap.mmap(-1, room + mmap.PAGESIZE)
        first = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        if _libc.mprotect(
            ctypes.c_void_p(first + room), ctypes.c_size_t(mmap.PAGESIZE), _PROT_NONE
        ):
            raise OSError(ctypes.get_errno(), "mprotect")
        self._canaries.append(
            torch.frombuffer(memory, dtype=torch.uint8, count=_BORDER, offset=room - used).fill_(
                _CANARY
            )
        )
        if count == 0:
            return torch.zeros(size, dtype=dtype)
        return (
            torch.frombuffer(memory, dtype=dtype, count=count, offset=room - used + _BORDER)
            .view(size)
            .fill_(_poison(dtype))
        )

    def place(self, tensor: Tensor | None) -> Tensor | None:
        """A copy of an input."""
        return (
            None
            if tensor is None
            else self.allocate(tuple(tensor.shape), tensor.dtype).copy_(tensor)
        )

    def assert_intact(self) -> None:
        """No canary has been written to."""
        assert self._canaries, "nothing was allocated in the arena"
        for canary in self._canaries:
            assert (canary == _CANARY).all(), "a kernel wrote in front of its tensor"


def _size(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    return (
        tuple(arguments[0])
        if len(arguments) == 1 and not isinstance(arguments[0], int)
        else tuple(arguments)
    )


@contextlib.contextmanager
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Arena]:
    """Every output and workspace that is allocated inside the block lies in the arena, which is
    checked at the end.
    """
    arena = Arena()

    def empty(*size: Any, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        return arena.allocate(_size(size), dtype or torch.float32)

    def empty_like(other: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
        return arena.allocate(tuple(other.shape), dtype or other.dtype)

    def new_empty(
        other: Tensor, *size: Any, dtype: torch.dtype | None = None, device: Any = None
    ) -> Tensor:
        if device is not None:  # the interpreter's own
            return _plain_new_empty(other, *size, dtype=dtype, device=device)
        return arena.allocate(_size(size), dtype or other.dtype)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", empty)
        patch.setattr(torch, "empty_like", empty_like)
        patch.setattr(Tensor, "new_empty", new_empty)
        yield arena
    arena.assert_intact()


@contextlib.contextmanager
def shuffled_programs(monkeypatch: pytest.MonkeyPatch, seed: int) -> Iterator[None]:
    """The interpreter runs the programs of a launch in a random order instead of 0, 1, 2, ..., so
    that another one arrives last.
    """
    from triton.runtime import interpreter

    rng = random.Random(seed)

    def shuffled(*arguments: Any) -> Any:
        plain = range(*arguments)
        caller = sys._getframe(1)
        if caller.f_code.co_name != "__call__" or "grid" not in caller.f_locals:
            return plain
        order = list(plain)
        rng.shuffle(order)
        return order

    with monkeypatch.context() as patch:
        patch.setattr(interpreter, "range", shuffled, raising=False)
        yield


def flat(result: Any) -> list[Tensor]:
    """All tensors of a nested result."""
    if isinstance(result, Tensor):
        return [result]
    return [] if result is None else [tensor for part in result for tensor in flat(part)]


def bits(result: Any) -> list[bytes]:
    """The exact contents of every tensor of a result."""
    return [t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for t in flat(result)]


def array(tensor: Tensor) -> np.ndarray:
    """The exact values in float64."""
    return tensor.double().numpy()


def generator(seed: int) -> Callable[..., Tensor]:
    """Standard normal tensors from a seed."""
    source = torch.Generator().manual_seed(seed)

    def normal(*size: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(size, generator=source, dtype=torch.float64)).to(dtype)

    return normal


def labels(rows: int, classes: int, seed: int) -> Tensor:
    return torch.randint(0, classes, (rows,), generator=torch.Generator().manual_seed(seed + 1))


class ExactStats(NamedTuple):
    """Of float32 logits, in float64."""

    entropy: np.ndarray
    nll: np.ndarray
    lse: np.ndarray


def _apart(logits: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(maximum, distances from it, e^distance with one copy of the largest left out, its place) of
    finite rows.
    """
    z = array(logits)
    rows, largest = np.arange(len(z)), z.argmax(1)
    distance = z - z[rows, largest][:, None]
    others = np.exp(distance)
    others[rows, largest] = 0.0
    return z[rows, largest], distance, others, largest


def exact_stats(logits: Tensor, target: Tensor) -> ExactStats:
    """Entropy, negative log-likelihood and log-sum-exp without cancellation, however confident the
    rows are.
    """
    m, distance, others, _ = _apart(logits)
    rest = others.sum(1)
    log_s = np.log1p(rest)
    return ExactStats(
        log_s - (others * distance).sum(1) / (1.0 + rest),
        log_s - distance[np.arange(len(m)), target.numpy()],
        m + log_s,
    )


def exact_residual(
    logits: Tensor, target: Tensor, class_weights: Tensor | None = None
) -> np.ndarray:
    """c_i (p_i - onehot(y_i)), where p_y - 1 is minus the sum of the others."""
    _, _, others, largest = _apart(logits)
    rows, y = np.arange(len(others)), target.numpy()
    total = 1.0 + others.sum(1)
    a = others / total[:, None]
    a[rows, largest] = 1.0 / total
    a[rows, y] = 0.0
    a[rows, y] = -a.sum(1)
    return a if class_weights is None else a * array(class_weights)[y][:, None]


def exact_head_gradient(
    features: Tensor, logits: Tensor, target: Tensor, class_weights: Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient of the mean cross-entropy with respect to weight and bias, from `exact_residual`."""
    a = exact_residual(logits, target, class_weights)
    total = len(a) if class_weights is None else array(class_weights)[target.numpy()].sum()
    return a.T @ array(features) / total, a.sum(0) / total
