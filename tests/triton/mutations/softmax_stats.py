"""Changes to ``kernels/softmax_stats.py``: statistics of rows."""

from __future__ import annotations

from functools import partial

from tests.triton.mutations.change import (
    AOT,
    CONFIDENT,
    HEAD,
    LAUNCHES,
    MEMORY,
    OUTSIDE,
    ROWS,
    Mutation,
)

change = partial(Mutation, "softmax_stats.py")

MUTATIONS = [
    change("ticket not reset", "            tl.store(ticket_ptr, 0)\n", "", LAUNCHES, "tickets"),
    change(
        "peak without the weights",
        "tl.where(valid, tl.abs(weight * residual), 0.0)",
        "tl.where(valid, tl.abs(residual), 0.0)",
        CONFIDENT,
        "float16_head",
    ),
    change(
        "one peak for all groups",
        "tl.store(results.peak_ptr + group,",
        "tl.store(results.peak_ptr,",
        CONFIDENT,
        "peaks or float16_head",
    ),
    change(
        "columns not masked",
        "inside = valid[:, None] & (columns < end_col)[None, :]",
        "inside = valid[:, None] & (columns >= 0)[None, :]",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "rows not masked",
        "inside = valid[:, None] & (columns < end_col)[None, :]",
        "inside = (rows >= 0)[:, None] & (columns < end_col)[None, :]",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "padding of 0",
        'other=float("-inf"))\n        m, r, t = add_tile',
        "other=0.0)\n        m, r, t = add_tile",
        ROWS,
        "tiles_of_a_row",
    ),
    change(
        "32-bit rows",
        "    rows = position.to(tl.int64)\n",
        "    rows = position\n",
        MEMORY,
        "gigael",
    ),
    change(
        "entropy stored for every lane",
        "tl.store(results.entropy_ptr + rows, entropy, mask=valid)",
        "tl.store(results.entropy_ptr + rows, entropy)",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "lse stored for every lane",
        "tl.store(results.lse_ptr + rows, lse, mask=valid)",
        "tl.store(results.lse_ptr + rows, lse)",
        MEMORY,
        OUTSIDE,
    ),
    change("nll stored for every lane", "* legal, mask=valid)", "* legal)", MEMORY, OUTSIDE),
    change(
        "maximum stored for every lane",
        "tl.store(results.row_max_ptr + rows, m, mask=valid)",
        "tl.store(results.row_max_ptr + rows, m)",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "scale stored for every lane",
        "tl.store(results.row_scale_ptr + rows, scale, mask=valid)",
        "tl.store(results.row_scale_ptr + rows, scale)",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "residual stored for every lane",
        "tl.store(results.row_residual_ptr + rows, residual, mask=valid)",
        "tl.store(results.row_residual_ptr + rows, residual)",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "alignment compiled in",
        '(do_not_specialize=["logits_stride"], do_not_specialize_on_alignment=["logits_ptr"])',
        "",
        AOT,
        "equal_rows",
    ),
    change(
        "labels read for every lane",
        "tl.load(logits.target_ptr + rows, mask=valid, other=0)",
        "tl.load(logits.target_ptr + rows)",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "illegal label read",
        "mask=valid & (legal == 1.0), other=0.0)",
        "mask=valid, other=0.0)",
        HEAD,
        "becomes_nan",
    ),
    change(
        "illegal label not poisoned",
        "(log_s - (x - m)) * legal",
        "log_s - (x - m)",
        HEAD,
        "becomes_nan",
    ),
    change(
        "target's distance from lse",
        "(log_s - (x - m)) * legal",
        "(m + log_s - x) * legal",
        ROWS,
        "far or tiles",
    ),
    change(
        "index read for every lane",
        "tl.load(index_ptr + position, mask=valid, other=0)",
        "tl.load(index_ptr + position)",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "illegal row read",
        "        valid = valid & (rows >= 0) & (rows < B)\n",
        "",
        HEAD,
        "becomes_nan",
    ),
    change(
        "parts of absent rows stored",
        "position, position < k, m, r, t)",
        "position, position >= 0, m, r, t)",
        ROWS,
        "many_rows_share",
    ),
    change(
        "partials read for every lane",
        'tl.load(place, mask=valid, other=float("-inf"))',
        "tl.load(place)",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "merged rows stored for every lane",
        "present = merged < k",
        "present = merged >= 0",
        ROWS,
        "share_a_row",
    ),
    change(
        "parts stored for every lane",
        "tl.store(place, m, mask=present)",
        "tl.store(place, m)",
        MEMORY,
        OUTSIDE,
    ),
]
