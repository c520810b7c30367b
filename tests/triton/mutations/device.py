"""Changes to ``kernels/_device.py``: the arithmetic that kernels share."""

from __future__ import annotations

from functools import partial

from tests.triton.mutations.change import AOT, ARITHMETIC, CONFIDENT, HEAD, LAUNCHES, ROWS, Mutation

change = partial(Mutation, "_device.py")

MUTATIONS = [
    change("relaxed ticket", 'sem="acq_rel"', 'sem="relaxed"', AOT, "entropy_topk"),
    change("release without acquire", 'sem="acq_rel"', 'sem="release"', AOT, "entropy_topk"),
    change("ticket of one block's scope", 'scope="gpu"', 'scope="cta"', AOT, "entropy_topk"),
    change("last program is the one before", "== total - 1", "== total - 2", LAUNCHES, "any_order"),
    change("no rescaling of t by s", "scale * (t + c * s)", "scale * t", ARITHMETIC, "parts_merge"),
    change(
        "rescaled t without its guard",
        "tl.where(scale > 0, scale * (t + c * s), 0.0)",
        "scale * (t + c * s)",
        ARITHMETIC,
        "parts_merge",
    ),
    change(
        "no reference for rows of -inf",
        'tl.where(m == float("-inf"), 0.0, m)',
        "m",
        ARITHMETIC,
        "parts_merge",
    ),
    change("0 * -inf in a tile", "tl.where(e > 0, e * z, 0.0)", "e * z", ARITHMETIC, "parts_merge"),
    change(
        "lse of a broken row",
        'tl.where(r > -1.0, m + log_s, float("nan"))',
        "m + log_s",
        ARITHMETIC,
        "parts_merge",
    ),
    change(
        "maximum of the tile only",
        "m_new = tl.maximum(m, tl.max(x, axis=1))",
        "m_new = tl.max(x, axis=1)",
        ROWS,
        "maximum_moves",
    ),
    change("no copy of the largest left out", "s + (ties - 1.0)", "s + ties", CONFIDENT, "ties"),
    change("every copy of the largest left out", "s + (ties - 1.0)", "s", CONFIDENT, "ties"),
    change(
        "the rest of earlier tiles through 1 + r",
        "tl.where(c == 0, r + ties, s + (ties - 1.0))",
        "s + (ties - 1.0)",
        CONFIDENT,
        "entropy_and_loss",
    ),
    change(
        "the rest of a part through 1 + r",
        "tl.where(c == 0, r + s2, s + r2)",
        "s + s2 - 1.0",
        CONFIDENT,
        "entropy_and_loss",
    ),
    change(
        "the largest among the others",
        "tl.where(largest, 0.0, e)",
        "e",
        CONFIDENT,
        "entropy_and_loss",
    ),
    change(
        "+inf is a largest logit",
        "largest = z == 0",
        "largest = x == m_new[:, None]",
        ARITHMETIC,
        "parts_merge",
    ),
    change(
        "logarithm of 1 + r",
        "tl.where(r < 1.0, 2.0 * (z + z * q * tail), tl.log(1.0 + r))",
        "tl.log(1.0 + r)",
        CONFIDENT,
        "log1p",
    ),
    change(
        "series beyond its range",
        "tl.where(r < 1.0, 2.0",
        "tl.where(r < 10.0, 2.0",
        CONFIDENT,
        "log1p",
    ),
    change("a term of the series", "q * (1.0 / 5.0", "q * (1.0 / 4.0", CONFIDENT, "log1p"),
    change(
        "1 subtracted from p_y",
        "tl.where(distance == 0, -r * scale, tl.exp(distance) * scale - 1.0)",
        "tl.exp(distance) * scale - 1.0",
        CONFIDENT,
        "head_gradient",
    ),
    change(
        "-inf is a largest logit",
        "tl.where(distance == 0, -r * scale",
        "tl.where(x == m, -r * scale",
        CONFIDENT,
        "broken_rows",
    ),
    change(
        "sure rows lifted down",
        "tl.minimum(tl.maximum(missing, 0), 96)",
        "tl.minimum(missing, 96)",
        CONFIDENT,
        "lift",
    ),
    change(
        "lifted out of range",
        "tl.minimum(tl.maximum(missing, 0), 96)",
        "tl.maximum(missing, 0)",
        CONFIDENT,
        "lift",
    ),
    change(
        "illegal label weighs 1",
        'tl.where(legal, weight, float("nan"))',
        "weight",
        HEAD,
        "becomes_nan",
    ),
    change(
        "illegal label's weight read",
        "mask=valid & legal, other=0.0)",
        "mask=valid, other=0.0)",
        HEAD,
        "becomes_nan",
    ),
    change(
        "no row weighs 1",
        "tl.where(valid, tl.where(legal,",
        "tl.where(legal | valid, tl.where(legal,",
        HEAD,
        "head_gradient",
    ),
]
