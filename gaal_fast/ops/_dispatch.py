"""Which backend a call takes: the table, the user's choice, and what this machine offers."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gaal_fast.ops.backends.protocol import Backend

OPS = ("softmax_stats", "entropy_topk", "linear_ce_grad", "project_", "guided_linear_ce")
BACKENDS = ("torch", "native", "triton")
CHOICES = ("auto", *BACKENDS)
VARIABLE = "GAAL_FAST_BACKEND"

# The table behind "auto": by device type, the backends to try in order. The first one that is
# available on the device and supports the call is taken. A device type that is not listed takes
# "torch". "triton" is not listed for the CPU: it runs there only under Triton's interpreter, which
# is for tests.
PREFERENCE: dict[str, tuple[str, ...]] = {
    "cpu": ("native", "torch"),
    "cuda": ("native", "triton", "torch"),
}

# The device types of a backend that has a module for each.
DEVICE_MODULES: dict[str, tuple[str, ...]] = {"native": ("cpu", "cuda")}

_Choice = tuple[str, Callable[..., bool], Callable[..., Any]]
_Plan = list[_Choice]

_any_autocast = torch._C._is_any_autocast_enabled
_set_grad_enabled = torch._C._set_grad_enabled
_chosen: ContextVar[str | None] = ContextVar(
    "gaal_fast_backend", default=None
)  # set by ``with backend(name)``
_default: str | None = None  # set by ``set_backend`` or, on first use, by the environment variable
_plans: dict[tuple[str, str, torch.device], _Plan] = {}


def nearest(name: object, known: Iterable[str]) -> str:
    """The known name that looks most like ``name``."""
    return difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.0)[0]


def _checked(name: object, source: str) -> str:
    if name not in CHOICES:
        raise ValueError(
            f"{source}: unknown backend {name!r}, did you mean {nearest(name, CHOICES)!r}? Choose"
            f" from {', '.join(CHOICES)}."
        )
    return str(name)


def set_backend(name: str) -> None:
    """Choose the backend of every later call in this process: ``"auto"``, ``"torch"``, ``"native"``
    or ``"triton"``.

    ``"auto"`` (the default) takes the best backend for the tensors' device and falls back to
    ``"torch"``. Any other name is a demand: a call that this backend cannot take raises
    RuntimeError with the reason. Overrides the environment variable ``GAAL_FAST_BACKEND``;
    ``with backend(name):`` overrides both.

    Raises:
        ValueError: ``name`` is not a backend.
    """
    global _default
    _default = _checked(name, "set_backend")


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Choose the backend of the calls inside a ``with`` block, in this thread or asynchronous task
    only.

    Takes the names of :func:`set_backend` and raises as it does. Blocks nest: the innermost one
    counts.
    """
    token = _chosen.set(_checked(name, "backend"))
    try:
        yield
    finally:
        _chosen.reset(token)


def requested_backend() -> str:
    """The backend asked for at this point of the program: one of ``"auto"``, ``"torch"``,
    ``"native"``, ``"triton"``.
    """
    global _default
    chosen = _chosen.get()
    if chosen is not None:
        return chosen
    if _default is None:
        _default = _checked(os.environ.get(VARIABLE) or "auto", VARIABLE)
    return _default


def module_name(name: str, device: torch.device) -> str | None:
    """The module of a backend for a device, None where it has no kernels for that type."""
    types = DEVICE_MODULES.get(name)
    if types is None:
        return f"gaal_fast.ops.backends.{name}"
    return f"gaal_fast.ops.backends.{name}.{device.type}" if device.type in types else None


def load(name: str, device: torch.device) -> Backend | str:
    """The module of a backend, or the reason why it cannot be used on ``device``."""
    place = module_name(name, device)
    if place is None:
        return f"there are no kernels for device type {device.type!r}"
    try:
        module = cast("Backend", importlib.import_module(place))
    except (ImportError, OSError) as error:
        return f"it cannot be imported ({error})"
    reason = module.availability(device)
    return module if reason is None else reason


def _plan(requested: str, op: str, device: torch.device) -> _Plan:
    names = PREFERENCE.get(device.type, ("torch",)) if requested == "auto" else (requested,)
    plan: _Plan = []
    for name in names:
        module = load(name, device)
        if not isinstance(module, str):
            plan.append((name, module.supports, getattr(module, op)))
        elif requested != "auto":
            raise RuntimeError(f"backend {name!r} cannot be used on {device}: {module}")
    return plan


def resolve(op: str, tensors: Sequence[Tensor]) -> _Choice:
    """The backend that takes this call: its name, what it supports, and its function.

    ``tensors`` are the floating tensors of the call, as ``supports`` of a backend takes them.
    """
    device = tensors[0].device
    # What `requested_backend` answers, mostly for a call less.
    key = (_chosen.get() or _default or requested_backend(), op, device)
    plan = _plans.get(key)
    if plan is None:
        plan = _plans[key] = _plan(*key)
    for choice in plan:
        if choice[1](op, *tensors):
            return choice
    given = ", ".join(f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for t in tensors[:4])
    raise RuntimeError(
        f"backend {key[0]!r} does not take {op} of {given} on {device}; use 'auto' or 'torch'"
    )


def run(op: str, tensors: Sequence[Tensor], *args: object) -> Any:
    """Call the backend's function for ``op`` with ``args``, recording no gradient and with autocast
    off.
    """
    function = resolve(op, tensors)[2]
    first = tensors[0]
    # Asking for one device type by name takes as long as ten other checks.
    if _any_autocast() or not (first.is_cpu or first.is_cuda):
        device_type = first.device.type
        if torch.is_autocast_enabled(device_type):
            with torch.no_grad(), torch.autocast(device_type, enabled=False):
                return function(*args)
    # What torch.no_grad() does, for a tenth of its 1.5 microseconds.
    if not torch.is_grad_enabled():
        return function(*args)
    _set_grad_enabled(False)
    try:
        return function(*args)
    finally:
        _set_grad_enabled(True)


def selected_backend(op: str, *tensors: Tensor) -> str:
    """The name of the backend that ``op`` would take for these tensors, here and now.

    Args:
        op: the name of a public op.
        tensors: the floating tensors of the call: ``softmax_stats(logits)``,
            ``entropy_topk(logits)``, ``linear_ce_grad(features, logits)``,
            ``project_(*grads, *guides)``, ``guided_linear_ce(features, guide_features, weight)``.

    Raises:
        ValueError: ``op`` is no public op, or no tensor is given.
        TypeError: ``tensors`` holds something other than tensors.
        RuntimeError: the backend that was asked for cannot take the call.
    """
    if op not in OPS:
        raise ValueError(f"op: unknown op {op!r}, did you mean {nearest(op, OPS)!r}?")
    if not tensors:
        raise ValueError("tensors: give the floating tensors of the call")
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"tensors must be tensors, got {type(tensor).__name__}")
    return resolve(op, tensors)[0]


def availability() -> dict[str, dict[str, str | None]]:
    """What this machine offers: for each backend and each device, None where it can be used,
    otherwise the reason in one line.
    """
    devices = {"cpu": torch.device("cpu")}
    devices |= {f"cuda:{i}": torch.device("cuda", i) for i in range(torch.cuda.device_count())}
    report: dict[str, dict[str, str | None]] = {}
    for name in BACKENDS:
        loaded = {label: load(name, device) for label, device in devices.items()}
        report[name] = {
            label: found if isinstance(found, str) else None for label, found in loaded.items()
        }
    return report
