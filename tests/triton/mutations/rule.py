"""Changes to ``kernels/_rule.py``: v of equation (5)."""

from __future__ import annotations

from functools import partial

from tests.triton.mutations.change import ARITHMETIC, CONFIDENT_STEP, MEMORY, OUTSIDE, Mutation

change = partial(Mutation, "_rule.py")

MUTATIONS = [
    change(
        "NaN hidden",
        'tl.where((tl.abs(dot) < infinity) & (guide_norm2 < infinity), v, float("nan"))',
        "v",
        ARITHMETIC,
        "coefficient",
    ),
    change(
        "division by no guide",
        "    v = tl.where(guide_norm2 == 0, 0.0, v)\n",
        "",
        ARITHMETIC,
        "coefficient",
    ),
    change("negative v", "        v = tl.where(v <= 0, 0.0, v)\n", "", ARITHMETIC, "coefficient"),
    change(
        "official rule without a conflict",
        "v = tl.where(dot < 0, v, 0.0)",
        "v = v",
        ARITHMETIC,
        "coefficient",
    ),
    change(
        "negative rounding of a norm",
        "    guide_norm2 = tl.where(guide_norm2 < 0, 0.0, guide_norm2)\n",
        "",
        ARITHMETIC,
        "negative",
    ),
    change(
        "partial sums read past their end",
        "tl.load(sums_ptr + place, mask=present, other=0.0)",
        "tl.load(sums_ptr + place)",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "v rounded to float32",
        "    tl.store(partial_ptr, v)\n",
        "    tl.store(partial_ptr, v.to(tl.float32).to(tl.float64))\n",
        CONFIDENT_STEP,
        "tiny_guide",
    ),
    change(
        "a large v applied in float32",
        "(tl.abs(v) < 1e30) & (tl.abs(v) > 1e-30)",
        "tl.abs(v) > 1e-30",
        CONFIDENT_STEP,
        "tiny_guide",
    ),
    change(
        "a small v applied in float32",
        "(tl.abs(v) < 1e30) & (tl.abs(v) > 1e-30)",
        "tl.abs(v) < 1e30",
        CONFIDENT_STEP,
        "huge_guide",
    ),
    change(
        "an epsilon of NaN dropped",
        "tl.where(v <= 0, 0.0, v)",
        "tl.where(v > 0, v, 0.0)",
        CONFIDENT_STEP,
        "options",
    ),
    change(
        "a margin of NaN dropped",
        "tl.where(v > least, v, least)",
        "tl.where(v < least, least, v)",
        CONFIDENT_STEP,
        "options",
    ),
    change(
        "NaN bounded",
        "tl.where(v > bound, bound, v)",
        "tl.where(v < bound, v, bound)",
        CONFIDENT_STEP,
        "options",
    ),
    change(
        "epsilon on the GPU not read",
        "held(numbers.epsilon, numbers.epsilon_ptr)",
        "held(numbers.epsilon, None)",
        CONFIDENT_STEP,
        "options",
    ),
    change(
        "margin on the GPU not read",
        "held(numbers.margin, numbers.margin_ptr)",
        "held(numbers.margin, None)",
        CONFIDENT_STEP,
        "options",
    ),
]
