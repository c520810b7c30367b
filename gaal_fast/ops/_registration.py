"""Registration of an op with PyTorch: schema, kernel, fake kernel and the rule for autograd, in one call.

In eager mode the public functions call a backend directly, because the dispatcher costs several microseconds per call and the ops are
launch-bound at the sizes they are made for. The registered op is what ``torch.compile``, ``torch.export`` and fake tensors see.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NAMESPACE = "gaal_fast"

_library = torch.library.Library(NAMESPACE, "FRAGMENT")
_PLAIN = (Tensor, torch.nn.Parameter)


def register(schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> torch._ops.OpOverload:
    """Define ``gaal_fast::<schema>`` and return the callable overload.

    ``kernel`` runs on every device (the choice of a backend happens inside it), ``fake`` gives the shapes of its results.

    The ops are not differentiable: their results are constants to autograd. This is registered explicitly, so that an input that
    requires a gradient neither warns nor leaves a graph behind.
    """
    name = schema.partition("(")[0]
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_library)
    op = getattr(getattr(torch.ops, NAMESPACE), name).default

    def below_autograd(*args: Any, **kwargs: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args, **kwargs)

    _library.impl(name, below_autograd, "Autograd")
    return op


def traced(tensor: object) -> bool:
    """True where a call has to go through the registered op: while compiling, and for meta, fake and other special tensors."""
    return torch.compiler.is_compiling() or (isinstance(tensor, Tensor) and (type(tensor) not in _PLAIN or tensor.is_meta))
