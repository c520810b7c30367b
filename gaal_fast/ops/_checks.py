"""Checks of the ops' arguments. Every message begins with the name of the argument at fault.

They read shapes and dtypes only, except that labels and indices on the CPU are also checked for
their range; on another device that would cost a synchronization, so there an illegal label turns
the results into NaN instead. With ``values=False`` (fake tensors) nothing is read at all.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gaal_fast.ops import _memory as memory
from gaal_fast.ops._registration import check_dense

FLOATS = frozenset({torch.float32, torch.bfloat16, torch.float16, torch.float64})
INTEGERS = frozenset({torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8})


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums of ``dtype`` are kept: float64 for float64, else float32."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def _tensor(name: str, value: object) -> None:
    """``value`` is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")


def dense(**arguments: object) -> None:
    """Every tensor is strided: not sparse, nested or in a layout of MKL-DNN."""
    for name, tensor in arguments.items():
        if isinstance(tensor, Tensor):
            check_dense(name, tensor)


def in_memory(**arguments: object) -> None:
    """Every tensor is dense, and its storage holds all its elements. Before any pointer of them is
    taken.
    """
    dense(**arguments)
    for name, tensor in arguments.items():
        if isinstance(tensor, Tensor) and memory.missing(tensor):
            raise TypeError(
                f"{name} has no memory for its elements: its storage was freed or made smaller"
            )


def numbered(**sequences: Sequence[object]) -> dict[str, object]:
    """The elements of sequences by name, for ``dense`` and ``in_memory``: ``grads[0]``,
    ``grads[1]``, ...
    """
    return {
        f"{name}[{i}]": value
        for name, values in sequences.items()
        for i, value in enumerate(values)
    }


def floating(name: str, tensor: Tensor) -> None:
    """``tensor`` is a tensor of float32, bfloat16, float16 or float64."""
    _tensor(name, tensor)
    if tensor.dtype not in FLOATS:
        raise TypeError(f"{name} must be float32, bfloat16, float16 or float64, got {tensor.dtype}")


def like(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """``tensor`` has the dtype and device of ``other``."""
    if tensor.dtype is not other.dtype:
        raise TypeError(
            f"{name} must have the dtype of {other_name}: got {tensor.dtype} and {other.dtype}"
        )
    if tensor.device != other.device:
        raise ValueError(
            f"{name} must be on the device of {other_name}: got {tensor.device} and {other.device}"
        )


def matrix(name: str, tensor: Tensor, columns: int | None = None) -> tuple[int, int]:
    """The numbers of rows and columns of ``tensor``, checked to be a floating matrix, with that
    many columns if given.
    """
    if not isinstance(tensor, Tensor) or tensor.dtype not in FLOATS:
        floating(name, tensor)
    shape = tensor.shape
    if len(shape) != 2:
        raise ValueError(f"{name} must have two dimensions, got shape {tuple(shape)}")
    rows, width = shape
    if columns is not None and width != columns:
        raise ValueError(f"{name} must have {columns} columns, got shape {tuple(shape)}")
    return rows, width


def logits_matrix(tensor: Tensor) -> tuple[int, int]:
    """The numbers of rows and classes of ``logits``, checked to be a floating matrix with at least
    one class.
    """
    rows, classes = matrix("logits", tensor)
    if classes < 1:
        raise ValueError(f"logits must have at least one column, got shape {tuple(tensor.shape)}")
    return rows, classes


def vector(name: str, tensor: Tensor, size: int | None, device: torch.device) -> int:
    """The size of ``tensor``, checked to be a vector on ``device``, of that size if given."""
    shape = tensor.shape
    if len(shape) != 1 or (size is not None and shape[0] != size):
        raise ValueError(
            f"{name} must have shape ({'k' if size is None else size},), got {tuple(shape)}"
        )
    if tensor.device != device:
        raise ValueError(f"{name} must be on {device}, got {tensor.device}")
    return shape[0]


@functools.cache
def _native_extent() -> Callable[[int, int], tuple[int, int]] | None:
    """The least and the greatest of so many int64 numbers at an address, at least one. None where
    the kernels were not built.

    With torch it takes as long as a small op itself.
    """
    try:
        from gaal_fast import _native_cpu as native
    except (ImportError, OSError):
        return None
    extent: Callable[[int, int], tuple[int, int]] = native.extent
    return extent


def _extent(tensor: Tensor, size: int) -> tuple[int, int]:
    """The least and the greatest number of a contiguous int64 tensor on the CPU, which is not
    empty.
    """
    native = _native_extent()
    if native is not None:
        return native(tensor.data_ptr(), size)
    low, high = torch.aminmax(tensor)
    return int(low), int(high)


def integers(
    name: str, tensor: Tensor, size: int | None, bound: int, device: torch.device, values: bool
) -> Tensor:
    """``tensor`` as contiguous int64, checked to be a vector of integers, on the CPU also to lie in
    [0, bound).
    """
    if not isinstance(tensor, Tensor):
        _tensor(name, tensor)
    dtype = tensor.dtype
    if dtype is not torch.int64 and dtype not in INTEGERS:
        raise TypeError(f"{name} must hold integers, got {dtype}")
    size = vector(name, tensor, size, device)
    # Both calls cost a microsecond where there is nothing to do.
    if dtype is not torch.int64:
        tensor = tensor.to(torch.int64)
    if not tensor.is_contiguous():
        tensor = tensor.contiguous()
    if values and size and tensor.is_cpu:
        low, high = _extent(tensor, size)
        if low < 0 or high >= bound:
            raise ValueError(
                f"{name} must lie in 0 .. {bound - 1}, got values from {low} to {high}"
            )
    return tensor


def class_weight_vector(tensor: Tensor | None, classes: int, features: Tensor) -> Tensor | None:
    """``class_weights`` as a contiguous vector of the accumulator's dtype."""
    if tensor is None:
        return None
    floating("class_weights", tensor)
    vector("class_weights", tensor, classes, features.device)
    return tensor.to(accumulator(features.dtype)).contiguous()


def count(name: str, value: int, most: int, of: str) -> int:
    """``value`` is an integer in [0, most]."""
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}") from None
    if not 0 <= value <= most:
        raise ValueError(f"{name} must lie in 0 .. {most} (the rows of {of}), got {value}")
    return value


def _in_place(name: str, grad: Tensor, values: bool) -> None:
    """The elements of ``grad``, which is not contiguous, have places of their own."""
    if any(
        stride == 0 and size > 1 for size, stride in zip(grad.shape, grad.stride(), strict=True)
    ):
        raise ValueError(
            f"{name} is an expanded tensor, whose elements share memory: it cannot be changed in"
            " place"
        )
    if values and memory.overlaps_itself(grad):
        raise ValueError(f"{name} has elements that share memory: it cannot be changed in place")


def sequence(name: str, value: Any) -> list[Any]:
    """``value`` as a list."""
    if type(value) is not list and isinstance(value, Tensor):
        raise TypeError(f"{name} must be a sequence of tensors, got one tensor; put it in a list")
    try:
        return list(value)
    except TypeError:
        raise TypeError(
            f"{name} must be a sequence of tensors, got {type(value).__name__}"
        ) from None


def gradient_lists(
    grads: list[Tensor], guides: list[Tensor], values: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """``grads`` and ``guides`` as lists of matching tensors, the former safe to write to and apart
    from the latter.
    """
    if not grads:
        raise ValueError("grads must hold at least one tensor")
    if len(grads) != len(guides):
        raise ValueError(
            f"guides must hold as many tensors as grads: got {len(guides)} and {len(grads)}"
        )
    device, on_host = None, False
    for i, (grad, guide) in enumerate(zip(grads, guides, strict=True)):
        if not isinstance(grad, Tensor) or (dtype := grad.dtype) not in FLOATS:
            floating(f"grads[{i}]", grad)
        if not isinstance(guide, Tensor):
            _tensor(f"guides[{i}]", guide)
        if device is None:
            device, on_host = grad.device, grad.is_cpu
        if grad.shape != guide.shape:
            raise ValueError(
                f"guides[{i}] must have the shape of grads[{i}]: got {tuple(guide.shape)} and"
                f" {tuple(grad.shape)}"
            )
        if dtype is not guide.dtype:
            raise TypeError(
                f"guides[{i}] must have the dtype of grads[{i}]: got {guide.dtype} and {grad.dtype}"
            )
        # Of a device on the host there is but one.
        if not (on_host and grad.is_cpu and guide.is_cpu) and (
            grad.device != device or guide.device != device
        ):
            raise ValueError(
                f"grads and guides must be on one device: number {i} is on {grad.device} and"
                f" {guide.device}, not {device}"
            )
        if not grad.is_contiguous():
            _in_place(f"grads[{i}]", grad, values)
    return grads, _apart(grads, guides) if values else guides


def _apart(grads: list[Tensor], guides: list[Tensor]) -> list[Tensor]:
    """The guides, as copies where the change of another gradient than their own would change them
    too.

    Raises:
        ValueError: two gradients share memory, so that no result could be right for both.
    """
    if memory.disjoint(grads + guides):
        return guides
    others = [
        guide
        for grad, guide in zip(grads, guides, strict=True)
        if not memory.same_memory(grad, guide)
    ]
    if memory.disjoint(grads + others):
        return guides
    for i, grad in enumerate(grads):
        for j in range(i):
            if memory.overlap(grads[j], grad):
                raise ValueError(
                    f"grads[{i}] shares memory with grads[{j}]: they cannot both be changed in"
                    " place"
                )
    return [
        (
            guide.clone()
            if any(
                memory.overlap(g, guide)
                for g in grads
                if g is not grad or not memory.same_memory(g, guide)
            )
            else guide
        )
        for grad, guide in zip(grads, guides, strict=True)
    ]
