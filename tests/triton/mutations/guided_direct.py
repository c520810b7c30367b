"""Changes to ``kernels/guided/direct.py``: the direct form of the whole step."""

from __future__ import annotations

from functools import partial

from tests.triton.mutations.change import CONFIDENT_STEP, LAUNCHES, MEMORY, OUTSIDE, STEP, Mutation

change = partial(Mutation, "guided/direct.py")

MUTATIONS = [
    change(
        "ticket not reset after the direct form",
        "            tl.store(ticket_ptr, 0)\n",
        "",
        LAUNCHES,
        "tickets",
    ),
    change(
        "the lift stays in g",
        "grad * inverse(power), bias * inverse(power)",
        "grad, bias",
        CONFIDENT_STEP,
        "guided_step",
    ),
    change(
        "the lift stays in dot",
        "dot / (power64 * guide_power64)",
        "dot / guide_power64",
        CONFIDENT_STEP,
        "guided_step",
    ),
    change(
        "the lift stays in |g_p|^2",
        "guide_norm2 / (guide_power64 * guide_power64)",
        "guide_norm2 / guide_power64",
        CONFIDENT_STEP,
        "guided_step",
    ),
    change(
        "the lift stays in |g|^2",
        "grad_norm2 / (power64 * power64)",
        "grad_norm2 / power64",
        CONFIDENT_STEP,
        "guided_step",
    ),
    change(
        "the lift stays in the update",
        "tl.load(partial_ptr) / tl.load(totals_ptr + 3).to(tl.float64)",
        "tl.load(partial_ptr)",
        CONFIDENT_STEP,
        "guided_step",
    ),
    change(
        "gradient of no rows",
        "grad = tl.where(B > 0, grad / total, 0.0)",
        "grad = grad / total",
        STEP,
        "nothing",
    ),
    change(
        "guide of no rows",
        "guide = tl.where(k > 0, guide / guide_total, 0.0)",
        "guide = guide / guide_total",
        STEP,
        "nothing",
    ),
    change(
        "no guide looks at a broken gradient",
        "tl.where(k > 0, dot / (power64 * guide_power64), 0.0)",
        "dot / (power64 * guide_power64)",
        STEP,
        "without_a_guide",
    ),
    change(
        "dot without the bias",
        "dot += tl.sum(g_bias * p_bias, axis=0)",
        "dot += 0.0",
        STEP,
        "guided_step",
    ),
    change(
        "every tile adds the bias",
        "        if first_tile:\n",
        "        if True:\n",
        STEP,
        "guided_step",
    ),
    change(
        "update past the end",
        "    present = place < n\n",
        "    present = place >= 0\n",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "float16 gradient forgotten where v = 0",
        "        if not IN_PLACE:\n",
        "        if IN_PLACE:\n",
        STEP,
        "satisfied",
    ),
]
