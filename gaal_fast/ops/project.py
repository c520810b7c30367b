"""Repair of a gradient that conflicts with another one: the closed-form solution of the paper's
quadratic program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from gaal_fast.ops import _checks as check
from gaal_fast.ops._dispatch import run
from gaal_fast.ops._registration import call, overload, register, traced
from gaal_fast.ops._rule import DEFAULT, Rule, schema

if TYPE_CHECKING:
    from gaal_fast.ops.backends.protocol import Scalars


class Projection(NamedTuple):
    """What a projection did: four 0-d tensors on the gradients' device, float32 (float64 where a
    gradient is float64).

    Attributes:
        v: the factor of the guide that was added, 0 where the gradient stayed as it was.
        dot: ⟨g, g_p⟩, before the projection.
        guide_norm2: ‖g_p‖².
        grad_norm2: ‖g‖², before the projection.
    """

    v: Tensor
    dot: Tensor
    guide_norm2: Tensor
    grad_norm2: Tensor

    @property
    def cosine(self) -> Tensor:
        """cos(g, g_p) before the projection (equation 2), a 0-d tensor; NaN where either gradient
        is 0.
        """
        return self.dot / (self.grad_norm2.sqrt() * self.guide_norm2.sqrt())


def project_(
    grads: Sequence[Tensor],
    guides: Sequence[Tensor],
    *,
    rule: str = DEFAULT.rule,
    epsilon: float | Tensor = DEFAULT.epsilon,
    relative: bool = DEFAULT.relative,
    margin: float | Tensor = DEFAULT.margin,
    ridge: float = DEFAULT.ridge,
    max_correction: float | None = DEFAULT.max_correction,
) -> Projection:
    """Add v g_p to g in place, g and g_p being ``grads`` and ``guides`` seen as one flat vector
    each (equation 5).

    ``rule="paper"``: v = max(0, (ε - ⟨g, g_p⟩) / ‖g_p‖²), the nearest gradient with ⟨g, g_p⟩ >= ε
    (equation 4). ``rule="official"``, what the authors' released code does: v = max(margin, -⟨g,
    g_p⟩ / (‖g_p‖² + ridge)) if ⟨g, g_p⟩ < 0, else 0.

    v is computed and bounded in float64 and applied so that g + v g_p is right wherever v g_p fits
    the dtype, even if v itself is beyond float32: the guide of a saturated head is that small. The
    v returned is then an honest inf, and without ``max_correction`` so may be elements of the
    gradient that are truly too large.

    g_p = 0 gives v = 0, and v = 0 leaves every bit of ``grads`` as it was. If ⟨g, g_p⟩ or ‖g_p‖² is
    NaN or infinite then v is NaN and so is the whole result: a broken gradient stays visible.
    Autograd does not record the change.

    Args:
        grads: tensors of float32, bfloat16, float16 or float64, any shapes and strides; changed in
            place.
        guides: as many tensors, of the same shape and dtype one by one; left alone. One that shares
            memory with a gradient counts as it was before the call.
        rule: ``"paper"`` or ``"official"``.
        epsilon: ε of rule "paper", finite: a number, or a 0-d tensor on the CPU or on the
            gradients' device, for a schedule.
        relative: with rule "paper", take ε as a cosine: ε ‖g‖ ‖g_p‖ stands in its place.
        margin: least v of rule "official" where it acts, not negative; a number or such a tensor.
        ridge: added to ‖g_p‖² by rule "official", not negative.
        max_correction: bound on ‖v g_p‖ / ‖g‖, not negative; None for none. The plain formula grows
            without bound as g_p -> 0.

    Returns:
        v, ⟨g, g_p⟩, ‖g_p‖² and ‖g‖² as 0-d tensors; nothing waits for the device.

    Raises:
        TypeError: an argument that is no sequence of tensors, a wrong dtype, a sparse or freed
            tensor, or outside inference mode a gradient that is an inference tensor.
        ValueError: lists that do not match, several devices, gradients whose elements share memory,
            or a bad option. An option in a tensor on a GPU is not looked at, as that would wait for
            the GPU.
    """
    changed, given = check.sequence("grads", grads), check.sequence("guides", guides)
    options = Rule(rule, epsilon, relative, margin, ridge, max_correction)
    if traced(*changed, *given, epsilon, margin, ridge, max_correction):
        return Projection(*_registered(changed, given, options))
    return Projection(*_eager(changed, given, options))


def _eager(grads: list[Tensor], guides: list[Tensor], rule: Rule) -> Scalars:
    grads, guides = check.gradient_lists(grads, guides, values=True)
    rule = rule.checked(grads[0].device)
    scalars: Scalars = run("project_", grads, grads, guides, rule)  # guides are alike
    # A kernel that writes through a pointer is unseen by autograd, which may have saved one of
    # these tensors.
    torch._C._increment_version(grads)
    return scalars


def _registered(grads: list[Tensor], guides: list[Tensor], rule: Rule) -> tuple[Tensor, ...]:
    op, options = overload(_op, _op_scheduled, rule)
    if torch.compiler.is_compiling():
        return op(grads, guides, *options)
    written = [_materialized(f"grads[{i}]", grad) for i, grad in enumerate(grads)]
    scalars = call(op, written, guides, *options)
    with torch.no_grad():
        for grad, new in zip(grads, written, strict=True):
            if new is not grad:
                grad.copy_(new)
    return scalars


def _materialized(name: str, grad: Tensor) -> Tensor:
    """``grad``, or a copy where it is lazily negated: PyTorch resolves such tensors by itself, but
    none in a list that changes.
    """
    if type(grad) not in (Tensor, torch.nn.Parameter):
        return grad
    check.floating(name, grad)
    if grad._is_zerotensor():
        raise TypeError(
            f"{name} is a zero tensor without memory, which cannot be changed in place: clone() it"
            " first"
        )
    return grad.resolve_neg() if grad.is_neg() else grad


def _kernel(grads: list[Tensor], guides: list[Tensor], *options: Any) -> Scalars:
    rule = Rule(*options)
    check.in_memory(**check.numbered(grads=grads, guides=guides), **rule.numbers)
    return _eager(grads, guides, rule)


def _fake(grads: list[Tensor], guides: list[Tensor], *options: Any) -> Scalars:
    check.dense(**check.numbered(grads=grads, guides=guides))
    grads, guides = check.gradient_lists(grads, guides, values=False)
    Rule(*options).checked(grads[0].device, values=False)
    dtype = torch.float64 if any(grad.dtype is torch.float64 for grad in grads) else torch.float32
    v, dot, guide_norm2, grad_norm2 = (grads[0].new_empty((), dtype=dtype) for _ in range(4))
    return v, dot, guide_norm2, grad_norm2


def _schema(name: str, rule: str) -> str:
    return (
        f"{name}(Tensor(a!)[] grads, Tensor[] guides, {rule}) -> (Tensor, Tensor, Tensor, Tensor)"
    )


_op: torch._ops.OpOverload = register(
    _schema("project_", schema("float", defaults=True)), _kernel, _fake
)
_op_scheduled: torch._ops.OpOverload = register(
    _schema("project_.scheduled", schema("Tensor")), _kernel, _fake
)
