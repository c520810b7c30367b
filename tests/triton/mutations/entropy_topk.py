"""Changes to ``kernels/entropy_topk.py``: the selection."""

from __future__ import annotations

from functools import partial

from tests.triton.mutations.change import AOT, ARITHMETIC, LAUNCHES, MEMORY, OUTSIDE, ROWS, Mutation

change = partial(Mutation, "entropy_topk.py")

MUTATIONS = [
    change("ticket not reset", "        tl.store(ticket_ptr, 0)\n", "", LAUNCHES, "tickets"),
    change("32-bit rows", "rows.to(tl.int64)", "rows", MEMORY, "gigael"),
    change(
        "alignment compiled in",
        '(do_not_specialize=["logits_stride"], do_not_specialize_on_alignment=["logits_ptr"])',
        "",
        AOT,
        "equal_rows",
    ),
    change(
        "NaN by its bits",
        "tl.where(value != value, 0x7FC00000, ",
        "tl.where(value != value, bits, ",
        ARITHMETIC,
        "keys_order",
    ),
    change(
        "negative floats not flipped",
        "bits ^ ((bits >> 31) & 0x7FFFFFFF)",
        "bits",
        ARITHMETIC,
        "keys_order",
    ),
    change(
        "larger row first on a tie",
        "| (0xFFFFFFFF - index.to(tl.int64))",
        "| index.to(tl.int64)",
        ARITHMETIC,
        "keys_order",
    ),
    change(
        "32-bit key",
        "(ordered.to(tl.int64) << 32)",
        "(ordered << 32).to(tl.int64)",
        ARITHMETIC,
        "keys_order",
    ),
    change(
        "runs that do not alternate",
        "(position >> bit) ^ (position >> stage)",
        "(position >> bit)",
        ARITHMETIC,
        "test_sort",
    ),
    change(
        "absent rows sorted in",
        "tl.where(present, order_keys(entropy, position), -0x8000000000000000)",
        "order_keys(entropy, position)",
        ROWS,
        "share_a_row",
    ),
    change(
        "entropy stored for every lane",
        "key_value(key), mask=position < k)",
        "key_value(key))",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "index stored for every lane",
        "key_index(key), mask=position < k)",
        "key_index(key))",
        MEMORY,
        OUTSIDE,
    ),
    change(
        "parts of absent rows stored",
        "B, rows, valid, m, r, t)",
        "B, rows, rows >= 0, m, r, t)",
        MEMORY,
        OUTSIDE,
    ),
]
