"""Registration of an op with PyTorch, and which calls have to go through the registered op.

In eager mode the public functions call a backend directly, because the dispatcher costs several
microseconds per call and the ops are launch-bound at the sizes they are made for. A backend takes
pointers, so that is right only for tensors that are plain memory. All others go through the
registered op, where PyTorch does what each kind of tensor needs: ``torch.compile``,
``torch.export``, ``make_fx`` and ``torch.jit.trace`` record the op, fake and meta tensors take its
fake kernel, lazily negated tensors and the zero tensors of forward-mode AD are resolved into
copies, ``torch.vmap`` calls it slice by slice, and subclasses decide for themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType, peek_interpreter_stack
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.nn import Parameter
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from gaal_fast.ops._memory import missing

if TYPE_CHECKING:
    from gaal_fast.ops._rule import Rule

NAMESPACE = "gaal_fast"

_library = torch.library.Library(NAMESPACE, "FRAGMENT")
_dispatch_modes = torch._C._len_torch_dispatch_stack
_FAKE = torch._C._TorchDispatchModeKey.FAKE
_jit_tracing = torch._C._get_tracing_state


def register(
    schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]
) -> torch._ops.OpOverload:
    """Define ``gaal_fast::<schema>`` and return the callable overload.

    ``kernel`` runs on every device (the choice of a backend happens inside it), ``fake`` gives the
    shapes of its results.

    The ops are not differentiable: their results are constants to autograd. This is registered
    explicitly, so that an input that requires a gradient neither warns nor leaves a graph behind.
    Where PyTorch would then give a derivative of 0 without a word (``torch.func.grad``,
    forward-mode AD) the op refuses an input that is differentiated.
    """
    name = schema.partition("(")[0]
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_library)
    packet, _, overload = name.partition(".")
    op = getattr(getattr(getattr(torch.ops, NAMESPACE), packet), overload or "default")

    def below_autograd(*args: Any, **kwargs: Any) -> Any:
        _refuse_derivatives(op, args)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args, **kwargs)

    _library.impl(name, below_autograd, "Autograd")
    return op


def traced(*arguments: Any) -> bool:
    """Whether a call has to go through the registered op.

    So it is while calls are recorded, and for tensors that are not plain memory. Takes every tensor
    argument of the call; what is no tensor is left to the checks of the arguments.
    """
    if (
        is_compiling()
        or _dispatch_modes()
        or _jit_tracing() is not None
        or forward_ad._current_level >= 0
    ):
        return True
    # Half a microsecond for an ordinary tensor, so nothing here is a function of its own.
    try:
        for value in arguments:
            kind = type(value)
            if kind is Tensor or kind is Parameter:
                # The wrappers of functionalization, zero, meta and freed tensors have no address;
                # other wrappers, sparse tensors and the layout of MKL-DNN raise.
                if not value.data_ptr() or value.is_neg() or value.is_nested:
                    return True
                # Most tensors fill their storage; only the others need a closer look.
                if (
                    value.untyped_storage().nbytes() != value.nbytes
                    or value.storage_offset()
                    or not value.is_contiguous()
                ) and missing(value):
                    return True
            elif kind is not float and value is not None and isinstance(value, Tensor):
                return True
    except (RuntimeError, NotImplementedError):
        return True
    return False


def call(op: torch._ops.OpOverload, *arguments: Any) -> Any:
    """Call the registered op. Where PyTorch refuses a tensor, name the argument.

    Raises:
        TypeError: a sparse, nested or sharded tensor, an uninitialized parameter, or a fake tensor
            among real ones.
    """
    if is_compiling():
        return op(*arguments)
    for name, tensor in _named_tensors(op, arguments):
        if isinstance(tensor, UninitializedTensorMixin):
            raise TypeError(f"{name} is an uninitialized parameter")
        if sharded(tensor):
            raise TypeError(
                f"{name} is a {type(tensor).__name__}: sharded tensors are not supported"
            )
        check_dense(name, tensor)
    try:
        return op(*arguments)
    except AssertionError as error:  # the way of fake tensors
        from torch._subclasses.fake_tensor import FakeTensor

        named = list(_named_tensors(op, arguments))
        name, kind = next(
            ((n, "fake") for n, t in named if isinstance(t, FakeTensor)), (named[0][0], "real")
        )
        if kind == "real" and torch._C._get_dispatch_mode(_FAKE) is None:
            raise
        raise TypeError(
            f"{name} is a {kind} tensor; real and fake ones cannot be mixed here ({error})"
        ) from error


def sharded(tensor: Tensor) -> bool:
    """Whether ``tensor`` is a ``DTensor``, without importing what makes them."""
    distributed = sys.modules.get("torch.distributed.tensor")
    return distributed is not None and isinstance(tensor, distributed.DTensor)


def check_dense(name: str, tensor: Tensor) -> None:
    """Raise TypeError where ``tensor`` is nested, sparse or in a layout of MKL-DNN."""
    if tensor.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got a nested one")
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {tensor.layout}")


def _named_tensors(
    op: torch._ops.OpOverload, arguments: Iterable[object]
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a call with their names, such as ``logits`` or ``grads[1]``."""
    for parameter, argument in zip(op._schema.arguments, arguments, strict=False):
        if isinstance(argument, Tensor):
            yield parameter.name, argument
        elif isinstance(argument, list):
            yield from (
                (f"{parameter.name}[{i}]", value)
                for i, value in enumerate(argument)
                if isinstance(value, Tensor)
            )


def overload(
    plain: torch._ops.OpOverload, scheduled: torch._ops.OpOverload, rule: Rule
) -> tuple[torch._ops.OpOverload, tuple[object, ...]]:
    """The overload for the rule of a projection, and its options as that takes them.

    That is as floats, or as 0-d tensors. A float that changes from call to call is a symbol to
    ``torch.compile``. As a float argument of an op it would have to become a constant again, with a
    compilation for each value, or with one from a cache that holds another value. As a tensor it is
    an input of the graph. Adding it to 0 is what Inductor takes such a symbol in; ``torch.full``
    would make a constant of it.
    """
    kind, epsilon, relative, margin, ridge, max_correction = rule
    if all(map(_constant, (epsilon, margin, ridge, max_correction))):
        return plain, rule
    return scheduled, (
        kind,
        _as_tensor(epsilon),
        relative,
        _as_tensor(margin),
        _as_tensor(ridge),
        _as_tensor(max_correction),
    )


def _constant(value: object) -> bool:
    if isinstance(value, Tensor):
        return False
    if not isinstance(value, (float, int, torch.SymFloat, torch.SymInt)):
        return True
    # Imported late: it loads SymPy.
    from torch.fx.experimental.symbolic_shapes import has_static_value

    return has_static_value(value)


def _as_tensor(value: Any) -> Tensor | None:
    if value is None or isinstance(value, Tensor):
        return value
    return torch.zeros((), dtype=torch.float64, device="cpu") + value


def _refuse_derivatives(op: torch._ops.OpOverload, arguments: Iterable[object]) -> None:
    """Raise where ``torch.func.grad`` or forward-mode AD differentiates an argument.

    It would get a derivative of 0 without a word.
    """
    interpreter = peek_interpreter_stack()
    reverse = interpreter is not None and interpreter.key() == TransformType.Grad
    if not reverse and forward_ad._current_level < 0:
        return
    for name, tensor in _named_tensors(op, arguments):
        if (reverse and tensor.requires_grad) or forward_ad.unpack_dual(tensor).tangent is not None:
            raise RuntimeError(f"{op.name()} is not differentiable: detach() {name} first")
