"""Gradient surgery for trainers of your own: between ``backward()`` and ``step()``, for any shared module and any number of modalities.

:func:`align_` takes two gradients. :class:`GradientSurgery` remembers the gradient that each modality gives to the shared parameters and
repairs the current one against the others. Both project as ``gaal_fast.ops.project_`` does (equations 3 to 5): with g the current
gradient and g_p the guide, the whole of each seen as one vector, g becomes g + v g_p.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gaal_fast.ops import Projection, project_

if TYPE_CHECKING:
    from torch.amp import GradScaler

__all__ = ["GradientSurgery", "align_"]


def align_(
    grads: Tensor | Sequence[Tensor | None],
    guides: Tensor | Sequence[Tensor | None],
    *,
    rule: str = "paper",
    epsilon: float = 0.0,
    relative: bool = False,
    margin: float = 0.75,
    ridge: float = 1e-3,
    max_correction: float | None = None,
) -> Projection:
    """Repair one gradient in place against another: ``gaal_fast.ops.project_`` that also takes single tensors and missing gradients.

    A ``None`` in ``grads`` is a parameter that this step does not move: it is left out, together with its part of the guide, and stays
    ``None``. What remains is the exact solution of equation 4 among the gradients that do not move it. A ``None`` in ``guides`` is a
    part of the guide that is zero.

    >>> import torch
    >>> head = torch.nn.Linear(3, 2)
    >>> image, table, y = torch.randn(8, 3), torch.randn(8, 3), torch.randint(0, 2, (8,))
    >>> def gradient(features):
    ...     return torch.autograd.grad(torch.nn.functional.cross_entropy(head(features), y), list(head.parameters()))
    >>> g, guide = gradient(image), gradient(table)
    >>> result = align_(g, guide)
    >>> sum((a * b).sum() for a, b in zip(g, guide)).item() > -1e-6
    True

    Args:
        grads: a tensor or a sequence of tensors and ``None``; changed in place.
        guides: a tensor or as many tensors and ``None``, of the same shapes and dtypes; left alone.
        rule, epsilon, relative, margin, ridge, max_correction: as ``gaal_fast.ops.project_``.

    Returns:
        v, <g, g_p>, ‖g_p‖² and ‖g‖² as 0-d tensors on the gradients' device, without waiting for it.

    Raises:
        TypeError: what is neither a tensor nor ``None``, a sparse tensor, or a wrong dtype.
        ValueError: lists that do not match, no gradient at all, several devices, or a bad option.
    """
    grads = [grads] if isinstance(grads, Tensor) else list(grads)
    guides = [guides] if isinstance(guides, Tensor) else list(guides)
    if len(grads) != len(guides):
        raise ValueError(f"guides must hold as many gradients as grads: got {len(guides)} and {len(grads)}")
    moving = [i for i, grad in enumerate(grads) if grad is not None]
    if not moving:
        raise ValueError("grads must hold at least one gradient: all are None")
    for i in moving:
        for name, tensor in ((f"grads[{i}]", grads[i]), (f"guides[{i}]", guides[i])):
            if isinstance(tensor, Tensor) and tensor.layout is not torch.strided:
                raise TypeError(f"{name} is sparse: only dense gradients can be projected")
    return project_(
        [grads[i] for i in moving],
        [torch.zeros_like(grads[i]) if guides[i] is None else guides[i] for i in moving],
        rule=rule,
        epsilon=epsilon,
        relative=relative,
        margin=margin,
        ridge=ridge,
        max_correction=max_correction,
    )


class GradientSurgery:
    """The surgery on the shared part of a model that several modalities train in turn.

    After a modality's ``backward()``, :meth:`capture` copies the gradient of the shared parameters as a guide for the others, and
    :meth:`repair` changes it in place against the guides of the others. All shared parameters together are one vector.

    >>> import torch
    >>> encoders = {name: torch.nn.Linear(4, 3) for name in ("image", "table")}
    >>> head = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> surgery = GradientSurgery(head)
    >>> optimizer = torch.optim.SGD([*encoders["image"].parameters(), *encoders["table"].parameters(), *head.parameters()], lr=0.1)
    >>> x, y = torch.randn(8, 4), torch.randint(0, 2, (8,))
    >>> for modality in ("image", "table", "image"):
    ...     optimizer.zero_grad()
    ...     torch.nn.functional.cross_entropy(head(encoders[modality](x)), y).backward()
    ...     surgery.capture(modality)            # a guide for the other modality's next step
    ...     report = surgery.repair(modality)    # against the other modality's last gradient
    ...     optimizer.step()
    ...     print(modality, sorted(report))
    image []
    table ['image']
    image ['table']

    **Several guides.** The gradient is projected on each in turn, in the order given. Each projection establishes its own constraint
    (with rule "paper": <g, g_p> >= ε); a later one may weaken it again, as adding v g_q to g adds v <g_q, g_p> to <g, g_p>. So the last
    constraint always holds, and with an absolute ε all of them hold if no two guides conflict (<g_p, g_q> >= 0 for all pairs). In
    general the result depends on the order, and is not the nearest gradient that meets all constraints.

    **Missing gradients.** A shared parameter whose ``.grad`` is ``None`` takes no part in the step: it is left out of every inner product
    and stays ``None``, so that an optimiser's momentum and weight decay do not move it. Where a guide has no gradient it counts as zero.

    **Automatic mixed precision.** Pass the ``GradScaler`` to both methods, and repair before ``scaler.unscale_`` or ``scaler.step``::

        scaler.scale(loss).backward()
        surgery.capture("image", scaler=scaler)
        surgery.repair("image", scaler=scaler)
        scaler.unscale_(optimizer)                # only where gradients are clipped
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(optimizer)
        scaler.update()

    Guides are kept unscaled, so the scale may change between two steps, and ε, margin and ridge refer to true gradients. An overflow of
    either gradient makes the repaired one NaN before the scaler looks for infinities, so the step is skipped as usual. Forget a guide
    that overflowed (:meth:`forget`), or let the next :meth:`capture` replace it.

    **Gradient accumulation.** ``.grad`` adds up by itself: capture and repair once, after the last ``backward()`` before the step. If
    ``.grad`` is cleared in between, collect the parts with ``capture(..., accumulate=True)``.

    **Distributed training.** Under ``DistributedDataParallel`` the gradients are averaged when ``backward()`` returns, so every rank
    computes the same repair. Sharded gradients are not supported.

    Args:
        shared: the shared module, or its parameters. Parameters that need no gradient are left out.
        rule, epsilon, relative, margin, ridge, max_correction: as ``gaal_fast.ops.project_``.

    Attributes:
        parameters: the shared parameters, in the order that ``capture(grads=...)`` takes.

    Raises:
        TypeError: ``shared`` holds something other than parameters.
        ValueError: ``shared`` has no parameter that needs a gradient, or an option is bad.
    """

    def __init__(
        self,
        shared: torch.nn.Module | Iterable[Tensor],
        *,
        rule: str = "paper",
        epsilon: float = 0.0,
        relative: bool = False,
        margin: float = 0.75,
        ridge: float = 1e-3,
        max_correction: float | None = None,
    ) -> None:
        named = shared.named_parameters() if isinstance(shared, torch.nn.Module) else ((f"[{i}]", p) for i, p in enumerate(shared))
        unique: dict[int, tuple[str, Tensor]] = {}
        for name, parameter in named:
            if not isinstance(parameter, Tensor):
                raise TypeError(f"shared must be a module or tensors, {name} is a {type(parameter).__name__}")
            if parameter.requires_grad:
                unique.setdefault(id(parameter), (name, parameter))
        if not unique:
            raise ValueError("shared has no parameter that requires a gradient")
        self._names = tuple(name for name, _ in unique.values())
        self.parameters: tuple[Tensor, ...] = tuple(parameter for _, parameter in unique.values())
        self._options = {
            "rule": rule,
            "epsilon": epsilon,
            "relative": relative,
            "margin": margin,
            "ridge": ridge,
            "max_correction": max_correction,
        }
        align_(torch.zeros(1), torch.zeros(1), **self._options)  # refuses a bad option now rather than in the first step
        self._guides: dict[str, list[Tensor | None]] = {}

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self._options.items())
        return f"GradientSurgery({len(self.parameters)} parameters, {options}, captured={self.captured})"

    @property
    def captured(self) -> tuple[str, ...]:
        """The modalities with a captured gradient, in the order in which each was captured first."""
        return tuple(self._guides)

    @torch.no_grad()
    def capture(
        self,
        modality: str,
        grads: Sequence[Tensor | None] | None = None,
        *,
        accumulate: bool = False,
        scaler: GradScaler | None = None,
    ) -> None:
        """Copy a modality's gradient of the shared parameters, to guide the others. It replaces the one captured before.

        Args:
            modality: any name.
            grads: one gradient or ``None`` per element of ``parameters``, for instance from
                ``torch.autograd.grad(loss, surgery.parameters, allow_unused=True)``, which spares the encoder's backward pass if the
                features are detached; ``None`` to take the parameters' ``.grad``.
            accumulate: add to the captured gradient instead of replacing it.
            scaler: the ``GradScaler`` that scaled the loss.

        Raises:
            TypeError: a sparse gradient, or one that is no tensor.
            ValueError: ``grads`` of another number or shape than the parameters, or no gradient at all.
        """
        grads = self._current(grads)
        factor = _unscale_factor(grads, scaler)
        kept = self._guides.get(modality) or [None] * len(grads)
        guide: list[Tensor | None] = []
        for grad, old in zip(grads, kept, strict=True):
            if grad is None:
                guide.append(old if accumulate else None)
                continue
            part = grad.detach() if factor is None else grad.detach() * factor.to(grad.dtype)
            if old is None or old.device != grad.device or old.dtype != grad.dtype:
                guide.append(part.clone() if factor is None else part)
            else:
                guide.append(old.add_(part) if accumulate else old.copy_(part))
        self._guides[modality] = guide

    @torch.no_grad()
    def repair(
        self, modality: str, *, against: str | Sequence[str] | None = None, scaler: GradScaler | None = None
    ) -> dict[str, Projection]:
        """Project the shared parameters' ``.grad`` in place on the captured gradients of the other modalities, one after the other.

        Args:
            modality: the one whose gradient ``.grad`` is; its own captured gradient is no guide.
            against: the guides in order; ``None`` for every other captured modality, in the order of ``captured``. With none captured
                yet, as in the first step, the gradient stays as it is.
            scaler: the ``GradScaler`` that scaled the loss.

        Returns:
            What each projection did, by guide. The values are those of true gradients, also with a scaler; <g, g_p> and ‖g‖² are those
            of g as the earlier guides left it.

        Raises:
            TypeError: a sparse gradient.
            ValueError: no shared parameter has a gradient, or ``against`` names a modality without a captured gradient.
        """
        grads = self._current(None)
        if against is None:
            names = [name for name in self._guides if name != modality]
        else:
            names = [against] if isinstance(against, str) else list(against)
            for name in names:
                if name == modality:
                    raise ValueError(f"against: {name!r} is the modality that is being repaired")
                if name not in self._guides:
                    known = ", ".join(map(repr, self._guides)) or "none"
                    raise ValueError(f"against: no gradient of {name!r} was captured (captured: {known})")
        if not names:
            return {}
        factor = _unscale_factor(grads, scaler)
        _multiply_(grads, factor)
        report = {name: align_(grads, self._guides[name], **self._options) for name in names}
        _multiply_(grads, None if factor is None else factor.reciprocal())
        return report

    def forget(self, modality: str | None = None) -> None:
        """Drop a modality's captured gradient, or all of them.

        Raises:
            ValueError: no gradient of ``modality`` was captured.
        """
        if modality is None:
            self._guides.clear()
        elif self._guides.pop(modality, None) is None:
            raise ValueError(f"modality: no gradient of {modality!r} was captured")

    def _current(self, grads: Sequence[Tensor | None] | None) -> list[Tensor | None]:
        """The gradients, given or from the parameters, checked one by one."""
        if grads is None:
            grads, source = [parameter.grad for parameter in self.parameters], ".grad"
        else:
            grads, source = list(grads), "grads"
            if len(grads) != len(self.parameters):
                raise ValueError(f"grads must hold one gradient per shared parameter: got {len(grads)} for {len(self.parameters)}")
        for name, grad, parameter in zip(self._names, grads, self.parameters, strict=True):
            if grad is None:
                continue
            if not isinstance(grad, Tensor):
                raise TypeError(f"{source} of parameter {name} must be a tensor or None, got {type(grad).__name__}")
            if grad.layout is not torch.strided:
                raise TypeError(f"{source} of parameter {name} is sparse: only dense gradients can be projected")
            if grad.shape != parameter.shape:
                raise ValueError(f"{source} of parameter {name} must have shape {tuple(parameter.shape)}, got {tuple(grad.shape)}")
        if all(grad is None for grad in grads):
            raise ValueError(f"{source}: no shared parameter has a gradient; call backward() before")
        return grads


def _unscale_factor(grads: Sequence[Tensor | None], scaler: GradScaler | None) -> Tensor | None:
    """1 / the scale of the loss as a device scalar: asking the scaler to scale a 1 needs no synchronisation, ``get_scale`` does."""
    if scaler is None or not scaler.is_enabled():
        return None
    device = next(grad.device for grad in grads if grad is not None)
    return scaler.scale(torch.ones((), device=device)).reciprocal()


def _multiply_(grads: Sequence[Tensor | None], factor: Tensor | None) -> None:
    """Exact, as a scaler's factors are powers of two."""
    if factor is not None:
        for grad in grads:
            if grad is not None:
                grad.mul_(factor.to(grad.dtype))
