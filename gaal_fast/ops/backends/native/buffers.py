"""Tensors and options as compiled kernels take them: addresses, layouts, plain numbers."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from gaal_fast.ops._rule import Rule


def dtype_codes(kernels: ModuleType) -> dict[torch.dtype, int]:
    """The dtypes that a compiled module takes, as it numbers them."""
    return {getattr(torch, name): code for name, code in kernels.DTYPES.items()}


def address(tensor: Tensor | None) -> int:
    """Where the elements of ``tensor`` begin, 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


def contiguous_rows(matrix: Tensor) -> Tensor:
    """``matrix`` itself where its rows are contiguous, whatever lies between them, else a copy."""
    if matrix.is_contiguous() or matrix.stride(1) == 1 or matrix.shape[1] <= 1:
        return matrix
    return matrix.contiguous()


def flat_pair(grad: Tensor, guide: Tensor) -> tuple[Tensor, Tensor]:
    """The same two tensors, or copies, as one piece of memory each without gaps and with elements
    in the same order.

    Which order does not matter to a flat vector, so that a transposed or channels-last pair needs
    no copy.
    """
    if grad.is_contiguous() and guide.is_contiguous():
        return grad, guide
    if not _fills_its_memory(grad):
        grad = grad.contiguous()
    return grad, guide if guide.stride() == grad.stride() else torch.empty_like(grad).copy_(guide)


def _fills_its_memory(tensor: Tensor) -> bool:
    """Whether the elements lie side by side, in whatever order."""
    expected = 1
    for stride, size in sorted(
        (stride, size)
        for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
        if size > 1
    ):
        if stride != expected:
            return False
        expected *= size
    return True


def rule_numbers(rule: Rule) -> tuple[bool, float, bool, float, float, float]:
    """A checked rule as plain numbers: a tensor as 0.0, no bound as -1."""
    kind, epsilon, relative, margin, ridge, bound = rule
    return (
        kind == "official",
        epsilon if type(epsilon) is float else 0.0,
        relative,
        margin if type(margin) is float else 0.0,
        ridge,
        -1.0 if bound is None else bound,
    )
