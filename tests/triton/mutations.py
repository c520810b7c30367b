"""Remove each mask, guard, cast, order and fence of the kernels in turn, and see a test fail.

``python -m tests.triton.mutations`` applies every change below to a copy of the kernels, one at a time, runs the tests named beside it
against the copy, and prints which change was caught by which test. It takes some minutes and exits with 1 if a change survives.
``test_mutations.py`` keeps the list in step with the sources.

The interpreter runs the programs one after another: a missing fence cannot fail there, so those changes are read in the PTX instead.
Seven removals are not listed because nothing changes: the barrier before the ticket (Triton 3.6 to 3.9 puts one before every releasing
atomic), the one before the residuals of the selected rows are read (the sort has had its own), the two casts of loaded logits to float32
(Triton promotes a float16 operand beside a float32 one), the -1 that an empty part begins with, and the zeros for absent rows in the two
peaks (a maximum may drop their NaN, and does). They say what is meant.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path

from tests.mutating import Replacement, verdict

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "kernels"
ARITHMETIC, CONFIDENT, LAUNCHES, MEMORY, AOT = (
    f"tests/triton/test_{name}.py" for name in ("arithmetic", "confident", "launches", "memory", "aot")
)
OUTSIDE = "outside or gradients_only"


@dataclass(frozen=True)
class Mutation(Replacement):
    """One change; ``tests`` of ``suite`` have to notice."""

    suite: str
    tests: str


COMMON, STATS, TOPK, HEAD, PROJECT, GUIDED = (
    f"{name}.py" for name in ("_common", "softmax_stats", "entropy_topk", "linear_ce_grad", "project", "guided_linear_ce")
)

MUTATIONS = [
    # Fences and the ticket.
    Mutation(COMMON, "relaxed ticket", 'sem="acq_rel"', 'sem="relaxed"', AOT, "entropy_topk"),
    Mutation(COMMON, "release without acquire", 'sem="acq_rel"', 'sem="release"', AOT, "entropy_topk"),
    Mutation(COMMON, "ticket of one block's scope", 'scope="gpu"', 'scope="cta"', AOT, "entropy_topk"),
    Mutation(COMMON, "last program is the one before", "== total - 1", "== total - 2", LAUNCHES, "any_order"),
    Mutation(STATS, "ticket not reset", "            tl.store(ticket_ptr, 0)\n", "", LAUNCHES, "tickets"),
    Mutation(TOPK, "ticket not reset", "        tl.store(ticket_ptr, 0)\n", "", LAUNCHES, "tickets"),
    Mutation(PROJECT, "ticket not reset", "        tl.store(ticket_ptr, 0)\n", "", LAUNCHES, "tickets"),
    Mutation(GUIDED, "ticket not reset after the logits", "        tl.store(ticket_ptr, 0)\n", "", LAUNCHES, "tickets"),
    Mutation(GUIDED, "ticket not reset after the rows", "        tl.store(ticket_ptr, 0)\n", "", LAUNCHES, "tickets", number=1),
    Mutation(GUIDED, "ticket not reset after the direct form", "            tl.store(ticket_ptr, 0)\n", "", LAUNCHES, "tickets"),
    Mutation(GUIDED, "ticket not reset after the gram form", "            tl.store(ticket_ptr, 0)\n", "", LAUNCHES, "tickets", number=1),
    Mutation(PROJECT, "partial sums by arrival", "store_partials(partial_ptr, n_programs, first_program + program,",
             "store_partials(partial_ptr, n_programs, first_program + tl.load(ticket_ptr),", LAUNCHES, "any_order"),
    # Online statistics.
    Mutation(COMMON, "no rescaling of t by s", "scale * (t + d * s)", "scale * t", ARITHMETIC, "parts_merge"),
    Mutation(COMMON, "rescaled t without its guard", "tl.where(scale > 0, scale * (t + d * s), 0.0)", "scale * (t + d * s)",
             ARITHMETIC, "parts_merge"),
    Mutation(COMMON, "no reference for rows of -inf", 'tl.where(m == float("-inf"), 0.0, m)', "m", ARITHMETIC, "parts_merge"),
    Mutation(COMMON, "0 * -inf in a tile", "tl.where(e > 0, e * z, 0.0)", "e * z", ARITHMETIC, "parts_merge"),
    Mutation(COMMON, "lse of a broken row", 'tl.where(r > -1.0, m + log_s, float("nan"))', "m + log_s", ARITHMETIC, "parts_merge"),
    Mutation(COMMON, "maximum of the tile only", "m_new = tl.maximum(m, tl.max(x, axis=1))", "m_new = tl.max(x, axis=1)",
             LAUNCHES, "maximum_moves"),
    # The rest of a confident row.
    Mutation(COMMON, "no copy of the largest left out", "s + (ties - 1.0)", "s + ties", CONFIDENT, "ties"),
    Mutation(COMMON, "every copy of the largest left out", "s + (ties - 1.0)", "s", CONFIDENT, "ties"),
    Mutation(COMMON, "the rest of earlier tiles through 1 + r", "tl.where(d == 0, r + ties, s + (ties - 1.0))", "s + (ties - 1.0)",
             CONFIDENT, "entropy_and_loss"),
    Mutation(COMMON, "the rest of a part through 1 + r", "tl.where(d == 0, r + s2, s + r2)", "s + s2 - 1.0",
             CONFIDENT, "entropy_and_loss"),
    Mutation(COMMON, "the largest among the others", "tl.where(largest, 0.0, e)", "e", CONFIDENT, "entropy_and_loss"),
    Mutation(COMMON, "+inf is a largest logit", "largest = z == 0", "largest = x == m_new[:, None]", ARITHMETIC, "parts_merge"),
    Mutation(COMMON, "logarithm of 1 + r", "tl.where(r < 1.0, 2.0 * (z + z * q * tail), tl.log(1.0 + r))", "tl.log(1.0 + r)",
             CONFIDENT, "log1p"),
    Mutation(COMMON, "series beyond its range", "tl.where(r < 1.0, 2.0", "tl.where(r < 10.0, 2.0", CONFIDENT, "log1p"),
    Mutation(COMMON, "a term of the series", "q * (1.0 / 5.0", "q * (1.0 / 4.0", CONFIDENT, "log1p"),
    Mutation(COMMON, "1 subtracted from p_y", "tl.where(distance == 0, -r * scale, tl.exp(distance) * scale - 1.0)",
             "tl.exp(distance) * scale - 1.0", CONFIDENT, "head_gradient"),
    Mutation(COMMON, "-inf is a largest logit", "tl.where(distance == 0, -r * scale", "tl.where(x == m, -r * scale",
             CONFIDENT, "broken_rows"),
    Mutation(COMMON, "sure rows lifted down", "tl.minimum(tl.maximum(missing, 0), 96)", "tl.minimum(missing, 96)", CONFIDENT, "lift"),
    Mutation(COMMON, "lifted out of range", "tl.minimum(tl.maximum(missing, 0), 96)", "tl.maximum(missing, 0)", CONFIDENT, "lift"),
    Mutation(STATS, "peak without the weights", "tl.where(valid, tl.abs(weight * residual), 0.0)", "tl.where(valid, tl.abs(residual), 0.0)",
             CONFIDENT, "float16_head"),
    Mutation(STATS, "one peak for all groups", "tl.store(peak_ptr + group,", "tl.store(peak_ptr,", CONFIDENT, "peaks or float16_head"),
    Mutation(HEAD, "residuals not lifted", "power = lift_of_peaks(peak_ptr, n_peaks, PEAKS)", "power = lift(1.0 + tl.load(peak_ptr))",
             CONFIDENT, "float16_head"),
    Mutation(HEAD, "the first peaks only", "for start in range(0, n_peaks, N):", "for start in range(0, N, N):", CONFIDENT, "peaks"),
    Mutation(HEAD, "peaks read past their end", "mask=place < n_peaks, other=0.0)", "mask=place >= 0, other=0.0)", MEMORY, OUTSIDE),
    Mutation(HEAD, "the lift stays", "        grad = grad * inverse(power)\n", "", CONFIDENT, "float16_head"),
    Mutation(HEAD, "the lift stays in the bias", "        bias = bias * inverse(power)\n", "", CONFIDENT, "peaks or float16_head"),
    Mutation(GUIDED, "active residuals not lifted", "tl.store(totals_ptr + 2, lift(tl.max(peak, axis=0)))", "tl.store(totals_ptr + 2, 1.0)",
             CONFIDENT, "guided_step"),
    Mutation(GUIDED, "guide residuals not lifted", "lift(tl.max(tl.abs(weight * residual), axis=0))", "1.0", CONFIDENT, "guided_step"),
    Mutation(GUIDED, "lifted by rows that are not selected", "row_residual_ptr + n_active + selected",
             "row_residual_ptr + n_active + position", CONFIDENT, "guided_step"),
    Mutation(GUIDED, "peak without the weights", "tl.where(present, tl.abs(weight * residual), 0.0)",
             "tl.where(present, tl.abs(residual), 0.0)", CONFIDENT, "class_weights"),
    Mutation(GUIDED, "the lift stays in the feature gradient", "tl.load(totals_ptr) * inverse(power)", "tl.load(totals_ptr)",
             CONFIDENT, "guided_step"),
    Mutation(GUIDED, "the lift stays in g", "grad * inverse(power), bias * inverse(power)", "grad, bias", CONFIDENT, "guided_step"),
    Mutation(GUIDED, "the lift stays in dot", "dot / (power64 * guide_power64)", "dot / guide_power64", CONFIDENT, "guided_step"),
    Mutation(GUIDED, "the lift stays in |g_p|^2", "guide_norm2 / (guide_power64 * guide_power64)", "guide_norm2 / guide_power64",
             CONFIDENT, "guided_step"),
    Mutation(GUIDED, "the lift stays in |g|^2", "grad_norm2 / (power64 * power64)", "grad_norm2 / power64", CONFIDENT, "guided_step"),
    Mutation(GUIDED, "the lift stays in the update", "tl.load(partial_ptr) / tl.load(totals_ptr + 3).to(tl.float64)",
             "tl.load(partial_ptr)", CONFIDENT, "guided_step"),
    Mutation(GUIDED, "the lift stays in the Gram matrices", "tl.load(totals_ptr).to(tl.float64) * tl.load(totals_ptr + 2)",
             "tl.load(totals_ptr).to(tl.float64)", CONFIDENT, "guided_step"),
    Mutation(GUIDED, "the lift stays in the guide's Gram matrices", "tl.load(totals_ptr + 1).to(tl.float64) * tl.load(totals_ptr + 3)",
             "tl.load(totals_ptr + 1).to(tl.float64)", CONFIDENT, "guided_step"),
    Mutation(GUIDED, "the lift stays in the stacked rows", "grad / (total * power), bias", "grad / total, bias",
             CONFIDENT, "guided_step"),
    Mutation(GUIDED, "the lift stays in the stacked bias", "bias / (total * power), columns", "bias / total, columns",
             CONFIDENT, "guided_step"),
    Mutation(GUIDED, "stacked float16 residuals not lifted", "if OPERAND == tl.float16:", "if OPERAND == tl.float64:",
             CONFIDENT, "float16_guided"),
    Mutation(GUIDED, "stacked rows lifted out of range", "if OPERAND == tl.float16:", "if OPERAND != tl.float64:",
             CONFIDENT, "beyond_float32"),
    Mutation(GUIDED, "stacked sum beyond its mean", "power = inverse((total", "power = inverse((1.0 + 0.0 * total",
             CONFIDENT, "beyond_float32"),
    Mutation(GUIDED, "padding kept as logits", 'z = tl.where(inside, z, float("-inf"))', "z = z", LAUNCHES, "guided_step"),
    # Rows of logits.
    Mutation(STATS, "columns not masked", "inside = valid[:, None] & (columns < end_col)[None, :]",
             "inside = valid[:, None] & (columns >= 0)[None, :]", MEMORY, OUTSIDE),
    Mutation(STATS, "rows not masked", "inside = valid[:, None] & (columns < end_col)[None, :]",
             "inside = (rows >= 0)[:, None] & (columns < end_col)[None, :]", MEMORY, OUTSIDE),
    Mutation(STATS, "padding of 0", 'other=float("-inf"))\n        m, r, t = add_tile', "other=0.0)\n        m, r, t = add_tile",
             LAUNCHES, "tiles_of_a_row"),
    Mutation(STATS, "32-bit rows", "    rows = position.to(tl.int64)\n", "    rows = position\n", MEMORY, "gigael"),
    Mutation(TOPK, "32-bit rows", "rows.to(tl.int64)", "rows", MEMORY, "gigael"),
    Mutation(STATS, "entropy stored for every lane", "tl.store(entropy_ptr + rows, entropy, mask=valid)",
             "tl.store(entropy_ptr + rows, entropy)", MEMORY, OUTSIDE),
    Mutation(STATS, "lse stored for every lane", "tl.store(lse_ptr + rows, lse, mask=valid)", "tl.store(lse_ptr + rows, lse)",
             MEMORY, OUTSIDE),
    Mutation(STATS, "nll stored for every lane", "* legal, mask=valid)", "* legal)", MEMORY, OUTSIDE),
    Mutation(STATS, "maximum stored for every lane", "tl.store(row_max_ptr + rows, m, mask=valid)", "tl.store(row_max_ptr + rows, m)",
             MEMORY, OUTSIDE),
    Mutation(STATS, "scale stored for every lane", "tl.store(row_scale_ptr + rows, scale, mask=valid)",
             "tl.store(row_scale_ptr + rows, scale)", MEMORY, OUTSIDE),
    Mutation(STATS, "residual stored for every lane", "tl.store(row_residual_ptr + rows, residual, mask=valid)",
             "tl.store(row_residual_ptr + rows, residual)", MEMORY, OUTSIDE),
    Mutation(STATS, "alignment compiled in", '(do_not_specialize=["logits_stride"], do_not_specialize_on_alignment=["logits_ptr"])', "",
             AOT, "equal_rows"),
    Mutation(TOPK, "alignment compiled in", '(do_not_specialize=["logits_stride"], do_not_specialize_on_alignment=["logits_ptr"])', "",
             AOT, "equal_rows"),
    Mutation(HEAD, "alignment compiled in", '(do_not_specialize=["logits_stride"], do_not_specialize_on_alignment=["logits_ptr"])', "",
             AOT, "equal_rows"),
    Mutation(STATS, "labels read for every lane", "tl.load(target_ptr + rows, mask=valid, other=0)", "tl.load(target_ptr + rows)",
             MEMORY, OUTSIDE),
    Mutation(STATS, "illegal label read", "mask=valid & (legal == 1.0), other=0.0)", "mask=valid, other=0.0)", LAUNCHES, "becomes_nan"),
    Mutation(STATS, "illegal label not poisoned", "(log_s - (x - m)) * legal", "log_s - (x - m)", LAUNCHES, "becomes_nan"),
    Mutation(STATS, "target's distance from lse", "(log_s - (x - m)) * legal", "(m + log_s - x) * legal", LAUNCHES, "far or tiles"),
    Mutation(STATS, "index read for every lane", "tl.load(index_ptr + position, mask=valid, other=0)", "tl.load(index_ptr + position)",
             MEMORY, OUTSIDE),
    Mutation(STATS, "illegal row read", "        valid = valid & (rows >= 0) & (rows < n_rows)\n", "", LAUNCHES, "becomes_nan"),
    Mutation(STATS, "partials stored for every lane", "tl.store(partial_ptr + place, m, mask=stored)", "tl.store(partial_ptr + place, m)",
             LAUNCHES, "many_rows_share"),
    Mutation(STATS, "partials read for every lane", 'tl.load(place, mask=valid, other=float("-inf"))', "tl.load(place)",
             MEMORY, OUTSIDE),
    Mutation(STATS, "merged rows stored for every lane", "present = merged < n_selected", "present = merged >= 0", LAUNCHES, "share_a_row"),
    # Selection.
    Mutation(TOPK, "NaN by its bits", "tl.where(value != value, 0x7FC00000, ", "tl.where(value != value, bits, ",
             ARITHMETIC, "keys_order"),
    Mutation(TOPK, "negative floats not flipped", "bits ^ ((bits >> 31) & 0x7FFFFFFF)", "bits", ARITHMETIC, "keys_order"),
    Mutation(TOPK, "larger row first on a tie", "| (0xFFFFFFFF - index.to(tl.int64))", "| index.to(tl.int64)", ARITHMETIC, "keys_order"),
    Mutation(TOPK, "32-bit key", "(ordered.to(tl.int64) << 32)", "(ordered << 32).to(tl.int64)", ARITHMETIC, "keys_order"),
    Mutation(TOPK, "runs that do not alternate", "(position >> bit) ^ (position >> stage)", "(position >> bit)", ARITHMETIC, "test_sort"),
    Mutation(TOPK, "absent rows sorted in", "tl.where(present, order_keys(entropy, position), -0x8000000000000000)",
             "order_keys(entropy, position)", LAUNCHES, "share_a_row"),
    Mutation(TOPK, "entropy stored for every lane", "key_value(key), mask=position < k)", "key_value(key))", MEMORY, OUTSIDE),
    Mutation(TOPK, "index stored for every lane", "key_index(key), mask=position < k)", "key_index(key))", MEMORY, OUTSIDE),
    Mutation(TOPK, "maximum stored for every lane", "tl.store(place, m, mask=valid)", "tl.store(place, m)", MEMORY, OUTSIDE),
    # Gradient of the head.
    Mutation(COMMON, "illegal label weighs 1", 'tl.where(legal, weight, float("nan"))', "weight", LAUNCHES, "becomes_nan"),
    Mutation(COMMON, "illegal label's weight read", "mask=valid & legal, other=0.0)", "mask=valid, other=0.0)", LAUNCHES, "becomes_nan"),
    Mutation(COMMON, "no row weighs 1", "tl.where(valid, tl.where(legal,", "tl.where(legal | valid, tl.where(legal,",
             LAUNCHES, "head_gradient"),
    Mutation(HEAD, "illegal row read", "        row = tl.where(known, row, 0)\n", "", LAUNCHES, "becomes_nan"),
    Mutation(HEAD, "illegal row not poisoned", 'tl.where(known | (present == 0), weight, float("nan"))', "weight",
             LAUNCHES, "becomes_nan"),
    Mutation(HEAD, "index read for every lane", "tl.load(index_ptr + position, mask=present, other=0)", "tl.load(index_ptr + position)",
             MEMORY, OUTSIDE),
    Mutation(HEAD, "labels read for every lane", "tl.load(target_ptr + row, mask=present, other=0)", "tl.load(target_ptr + row)",
             MEMORY, OUTSIDE),
    Mutation(HEAD, "32-bit rows", "row = position.to(tl.int64)", "row = position", MEMORY, "gigael"),
    Mutation(HEAD, "logits of absent rows read", "inside = present[:, None] & (columns < n_cols)[None, :]",
             "inside = (m == m)[:, None] & (columns < n_cols)[None, :]", MEMORY, OUTSIDE),
    Mutation(HEAD, "logits of absent columns read", "inside = present[:, None] & (columns < n_cols)[None, :]",
             "inside = present[:, None] & (columns >= 0)[None, :]", MEMORY, OUTSIDE),
    Mutation(HEAD, "padding not masked again", "return tl.where(inside, a, 0.0)", "return a", ARITHMETIC, "residuals_outside"),
    Mutation(HEAD, "probabilities rounded first", "    p = tl.exp(x - m[:, None]) * scale[:, None]\n",
             "    p = (tl.exp(x - m[:, None]) * scale[:, None]).to(tl.float16).to(tl.float32)\n", LAUNCHES, "head_gradient"),
    Mutation(HEAD, "1 / B folded in first", "tl.dot(tl.trans(a.to(OPERAND))", "tl.dot(tl.trans((a * 1e-5).to(OPERAND))",
             LAUNCHES, "head_gradient"),
    Mutation(HEAD, "absent features read", "mask=present[:, None] & (dims < dim)[None, :]", "mask=present[:, None] & (dims >= 0)[None, :]",
             MEMORY, OUTSIDE),
    Mutation(HEAD, "features of absent rows read", "mask=present[:, None] & (dims < dim)[None, :]",
             "mask=(row >= 0)[:, None] & (dims < dim)[None, :]", MEMORY, "gigael or outside"),
    Mutation(HEAD, "gradient stored for every lane", "tl.store(place, grad.to(grad_weight_ptr.dtype.element_ty), mask=inside)",
             "tl.store(place, grad.to(grad_weight_ptr.dtype.element_ty))", MEMORY, OUTSIDE),
    Mutation(HEAD, "bias stored for every lane", "bias.to(grad_bias_ptr.dtype.element_ty), mask=columns < n_cols)",
             "bias.to(grad_bias_ptr.dtype.element_ty))", MEMORY, OUTSIDE),
    Mutation(HEAD, "every tile stores the bias of its own", "if first_tile:", "if first_tile == 0:", LAUNCHES, "head_gradient"),
    Mutation(HEAD, "TF32 by default", '"PRECISION": precision}', '"PRECISION": "tf32"}', AOT, "linear_ce_grad_kernel and float32"),
    # Projection.
    Mutation(PROJECT, "NaN hidden", "tl.where((tl.abs(dot) < infinity) & (guide_norm2 < infinity), v, float(\"nan\"))", "v",
             ARITHMETIC, "coefficient"),
    Mutation(PROJECT, "division by no guide", "    v = tl.where(guide_norm2 == 0, 0.0, v)\n", "", ARITHMETIC, "coefficient"),
    Mutation(PROJECT, "negative v", "        v = tl.where(v <= 0, 0.0, v)\n", "",
             ARITHMETIC, "coefficient"),
    Mutation(PROJECT, "official rule without a conflict", "v = tl.where(dot < 0, v, 0.0)", "v = v", ARITHMETIC, "coefficient"),
    Mutation(PROJECT, "negative rounding of a norm", "    guide_norm2 = tl.where(guide_norm2 < 0, 0.0, guide_norm2)\n", "",
             ARITHMETIC, "negative"),
    Mutation(PROJECT, "gradient read past its end", "g = tl.load(grad_ptr + place, mask=place < n, other=0.0).to(tl.float64)",
             "g = tl.load(grad_ptr + place).to(tl.float64)", MEMORY, OUTSIDE),
    Mutation(PROJECT, "guide read past its end", "p = tl.load(guide_ptr + place, mask=place < n, other=0.0).to(tl.float64)",
             "p = tl.load(guide_ptr + place).to(tl.float64)", MEMORY, OUTSIDE),
    Mutation(PROJECT, "products in float32", "g = tl.load(grad_ptr + place, mask=place < n, other=0.0).to(tl.float64)",
             "g = tl.load(grad_ptr + place, mask=place < n, other=0.0).to(tl.float32)", LAUNCHES, "huge"),
    Mutation(PROJECT, "gradient written past its end", "add_guide(g, p, v).to(out_ptr.dtype.element_ty), mask=place < n)",
             "add_guide(g, p, v).to(out_ptr.dtype.element_ty))", MEMORY, OUTSIDE),
    Mutation(PROJECT, "v = 0 writes", "    if v != 0:\n", "    if v == v:\n", LAUNCHES, "keeps_its_bits"),
    Mutation(PROJECT, "NaN writes nothing", "    if v != 0:\n", "    if (v > 0) | (v < 0):\n", LAUNCHES, "stays_visible"),
    Mutation(PROJECT, "partial sums read past their end", "tl.load(sums_ptr + place, mask=present, other=0.0)",
             "tl.load(sums_ptr + place)", MEMORY, OUTSIDE),
    Mutation(PROJECT, "v rounded to float32", "    tl.store(partial_ptr, v)\n",
             "    tl.store(partial_ptr, v.to(tl.float32).to(tl.float64))\n", CONFIDENT, "tiny_guide"),
    Mutation(PROJECT, "a large v applied in float32", "(tl.abs(v) < 1e30) & (tl.abs(v) > 1e-30)", "tl.abs(v) > 1e-30",
             CONFIDENT, "tiny_guide"),
    Mutation(PROJECT, "a small v applied in float32", "(tl.abs(v) < 1e30) & (tl.abs(v) > 1e-30)", "tl.abs(v) < 1e30",
             CONFIDENT, "huge_guide"),
    Mutation(PROJECT, "an epsilon of NaN dropped", "tl.where(v <= 0, 0.0, v)", "tl.where(v > 0, v, 0.0)", CONFIDENT, "options"),
    Mutation(PROJECT, "a margin of NaN dropped", "tl.where(v > least, v, least)", "tl.where(v < least, least, v)", CONFIDENT, "options"),
    Mutation(PROJECT, "NaN bounded", "tl.where(v > bound, bound, v)", "tl.where(v < bound, v, bound)", CONFIDENT, "options"),
    Mutation(PROJECT, "epsilon on the GPU not read", "        epsilon = tl.load(epsilon_ptr)\n", "        epsilon = 0.0\n",
             CONFIDENT, "options"),
    Mutation(PROJECT, "margin on the GPU not read", "        margin = tl.load(margin_ptr)\n", "        margin = 0.75\n",
             CONFIDENT, "options"),
    Mutation(PROJECT, "epsilon in float32", "    epsilon: tl.float64,\n", "    epsilon,\n", AOT, "no_value"),
    # The whole step.
    Mutation(GUIDED, "features of absent rows read", "mask=present[:, None] & within, other=0.0)",
             "mask=(rows >= 0)[:, None] & within, other=0.0)", MEMORY, OUTSIDE),
    Mutation(GUIDED, "weights of absent classes read", "mask=real[:, None] & within, other=0.0)",
             "mask=(columns >= 0)[:, None] & within, other=0.0)", MEMORY, OUTSIDE),
    Mutation(GUIDED, "absent features read", "within = (depth < dim)[None, :]", "within = (depth >= 0)[None, :]", MEMORY, OUTSIDE),
    Mutation(GUIDED, "32-bit rows of features", "u_ptr = features_ptr + rows.to(tl.int64) * features_stride",
             "u_ptr = features_ptr + rows * features_stride", MEMORY, "gigael"),
    Mutation(GUIDED, "32-bit rows of guide features", "u_ptr = guide_features_ptr + rows.to(tl.int64) * guide_features_stride",
             "u_ptr = guide_features_ptr + rows * guide_features_stride", MEMORY, "gigael"),
    Mutation(GUIDED, "32-bit rows of weights", "w_ptr = weight_ptr + columns.to(tl.int64) * weight_stride",
             "w_ptr = weight_ptr + columns * weight_stride", MEMORY, "gigael"),
    Mutation(GUIDED, "32-bit rows of weights in the feature gradient", "weight_ptr + columns.to(tl.int64)[:, None] * weight_stride",
             "weight_ptr + columns[:, None] * weight_stride", MEMORY, "gigael"),
    Mutation(GUIDED, "logits stored for every lane", "columns[None, :], z, mask=inside)", "columns[None, :], z)", MEMORY, OUTSIDE),
    Mutation(GUIDED, "partials stored for every lane", "tl.store(place, m, mask=present)", "tl.store(place, m)", MEMORY, OUTSIDE),
    Mutation(GUIDED, "statistics stored for every lane", "tl.store(row_max_ptr + row, m, mask=present)", "tl.store(row_max_ptr + row, m)",
             MEMORY, OUTSIDE),
    Mutation(GUIDED, "residuals stored for every lane", "tl.store(row_residual_ptr + row, residual, mask=present)",
             "tl.store(row_residual_ptr + row, residual)", MEMORY, OUTSIDE),
    Mutation(GUIDED, "loss of absent rows", "tl.where(present, weight * nll, 0.0)", "weight * nll", LAUNCHES, "guided_step"),
    Mutation(GUIDED, "illegal label's logit read", "inside = present & (target >= 0) & (target < n_cols)", "inside = present",
             LAUNCHES, "becomes_nan"),
    Mutation(GUIDED, "absent guide rows selected", "tl.where(guide, order_keys(entropy, position), -0x8000000000000000)",
             "order_keys(entropy, position)", LAUNCHES, "guided_step"),
    Mutation(GUIDED, "index stored for every lane", "tl.store(index_ptr + position, selected, mask=chosen)",
             "tl.store(index_ptr + position, selected)", MEMORY, OUTSIDE),
    Mutation(GUIDED, "gradient of no rows", "grad = tl.where(n_active > 0, grad / total, 0.0)", "grad = grad / total", LAUNCHES, "nothing"),
    Mutation(GUIDED, "guide of no rows", "guide = tl.where(k > 0, guide / guide_total, 0.0)", "guide = guide / guide_total",
             LAUNCHES, "nothing"),
    Mutation(GUIDED, "no guide looks at a broken gradient", "tl.where(k > 0, dot / (power64 * guide_power64), 0.0)",
             "dot / (power64 * guide_power64)", LAUNCHES, "without_a_guide"),
    Mutation(GUIDED, "dot without the bias", "dot += tl.sum(g_bias * p_bias, axis=0)", "dot += 0.0", LAUNCHES, "guided_step"),
    Mutation(GUIDED, "every tile adds the bias", "            if tile_d == 0:\n", "            if tile_d >= 0:\n", LAUNCHES, "guided_step"),
    Mutation(GUIDED, "gram without the bias", "                inner += 1.0\n", "                inner += 0.0\n", LAUNCHES, "guided_step"),
    Mutation(GUIDED, "gram triangle counted once", "tl.where(i < j, 2.0, 1.0)", "tl.where(i < j, 1.0, 1.0)", LAUNCHES, "guided_step"),
    Mutation(GUIDED, "gram rows of the other batch", "    if tile < tiles_active:\n", "    if tile <= tiles_active:\n",
             LAUNCHES, "guided_step"),
    Mutation(GUIDED, "stacked rows not rescaled", "factor = v * (total * power) / (guide_power.to(tl.float64) * guide_total)",
             "factor = v / (guide_power.to(tl.float64) * guide_total)",
             LAUNCHES, "guided_step"),
    Mutation(GUIDED, "the lift stays in the stacked guide", "factor = v * (total * power) / (guide_power.to(tl.float64) * guide_total)",
             "factor = v * (total * power) / guide_total", CONFIDENT, "guided_step"),
    Mutation(GUIDED, "feature gradient stored for every lane", "mask=present[:, None] & (dims < dim)[None, :])",
             "mask=present[:, None] & (dims >= 0)[None, :])", MEMORY, OUTSIDE),
    Mutation(GUIDED, "feature gradient of absent rows", "mask=present[:, None] & (dims < dim)[None, :])",
             "mask=(rows >= 0)[:, None] & (dims < dim)[None, :])", MEMORY, OUTSIDE),
    Mutation(GUIDED, "weights read past their end", "mask=(columns < n_cols)[:, None] & (dims < dim)[None, :]",
             "mask=(columns >= 0)[:, None] & (dims < dim)[None, :]", MEMORY, OUTSIDE),
    Mutation(GUIDED, "update past the end", "    present = place < n\n", "    present = place >= 0\n", MEMORY, OUTSIDE),
    Mutation(GUIDED, "float16 gradient forgotten where v = 0", "        if not IN_PLACE:\n", "        if IN_PLACE:\n",
             LAUNCHES, "satisfied"),
]  # fmt: skip


class _Kernels(importlib.abc.MetaPathFinder):
    """Finds ``gaal_fast.kernels`` in another folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != "gaal_fast.kernels":
            return None
        return importlib.util.spec_from_file_location(name, f"{self.folder}/__init__.py", submodule_search_locations=[self.folder])


def run_tests(folder: str, arguments: Sequence[str]) -> int:
    """In a process of its own: pytest with the kernels of ``folder``."""
    import pytest

    sys.meta_path.insert(0, _Kernels(folder))
    return int(pytest.main(["-q", "-x", "--tb=no", "-p", "no:cacheprovider", "-W", "ignore::RuntimeWarning", *arguments]))


def check(mutation: Mutation | None, suite: str, tests: str, fork: bool = False) -> tuple[bool, str]:
    """(caught, by which test) for one change, or for the sources as they are.

    With ``fork`` the tests run in a copy of this process, which has to be under the interpreter if they need it: that saves the seconds
    of importing PyTorch each time.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "kernels"
        shutil.copytree(KERNELS, copy, ignore=shutil.ignore_patterns("__pycache__"))
        if mutation is not None:
            file = copy / mutation.file
            file.write_text(mutation.applied(file.read_text()))
        arguments = [suite, "-k", tests]
        if fork:
            code, output = _forked(str(copy), arguments, Path(folder) / "log")
        else:
            environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": str(int(suite != AOT))}
            script = f"import sys; from tests.triton.mutations import run_tests; sys.exit(run_tests({str(copy)!r}, {arguments!r}))"
            done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
            code, output = done.returncode, done.stdout + done.stderr
    return verdict(code, output)


def _forked(folder: str, arguments: Sequence[str], log: Path) -> tuple[int, str]:
    """(exit code, or minus the signal, output) of `run_tests` in a copy of this process."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 3
        try:
            with open(log, "w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            code = run_tests(folder, arguments)
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), log.read_text()


def main(arguments: list[str] | None = None) -> int:
    """Print a table of all changes; returns how many survived, at most 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.triton.mutations", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="changes whose file or description contains this")
    parser.add_argument("--first", type=int, default=0, help="number of the first change")
    parser.add_argument("--last", type=int, default=len(MUTATIONS), help="number after the last change")
    options = parser.parse_args(arguments)
    os.environ |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    os.chdir(ROOT)
    import tests.ops.helpers  # noqa: F401 - everything heavy, once, before the copies; the kernels themselves are not imported here

    survivors = 0
    for number, mutation in list(enumerate(MUTATIONS))[options.first : options.last]:
        if options.only not in f"{mutation.file} {mutation.what}":
            continue
        caught, by = check(mutation, mutation.suite, mutation.tests, fork=mutation.suite != AOT)
        survivors += not caught
        print(f"{number:>3}  {mutation.file:<20} {mutation.what:<48} {by if caught else 'SURVIVED'}", flush=True)
    return min(survivors, 1)


if __name__ == "__main__":
    raise SystemExit(main())
