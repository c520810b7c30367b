"""Changes to ``kernels/linear_ce_grad.py``: the gradient of the head."""

from __future__ import annotations

from functools import partial

from tests.triton.mutations.change import (
    AOT,
    ARITHMETIC,
    CONFIDENT,
    HEAD,
    MEMORY,
    OUTSIDE,
    Mutation,
)

change = partial(Mutation, "linear_ce_grad.py")

MUTATIONS = [
    change(
        "residuals not lifted",
        "power = lift_of_peaks(peak_ptr, n_peaks, PEAKS)",
        "power = lift(1.0 + tl.load(peak_ptr))",
        CONFIDENT,
        "float16_head",
    ),
    change(
        "the first peaks only",
        "for start in range(0, n_peaks, N):",
        "for start in range(0, N, N):",
        CONFIDENT,
        "peaks",
    ),
    change(
        "peaks read past their end",
        "mask=place < n_peaks, other=0.0)",
        "mask=place >= 0, other=0.0)",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "the lift stays", "        grad = grad * inverse(power)\n", "", CONFIDENT, "float16_head"
    ),
    change(
        "the lift stays in the bias",
        "        bias = bias * inverse(power)\n",
        "",
        CONFIDENT,
        "peaks or float16_head",
    ),
    change(
        "alignment compiled in",
        '(do_not_specialize=["logits_stride"], do_not_specialize_on_alignment=["logits_ptr"])',
        "",
        AOT,
        "equal_rows",
    ),
    change("illegal row read", "        row = tl.where(known, row, 0)\n", "", HEAD, "becomes_nan"),
    change(
        "illegal row not poisoned",
        'tl.where(known | (present == 0), weight, float("nan"))',
        "weight",
        HEAD,
        "becomes_nan",
    ),
    change(
        "index read for every lane",
        "tl.load(rows.index_ptr + position, mask=present, other=0)",
        "tl.load(rows.index_ptr + position)",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "labels read for every lane",
        "tl.load(rows.logits.target_ptr + row, mask=present, other=0)",
        "tl.load(rows.logits.target_ptr + row)",
        MEMORY,
        OUTSIDE,
    ),
    change("32-bit rows", "row = position.to(tl.int64)", "row = position", MEMORY, "gigael"),
    change(
        "logits of absent rows read",
        "inside = selected.present[:, None] & (columns < Y)[None, :]",
        "inside = (selected.m == selected.m)[:, None] & (columns < Y)[None, :]",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "logits of absent columns read",
        "inside = selected.present[:, None] & (columns < Y)[None, :]",
        "inside = selected.present[:, None] & (columns >= 0)[None, :]",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "padding not masked again",
        "return tl.where(inside, a, 0.0)",
        "return a",
        ARITHMETIC,
        "residuals_outside",
    ),
    change(
        "probabilities rounded first",
        "tl.exp(x - selected.m[:, None]) * selected.scale[:, None]\n",
        (
            "(tl.exp(x - selected.m[:, None]) * selected.scale[:, "
            "None]).to(tl.float16).to(tl.float32)\n"
        ),
        HEAD,
        "head_gradient",
    ),
    change(
        "1 / B folded in first",
        "tl.dot(tl.trans(a.to(OPERAND))",
        "tl.dot(tl.trans((a * 1e-5).to(OPERAND))",
        HEAD,
        "head_gradient",
    ),
    change(
        "absent features read",
        "mask=selected.present[:, None] & (dims < d)[None, :]",
        "mask=selected.present[:, None] & (dims >= 0)[None, :]",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "features of absent rows read",
        "mask=selected.present[:, None] & (dims < d)[None, :]",
        "mask=(selected.row >= 0)[:, None] & (dims < d)[None, :]",
        MEMORY,
        "gigael or outside",
    ),
    change(
        "gradient stored for every lane",
        "grad.to(weight_ptr.dtype.element_ty), mask=inside)",
        "grad.to(weight_ptr.dtype.element_ty))",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "bias stored for every lane",
        "bias.to(bias_ptr.dtype.element_ty), mask=columns < Y)",
        "bias.to(bias_ptr.dtype.element_ty))",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "every tile stores the bias of its own",
        "if first_tile:",
        "if first_tile == 0:",
        HEAD,
        "head_gradient",
    ),
    change(
        "TF32 by default",
        '"PRECISION": precision}',
        '"PRECISION": "tf32"}',
        AOT,
        "linear_ce_grad_kernel and float32",
    ),
]
