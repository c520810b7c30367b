"""Gradient surgery for trainers of your own: between ``backward()`` and ``step()``, for any shared
module and any number of modalities.

:func:`align_` takes two gradients. :class:`GradientSurgery` remembers the gradient that each
modality gives to the shared parameters and repairs the current one against the others. Both project
as ``gaal_fast.ops.project_`` does (equations 3 to 5): with g the current gradient and g_p the
guide, the whole of each seen as one vector, g becomes g + v g_p.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gaal_fast._surgery.gradients import (
    averaged,
    check_dense,
    check_rule,
    loss_scale,
    ranks,
    scaled_rule,
    true_projection,
    unscaled,
    widened,
)
from gaal_fast._surgery.guides import Guide, accumulated, kept, loaded, matching, saved
from gaal_fast._surgery.parameters import SharedParameters
from gaal_fast.ops import Projection, project_, selected_backend
from gaal_fast.ops._rule import DEFAULT, Rule

if TYPE_CHECKING:
    from torch.amp import GradScaler
    from torch.distributed import ProcessGroup

__all__ = ["GradientSurgery", "align_"]


def align_(
    grads: Tensor | Sequence[Tensor | None],
    guides: Tensor | Sequence[Tensor | None],
    *,
    rule: str = DEFAULT.rule,
    epsilon: float | Tensor = DEFAULT.epsilon,
    relative: bool = DEFAULT.relative,
    margin: float | Tensor = DEFAULT.margin,
    ridge: float = DEFAULT.ridge,
    max_correction: float | None = DEFAULT.max_correction,
) -> Projection:
    """Repair one gradient in place against another: ``gaal_fast.ops.project_`` that also takes
    single tensors and missing gradients.

    A ``None`` in ``grads`` is a parameter that this step does not move: it is left out, together
    with its part of the guide, and stays ``None``. What remains is the exact solution of equation 4
    among the gradients that do not move it. A ``None`` in ``guides`` is a part of the guide that is
    zero.

    >>> import torch
    >>> head = torch.nn.Linear(3, 2)
    >>> image, table, y = torch.randn(8, 3), torch.randn(8, 3), torch.randint(0, 2, (8,))
    >>> def gradient(features):
    ...     loss = torch.nn.functional.cross_entropy(head(features), y)
    ...     return torch.autograd.grad(loss, list(head.parameters()))
    >>> g, guide = gradient(image), gradient(table)
    >>> result = align_(g, guide)
    >>> sum((a * b).sum() for a, b in zip(g, guide)).item() > -1e-6
    True

    Args:
        grads: a tensor or a sequence of tensors and ``None``; changed in place.
        guides: a tensor or as many tensors and ``None``, of the same shapes and dtypes; left alone.
        rule, epsilon, relative, margin, ridge, max_correction: as ``gaal_fast.ops.project_``.

    Returns:
        v, ⟨g, g_p⟩, ‖g_p‖² and ‖g‖² as 0-d tensors on the gradients' device, without waiting for
        it.

    Raises:
        TypeError: what is neither a tensor nor ``None``, a sparse tensor, or a wrong dtype.
        ValueError: lists that do not match, no gradient at all, several devices, or a bad option.
    """
    grads = [grads] if isinstance(grads, Tensor) else list(grads)
    guides = [guides] if isinstance(guides, Tensor) else list(guides)
    if len(grads) != len(guides):
        raise ValueError(
            f"guides must hold as many gradients as grads: got {len(guides)} and {len(grads)}"
        )
    moving, along = [], []
    for i, (grad, guide) in enumerate(zip(grads, guides, strict=True)):
        if grad is not None:
            check_dense(f"grads[{i}]", grad)
            check_dense(f"guides[{i}]", guide)
            moving.append(grad)
            along.append(torch.zeros_like(grad) if guide is None else guide)
    if not moving:
        raise ValueError("grads must hold at least one gradient: all are None")
    return project_(
        moving,
        along,
        rule=rule,
        epsilon=epsilon,
        relative=relative,
        margin=margin,
        ridge=ridge,
        max_correction=max_correction,
    )


class GradientSurgery:
    """The surgery on the shared part of a model that several modalities train in turn.

    After a modality's ``backward()``, :meth:`capture` copies the gradient of the shared parameters
    as a guide for the others, and :meth:`repair` changes it in place against the guides of the
    others. All shared parameters together are one vector.

    >>> import torch
    >>> encoders = {name: torch.nn.Linear(4, 3) for name in ("image", "table")}
    >>> head = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> surgery = GradientSurgery(head)
    >>> parts = (*encoders.values(), head)
    >>> parameters = [parameter for part in parts for parameter in part.parameters()]
    >>> optimizer = torch.optim.SGD(parameters, lr=0.1)
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

    **Several guides.** The gradient is projected on each in turn, in the order given. Each
    projection establishes its own constraint (with rule "paper": ⟨g, g_p⟩ >= ε); a later one may
    weaken it again, as adding v g_q to g adds v ⟨g_q, g_p⟩ to ⟨g, g_p⟩. So the last constraint
    always holds, and with an absolute ε all of them hold if no two guides conflict (⟨g_p, g_q⟩ >= 0
    for all pairs). In general the result depends on the order, and is not the nearest gradient that
    meets all constraints.

    **Missing gradients.** A shared parameter whose ``.grad`` is ``None`` takes no part in the step:
    it is left out of every inner product and stays ``None``, so that an optimizer's momentum and
    weight decay do not move it. Where a guide has no gradient it counts as zero.

    **Automatic mixed precision.** Pass the ``GradScaler`` to both methods, and repair before
    ``scaler.unscale_`` or ``scaler.step``::

        scaler.scale(loss).backward()
        surgery.capture("image", scaler=scaler)
        surgery.repair("image", scaler=scaler)
        scaler.unscale_(optimizer)                # only where gradients are clipped
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(optimizer)
        scaler.update()

    Guides are kept unscaled, in float32 where gradients are in half precision, so the scale may
    change between two steps. The scaled gradient is projected as it is, with ε and margin scaled
    instead: ε, margin and ridge refer to true gradients, nothing is unscaled in half precision, and
    where v = 0 every bit stays. An overflow of either gradient makes the repaired one NaN before
    the scaler looks for infinities, so the step is skipped as usual. Forget a guide that overflowed
    (:meth:`forget`), or let the next :meth:`capture` replace it.

    **Gradient accumulation.** ``.grad`` adds up by itself: capture and repair once, after the last
    ``backward()`` before the step. If ``.grad`` is cleared in between, collect the parts with
    ``capture(..., accumulate=True)``. Parts in half precision are summed in float32.

    **Schedules.** ε and margin may be 0-d tensors, on the CPU or on the gradients' device. They are
    read at each repair, so ``epsilon.fill_(0.2)`` changes the next one.

    **Distributed training.** Under ``DistributedDataParallel`` the gradients are averaged when
    ``backward()`` returns (outside ``no_sync()``), so every rank captures the same guides from
    ``.grad`` and computes the same repair. Gradients from ``torch.autograd.grad`` are those of one
    rank: pass ``capture(grads=..., average=True)`` on every rank to average them, otherwise the
    ranks drift apart. Sharded gradients (FSDP, ``DTensor``) are refused.

    **Changes of the module.** The parameters of a module are looked up by name at each call: they
    may be frozen, unfrozen, moved, or replaced by ``load_state_dict(assign=True)``. A frozen
    parameter takes no part. Parameters given one by one are these very objects, whatever becomes of
    the module that they came from.

    Args:
        shared: the shared module, one parameter, or several of both. Parameters that need no
            gradient are left out.
        rule, epsilon, relative, margin, ridge, max_correction: as ``gaal_fast.ops.project_``.

    Raises:
        TypeError: ``shared`` holds something other than modules and parameters, or a sharded
            parameter.
        ValueError: ``shared`` has no parameter that needs a gradient, or an option is bad.
    """

    def __init__(
        self,
        shared: torch.nn.Module | Tensor | Iterable[torch.nn.Module | Tensor],
        *,
        rule: str = DEFAULT.rule,
        epsilon: float | Tensor = DEFAULT.epsilon,
        relative: bool = DEFAULT.relative,
        margin: float | Tensor = DEFAULT.margin,
        ridge: float = DEFAULT.ridge,
        max_correction: float | None = DEFAULT.max_correction,
    ) -> None:
        self._shared = SharedParameters(shared)
        self._rule = Rule(rule, epsilon, relative, margin, ridge, max_correction)
        check_rule(self._rule)  # refuses a bad option now rather than in the first step
        self._guides: dict[str, Guide] = {}
        self._warned = False

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self._rule._asdict().items())
        return (
            f"GradientSurgery({len(self.parameters)} parameters, {options},"
            f" captured={self.captured})"
        )

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The shared parameters that need a gradient now, in the order that ``capture(grads=...)``
        takes.
        """
        return tuple(self._shared.named().values())

    @property
    def captured(self) -> tuple[str, ...]:
        """The modalities with a captured gradient, in the order of their first capture."""
        return tuple(self._guides)

    def capture(
        self,
        modality: str,
        grads: Sequence[Tensor | None] | None = None,
        *,
        accumulate: bool = False,
        scaler: GradScaler | None = None,
        average: bool | None = None,
        process_group: ProcessGroup | None = None,
    ) -> None:
        """Copy a modality's gradient of the shared parameters, to guide the others. It replaces the
        one captured before.

        Args:
            modality: any name.
            grads: one gradient or ``None`` per element of ``parameters``, for instance from
                ``torch.autograd.grad(loss, surgery.parameters, allow_unused=True)``, which spares
                the encoder's backward pass if the features are detached; ``None`` to take the
                parameters' ``.grad``.
            accumulate: add to the captured gradient instead of replacing it.
            scaler: the ``GradScaler`` that scaled the loss.
            average: take the mean over the ranks of ``process_group``, each of which has to make
                this call; a missing gradient counts as zero. One process alone has nothing to
                average. By default nothing is averaged, with a warning where ``grads`` are given
                and there are several ranks: unlike ``.grad`` under ``DistributedDataParallel``
                these are of one rank only. ``False`` says that they are equal already.
            process_group: the ranks; by default all.

        Raises:
            TypeError: a sparse, sharded or freed gradient, or one that is no floating tensor.
            ValueError: ``grads`` of another number or shape than the parameters, or no gradient at
                all. Whatever is raised, the guides stay as they were.
        """
        several = ranks(process_group) > 1
        if average is None and grads is not None and several and not self._warned:
            self._warned = True
            warnings.warn(
                "capture(grads=...): these gradients are of this rank only, and ranks with"
                " different guides drift apart. Pass average=True on every rank to average them, or"
                " average=False if they are equal on all ranks.",
                stacklevel=2,
            )
        current = self._shared.gradients(grads, may_be_empty=several and bool(average))
        # A guide made in inference mode could not be replaced outside it.
        with torch.inference_mode(False), torch.no_grad():
            parts = unscaled(current, loss_scale(current, scaler))
            if several and average:
                parameters = self._shared.named()
                parts = averaged(
                    {name: (parts.get(name), p) for name, p in parameters.items()}, process_group
                )
            former = self._guides.get(modality, {})
            if accumulate:
                parts = accumulated(modality, former, parts)
            self._guides[modality] = kept(parts, current, former)

    @torch.no_grad()
    def repair(
        self,
        modality: str,
        *,
        against: str | Sequence[str] | None = None,
        scaler: GradScaler | None = None,
    ) -> dict[str, Projection]:
        """Project the shared parameters' ``.grad`` in place on the captured gradients of the other
        modalities, one after the other.

        Args:
            modality: the one whose gradient ``.grad`` is; its own captured gradient is no guide.
            against: the guides in order; ``None`` for every other captured modality, in the order
                of ``captured``. With none captured yet, as in the first step, the gradient stays as
                it is.
            scaler: the ``GradScaler`` that scaled the loss.

        Returns:
            What each projection did, by guide. The values are those of true gradients, also with a
            scaler; ⟨g, g_p⟩ and ‖g‖² are those of g as the earlier guides left it.

        Raises:
            TypeError: a sparse, sharded or freed gradient.
            ValueError: no shared parameter has a gradient, ``against`` names a modality without a
                captured gradient, a parameter has another shape than its captured gradient, or a
                tensor option holds a bad value.
            RuntimeError: the backend that was asked for cannot take the gradients.
            Whatever is raised, the gradients stay as they were.
        """
        grads = self._shared.gradients()
        names = self._against(modality, against)
        if not names:
            return {}
        check_rule(self._rule)
        known = self._shared.named(frozen=True)
        guides = {name: matching(name, self._guides[name], grads, known) for name in names}
        # A gradient takes part in the precision of the finest of its guides.
        work = {
            key: widened(grad, [guide[key] for guide in guides.values()])
            for key, grad in grads.items()
        }
        pairs = {
            name: [guide[key].to(part.device, part.dtype) for key, part in work.items()]
            for name, guide in guides.items()
        }
        for guide in pairs.values():
            selected_backend("project_", *work.values(), *guide)
        scale = loss_scale(grads, scaler)
        options = scaled_rule(self._rule, scale)._asdict()
        report = {
            name: true_projection(project_(list(work.values()), guide, **options), scale)
            for name, guide in pairs.items()
        }
        for key, grad in grads.items():
            if work[key] is not grad:
                grad.copy_(work[key])  # exact where v = 0
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

    def state_dict(self) -> dict[str, Any]:
        """The captured gradients, as copies by modality and name of the parameter, for
        ``torch.save``. The options are no part.
        """
        return saved(self._guides)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace all captured gradients by those of :meth:`state_dict`, moved to the parameters'
        device.

        Raises:
            TypeError: ``state`` is no such dictionary of dense tensors.
            ValueError: a parameter that is not shared here, or of another shape. Then the guides
                stay as they were.
        """
        self._guides = loaded(state, self._shared.named(frozen=True))

    def _against(self, modality: str, against: str | Sequence[str] | None) -> list[str]:
        """The guides to project on."""
        if against is None:
            return [name for name in self._guides if name != modality]
        names = [against] if isinstance(against, str) else list(against)
        for name in names:
            if name == modality:
                raise ValueError(f"against: {name!r} is the modality that is being repaired")
            if name not in self._guides:
                known = ", ".join(map(repr, self._guides)) or "none"
                raise ValueError(
                    f"against: no gradient of {name!r} was captured (captured: {known})"
                )
        return names
