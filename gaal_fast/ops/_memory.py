"""Where the elements of dense tensors lie: freed storages, and elements that share a place.

Nothing here waits for a device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def missing(tensor: Tensor) -> bool:
    """Whether the storage ends before the elements, as after ``untyped_storage().resize_(0)``."""
    if not tensor.numel():
        return False
    return (
        tensor.untyped_storage().nbytes()
        < (tensor.storage_offset() + _reach(tensor) + 1) * tensor.element_size()
    )


def overlaps_itself(tensor: Tensor) -> bool:
    """Whether two elements share one place, as after ``expand``."""
    if tensor.is_contiguous() or not tensor.numel():
        return False
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride == 0:
            return True
        if stride <= reach:  # nested neither way: only counting the places tells
            return len(_places(tensor).unique()) < tensor.numel()
        reach += (size - 1) * stride
    return False


def disjoint(tensors: Sequence[Tensor]) -> bool:
    """Whether the stretches of memory from first to last element are apart.

    Cheap, and all that is needed for nearly every call.
    """
    stops: dict[int, int] = {}
    for tensor in tensors:
        start = tensor.data_ptr()
        stop = start + tensor.nbytes if tensor.is_contiguous() else _stretch(tensor)[1]
        if stop > start:
            if start in stops:
                return False
            stops[start] = stop
    end = 0
    for start in sorted(stops):
        if start < end:
            return False
        end = stops[start]
    return True


def overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors, neither of which overlaps itself, share memory."""
    (start, stop), (other_start, other_stop) = _stretch(a), _stretch(b)
    if start >= other_stop or other_start >= stop:
        return False
    if stop - start == a.nbytes and other_stop - other_start == b.nbytes:
        return True
    return bool(torch.isin(_bytes(a), _bytes(b)).any())


def same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape and dtype have every element in the same place."""
    return a.data_ptr() == b.data_ptr() and a.stride() == b.stride()


def _reach(tensor: Tensor) -> int:
    """How many elements the last element lies behind the first."""
    return sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )


def _stretch(tensor: Tensor) -> tuple[int, int]:
    """The addresses of the first byte and of the one behind the last."""
    start: int = tensor.data_ptr()
    if tensor.is_contiguous():
        return start, start + tensor.nbytes
    return start, start + (_reach(tensor) + 1) * tensor.element_size() * bool(tensor.numel())


def _places(tensor: Tensor) -> Tensor:
    """How many elements each element lies behind the first, as a flat int64 tensor on the CPU."""
    places = torch.zeros(1, dtype=torch.int64, device="cpu")
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        places = (places[:, None] + stride * torch.arange(size, device="cpu")).reshape(-1)
    return places


def _bytes(tensor: Tensor) -> Tensor:
    """The address of every byte."""
    size = tensor.element_size()
    return (
        tensor.data_ptr() + size * _places(tensor)[:, None] + torch.arange(size, device="cpu")
    ).reshape(-1)
