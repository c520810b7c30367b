"""Changes to ``kernels/guided/shared.py``: what both forms of the whole step share."""

from __future__ import annotations

from functools import partial

from tests.triton.mutations.change import CONFIDENT_STEP, MEMORY, OUTSIDE, Mutation

change = partial(Mutation, "guided/shared.py")

MUTATIONS = [
    change(
        "the lift stays in the feature gradient",
        "tl.load(totals_ptr) * inverse(power)",
        "tl.load(totals_ptr)",
        CONFIDENT_STEP,
        "guided_step",
    ),
    change(
        "32-bit rows of weights in the feature gradient",
        "weight_ptr + columns.to(tl.int64)[:, None] * weight_stride",
        "weight_ptr + columns[:, None] * weight_stride",
        MEMORY,
        "gigael",
    ),
    change(
        "feature gradient stored for every lane",
        "stored = selected.present[:, None] & (dims < d)[None, :]",
        "stored = selected.present[:, None] & (dims >= 0)[None, :]",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "feature gradient of absent rows",
        "stored = selected.present[:, None] & (dims < d)[None, :]",
        "stored = (selected.row >= 0)[:, None] & (dims < d)[None, :]",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "weights read past their end",
        "mask=(columns < Y)[:, None] & (dims < d)[None, :]",
        "mask=(columns >= 0)[:, None] & (dims < d)[None, :]",
        MEMORY,
        OUTSIDE,
    ),
]
