"""The gradient projection of equation (5), g <- g + v g_p, over a list of tensors seen as one flat vector.

First launch: every program sums <g, g_p>, |g_p|^2 and |g|^2 over its chunk in float64 (products too, so that no finite gradient
overflows), stores the three sums in its own place, and the last program to arrive adds them in order of the programs and computes v.
Second launch: g + v g_p, with v read from the GPU. Where v = 0 nothing is written, so g keeps its bits.

v stays float64 between the launches: a guide of norm 1e-40 makes a v that float32 does not have, although v g_p is of the size of g.
A usual v is then applied in float32, any other in float64 (`add_guide`). epsilon, margin, ridge and the bound are float64, too;
epsilon and margin may be read from the GPU instead.

A launch takes up to `SLOTS` tensor pairs, so a head's (weight, bias) costs two launches, and a list of L pairs 2 * ceil(L / SLOTS).

The coefficient (`projection_coefficient`):

    paper      v = max(0, (epsilon - <g, g_p>) / |g_p|^2)              epsilon |g| |g_p| in place of epsilon if `relative`
    official   v = max(margin, -<g, g_p> / (|g_p|^2 + ridge)) if <g, g_p> < 0, else 0
    then       v = min(v, max_correction |g| / |g_p|) if a bound is given
               v = 0 if g_p = 0
               v = NaN if <g, g_p> or |g_p|^2 is not finite: a broken gradient must stay visible

A hardware maximum or minimum may drop NaN, so comparisons stand in their place: an epsilon of NaN makes v NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from ._common import arrive_last, launch, ticket

SLOTS = 4
BLOCK = 1024  # elements per step of a program
CHUNK = 8192  # elements per program while that gives at most MAX_PROGRAMS programs
MAX_PROGRAMS = 4096
SUM_BLOCK = 512  # partial sums the last program adds at a time
RULES = {"paper": 0, "official": 1}


@triton.jit
def projection_coefficient(
    dot,  # float64 scalars
    guide_norm2,
    grad_norm2,
    epsilon,
    margin,
    ridge,
    max_correction,
    RULE: tl.constexpr,
    RELATIVE: tl.constexpr,
    BOUNDED: tl.constexpr,
):
    """v, float64."""
    if RULE == 0:
        floor = tl.full((), epsilon, tl.float64)  # not a cast: under the interpreter a number would be float32 first
        if RELATIVE:
            floor = floor * tl.sqrt(grad_norm2) * tl.sqrt(guide_norm2)
        v = (floor - dot) / guide_norm2
        v = tl.where(v <= 0, 0.0, v)
    else:
        least = tl.full((), margin, tl.float64)
        v = -dot / (guide_norm2 + ridge)
        v = tl.where(v > least, v, least)
        v = tl.where(dot < 0, v, 0.0)
    if BOUNDED:
        bound = max_correction * tl.sqrt(grad_norm2 / guide_norm2)
        v = tl.where(v > bound, bound, v)
    v = tl.where(guide_norm2 == 0, 0.0, v)
    infinity = float("inf")
    return tl.where((tl.abs(dot) < infinity) & (guide_norm2 < infinity), v, float("nan"))


@triton.jit
def sum_partials(partial_ptr, n_partials, N: tl.constexpr):
    """Sums of the three planes [3, n_partials] behind the first element of ``partial_ptr``, float64, always in the same order."""
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
def store_partials(partial_ptr, n_partials, place, dot, guide_norm2, grad_norm2):
    """The three sums of the program at ``place``, for `finish_projection`."""
    tl.store(partial_ptr + 1 + place, dot)
    tl.store(partial_ptr + 1 + n_partials + place, guide_norm2)
    tl.store(partial_ptr + 1 + 2 * n_partials + place, grad_norm2)


@triton.jit
def finish_projection(
    v_ptr,  # four 0-d float32 results
    dot_ptr,
    guide_norm2_ptr,
    grad_norm2_ptr,
    partial_ptr,  # [1 + 3 * n_partials] float64: v, then the sums of the programs
    n_partials,
    epsilon,
    margin,
    ridge,
    max_correction,
    epsilon_ptr,  # 0-d float64 or None: in place of epsilon
    margin_ptr,
    RULE: tl.constexpr,
    RELATIVE: tl.constexpr,
    BOUNDED: tl.constexpr,
    N: tl.constexpr,
):
    """What the last program does: add the partial sums, compute v, store it for the update, and the four scalars."""
    dot, guide_norm2, grad_norm2 = sum_partials(partial_ptr, n_partials, N)
    # From Gram matrices a norm that is zero may come out as the rounding error of its parts. Written so that NaN stays.
    guide_norm2 = tl.where(guide_norm2 < 0, 0.0, guide_norm2)
    grad_norm2 = tl.where(grad_norm2 < 0, 0.0, grad_norm2)
    if epsilon_ptr is not None:
        epsilon = tl.load(epsilon_ptr)
    if margin_ptr is not None:
        margin = tl.load(margin_ptr)
    v = projection_coefficient(dot, guide_norm2, grad_norm2, epsilon, margin, ridge, max_correction, RULE, RELATIVE, BOUNDED)
    tl.store(partial_ptr, v)
    tl.store(v_ptr, v.to(tl.float32))
    tl.store(dot_ptr, dot.to(tl.float32))
    tl.store(guide_norm2_ptr, guide_norm2.to(tl.float32))
    tl.store(grad_norm2_ptr, grad_norm2.to(tl.float32))


@triton.jit
def add_guide(g, p, v):
    """g + v p of float32 tensors and a float64 scalar, float32: in float32 while v is far from the ends of its range, else in float64."""
    if (tl.abs(v) < 1e30) & (tl.abs(v) > 1e-30):
        moved = g + v.to(tl.float32) * p
    else:
        moved = (g.to(tl.float64) + v * p.to(tl.float64)).to(tl.float32)
    return moved


@triton.jit
def chunk_sums(grad_ptr, guide_ptr, n, first, steps, BLOCK: tl.constexpr):
    """<g, g_p>, |g_p|^2, |g|^2 over ``steps`` blocks from element ``first`` (int64) of one pair, float64 scalars."""
    dot = tl.zeros((BLOCK,), tl.float64)
    guide = tl.zeros((BLOCK,), tl.float64)
    grad = tl.zeros((BLOCK,), tl.float64)
    for step in range(0, steps):
        place = first + step * BLOCK + tl.arange(0, BLOCK)
        g = tl.load(grad_ptr + place, mask=place < n, other=0.0).to(tl.float64)
        p = tl.load(guide_ptr + place, mask=place < n, other=0.0).to(tl.float64)
        dot += g * p
        guide += p * p
        grad += g * g
    return tl.sum(dot, axis=0), tl.sum(guide, axis=0), tl.sum(grad, axis=0)


@triton.jit
def projection_sums_kernel(
    grad0_ptr, guide0_ptr, n0, grad1_ptr, guide1_ptr, n1, grad2_ptr, guide2_ptr, n2, grad3_ptr, guide3_ptr, n3,
    end0,  # slot s owns the programs end(s-1) <= program < end(s)
    end1,
    end2,
    steps,  # blocks per program
    first_program,  # programs of earlier launches of the same projection
    n_programs,  # over all launches
    v_ptr,  # four 0-d float32 results
    dot_ptr,
    guide_norm2_ptr,
    grad_norm2_ptr,
    partial_ptr,  # [1 + 3 * n_programs] float64
    ticket_ptr,
    epsilon: tl.float64,
    margin: tl.float64,
    ridge: tl.float64,
    max_correction: tl.float64,
    epsilon_ptr,
    margin_ptr,
    RULE: tl.constexpr,
    RELATIVE: tl.constexpr,
    BOUNDED: tl.constexpr,
    BLOCK: tl.constexpr,
    SUM_BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    chunk = tl.cast(steps, tl.int64) * BLOCK
    if program < end0:
        dot, guide, grad = chunk_sums(grad0_ptr, guide0_ptr, n0, program * chunk, steps, BLOCK)
    elif program < end1:
        dot, guide, grad = chunk_sums(grad1_ptr, guide1_ptr, n1, (program - end0) * chunk, steps, BLOCK)
    elif program < end2:
        dot, guide, grad = chunk_sums(grad2_ptr, guide2_ptr, n2, (program - end1) * chunk, steps, BLOCK)
    else:
        dot, guide, grad = chunk_sums(grad3_ptr, guide3_ptr, n3, (program - end2) * chunk, steps, BLOCK)
    store_partials(partial_ptr, n_programs, first_program + program, dot, guide, grad)
    if arrive_last(ticket_ptr, n_programs):
        finish_projection(
            v_ptr, dot_ptr, guide_norm2_ptr, grad_norm2_ptr, partial_ptr, n_programs, epsilon, margin, ridge, max_correction,
            epsilon_ptr, margin_ptr, RULE, RELATIVE, BOUNDED, SUM_BLOCK,
        )  # fmt: skip
        tl.store(ticket_ptr, 0)


@triton.jit
def add_chunk(out_ptr, grad_ptr, guide_ptr, n, first, steps, v, BLOCK: tl.constexpr):
    """out = g + v g_p over ``steps`` blocks from element ``first`` (int64)."""
    for step in range(0, steps):
        place = first + step * BLOCK + tl.arange(0, BLOCK)
        g = tl.load(grad_ptr + place, mask=place < n, other=0.0).to(tl.float32)
        p = tl.load(guide_ptr + place, mask=place < n, other=0.0).to(tl.float32)
        tl.store(out_ptr + place, add_guide(g, p, v).to(out_ptr.dtype.element_ty), mask=place < n)


@triton.jit
def projection_update_kernel(
    grad0_ptr, guide0_ptr, n0, grad1_ptr, guide1_ptr, n1, grad2_ptr, guide2_ptr, n2, grad3_ptr, guide3_ptr, n3,
    end0,
    end1,
    end2,
    steps,
    partial_ptr,  # its first element is v, float64
    BLOCK: tl.constexpr,
):  # fmt: skip
    v = tl.load(partial_ptr)
    if v != 0:
        program = tl.program_id(0)
        chunk = tl.cast(steps, tl.int64) * BLOCK
        if program < end0:
            add_chunk(grad0_ptr, grad0_ptr, guide0_ptr, n0, program * chunk, steps, v, BLOCK)
        elif program < end1:
            add_chunk(grad1_ptr, grad1_ptr, guide1_ptr, n1, (program - end0) * chunk, steps, v, BLOCK)
        elif program < end2:
            add_chunk(grad2_ptr, grad2_ptr, guide2_ptr, n2, (program - end1) * chunk, steps, v, BLOCK)
        else:
            add_chunk(grad3_ptr, grad3_ptr, guide3_ptr, n3, (program - end2) * chunk, steps, v, BLOCK)


def _memory_order(tensor: torch.Tensor) -> torch.Tensor | None:
    """A contiguous view of a tensor that fills its memory without gaps or overlaps (a permuted one too), else None."""
    view = tensor.permute(sorted(range(tensor.dim()), key=tensor.stride, reverse=True))
    return view if view.is_contiguous() else None


def scalar_outputs(device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unwritten v, dot, guide_norm2, grad_norm2: four 0-d float32 tensors that share no memory."""
    v, dot, guide_norm2, grad_norm2 = (torch.empty((), dtype=torch.float32, device=device) for _ in range(4))
    return v, dot, guide_norm2, grad_norm2


def rule_arguments(
    rule: str,
    epsilon: float | torch.Tensor,
    relative: bool,
    margin: float | torch.Tensor,
    ridge: float,
    max_correction: float | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(run-time arguments, compile-time constants) of `finish_projection`. A tensor is read on the GPU, from its pointer."""
    given = {"epsilon": epsilon, "margin": margin}
    held = {name: isinstance(value, torch.Tensor) for name, value in given.items()}
    arguments: dict[str, Any] = {name: 0.0 if held[name] else float(value) for name, value in given.items()}
    arguments["ridge"] = float(ridge)
    arguments["max_correction"] = 0.0 if max_correction is None else float(max_correction)
    arguments |= {f"{name}_ptr": value if held[name] else None for name, value in given.items()}
    constants = {"RULE": RULES[rule], "RELATIVE": bool(relative), "BOUNDED": max_correction is not None}
    return arguments, constants


def project_(
    grads: Sequence[torch.Tensor],
    guides: Sequence[torch.Tensor],
    rule: str = "paper",
    epsilon: float | torch.Tensor = 0.0,
    relative: bool = False,
    margin: float | torch.Tensor = 0.75,
    ridge: float = 1e-3,
    max_correction: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Add v times ``guides`` to ``grads`` in place (equation (5)). 2 * ceil(L / 4) launches for L pairs of tensors.

    A pair whose two tensors lie in memory in different orders, or with gaps, is copied first (and the result copied back).

    :param grads: L tensors, float32, float16 or bfloat16, of any shapes; together one flat vector g.
    :param guides: L tensors of the same shapes: g_p.
    :param epsilon: a number, or a 0-d float64 tensor on the device of ``grads``; ``margin`` too.
    :returns: v, <g, g_p>, |g_p|^2, |g|^2 (of g before the update), 0-d float32. v may be infinite here, and g right all the same.
    """
    device = grads[0].device
    outputs = scalar_outputs(device)
    pairs, copies = [], []
    for grad, guide in zip(grads, guides, strict=True):
        if grad.numel() == 0:
            continue
        flat_grad = _memory_order(grad)
        if flat_grad is None or grad.stride() != guide.stride():
            flat_grad, flat_guide = grad.contiguous(), guide.contiguous()
            if flat_grad is not grad:
                copies.append((grad, flat_grad))
        else:
            flat_guide = guide
        pairs.append((flat_grad, flat_guide))
    if not pairs:
        for output in outputs:
            output.zero_()
        return outputs

    total = sum(grad.numel() for grad, _ in pairs)
    steps = max(CHUNK, -(-total // (MAX_PROGRAMS * BLOCK)) * BLOCK) // BLOCK
    counts = [-(-grad.numel() // (steps * BLOCK)) for grad, _ in pairs]
    groups = []
    for first in range(0, len(pairs), SLOTS):
        members = pairs[first : first + SLOTS]
        ends = [sum(counts[first : first + slot + 1]) for slot in range(len(members))]
        group: dict[str, Any] = {"steps": steps}
        for slot in range(SLOTS):
            # An unused slot owns no program; its pointers are never followed.
            grad, guide = members[min(slot, len(members) - 1)]
            group |= {f"grad{slot}_ptr": grad, f"guide{slot}_ptr": guide, f"n{slot}": grad.numel()}
            if slot < SLOTS - 1:
                group[f"end{slot}"] = ends[min(slot, len(ends) - 1)]
        groups.append((group, ends[-1]))

    n_programs = sum(counts)
    rule_values, rule_constants = rule_arguments(rule, epsilon, relative, margin, ridge, max_correction)
    shared = {
        "n_programs": n_programs,
        "v_ptr": outputs[0],
        "dot_ptr": outputs[1],
        "guide_norm2_ptr": outputs[2],
        "grad_norm2_ptr": outputs[3],
        "partial_ptr": torch.empty(1 + 3 * n_programs, dtype=torch.float64, device=device),
        "ticket_ptr": ticket(device),
        **rule_values,
    }
    first_program = 0
    for group, programs in groups:
        launch(
            projection_sums_kernel, programs, group | shared | {"first_program": first_program},
            rule_constants | {"BLOCK": BLOCK, "SUM_BLOCK": SUM_BLOCK}, device=device,
        )  # fmt: skip
        first_program += programs
    for group, programs in groups:
        launch(projection_update_kernel, programs, group | {"partial_ptr": shared["partial_ptr"]}, {"BLOCK": BLOCK}, device=device)
    for grad, updated in copies:
        grad.copy_(updated)
    return outputs
