"""Gradients before and after their projection: checks, the scale of the loss, several ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gaal_fast.ops import Projection
from gaal_fast.ops import _checks as check
from gaal_fast.ops._registration import sharded
from gaal_fast.ops._rule import Rule

if TYPE_CHECKING:
    from torch.amp import GradScaler
    from torch.distributed import ProcessGroup


def check_dense(name: str, tensor: object) -> None:
    """Raise TypeError where ``tensor`` is sparse."""
    if isinstance(tensor, Tensor) and tensor.layout is not torch.strided:
        raise TypeError(f"{name} is sparse: only dense gradients can be projected")


def check_gradient(name: str, grad: object, parameter: Tensor) -> None:
    """Raise TypeError or ValueError where ``grad`` is no gradient of ``parameter`` in memory."""
    if not isinstance(grad, Tensor):
        raise TypeError(f"{name} must be a tensor or None, got {type(grad).__name__}")
    if sharded(grad):
        raise TypeError(f"{name} is a {type(grad).__name__}: sharded gradients are not supported")
    check_dense(name, grad)
    if grad.shape != parameter.shape:
        raise ValueError(
            f"{name} must have shape {tuple(parameter.shape)}, got {tuple(grad.shape)}"
        )
    check.floating(name, grad)
    if type(grad) is Tensor and not grad._is_zerotensor():
        check.in_memory(**{name: grad})


def check_rule(rule: Rule) -> None:
    """Raise ValueError or TypeError where an option is bad, without running an op."""
    tensors = [value for value in rule if isinstance(value, Tensor)]
    device = next((tensor.device for tensor in tensors if not tensor.is_cpu), torch.device("cpu"))
    check.in_memory(**rule.numbers)
    rule.checked(device, values=not any(tensor.is_meta for tensor in tensors))


def loss_scale(grads: Mapping[str, Tensor], scaler: GradScaler | None) -> Tensor | None:
    """The scale of the loss as a device scalar.

    Asking the scaler to scale a 1 needs no synchronization; ``get_scale`` does.
    """
    if scaler is None or not scaler.is_enabled() or not grads:
        return None
    return scaler.scale(torch.ones((), device=next(iter(grads.values())).device))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype is torch.float64 else torch.float32


def unscaled(grads: Mapping[str, Tensor], scale: Tensor | None) -> dict[str, Tensor]:
    """The gradients of the loss itself, in float32 at least.

    Exact, as a scaler's factors are powers of two.
    """
    if scale is None:
        return dict(grads)
    factor = scale.reciprocal()
    return {
        name: grad.detach().to(_wide(grad.dtype)) * factor.to(_wide(grad.dtype))
        for name, grad in grads.items()
    }


def total(kept: Tensor, part: Tensor) -> Tensor:
    """The sum, in float32 at least, on the device of ``part``."""
    dtype = _wide(torch.promote_types(kept.dtype, part.dtype))
    return kept.to(part.device, dtype) + part.to(dtype)


def kept_copy(part: Tensor, grad: Tensor | None, kept: Tensor | None) -> Tensor:
    """``part``, or a copy where it is the gradient itself.

    The copy goes into the memory of the guide that it replaces, where that fits.
    """
    if part is not grad:
        return part
    if (
        kept is None
        or kept.shape != part.shape
        or kept.dtype is not part.dtype
        or kept.device != part.device
    ):
        return part.detach().clone()
    return kept.copy_(part)


def widened(grad: Tensor, guides: Sequence[Tensor]) -> Tensor:
    """``grad``, or a copy in the precision of the finest of its guides where that is finer."""
    dtype = grad.dtype
    for guide in guides:
        dtype = torch.promote_types(dtype, guide.dtype)
    return grad if dtype is grad.dtype else grad.to(_wide(dtype))


def scaled_rule(rule: Rule, scale: Tensor | None) -> Rule:
    """The rule for S g in the place of g: then S v takes the place of v."""
    if scale is None:
        return rule
    scale = scale if scale.device.type == "mps" else scale.double()
    epsilon = rule.epsilon if rule.relative else rule.epsilon * scale
    return rule._replace(epsilon=epsilon, margin=rule.margin * scale)


def true_projection(projection: Projection, scale: Tensor | None) -> Projection:
    """What a projection of S g says of g."""
    if scale is None:
        return projection
    v, dot, guide_norm2, grad_norm2 = projection
    factor = scale.reciprocal().to(v.dtype)
    return Projection(v * factor, dot * factor, guide_norm2, grad_norm2 * factor * factor)


def ranks(group: ProcessGroup | None) -> int:
    """How many ranks the group has, 1 without ``torch.distributed``."""
    distributed = torch.distributed
    return (
        distributed.get_world_size(group)
        if distributed.is_available() and distributed.is_initialized()
        else 1
    )


def averaged(
    parts: Mapping[str, tuple[Tensor | None, Tensor]], group: ProcessGroup | None
) -> dict[str, Tensor]:
    """The mean over the ranks, in one call of the group.

    Ranks must not differ in the number of elements, so a missing part counts as zeros.
    """
    whole = {
        name: torch.zeros_like(parameter) if part is None else part
        for name, (part, parameter) in parts.items()
    }
    dtype = (
        torch.float64
        if any(part.dtype is torch.float64 for part in whole.values())
        else torch.float32
    )
    flat = torch.cat([part.reshape(-1).to(dtype) for part in whole.values()])
    torch.distributed.all_reduce(flat, group=group)
    pieces = flat.div_(torch.distributed.get_world_size(group)).split(
        [part.numel() for part in whole.values()]
    )
    return {
        name: piece.view(part.shape).to(_wide(part.dtype), copy=True)
        for (name, part), piece in zip(whole.items(), pieces, strict=True)
    }
