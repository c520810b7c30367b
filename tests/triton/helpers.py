"""What the tests of the kernels share: guarded memory, shuffled programs, cases."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

_BORDER = 256  # bytes on both sides of every allocation
_CANARY = 0xA5


class Arena:
    """Allocations with canaries on both sides and poison inside: NaN, or for integers a huge negative number."""

    def __init__(self) -> None:
        self._raw: list[Tensor] = []

    def allocate(self, size: tuple[int, ...], dtype: torch.dtype, shift: int = 0) -> Tensor:
        """A contiguous poisoned tensor; ``shift`` elements off the alignment that a fresh allocation has."""
        count = int(np.prod(size, dtype=np.int64))
        width = dtype.itemsize
        first = _BORDER + shift * width
        raw = _plain_full((first + count * width + _BORDER,), _CANARY, dtype=torch.uint8)
        self._raw.append(raw)
        inside = raw[first : first + count * width].view(dtype).view(size)
        inside.fill_(torch.nan if dtype.is_floating_point else torch.iinfo(dtype).min // 2)
        raw.first, raw.last = first, first + count * width  # type: ignore[attr-defined]
        return inside

    def assert_intact(self) -> None:
        """No canary has been written to."""
        assert self._raw, "nothing was allocated in the arena"
        for raw in self._raw:
            border = torch.cat([raw[: raw.first], raw[raw.last :]])  # type: ignore[attr-defined]
            assert (border == _CANARY).all(), "a kernel wrote outside its tensor"


_plain_full = torch.full
_plain_new_empty = Tensor.new_empty


def _size(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(arguments[0]) if len(arguments) == 1 and not isinstance(arguments[0], int) else tuple(arguments)


@contextlib.contextmanager
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Arena]:
    """Every output and workspace that is allocated inside the block lies in an arena, which is checked at the end."""
    arena = Arena()

    def empty(*size: Any, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        return arena.allocate(_size(size), dtype or torch.float32)

    def empty_like(other: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
        return arena.allocate(tuple(other.shape), dtype or other.dtype)

    def new_empty(other: Tensor, *size: Any, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        if device is not None:  # the interpreter's own
            return _plain_new_empty(other, *size, dtype=dtype, device=device)
        return arena.allocate(_size(size), dtype or other.dtype)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", empty)
        patch.setattr(torch, "empty_like", empty_like)
        patch.setattr(Tensor, "new_empty", new_empty)
        yield arena
    arena.assert_intact()


def placed(arena: Arena, tensor: Tensor | None, shift: int = 1) -> Tensor | None:
    """A copy of an input in the arena, between canaries that read as garbage, off its alignment."""
    if tensor is None:
        return None
    copy = arena.allocate(tuple(tensor.shape), tensor.dtype, shift)
    return copy.copy_(tensor)


@contextlib.contextmanager
def shuffled_programs(monkeypatch: pytest.MonkeyPatch, seed: int) -> Iterator[None]:
    """The interpreter runs the programs of a launch in a random order instead of 0, 1, 2, ..., so that another one arrives last."""
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
