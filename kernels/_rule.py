"""v of equation (5), and what kernels that find and apply it share.

The coefficient (``projection_coefficient``):

    paper      v = max(0, (epsilon - <g, g_p>) / |g_p|^2)
               with epsilon |g| |g_p| in place of epsilon if `relative`
    official   v = max(margin, -<g, g_p> / (|g_p|^2 + ridge)) if <g, g_p> < 0, else 0
    then       v = min(v, max_correction |g| / |g_p|) if a bound is given
               v = 0 if g_p = 0
               v = NaN if <g, g_p> or |g_p|^2 is not finite: a broken gradient must stay visible

A hardware maximum or minimum may drop NaN, so comparisons stand in their place: an epsilon of NaN
makes v NaN.

v stays float64 between the launches: a guide of norm 1e-40 makes a v that float32 does not have,
although v g_p is of the size of g. A usual v is then applied in float32, any other in float64
(``add_guide``). epsilon, margin, ridge and the bound are float64, too; epsilon and margin may be
read from the GPU instead.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import triton
import triton.language as tl
from torch import Tensor

SUM_BLOCK = 512  # partial sums the last program adds at a time
RULES = {"paper": 0, "official": 1}


class Rule(Protocol):
    """The six options of the projection. epsilon and margin may be 0-d float64 tensors."""

    @property
    def rule(self) -> str: ...
    @property
    def epsilon(self) -> float | Tensor: ...
    @property
    def relative(self) -> bool: ...
    @property
    def margin(self) -> float | Tensor: ...
    @property
    def ridge(self) -> float: ...
    @property
    def max_correction(self) -> float | None: ...


class Numbers(NamedTuple):
    """The options of a ``Rule`` that are run-time arguments of a kernel, float64."""

    epsilon: tl.tensor
    margin: tl.tensor
    ridge: tl.tensor
    max_correction: tl.tensor
    epsilon_ptr: tl.tensor | None  # in place of epsilon
    margin_ptr: tl.tensor | None


class Scalars(NamedTuple):
    """Where the results go, 0-d float32 each."""

    v_ptr: tl.tensor
    dot_ptr: tl.tensor
    guide_norm2_ptr: tl.tensor
    grad_norm2_ptr: tl.tensor


@triton.jit
def held(number, ptr):
    """A float64 option: what ``ptr`` points to, or ``number`` without it."""
    # Not a cast: under the interpreter a number would be float32 first.
    value = tl.full((), number, tl.float64)
    if ptr is not None:
        value = tl.load(ptr)
    return value


@triton.jit
def projection_coefficient(
    dot,  # float64 scalars
    guide_norm2,
    grad_norm2,
    numbers,  # `Numbers`
    RULE: tl.constexpr,
    RELATIVE: tl.constexpr,
    BOUNDED: tl.constexpr,
):
    """v of equation (5), float64."""
    if RULE == 0:
        floor = held(numbers.epsilon, numbers.epsilon_ptr)
        if RELATIVE:
            floor = floor * tl.sqrt(grad_norm2) * tl.sqrt(guide_norm2)
        v = (floor - dot) / guide_norm2
        v = tl.where(v <= 0, 0.0, v)
    else:
        least = held(numbers.margin, numbers.margin_ptr)
        v = -dot / (guide_norm2 + numbers.ridge)
        v = tl.where(v > least, v, least)
        v = tl.where(dot < 0, v, 0.0)
    if BOUNDED:
        bound = numbers.max_correction * tl.sqrt(grad_norm2 / guide_norm2)
        v = tl.where(v > bound, bound, v)
    v = tl.where(guide_norm2 == 0, 0.0, v)
    infinity = float("inf")
    return tl.where((tl.abs(dot) < infinity) & (guide_norm2 < infinity), v, float("nan"))


@triton.jit
def store_partials(partial_ptr, n_partials, place, dot, guide_norm2, grad_norm2):
    """The three sums of the program at ``place``, for ``finish_projection``."""
    tl.store(partial_ptr + 1 + place, dot)
    tl.store(partial_ptr + 1 + n_partials + place, guide_norm2)
    tl.store(partial_ptr + 1 + 2 * n_partials + place, grad_norm2)


@triton.jit
def sum_partials(partial_ptr, n_partials, N: tl.constexpr):
    """Sums of the planes that ``store_partials`` left, float64, always in the same order."""
    dot = tl.zeros((N,), tl.float64)
    guide = tl.zeros((N,), tl.float64)
    grad = tl.zeros((N,), tl.float64)
    sums_ptr = partial_ptr + 1
    for start in range(0, n_partials, N):
        place = start + tl.arange(0, N)
        present = place < n_partials
        dot += tl.load(sums_ptr + place, mask=present, other=0.0)
        guide += tl.load(sums_ptr + n_partials + place, mask=present, other=0.0)
        grad += tl.load(sums_ptr + 2 * n_partials + place, mask=present, other=0.0)
    return tl.sum(dot, axis=0), tl.sum(guide, axis=0), tl.sum(grad, axis=0)


@triton.jit
def finish_projection(
    scalars,  # `Scalars`
    partial_ptr,  # [1 + 3 * n_partials] float64: v, then the sums of the programs
    n_partials,
    numbers,  # `Numbers`
    RULE: tl.constexpr,
    RELATIVE: tl.constexpr,
    BOUNDED: tl.constexpr,
    N: tl.constexpr,
):
    """What the last program does: add the partial sums, store v for the update, and the scalars."""
    dot, guide_norm2, grad_norm2 = sum_partials(partial_ptr, n_partials, N)
    # From Gram matrices a norm that is zero may come out as the rounding error of its parts.
    # Written so that NaN stays.
    guide_norm2 = tl.where(guide_norm2 < 0, 0.0, guide_norm2)
    grad_norm2 = tl.where(grad_norm2 < 0, 0.0, grad_norm2)
    v = projection_coefficient(dot, guide_norm2, grad_norm2, numbers, RULE, RELATIVE, BOUNDED)
    tl.store(partial_ptr, v)
    tl.store(scalars.v_ptr, v.to(tl.float32))
    tl.store(scalars.dot_ptr, dot.to(tl.float32))
    tl.store(scalars.guide_norm2_ptr, guide_norm2.to(tl.float32))
    tl.store(scalars.grad_norm2_ptr, grad_norm2.to(tl.float32))


@triton.jit
def add_guide(g, p, v):
    """g + v p of float32 tensors and a float64 scalar, float32.

    In float32 while v is far from the ends of its range, else in float64.
    """
    if (tl.abs(v) < 1e30) & (tl.abs(v) > 1e-30):
        moved = g + v.to(tl.float32) * p
    else:
        moved = (g.to(tl.float64) + v * p.to(tl.float64)).to(tl.float32)
    return moved


def scalar_outputs(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unwritten v, dot, guide_norm2, grad_norm2: 0-d float32 tensors that share no memory."""
    v, dot, guide_norm2, grad_norm2 = (
        torch.empty((), dtype=torch.float32, device=device) for _ in range(4)
    )
    return v, dot, guide_norm2, grad_norm2


def rule_values(rule: Rule) -> dict[str, float | Tensor | None]:
    """The fields of ``Numbers``. A tensor is read on the GPU, from its pointer."""
    values: dict[str, float | Tensor | None] = {
        "ridge": float(rule.ridge),
        "max_correction": 0.0 if rule.max_correction is None else float(rule.max_correction),
    }
    for name, value in (("epsilon", rule.epsilon), ("margin", rule.margin)):
        on_device = isinstance(value, Tensor)
        values[name] = 0.0 if on_device else float(value)
        values[f"{name}_ptr"] = value if on_device else None
    return values


def rule_constants(rule: Rule) -> dict[str, int | bool]:
    """The options that are compiled in."""
    return {
        "RULE": RULES[rule.rule],
        "RELATIVE": bool(rule.relative),
        "BOUNDED": rule.max_correction is not None,
    }
