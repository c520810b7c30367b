"""The changes to the CUDA kernels that a check has to notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.native_cuda.checks import (
    confident_gradient,
    confident_head,
    confident_rows,
    features_gradient,
    great_weight,
    head_step,
    illegal_labels,
    label_of_one_row,
    low_logits,
    numbers_on_the_device,
    projections,
    saturated,
    special_rows,
    tied_rows,
    ties,
    tiny_guides,
)


@dataclass
class Mutation:
    """One place to break, and the check that must then fail."""

    file: str
    before: str
    after: str
    check: Callable[[], None] | tuple[str, str]  # or a checker and a part of checked_run.cpp

    def applied(self, source: str) -> str:
        if source.count(self.before) != 1:
            raise ValueError(
                f"{self.before!r} stands in {self.file} {source.count(self.before)} times"
            )
        return source.replace(self.before, self.after)

    @property
    def by(self) -> str:
        """What notices it."""
        return (
            self.check.__qualname__.partition(".")[0]
            if callable(self.check)
            else " checker: ".join(self.check)
        )


RACE_ROWS, RACE_GRADIENTS, RACE_PROJECT, RACE_GUIDED = (
    ("thread", part) for part in ("rows", "gradients", "project", "guided")
)
BARRIER = "  __syncthreads();\n"

MUTATIONS = {
    # Masks
    "pack: elements past the row": Mutation(
        "cuda/tile/loaders.cuh",
        "if (begin + i < end) pack.v[i]",
        "pack.v[i]",
        head_step("launches", False),
    ),
    "pack: whole packs past the row": Mutation(
        "cuda/tile/loaders.cuh",
        "packs && begin + size <= end",
        "packs",
        head_step("launches", False),
    ),
    "rows past the matrix": Mutation(
        "cuda/tile/loaders.cuh", "    if (r >= rows) return nullptr;\n", "", ("address", "guided")
    ),
    "depth past the rows, features": Mutation(
        "cuda/tile/loaders.cuh",
        "    const T* row = nullptr;\n    if (k < depth) {",
        "    const T* row = nullptr;\n    {",
        ("address", "gradients"),
    ),
    "classes past the last, along": Mutation(
        "cuda/tile/loaders.cuh",
        "row[j] != nullptr && k + i < depth",
        "row[j] != nullptr",
        low_logits,
    ),
    "padding of a row of logits": Mutation(
        "cuda/guided/forward.cuh",
        "        sum.v[i] = -INFINITY;\n",
        "",
        head_step("launches", False),
    ),
    "rows past a result": Mutation(
        "cuda/tile.cuh", "row < rows && column < columns", "column < columns", ("address", "guided")
    ),
    "part of a group": Mutation(
        "cuda/tile.cuh", "    if (i < count) to[i]", "    to[i]", ("address", "guided")
    ),
    "Gram: each pair once": Mutation(
        "cuda/guided/inner.cuh", "if (i > j) continue;", "", head_step("launches", True)
    ),
    "row: first pack from before the row": Mutation(
        "cuda/row_scan.cuh", "if (i > 0 && (i + 2)", "if ((i + 2)", ("address", "rows")
    ),
    "row: last pack from behind the row": Mutation(
        "cuda/row_scan.cuh",
        "i > 0 && (i + 2) * kSize - shift <= columns",
        "i > 0",
        ("address", "rows"),
    ),
    # Special values
    "0 times -inf, element": Mutation(
        "cuda/softmax_core.cuh",
        "fmaf(exponential, fmaxf(shifted, kFloor), a.moment)",
        "fmaf(exponential, shifted, a.moment)",
        special_rows,
    ),
    "0 times -inf, rescaled": Mutation(
        "cuda/softmax_core.cuh", "fmaf(fmaxf(delta, kFloor), sum", "fmaf(delta, sum", special_rows
    ),
    "merging two empty parts": Mutation(
        "cuda/softmax_core.cuh", "if (high.max > -INFINITY) low =", "low =", special_rows
    ),
    "a row of nothing, a row of +inf": Mutation(
        "cuda/softmax_core.cuh",
        "a.rest >= 0.0f && fabsf(a.max) < INFINITY",
        "a.rest >= 0.0f",
        special_rows,
    ),
    "a row with NaN": Mutation(
        "cuda/softmax_core.cuh", "a.rest >= 0.0f && fabsf(a.max)", "fabsf(a.max)", ties
    ),
    "the smaller row first": Mutation(
        "cuda/softmax_core.cuh", "static_cast<uint32_t>(~row);", "static_cast<uint32_t>(row);", ties
    ),
    "illegal labels": Mutation(
        "cuda/softmax_core.cuh",
        "return !legal ? NAN : class_weights",
        "return class_weights",
        illegal_labels,
    ),
    "illegal rows": Mutation(
        "cuda/softmax.cu",
        "return row >= 0 && row < a.source_rows ? row : -1;",
        "return row;",
        illegal_labels,
    ),
    "illegal label's loss": Mutation(
        "cuda/softmax.cu",
        "[row * a.stride + target]) : NAN;",
        "[row * a.stride + target]) : 0.0f;",
        illegal_labels,
    ),
    "illegal label beside legal ones": Mutation(
        "cuda/softmax.cu",
        "a.class_weights != nullptr ? sums[0] : rows",
        "sums[0]",
        label_of_one_row,
    ),
    "v: NaN and inf stay": Mutation(
        "common/projection.h",
        "  if (!is_finite(dot) || !is_finite(guide_norm2)) return NAN;\n",
        "",
        projections,
    ),
    "v: no guide": Mutation(
        "common/projection.h", "  if (guide_norm2 == 0.0) return 0.0;\n", "", projections
    ),
    "v: never negative": Mutation(
        "common/projection.h", "    if (v < 0.0) v = 0.0;\n", "", projections
    ),
    "v: margin": Mutation(
        "common/projection.h",
        "      if (!(v >= rule.margin)) v = v == v ? rule.margin : v;\n",
        "",
        projections,
    ),
    "v: bound": Mutation(
        "common/projection.h", "if (rule.max_correction >= 0.0)", "if (false)", projections
    ),
    "v = 0 changes nothing": Mutation(
        "cuda/project.cu", "  if (*v == 0.0 && of_grad == 1.0) return;", "", projections
    ),
    # Small numbers
    "largest: one copy is not of the rest": Mutation(
        "cuda/softmax_core.cuh", "    ties = -1;", "    ties = 0;", confident_rows
    ),
    "largest: its other copies are": Mutation(
        "cuda/softmax_core.cuh", "      ++ties;", "      ties = 0;", tied_rows
    ),
    "largest: joins the rest of a larger one": Mutation(
        "cuda/softmax_core.cuh", "= 1.0f + a.rest;", "= a.rest;", confident_rows
    ),
    "log1p": Mutation(
        "cuda/softmax_core.cuh",
        "? log1pf(a.rest) : NAN",
        "? logf(1.0f + a.rest) : NAN",
        confident_rows,
    ),
    "target: minus the sum of the others": Mutation(
        "cuda/softmax_core.cuh",
        "logit == a.max ? -a.rest * inverse : ",
        "",
        confident_head("launches", False),
    ),
    "sigma: Gram matrices": Mutation(
        "cuda/softmax_core.cuh",
        "return __uint_as_float(static_cast<unsigned>(127 + power) << 23);",
        "return 1.0f;",
        confident_head("launches", True, gap=80),
    ),
    "sigma: half precision": Mutation(
        "cuda/softmax_core.cuh",
        "return __uint_as_float(static_cast<unsigned>(127 + power) << 23);",
        "return 1.0f;",
        confident_gradient,
    ),
    "sigma: rows of the features' gradient": Mutation(
        "cuda/guided/inner.cuh",
        "sizeof(T) == 2 ? sigma_of(fabsf(meta.at_target)) : 1.0f",
        "1.0f",
        features_gradient,
    ),
    "sigma: a sum too large for it": Mutation(
        "cuda/softmax_core.cuh",
        "  if (meta.inverse_sum > FLT_MAX) meta.inverse_sum = FLT_MAX;\n",
        "",
        great_weight,
    ),
    "sigma: undone in the product": Mutation(
        "cuda/linear_ce_grad.cu",
        "float scale = 1.0f / sigma;",
        "float scale = 1.0f;",
        confident_gradient,
    ),
    "sigma: undone after the library's product": Mutation(
        "cuda/composed.cu", "  if (*sigma != 1.0)", "  if (false)", confident_gradient
    ),
    "sigma: undone in the Gram matrices' rows": Mutation(
        "cuda/composed.cu",
        "  if (sigmas[0] != 1.0)",
        "  if (false)",
        confident_head("composed", True),
    ),
    "sigma: undone in the Gram matrices' sums": Mutation(
        "cuda/composed.cu",
        "static_cast<double>(a.k) * a.sigmas[1]",
        "static_cast<double>(a.k)",
        confident_head("composed", True),
    ),
    "sigma: undone in the projection's sums": Mutation(
        "cuda/project.cu",
        "sums[0] * (of_grad * of_guide)",
        "sums[0]",
        confident_head("composed", False),
    ),
    "sigma: undone in the projection's step": Mutation(
        "cuda/project.cu",
        "to_float(g) * inverse_sigma",
        "to_float(g)",
        confident_head("composed", False),
    ),
    "sums: squares of small numbers": Mutation(
        "cuda/projection.cuh", "= __float_as_uint(largest) >> 23 & 255u;", "= 127u;", tiny_guides
    ),
    "sums: the smallest numbers": Mutation(
        "cuda/projection.cuh",
        "exponent == 0u ? 0x00400000u : exponent << 23",
        "exponent << 23",
        tiny_guides,
    ),
    "sums: the largest numbers": Mutation(
        "cuda/projection.cuh", "    if (exponent > 253u) exponent = 253u;\n", "", projections
    ),
    "v: first factor": Mutation(
        "cuda/projection.cuh", "    a = power_out_of(v);", "    a = 1.0f;", tiny_guides
    ),
    "v: second factor": Mutation(
        "cuda/projection.cuh", "    b = power_out_of(v);", "    b = 1.0f;", tiny_guides
    ),
    "v: smaller than float32": Mutation(
        "cuda/projection.cuh", "    if (v < 0x1p-126) {", "    if (false) {", tiny_guides
    ),
    "v: beyond everything": Mutation(
        "cuda/projection.cuh", "    if (v > 0x1p379) v = 0x1p379;\n", "", tiny_guides
    ),
    "v: float64, projection": Mutation(
        "cuda/project.cu", "    *a.v = v;", "    *a.v = static_cast<float>(v);", tiny_guides
    ),
    "v: float64, head step": Mutation(
        "cuda/guided/finish.cuh",
        "    a.totals->v = v;",
        "    a.totals->v = static_cast<float>(v);",
        saturated("launches", False),
    ),
    "v: float64, Gram matrices": Mutation(
        "cuda/composed.cu",
        "    *a.v = v;",
        "    *a.v = static_cast<float>(v);",
        saturated("composed", True),
    ),
    "v: epsilon on the device": Mutation(
        "cuda/projection.cuh",
        "  if (given.epsilon_at != nullptr) rule.epsilon = *given.epsilon_at;\n",
        "",
        numbers_on_the_device,
    ),
    "v: margin on the device": Mutation(
        "cuda/projection.cuh",
        "  if (given.margin_at != nullptr) rule.margin = *given.margin_at;\n",
        "",
        numbers_on_the_device,
    ),
    # Order
    "sum: barrier after the scratch": Mutation(
        "cuda/device.cuh",
        BARRIER + "#pragma unroll\n  for (int i = 0; i < count; ++i) {\n    values[i] = 0.0;",
        "#pragma unroll\n  for (int i = 0; i < count; ++i) {\n    values[i] = 0.0;",
        RACE_PROJECT,
    ),
    "maximum: barrier after the scratch": Mutation(
        "cuda/device.cuh",
        "scratch[threadIdx.x / kWarp] = value;\n" + BARRIER,
        "scratch[threadIdx.x / kWarp] = value;\n",
        RACE_GUIDED,
    ),
    "sort: barrier of a step": Mutation(
        "cuda/softmax_core.cuh", "      __syncthreads();\n", "", RACE_ROWS
    ),
    "sort: last barrier": Mutation(
        "cuda/softmax_core.cuh",
        "      }\n    }\n  }\n" + BARRIER,
        "      }\n    }\n  }\n",
        RACE_ROWS,
    ),
    "row: barrier between the warps": Mutation(
        "cuda/softmax.cu",
        BARRIER + "  if (threadIdx.x < kWarp) {",
        "  if (threadIdx.x < kWarp) {",
        RACE_ROWS,
    ),
    "product: first barrier": Mutation(
        "cuda/tile.cuh",
        "  __syncthreads();  // whoever used this memory before is done with it\n",
        "",
        RACE_GUIDED,
    ),
    "product: barrier of a step": Mutation(
        "cuda/tile.cuh",
        "      stage(k, which);\n      __syncthreads();\n",
        "      stage(k, which);\n",
        RACE_GUIDED,
    ),
    "column sums: barrier between": Mutation(
        "cuda/tile/loaders.cuh",
        "    __syncthreads();\n    if (threadIdx.x < kTile) {",
        "    if (threadIdx.x < kTile) {",
        RACE_GRADIENTS,
    ),
    "logits: barrier after the dump": Mutation(
        "cuda/guided/forward.cuh",
        "  product.dump(dump);\n  __syncthreads();\n  float* const out = a.logits",
        "  product.dump(dump);\n  float* const out = a.logits",
        RACE_GUIDED,
    ),
    "head: barrier after the dump": Mutation(
        "cuda/guided/head.cuh",
        "kFirstDump : kSecondDump)));\n    __syncthreads();\n",
        "kFirstDump : kSecondDump)));\n",
        RACE_GUIDED,
    ),
    "Gram: barrier after the dump": Mutation(
        "cuda/guided/inner.cuh",
        "  product.dump(dump);\n  __syncthreads();\n  float* const out = global(a.gram",
        "  product.dump(dump);\n  float* const out = global(a.gram",
        RACE_GUIDED,
    ),
    "splits: barrier after their sum": Mutation(
        "cuda/linear_ce_grad.cu",
        "      }\n    }\n    __syncthreads();\n",
        "      }\n    }\n",
        RACE_GRADIENTS,
    ),
    **{
        f"grid: wait {what}": Mutation(
            "cuda/guided_linear_ce.cu", before, before.replace("grid.sync();", ""), RACE_GUIDED
        )
        for what, before in {
            "after the logits": "  grid.sync();\n  constexpr int warps",
            "after the rows": "  grid.sync();\n  // One block sorts",
            "after the selection": "  grid.sync();\n  if (a.sample_space) {",
            "after the Gram matrices": "    grid.sync();\n    for (int strip",
            "before v": "  grid.sync();\n  const double v = coefficient",
        }.items()
    },
}
