"""Changes to ``kernels/guided/gram.py``: the gram form of the whole step."""

from __future__ import annotations

from functools import partial

from tests.triton.mutations.change import CONFIDENT_STEP, LAUNCHES, STEP, Mutation

change = partial(Mutation, "guided/gram.py")

MUTATIONS = [
    change(
        "ticket not reset after the gram form",
        "            tl.store(ticket_ptr, 0)\n",
        "",
        LAUNCHES,
        "tickets",
    ),
    change(
        "the lift stays in the Gram matrices",
        "tl.load(totals_ptr).to(tl.float64) * tl.load(totals_ptr + 2)",
        "tl.load(totals_ptr).to(tl.float64)",
        CONFIDENT_STEP,
        "guided_step",
    ),
    change(
        "the lift stays in the guide's Gram matrices",
        "tl.load(totals_ptr + 1).to(tl.float64) * tl.load(totals_ptr + 3)",
        "tl.load(totals_ptr + 1).to(tl.float64)",
        CONFIDENT_STEP,
        "guided_step",
    ),
    change(
        "the lift stays in the stacked rows",
        "grad / (total * power), bias",
        "grad / total, bias",
        CONFIDENT_STEP,
        "guided_step",
    ),
    change(
        "the lift stays in the stacked bias",
        ", bias / (total * power)",
        ", bias / total",
        CONFIDENT_STEP,
        "guided_step",
    ),
    change(
        "stacked float16 residuals not lifted",
        "if OPERAND == tl.float16:",
        "if OPERAND == tl.float64:",
        CONFIDENT_STEP,
        "float16_guided",
    ),
    change(
        "stacked rows lifted out of range",
        "if OPERAND == tl.float16:",
        "if OPERAND != tl.float64:",
        CONFIDENT_STEP,
        "beyond_float32",
    ),
    change(
        "stacked sum beyond its mean",
        "exponent = total.to(",
        "exponent = (1.0 + 0.0 * total).to(",
        CONFIDENT_STEP,
        "beyond_float32",
    ),
    change(
        "gram without the bias",
        "        inner += 1.0\n",
        "        inner += 0.0\n",
        STEP,
        "guided_step",
    ),
    change(
        "gram triangle counted once",
        "tl.where(i < j, 2.0, 1.0)",
        "tl.where(i < j, 1.0, 1.0)",
        STEP,
        "guided_step",
    ),
    change(
        "gram rows of the other batch",
        "    if tile < tiles_active:\n",
        "    if tile <= tiles_active:\n",
        STEP,
        "guided_step",
    ),
    change(
        "stacked rows not rescaled",
        "factor = v * (total * power) / (guide_power.to(tl.float64) * guide_total)",
        "factor = v / (guide_power.to(tl.float64) * guide_total)",
        STEP,
        "guided_step",
    ),
    change(
        "the lift stays in the stacked guide",
        "factor = v * (total * power) / (guide_power.to(tl.float64) * guide_total)",
        "factor = v * (total * power) / guide_total",
        CONFIDENT_STEP,
        "guided_step",
    ),
]
