"""The rule of the projection: six options, their defaults, and their check."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gaal_fast.ops._checks import FLOATS, INTEGERS

RULES = ("paper", "official")
# The types of ε and margin in the two overloads of a registered op, see `_registration.overload`.
SCHEMA_NUMBERS = ("float", "Tensor")

_HOST = torch.device("cpu")

Number = float | Tensor


class Rule(NamedTuple):
    """How v of equation (5) is found. :func:`gaal_fast.ops.project_` tells what each option means.

    The public functions have these fields as keywords; everything below them takes one ``Rule``.

    Attributes:
        rule: ``"paper"`` or ``"official"``.
        epsilon: ε of rule "paper", a number or a 0-d tensor.
        relative: whether ε is a cosine.
        margin: least v of rule "official" where it acts, a number or a 0-d tensor.
        ridge: what rule "official" adds to ‖g_p‖².
        max_correction: bound on ‖v g_p‖ / ‖g‖, None for none.
    """

    rule: str = "paper"
    epsilon: Number = 0.0
    relative: bool = False
    margin: Number = 0.75
    ridge: float = 1e-3
    max_correction: float | None = None

    @property
    def numbers(self) -> dict[str, Number | None]:
        """The options that are numbers, by name."""
        return {
            "epsilon": self.epsilon,
            "margin": self.margin,
            "ridge": self.ridge,
            "max_correction": self.max_correction,
        }

    def checked(self, device: torch.device = _HOST, values: bool = True) -> Rule:
        """The rule as a backend takes it for gradients on ``device``.

        Its numbers are floats. ε and margin may also be 0-d float64 tensors on ``device``, which
        nobody looks at before the kernels do: that would wait for the device.

        Args:
            device: where the gradients are.
            values: False where nothing may be read, as from fake tensors. Tensors then stay.

        Raises:
            TypeError: an option that is no number, or a bound or ridge in a tensor on a device.
            ValueError: an unknown rule, or a number out of its range.
        """
        found, (rule, epsilon, relative, margin, ridge, bound) = self, self
        if rule not in RULES:
            raise ValueError(f"rule must be 'paper' or 'official', got {rule!r}")
        if not (
            type(epsilon) is type(margin) is type(ridge) is float
            and (bound is None or type(bound) is float)
            and type(relative) is bool
        ):
            epsilon = _number("epsilon", epsilon, device, values)
            margin = _number("margin", margin, device, values)
            ridge = _host_number("ridge", ridge, values)
            if bound is not None:
                bound = _host_number("max_correction", bound, values)
            found = Rule(rule, epsilon, bool(relative), margin, ridge, bound)
        if type(epsilon) is float and not math.isfinite(epsilon):
            raise ValueError(f"epsilon must be finite, got {epsilon}")
        if type(margin) is float and not 0.0 <= margin < math.inf:
            raise ValueError(f"margin must be finite and not negative, got {margin}")
        if type(ridge) is float and not 0.0 <= ridge < math.inf:
            raise ValueError(f"ridge must be finite and not negative, got {ridge}")
        if type(bound) is float and not 0.0 <= bound < math.inf:
            raise ValueError(
                f"max_correction must be finite and not negative, or None, got {bound}"
            )
        return found


DEFAULT = Rule()


def schema(number: str, defaults: bool = False) -> str:
    """The options as arguments in the schema of a registered op.

    Args:
        number: the type of those that are numbers, one of ``SCHEMA_NUMBERS``.
        defaults: whether the arguments may be left out.
    """
    types = ("str", number, "bool", number, number, f"{number}?")
    written = (
        f"{kind} {name}" + (f"={_literal(value)}" if defaults else "")
        for kind, (name, value) in zip(types, DEFAULT._asdict().items(), strict=True)
    )
    return ", ".join(written)


def _literal(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _number(name: str, value: object, device: torch.device, values: bool) -> Number:
    """``value`` as a float, or, where it is on another device than the CPU, as a 0-d float64 tensor
    on ``device``.
    """
    if isinstance(value, Tensor):
        return _scalar(name, value, device, values)
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return float(value)  # type: ignore[arg-type]  # the answer is what we ask for
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{name} must be a number or a 0-d tensor, got {type(value).__name__}"
        ) from None


def _scalar(name: str, tensor: Tensor, device: torch.device, values: bool) -> Number:
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


def _host_number(name: str, value: object, values: bool) -> float:
    """``value`` as a float; without ``values`` a 0-d tensor on the CPU stays one."""
    if isinstance(value, Tensor) and not value.is_cpu:
        raise TypeError(f"{name} must be a number, got a tensor on {value.device}")
    return _number(name, value, _HOST, values)  # type: ignore[return-value]  # but for fake tensors
