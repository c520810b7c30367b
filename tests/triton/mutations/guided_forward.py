"""Changes to ``kernels/guided/forward.py``: launch 1 of the whole step."""

from __future__ import annotations

from functools import partial

from tests.triton.mutations.change import (
    CONFIDENT_STEP,
    HEAD,
    LAUNCHES,
    MEMORY,
    OUTSIDE,
    STEP,
    Mutation,
)

change = partial(Mutation, "guided/forward.py")

MUTATIONS = [
    change(
        "ticket not reset after the logits",
        "        tl.store(ticket_ptr, 0)\n",
        "",
        LAUNCHES,
        "tickets",
    ),
    change(
        "ticket not reset after the rows",
        "        tl.store(ticket_ptr, 0)\n",
        "",
        LAUNCHES,
        "tickets",
        number=1,
    ),
    change(
        "active residuals not lifted",
        "tl.store(left.totals_ptr + 2, lift(tl.max(peak, axis=0)))",
        "tl.store(left.totals_ptr + 2, 1.0)",
        CONFIDENT_STEP,
        "guided_step",
    ),
    change(
        "guide residuals not lifted",
        "lift(tl.max(tl.abs(weight * residual), axis=0))",
        "1.0",
        CONFIDENT_STEP,
        "guided_step",
    ),
    change(
        "lifted by rows that are not selected",
        "left.row_residual_ptr + B + selected",
        "left.row_residual_ptr + B + position",
        CONFIDENT_STEP,
        "guided_step",
    ),
    change(
        "peak without the weights",
        "tl.where(present, tl.abs(weight * residual), 0.0)",
        "tl.where(present, tl.abs(residual), 0.0)",
        CONFIDENT_STEP,
        "class_weights",
    ),
    change(
        "padding kept as logits",
        'z = tl.where(inside, z, float("-inf"))',
        "z = z",
        STEP,
        "guided_step",
    ),
    change(
        "features of absent rows read",
        "mask=present[:, None] & within, other=0.0)",
        "mask=(rows >= 0)[:, None] & within, other=0.0)",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "weights of absent classes read",
        "mask=real[:, None] & within, other=0.0)",
        "mask=(columns >= 0)[:, None] & within, other=0.0)",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "absent features read",
        "within = (depth < d)[None, :]",
        "within = (depth >= 0)[None, :]",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "32-bit rows of features",
        "u_ptr = features_ptr + rows.to(tl.int64) * features_stride",
        "u_ptr = features_ptr + rows * features_stride",
        MEMORY,
        "gigael",
    ),
    change(
        "32-bit rows of guide features",
        "u_ptr = guide_features_ptr + rows.to(tl.int64) * guide_features_stride",
        "u_ptr = guide_features_ptr + rows * guide_features_stride",
        MEMORY,
        "gigael",
    ),
    change(
        "32-bit rows of weights",
        "w_ptr = weight_ptr + columns.to(tl.int64) * weight_stride",
        "w_ptr = weight_ptr + columns * weight_stride",
        MEMORY,
        "gigael",
    ),
    change(
        "logits stored for every lane",
        "tl.store(place, z, mask=inside)",
        "tl.store(place, z)",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "parts of absent rows stored with the logits",
        "stacked, present, m, r, t)",
        "stacked, stacked >= 0, m, r, t)",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "parts of absent rows stored",
        "stacked, present, m, r, t)",
        "stacked, stacked >= 0, m, r, t)",
        MEMORY,
        OUTSIDE,
        number=1,
    ),
    change(
        "statistics stored for every lane",
        "tl.store(left.row_max_ptr + row, m, mask=present)",
        "tl.store(left.row_max_ptr + row, m)",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "residuals stored for every lane",
        "tl.store(left.row_residual_ptr + row, residual, mask=present)",
        "tl.store(left.row_residual_ptr + row, residual)",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "loss of absent rows",
        "tl.where(present, weight * nll, 0.0)",
        "weight * nll",
        STEP,
        "guided_step",
    ),
    change(
        "illegal label's logit read",
        "inside = present & (target >= 0) & (target < logits.Y)",
        "inside = present",
        HEAD,
        "becomes_nan",
    ),
    change(
        "absent guide rows selected",
        "tl.where(present, order_keys(entropy, position), -0x8000000000000000)",
        "order_keys(entropy, position)",
        STEP,
        "guided_step",
    ),
    change(
        "index stored for every lane",
        "tl.store(left.index_ptr + position, selected, mask=chosen)",
        "tl.store(left.index_ptr + position, selected)",
        MEMORY,
        OUTSIDE,
    ),
]
