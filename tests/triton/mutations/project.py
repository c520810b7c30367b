"""Changes to ``kernels/project.py``: the projection."""

from __future__ import annotations

from functools import partial

from tests.triton.mutations.change import AOT, LAUNCHES, MEMORY, OUTSIDE, PROJECTION, Mutation

change = partial(Mutation, "project.py")

MUTATIONS = [
    change("ticket not reset", "        tl.store(ticket_ptr, 0)\n", "", LAUNCHES, "tickets"),
    change(
        "partial sums by arrival",
        "store_partials(partial_ptr, n_programs, first_program + program,",
        "store_partials(partial_ptr, n_programs, first_program + tl.load(ticket_ptr),",
        LAUNCHES,
        "any_order",
    ),
    change(
        "gradient read past its end",
        "g = tl.load(grad_ptr + place, mask=place < n, other=0.0).to(tl.float64)",
        "g = tl.load(grad_ptr + place).to(tl.float64)",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "guide read past its end",
        "p = tl.load(guide_ptr + place, mask=place < n, other=0.0).to(tl.float64)",
        "p = tl.load(guide_ptr + place).to(tl.float64)",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "products in float32",
        "g = tl.load(grad_ptr + place, mask=place < n, other=0.0).to(tl.float64)",
        "g = tl.load(grad_ptr + place, mask=place < n, other=0.0).to(tl.float32)",
        PROJECTION,
        "huge",
    ),
    change(
        "gradient written past its end",
        "add_guide(g, p, v).to(out_ptr.dtype.element_ty), mask=place < n)",
        "add_guide(g, p, v).to(out_ptr.dtype.element_ty))",
        MEMORY,
        OUTSIDE,
    ),
    change("v = 0 writes", "    if v != 0:\n", "    if v == v:\n", PROJECTION, "keeps_its_bits"),
    change(
        "NaN writes nothing",
        "    if v != 0:\n",
        "    if (v > 0) | (v < 0):\n",
        PROJECTION,
        "stays_visible",
    ),
    change("epsilon in float32", "    epsilon: tl.float64,\n", "    epsilon,\n", AOT, "no_value"),
]
