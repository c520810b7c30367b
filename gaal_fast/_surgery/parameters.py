"""The parameters that several modalities share, by name, and their gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from gaal_fast._surgery.gradients import check_gradient
from gaal_fast.ops._registration import sharded

Part = torch.nn.Module | Tensor


class SharedParameters:
    """The parameters of the shared modules and tensors, looked up at each call.

    Args:
        shared: A module, a parameter, or several of both.

    Raises:
        TypeError: ``shared`` holds something other than modules and parameters, or a sharded
            parameter.
        ValueError: No parameter needs a gradient.
    """

    def __init__(self, shared: Part | Iterable[Part]) -> None:
        if isinstance(shared, (torch.nn.Module, Tensor)):
            self._parts: dict[str, Part] = {"": shared}
        elif isinstance(shared, Iterable):
            self._parts = {f"[{i}]": part for i, part in enumerate(shared)}
        else:
            raise TypeError(f"shared must be a module or tensors, got {type(shared).__name__}")
        for name, part in self._parts.items():
            if not isinstance(part, (torch.nn.Module, Tensor)):
                raise TypeError(
                    f"shared must be a module or tensors, {name} is a {type(part).__name__}"
                )
            if isinstance(part, Tensor) and not part.is_leaf:
                raise TypeError(
                    f"shared must hold parameters, {name or 'it'} is the result of an operation and"
                    " gets no gradient"
                )
        if not self.named():
            raise ValueError("shared has no parameter that requires a gradient")

    def named(self, frozen: bool = False) -> dict[str, Tensor]:
        """The parameters by name, each once.

        Args:
            frozen: Whether to include those that need no gradient now.

        Raises:
            TypeError: A parameter is sharded.
        """
        found: dict[int, tuple[str, Tensor]] = {}
        for name, parameter in self._all():
            if frozen or parameter.requires_grad:
                _refuse_shards(name, parameter)
                found.setdefault(id(parameter), (name, parameter))
        return dict(found.values())

    def gradients(
        self, grads: Sequence[Tensor | None] | None = None, *, may_be_empty: bool = False
    ) -> dict[str, Tensor]:
        """The gradients by name, each checked; missing ones are left out.

        Args:
            grads: One gradient or None per parameter of :meth:`named`; None for their ``.grad``.
            may_be_empty: Whether no gradient at all is right.

        Raises:
            TypeError: A sparse, sharded or freed gradient, or one that is no floating tensor.
            ValueError: Gradients of another number or shape than the parameters, or none at all.
        """
        named = self.named()
        if grads is None:
            given, source = [parameter.grad for parameter in named.values()], ".grad"
        else:
            given, source = list(grads), "grads"
            if len(given) != len(named):
                raise ValueError(
                    f"grads must hold one gradient per shared parameter: got {len(given)} for"
                    f" {len(named)}"
                )
        found = {name: grad for name, grad in zip(named, given, strict=True) if grad is not None}
        for name, grad in found.items():
            check_gradient(f"{source} of parameter {name}", grad, named[name])
        if not found and not may_be_empty:
            raise ValueError(
                f"{source}: no shared parameter has a gradient; call backward() before"
            )
        return found

    def _all(self) -> Iterator[tuple[str, Tensor]]:
        for prefix, part in self._parts.items():
            if isinstance(part, Tensor):
                yield prefix or "shared", part
            else:
                for name, parameter in part.named_parameters():
                    yield f"{prefix}.{name}" if prefix else name, parameter


def _refuse_shards(name: str, parameter: Tensor) -> None:
    if sharded(parameter):
        raise TypeError(
            f"shared: parameter {name} is a {type(parameter).__name__}: sharded gradients are not"
            " supported"
        )
    if getattr(parameter, "_fsdp_flattened", False) or getattr(parameter, "_is_flat_param", False):
        raise TypeError(
            f"shared: parameter {name} belongs to FullyShardedDataParallel: sharded gradients are"
            " not supported"
        )
