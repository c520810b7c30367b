"""The gradient projection of equation (5), g <- g + v g_p, over tensors seen as one flat vector.

First launch: every program sums <g, g_p>, |g_p|^2 and |g|^2 over its chunk in float64 (products
too, so that no finite gradient overflows), stores the three sums in its own place, and the last
program to arrive adds them in order of the programs and computes v. Second launch: g + v g_p, with
v read from the GPU. Where v = 0 nothing is written, so g keeps its bits. ``_rule`` has v.

A launch takes up to ``SLOTS`` tensor pairs, so a head's (weight, bias) costs two launches, and a
list of L pairs 2 * ceil(L / SLOTS).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._device import arrive_last
from ._launch import Launch, blocks, ticket
from ._rule import (
    SUM_BLOCK,
    Numbers,
    Rule,
    Scalars,
    add_guide,
    finish_projection,
    rule_constants,
    rule_values,
    scalar_outputs,
    store_partials,
)

SLOTS = 4
BLOCK = 1024  # elements per step of a program
CHUNK = 8192  # elements per program while that gives at most MAX_PROGRAMS programs
MAX_PROGRAMS = 4096


@triton.jit
def chunk_sums(grad_ptr, guide_ptr, n, first, steps, BLOCK: tl.constexpr):
    """<g, g_p>, |g_p|^2, |g|^2 over ``steps`` blocks from element ``first`` of a pair, float64."""
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
    grad0_ptr,  # the four slots; a program belongs to one
    guide0_ptr,
    n0,
    grad1_ptr,
    guide1_ptr,
    n1,
    grad2_ptr,
    guide2_ptr,
    n2,
    grad3_ptr,
    guide3_ptr,
    n3,
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
):
    scalars = Scalars(v_ptr, dot_ptr, guide_norm2_ptr, grad_norm2_ptr)
    numbers = Numbers(epsilon, margin, ridge, max_correction, epsilon_ptr, margin_ptr)
    program = tl.program_id(0)
    chunk = tl.cast(steps, tl.int64) * BLOCK
    if program < end0:
        first = program * chunk
        dot, guide, grad = chunk_sums(grad0_ptr, guide0_ptr, n0, first, steps, BLOCK)
    elif program < end1:
        first = (program - end0) * chunk
        dot, guide, grad = chunk_sums(grad1_ptr, guide1_ptr, n1, first, steps, BLOCK)
    elif program < end2:
        first = (program - end1) * chunk
        dot, guide, grad = chunk_sums(grad2_ptr, guide2_ptr, n2, first, steps, BLOCK)
    else:
        first = (program - end2) * chunk
        dot, guide, grad = chunk_sums(grad3_ptr, guide3_ptr, n3, first, steps, BLOCK)
    store_partials(partial_ptr, n_programs, first_program + program, dot, guide, grad)
    if arrive_last(ticket_ptr, n_programs):
        finish_projection(
            scalars, partial_ptr, n_programs, numbers, RULE, RELATIVE, BOUNDED, SUM_BLOCK
        )
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
    grad0_ptr,  # as `projection_sums_kernel`
    guide0_ptr,
    n0,
    grad1_ptr,
    guide1_ptr,
    n1,
    grad2_ptr,
    guide2_ptr,
    n2,
    grad3_ptr,
    guide3_ptr,
    n3,
    end0,
    end1,
    end2,
    steps,
    partial_ptr,  # its first element is v, float64
    BLOCK: tl.constexpr,
):
    v = tl.load(partial_ptr)
    if v != 0:
        program = tl.program_id(0)
        chunk = tl.cast(steps, tl.int64) * BLOCK
        if program < end0:
            add_chunk(grad0_ptr, grad0_ptr, guide0_ptr, n0, program * chunk, steps, v, BLOCK)
        elif program < end1:
            first = (program - end0) * chunk
            add_chunk(grad1_ptr, grad1_ptr, guide1_ptr, n1, first, steps, v, BLOCK)
        elif program < end2:
            first = (program - end1) * chunk
            add_chunk(grad2_ptr, grad2_ptr, guide2_ptr, n2, first, steps, v, BLOCK)
        else:
            first = (program - end2) * chunk
            add_chunk(grad3_ptr, grad3_ptr, guide3_ptr, n3, first, steps, v, BLOCK)


Pair = tuple[Tensor, Tensor]


def _memory_order(tensor: Tensor) -> Tensor | None:
    """A contiguous view of a tensor that fills its memory without gaps or overlaps, else None."""
    view = tensor.permute(sorted(range(tensor.dim()), key=tensor.stride, reverse=True))
    return view if view.is_contiguous() else None


def _flat_pairs(grads: Sequence[Tensor], guides: Sequence[Tensor]) -> tuple[list[Pair], list[Pair]]:
    """(pairs in one order of memory, gradients to be written back with what is projected for them).

    Empty tensors are left out.
    """
    pairs, copies = [], []
    for grad, guide in zip(grads, guides, strict=True):
        if grad.numel() == 0:
            continue
        flat = _memory_order(grad)
        if flat is None or grad.stride() != guide.stride():
            flat, guide = grad.contiguous(), guide.contiguous()
            if flat is not grad:
                copies.append((grad, flat))
        pairs.append((flat, guide))
    return pairs, copies


def _slots(members: list[Pair], steps: int) -> tuple[dict[str, Tensor | int], int]:
    """(arguments, programs) of a launch that takes ``members``, at most ``SLOTS`` of them."""
    values: dict[str, Tensor | int] = {"steps": steps}
    programs = 0
    for slot in range(SLOTS):
        # An unused slot owns no program; its pointers are never followed.
        grad, guide = members[min(slot, len(members) - 1)]
        values |= {f"grad{slot}_ptr": grad, f"guide{slot}_ptr": guide, f"n{slot}": grad.numel()}
        if slot < len(members):
            programs += blocks(grad.numel(), steps * BLOCK)
        if slot < SLOTS - 1:
            values[f"end{slot}"] = programs
    return values, programs


def project_(
    grads: Sequence[Tensor], guides: Sequence[Tensor], rule: Rule
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Add v times ``guides`` to ``grads`` in place (equation (5)).

    2 * ceil(L / 4) launches for L pairs of tensors. A pair whose two tensors have their elements in
    different orders of memory, or with gaps, is copied first (and the result copied back).

    Args:
        grads: L tensors, float32, float16 or bfloat16, of any shapes; together one flat vector g.
        guides: L tensors of the same shapes: g_p.
        rule: how v is found. Tensors in it are on the device of ``grads``.

    Returns:
        v, <g, g_p>, |g_p|^2, |g|^2 (of g before the update), 0-d float32. v may be infinite here,
        and g right all the same.
    """
    device = grads[0].device
    outputs = scalar_outputs(device)
    pairs, copies = _flat_pairs(grads, guides)
    if not pairs:
        for output in outputs:
            output.zero_()
        return outputs

    total = sum(grad.numel() for grad, _ in pairs)
    steps = max(CHUNK // BLOCK, blocks(total, MAX_PROGRAMS * BLOCK))
    groups = [_slots(pairs[first : first + SLOTS], steps) for first in range(0, len(pairs), SLOTS)]
    n_programs = sum(programs for _, programs in groups)
    shared = {
        **dict(zip(Scalars._fields, outputs, strict=True)),
        **rule_values(rule),
        "n_programs": n_programs,
        "partial_ptr": torch.empty(1 + 3 * n_programs, dtype=torch.float64, device=device),
        "ticket_ptr": ticket(device),
    }
    constants = {**rule_constants(rule), "BLOCK": BLOCK, "SUM_BLOCK": SUM_BLOCK}
    first_program = 0
    for values, programs in groups:
        launch = Launch(projection_sums_kernel, programs, constants)
        launch.run({**values, **shared, "first_program": first_program}, device)
        first_program += programs
    for values, programs in groups:
        launch = Launch(projection_update_kernel, programs, {"BLOCK": BLOCK})
        launch.run({**values, "partial_ptr": shared["partial_ptr"]}, device)
    for grad, updated in copies:
        grad.copy_(updated)
    return outputs
