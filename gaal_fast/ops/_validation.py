"""Checks of the ops' arguments. Every message begins with the name of the argument at fault.

They read shapes and dtypes only, except that labels and indices on the CPU are also checked for
their range; on another device that would cost a synchronisation, so there an illegal label turns
the results into NaN instead. With ``values=False`` (fake tensors) nothing is read at all.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable

import torch
from torch import Tensor

from gaal_fast.ops import _memory as memory
from gaal_fast.ops._registration import check_dense

FLOATS = frozenset({torch.float32, torch.bfloat16, torch.float16, torch.float64})
INTEGERS = frozenset({torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8})
RULES = ("paper", "official")

_HOST = torch.device("cpu")

Scalar = float | Tensor
ProjectionArguments = tuple[str, Scalar, bool, Scalar, float, float | None]


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums of ``dtype`` are kept: float64 for float64, float32 for the others."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def _tensor(name: str, value: object) -> None:
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


def numbered(**sequences: object) -> dict[str, object]:
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


def matrix(name: str, tensor: Tensor, columns: int | None = None) -> None:
    """``tensor`` is a floating matrix, with that many columns if given."""
    floating(name, tensor)
    if tensor.dim() != 2:
        raise ValueError(f"{name} must have two dimensions, got shape {tuple(tensor.shape)}")
    if columns is not None and tensor.shape[1] != columns:
        raise ValueError(f"{name} must have {columns} columns, got shape {tuple(tensor.shape)}")


def logits_matrix(tensor: Tensor) -> None:
    """``logits`` is a floating matrix with at least one class."""
    matrix("logits", tensor)
    if tensor.shape[1] < 1:
        raise ValueError(f"logits must have at least one column, got shape {tuple(tensor.shape)}")


def vector(name: str, tensor: Tensor, size: int | None, device: torch.device) -> None:
    """``tensor`` is a vector on ``device``, of that size if given."""
    if tensor.dim() != 1 or (size is not None and tensor.shape[0] != size):
        raise ValueError(
            f"{name} must have shape ({'k' if size is None else size},), got {tuple(tensor.shape)}"
        )
    if tensor.device != device:
        raise ValueError(f"{name} must be on {device}, got {tensor.device}")


@functools.cache
def _extent() -> Callable[[Tensor], tuple[int, int]]:
    """A function for the least and the greatest number of a contiguous int64 tensor on the CPU,
    which is not empty.

    With torch alone it takes as long as a small op itself.
    """
    try:
        from gaal_fast import _native_cpu as native
    except (ImportError, OSError):

        def by_torch(tensor: Tensor) -> tuple[int, int]:
            low, high = torch.aminmax(tensor)
            return low.item(), high.item()

        return by_torch
    return lambda tensor: native.extent(tensor.data_ptr(), tensor.numel())


def integers(
    name: str, tensor: Tensor, size: int | None, bound: int, device: torch.device, values: bool
) -> Tensor:
    """``tensor`` as contiguous int64, checked to be a vector of integers, on the CPU also to lie in
    [0, bound).
    """
    _tensor(name, tensor)
    if tensor.dtype is not torch.int64 and tensor.dtype not in INTEGERS:
        raise TypeError(f"{name} must hold integers, got {tensor.dtype}")
    vector(name, tensor, size, device)
    if (
        tensor.dtype is not torch.int64
    ):  # both calls cost a microsecond where there is nothing to do
        tensor = tensor.to(torch.int64)
    if not tensor.is_contiguous():
        tensor = tensor.contiguous()
    if values and tensor.is_cpu and tensor.numel():
        low, high = _extent()(tensor)
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


def _number(name: str, value: Scalar, device: torch.device, values: bool) -> Scalar:
    """``value`` as a float, or, where it is on another device than the CPU, as a 0-d float64 tensor
    on ``device``.
    """
    if type(value) is float:
        return value
    if isinstance(value, Tensor):
        return _scalar(name, value, device, values)
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{name} must be a number or a 0-d tensor, got {type(value).__name__}"
        ) from None


def _scalar(name: str, tensor: Tensor, device: torch.device, values: bool) -> Scalar:
    if tensor.dim() != 0:
        raise ValueError(
            f"{name} must be a number or a 0-d tensor, got shape {tuple(tensor.shape)}"
        )
    if tensor.dtype not in FLOATS and tensor.dtype not in INTEGERS:
        raise TypeError(
            f"{name} must be a number or a 0-d tensor of real numbers, got {tensor.dtype}"
        )
    if not tensor.is_cpu and tensor.device.type != device.type:
        places = "the CPU" if device.type == "cpu" else f"the CPU or {device}"
        raise ValueError(f"{name} must be on {places}, got {tensor.device}")
    if not values:
        return tensor
    if tensor.is_cpu:
        return float(tensor.item())
    # Apple's GPUs have no float64.
    return tensor.detach().to(device, torch.float32 if device.type == "mps" else torch.float64)


def _host_number(name: str, value: Scalar, values: bool) -> Scalar:
    """``value`` as a float; without ``values`` a 0-d tensor on the CPU stays one."""
    if isinstance(value, Tensor) and not value.is_cpu:
        raise TypeError(f"{name} must be a number, got a tensor on {value.device}")
    return _number(name, value, _HOST, values)


def projection_arguments(
    rule: str,
    epsilon: Scalar,
    relative: bool,
    margin: Scalar,
    ridge: Scalar,
    max_correction: Scalar | None,
    device: torch.device = _HOST,
    values: bool = True,
) -> ProjectionArguments:
    """The arguments of the projection, as a backend takes them for gradients on ``device``.

    Values on the host are checked. One on another device is not looked at, which would wait for the
    device.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be 'paper' or 'official', got {rule!r}")
    epsilon, margin = (
        _number("epsilon", epsilon, device, values),
        _number("margin", margin, device, values),
    )
    ridge = _host_number("ridge", ridge, values)
    if type(epsilon) is float and not math.isfinite(epsilon):
        raise ValueError(f"epsilon must be finite, got {epsilon}")
    if type(margin) is float and not 0.0 <= margin < math.inf:
        raise ValueError(f"margin must be finite and not negative, got {margin}")
    if type(ridge) is float and not 0.0 <= ridge < math.inf:
        raise ValueError(f"ridge must be finite and not negative, got {ridge}")
    if max_correction is not None:
        max_correction = _host_number("max_correction", max_correction, values)
        if type(max_correction) is float and not 0.0 <= max_correction < math.inf:
            raise ValueError(
                f"max_correction must be finite and not negative, or None, got {max_correction}"
            )
    return rule, epsilon, bool(relative), margin, ridge, max_correction


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


def sequence(name: str, value: object) -> list[object]:
    """``value`` as a list."""
    if isinstance(value, Tensor):
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
    device = None
    for i, (grad, guide) in enumerate(zip(grads, guides, strict=True)):
        if not isinstance(grad, Tensor) or grad.dtype not in FLOATS:
            floating(f"grads[{i}]", grad)
        _tensor(f"guides[{i}]", guide)
        if device is None:
            device = grad.device
        if grad.shape != guide.shape:
            raise ValueError(
                f"guides[{i}] must have the shape of grads[{i}]: got {tuple(guide.shape)} and"
                f" {tuple(grad.shape)}"
            )
        if grad.dtype is not guide.dtype:
            raise TypeError(
                f"guides[{i}] must have the dtype of grads[{i}]: got {guide.dtype} and {grad.dtype}"
            )
        if grad.device != device or guide.device != device:
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
