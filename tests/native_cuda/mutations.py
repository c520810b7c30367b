"""Take away each mask, guard, barrier and fence of the CUDA kernels in turn, and see a check fail.

``python -m tests.native_cuda.mutations`` applies every change below to a copy of the kernels, one at a time, compiles them for the emulated
device, runs the check beside it, and prints which change was caught by which check. It takes some minutes and exits with 1 if a change
survives. ``test_mutations.py`` keeps the list in step with the sources, and sees that the checks pass on the kernels as they are.

Not listed, because nothing changes without them one by one: that groups past the last column are skipped (they would store nothing), and
seven barriers that have a neighbour which orders the same accesses (the first one of a block's sum, the first and last ones of a block's
maximum, the last one of a product and the first and last ones of its column sums, the one between the statistics and the sort).
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gaal_fast.ops.backends.native import cuda as glue
from gaal_fast.ops.backends.native import cuda_composed as composed
from gaal_fast.ops.backends.native import cuda_host as host
from tests.native_cuda import build
from tests.native_cuda import test_confident as confident
from tests.native_cuda.test_checked import run_checked
from tests.native_cuda.test_paths import arguments
from tests.ops import helpers
from tests.ops import test_guided_linear_ce as guided
from tests.ops.helpers import Backend
from tests.reference import oracle
from tests.reference.oracle import Rule

ROOT = Path(__file__).parents[2]

EDGES = torch.tensor([
    [0.0, 1.0, 2.0, 3.0, 4.0],
    [-math.inf, -math.inf, -math.inf, -math.inf, 1.0],
    [-math.inf] * 5,
    [math.inf, 0.0, 0.0, 0.0, 0.0],
    [1.0, math.nan, 0.0, 0.0, -math.inf],
    [-math.inf, 1e4, -1e4, -3e38, 3e38],
])  # fmt: skip


def special_rows() -> None:
    for logits in (EDGES, EDGES.repeat(1, 300)):  # a warp or less per row, and a block
        got = glue.softmax_stats(logits, torch.zeros(len(logits), dtype=torch.int64))
        for result, want in zip(
            got,
            oracle.softmax_stats(helpers.array(logits), np.zeros(len(logits), dtype=int)),
            strict=True,
        ):
            np.testing.assert_allclose(helpers.array(result), want, rtol=1e-5, atol=1e-5)


def ties() -> None:
    logits = torch.tensor(
        [
            [1.0, 1.0, 1.0],
            [0.0, 5.0, 0.0],
            [2.0, 2.0, 2.0],
            [math.nan, 0.0, 0.0],
            [0.0, 5.0, 0.0],
            [math.inf, 0.0, 0.0],
        ]
    )
    logits = torch.cat((logits, -logits[3:4]))  # a negative NaN is no other one
    assert glue.entropy_topk(logits, 7)[1].tolist() == [3, 5, 6, 0, 2, 1, 4]


def among_nan(matrix: torch.Tensor) -> torch.Tensor:
    """The same matrix with NaN beside and below it, its rows at multiples of 16 bytes: read in whole packs."""
    rows, columns = matrix.shape
    memory = torch.full((rows + 4, (columns + 15) // 8 * 8), math.nan, dtype=matrix.dtype)
    memory[:rows, :columns] = matrix
    return memory[:rows, :columns]


def head_step(path: str, sample_space: bool) -> Callable[[], None]:
    def check() -> None:
        for dtype, packs in itertools.product((torch.float32, torch.bfloat16), (False, True)):
            case = guided.make(
                20, 23, 18, 33, 7, dtype, "cpu", Rule(epsilon=0.3, relative=True), conflict=True
            )
            case.class_weights = torch.linspace(0.5, 2.0, 18)
            truth = case.oracle()
            if packs:
                case = replace(
                    case,
                    **{
                        name: among_nan(getattr(case, name))
                        for name in ("features", "guide_features", "weight")
                    },
                )
            results = [
                t
                for t in glue.guided_linear_ce(
                    *arguments(case), path=path, sample_space=sample_space
                )[:-1]
                if t is not None
            ]
            wanted = (
                truth.loss,
                truth.grad_features,
                truth.grad_weight,
                truth.grad_bias,
                truth.v,
                truth.dot,
                truth.guide_norm2,
                truth.grad_norm2,
            )
            tolerance = 1e-4 if dtype is torch.float32 else 5e-2
            for result, want in zip(results, wanted, strict=True):
                scale = np.abs(want).max()
                np.testing.assert_allclose(
                    helpers.array(result), want, rtol=tolerance, atol=tolerance * float(scale)
                )

    return check


def low_logits() -> None:
    """Far below 0, where the exponential of a logit that is read as 0 is infinite."""
    case = guided.make(20, 23, 18, 33, 7, torch.float32, "cpu", Rule(), conflict=True)
    case.bias = case.bias - 200.0
    features = glue.guided_linear_ce(*arguments(case), path="launches", sample_space=False)[1]
    np.testing.assert_allclose(
        helpers.array(features), case.oracle().grad_features, rtol=1e-3, atol=1e-4
    )


def head_gradient() -> None:
    features, logits = (
        helpers.random_logits(37, 19, torch.float32, 1),
        helpers.random_logits(37, 70, torch.float32, 2),
    )
    target, index = helpers.random_labels(37, 70), torch.arange(1, 37, 2)
    truth = oracle.linear_ce_grad(
        helpers.array(features), helpers.array(logits), target.numpy(), index.numpy()
    )
    for lay in (torch.clone, among_nan):
        weight, bias = glue.linear_ce_grad(lay(features), lay(logits), target, index, None)
        np.testing.assert_allclose(helpers.array(weight), truth.weight, atol=1e-6)
        np.testing.assert_allclose(helpers.array(bias), truth.bias, atol=1e-6)


def illegal_labels() -> None:
    features, logits = (
        helpers.random_logits(5, 4, torch.float32, 1),
        helpers.random_logits(5, 3, torch.float32, 2),
    )
    target = torch.tensor([0, 1, 3, 2, 1])
    assert all(
        gradient.isnan().all()
        for gradient in glue.linear_ce_grad(features, logits, target, None, None)
    )
    for row in (5, 10**12):  # beside the matrix, and where nothing can be read
        assert all(
            gradient.isnan().all()
            for gradient in glue.linear_ce_grad(
                features, logits, target % 3, torch.tensor([0, row]), None
            )
        )
    assert glue.softmax_stats(logits, target)[2].isnan().tolist() == [
        False,
        False,
        True,
        False,
        False,
    ]


def projections() -> None:
    def project(grad: list[float], guide: list[float], rule: Rule) -> tuple[torch.Tensor, ...]:
        grads = [torch.tensor(grad)]
        return (*glue.project_(grads, [torch.tensor(guide)], helpers.rule_of(rule)), grads[0])

    assert project([1.0, math.nan], [0.0, 0.0], Rule())[0].isnan()
    assert project([1.0, 2.0], [math.inf, 0.0], Rule())[0].isnan()
    # Four elements are scaled together.
    assert project([1.0, 0.0, 0.0, 3e38], [-1.0, 0.0, 0.0, 0.0], Rule())[-1].tolist() == [
        0.0,
        0.0,
        0.0,
        pytest.approx(3e38),
    ]
    assert project([1.0, 2.0], [0.0, 0.0], Rule(epsilon=1.0))[0] == 0.0
    assert project([1.0, 2.0], [1.0, 0.0], Rule(epsilon=-5.0))[0] == 0.0
    assert project([1.0, 2.0], [-1.0, 0.0], Rule("official"))[0] == pytest.approx(1.0 / 1.001)
    assert project([0.1, 2.0], [-1.0, 0.0], Rule("official"))[0] == 0.75
    assert project([1.0, 0.0], [-1e-3, 0.0], Rule(max_correction=0.5))[0] == pytest.approx(500.0)
    assert math.copysign(1.0, project([-0.0, 2.0], [0.0, 1.0], Rule())[-1][0].item()) == -1.0


HERE = Backend("native", "cpu")


def confident_rows() -> None:
    for classes in (33, 1500, 17003):
        confident.test_statistics(HERE, 40, 0.0, classes)


def tied_rows() -> None:
    for classes in (64, 1500, 17003):
        confident.test_ties_of_the_largest(HERE, classes, 3)


def confident_head(path: str, sample_space: bool, gap: int = 40) -> Callable[[], None]:
    def confident_step() -> None:
        confident.check_step(
            confident.head(gap, torch.float32, "cpu", batch_gap=gap), path, sample_space
        )

    return confident_step


def confident_gradient() -> None:
    with pytest.MonkeyPatch.context() as patch:
        for product in ("kernel", "library"):
            confident.test_head_gradient(HERE, patch, product, 15, torch.float16, False, False)


def features_gradient() -> None:
    confident.TestHeadStep().test_features_gradient_of_half_precision(
        HERE, "launches", False, torch.float16
    )


def great_weight() -> None:
    confident.TestHeadStep().test_a_row_without_residuals_and_with_a_great_weight(
        HERE, "launches", False
    )


def saturated(path: str, sample_space: bool) -> Callable[[], None]:
    def saturated_guide() -> None:
        confident.TestHeadStep().test_a_bound_for_a_saturated_guide(HERE, path, sample_space)

    return saturated_guide


def tiny_guides() -> None:
    for grad, guide, rule, want in confident.TINY:
        confident.test_v_beyond_float32(HERE, grad, guide, rule, want)


def numbers_on_the_device() -> None:
    for rule in (Rule(epsilon=2.5), Rule("official", margin=1.5)):
        confident.TestNumbersOnTheDevice().test_project(HERE, rule)


def label_of_one_row() -> None:
    case = guided.make(6, 5, 4, 3, 2, torch.float32, "cpu", Rule())
    case.target[2] = 9
    features = glue.guided_linear_ce(*arguments(case), path="composed", sample_space=False)[1]
    assert features.isnan().all(1).tolist() == [row == 2 for row in range(6)]


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
    "pack: elements past the row": Mutation("tile.cuh", "if (begin + i < end) pack.v[i]", "pack.v[i]", head_step("launches", False)),
    "pack: whole packs past the row": Mutation("tile.cuh", "packs && begin + size <= end", "packs", head_step("launches", False)),
    "rows past the matrix": Mutation("tile.cuh", "    if (r >= rows) return nullptr;\n", "", ("address", "guided")),
    "depth past the rows, features": Mutation(
        "tile.cuh", "    const T* row = nullptr;\n    if (k < depth) {", "    const T* row = nullptr;\n    {", ("address", "gradients")
    ),
    "classes past the last, along": Mutation(
        "tile.cuh", "row[j] != nullptr && k + i < depth", "row[j] != nullptr", low_logits
    ),
    "padding of a row of logits": Mutation("guided_linear_ce.cu", "        sum.v[i] = -INFINITY;\n", "", head_step("launches", False)),
    "rows past a result": Mutation("tile.cuh", "row < rows && column < columns", "column < columns", ("address", "guided")),
    "part of a group": Mutation("tile.cuh", "    if (i < count) to[i]", "    to[i]", ("address", "guided")),
    "Gram: each pair once": Mutation("guided_linear_ce.cu", "if (i > j) continue;", "", head_step("launches", True)),
    "row: first pack from before the row": Mutation("row_stats.cu", "if (i > 0 && (i + 2)", "if ((i + 2)", ("address", "rows")),
    "row: last pack from behind the row": Mutation(
        "row_stats.cu", "i > 0 && (i + 2) * kSize - shift <= columns", "i > 0", ("address", "rows")
    ),
    # Special values
    "0 times -inf, element": Mutation(
        "softmax_core.cuh", "fmaf(exponential, fmaxf(shifted, kFloor), a.moment)", "fmaf(exponential, shifted, a.moment)", special_rows
    ),
    "0 times -inf, rescaled": Mutation("softmax_core.cuh", "fmaf(fmaxf(delta, kFloor), sum", "fmaf(delta, sum", special_rows),
    "merging two empty parts": Mutation("softmax_core.cuh", "if (high.max > -INFINITY) low =", "low =", special_rows),
    "a row of nothing, a row of +inf": Mutation(
        "softmax_core.cuh", "a.rest >= 0.0f && fabsf(a.max) < INFINITY", "a.rest >= 0.0f", special_rows
    ),
    "a row with NaN": Mutation("softmax_core.cuh", "a.rest >= 0.0f && fabsf(a.max)", "fabsf(a.max)", ties),
    "the smaller row first": Mutation("softmax_core.cuh", "static_cast<uint32_t>(~row);", "static_cast<uint32_t>(row);", ties),
    "illegal labels": Mutation("softmax_core.cuh", "return !legal ? NAN : class_weights", "return class_weights", illegal_labels),
    "illegal rows": Mutation("row_stats.cu", "return row >= 0 && row < a.source_rows ? row : -1;", "return row;", illegal_labels),
    "illegal label's loss": Mutation(
        "row_stats.cu", "[row * a.stride + target]) : NAN;", "[row * a.stride + target]) : 0.0f;", illegal_labels
    ),
    "illegal label beside legal ones": Mutation(
        "row_stats.cu", "a.class_weights != nullptr ? sums[0] : rows", "sums[0]", label_of_one_row
    ),
    "v: NaN and inf stay": Mutation("projection_core.cuh", "  if (!is_finite(dot) || !is_finite(guide_norm2)) v = NAN;\n", "", projections),
    "v: no guide": Mutation("projection_core.cuh", "  if (guide_norm2 == 0.0) v = 0.0;\n", "", projections),
    "v: never negative": Mutation("projection_core.cuh", "    if (v < 0.0) v = 0.0;\n", "", projections),
    "v: margin": Mutation("projection_core.cuh", "      if (!(v >= margin)) v = v == v ? margin : v;\n", "", projections),
    "v: bound": Mutation("projection_core.cuh", "if (rule.max_correction >= 0.0)", "if (false)", projections),
    "v = 0 changes nothing": Mutation("project.cu", "  if (*v == 0.0 && of_grad == 1.0) return;", "", projections),
    # Small numbers
    "largest: one copy is not of the rest": Mutation("softmax_core.cuh", "    ties = -1;", "    ties = 0;", confident_rows),
    "largest: its other copies are": Mutation("softmax_core.cuh", "      ++ties;", "      ties = 0;", tied_rows),
    "largest: joins the rest of a larger one": Mutation("softmax_core.cuh", "= 1.0f + a.rest;", "= a.rest;", confident_rows),
    "log1p": Mutation("softmax_core.cuh", "? log1pf(a.rest) : NAN", "? logf(1.0f + a.rest) : NAN", confident_rows),
    "target: minus the sum of the others": Mutation(
        "softmax_core.cuh", "logit == a.max ? -a.rest * inverse : ", "", confident_head("launches", False)
    ),
    "sigma: Gram matrices": Mutation(
        "softmax_core.cuh", "return __uint_as_float(static_cast<unsigned>(127 + power) << 23);", "return 1.0f;",
        confident_head("launches", True, gap=80),
    ),
    "sigma: half precision": Mutation(
        "softmax_core.cuh", "return __uint_as_float(static_cast<unsigned>(127 + power) << 23);", "return 1.0f;", confident_gradient
    ),
    "sigma: rows of the features' gradient": Mutation(
        "guided_linear_ce.cu", "sizeof(T) == 2 ? sigma_of(fabsf(meta.at_target)) : 1.0f", "1.0f",
        features_gradient,
    ),
    "sigma: a sum too large for it": Mutation(
        "softmax_core.cuh", "  if (meta.inverse_sum > FLT_MAX) meta.inverse_sum = FLT_MAX;\n", "", great_weight
    ),
    "sigma: undone in the product": Mutation("linear_ce_grad.cu", "float scale = 1.0f / sigma;", "float scale = 1.0f;", confident_gradient),
    "sigma: undone after the library's product": Mutation("composition.cu", "  if (*sigma != 1.0)", "  if (false)", confident_gradient),
    "sigma: undone in the Gram matrices' rows": Mutation(
        "composition.cu", "  if (sigmas[0] != 1.0)", "  if (false)", confident_head("composed", True)
    ),
    "sigma: undone in the Gram matrices' sums": Mutation(
        "composition.cu", "static_cast<double>(a.k) * a.sigmas[1]", "static_cast<double>(a.k)", confident_head("composed", True)
    ),
    "sigma: undone in the projection's sums": Mutation(
        "project.cu", "sums[0] * (of_grad * of_guide)", "sums[0]", confident_head("composed", False)
    ),
    "sigma: undone in the projection's step": Mutation(
        "project.cu", "to_float(g) * inverse_sigma", "to_float(g)", confident_head("composed", False)
    ),
    "sums: squares of small numbers": Mutation("projection_core.cuh", "= __float_as_uint(largest) >> 23 & 255u;", "= 127u;", tiny_guides),
    "sums: the smallest numbers": Mutation(
        "projection_core.cuh", "exponent == 0u ? 0x00400000u : exponent << 23", "exponent << 23", tiny_guides
    ),
    "sums: the largest numbers": Mutation("projection_core.cuh", "    if (exponent > 253u) exponent = 253u;\n", "", projections),
    "v: first factor": Mutation("projection_core.cuh", "    a = power_out_of(v);", "    a = 1.0f;", tiny_guides),
    "v: second factor": Mutation("projection_core.cuh", "    b = power_out_of(v);", "    b = 1.0f;", tiny_guides),
    "v: smaller than float32": Mutation("projection_core.cuh", "    if (v < 0x1p-126) {", "    if (false) {", tiny_guides),
    "v: beyond everything": Mutation("projection_core.cuh", "    if (v > 0x1p379) v = 0x1p379;\n", "", tiny_guides),
    "v: float64, projection": Mutation("project.cu", "    *a.v = p.v;", "    *a.v = static_cast<float>(p.v);", tiny_guides),
    "v: float64, head step": Mutation(
        "guided_linear_ce.cu", "    a.totals->v = p.v;", "    a.totals->v = static_cast<float>(p.v);", saturated("launches", False)
    ),
    "v: float64, Gram matrices": Mutation(
        "composition.cu", "    *a.v = p.v;", "    *a.v = static_cast<float>(p.v);", saturated("composed", True)
    ),
    "v: epsilon on the device": Mutation(
        "projection_core.cuh", "rule.epsilon_at != nullptr ? *rule.epsilon_at : rule.epsilon", "rule.epsilon", numbers_on_the_device
    ),
    "v: margin on the device": Mutation(
        "projection_core.cuh", "rule.margin_at != nullptr ? *rule.margin_at : rule.margin", "rule.margin", numbers_on_the_device
    ),
    # Order
    "sum: barrier after the scratch": Mutation(
        "common.cuh", BARRIER + "#pragma unroll\n  for (int i = 0; i < count; ++i) {\n    values[i] = 0.0;",
        "#pragma unroll\n  for (int i = 0; i < count; ++i) {\n    values[i] = 0.0;", RACE_PROJECT,
    ),
    "maximum: barrier after the scratch": Mutation(
        "common.cuh", "scratch[threadIdx.x / kWarp] = value;\n" + BARRIER, "scratch[threadIdx.x / kWarp] = value;\n", RACE_GUIDED
    ),
    "sort: barrier of a step": Mutation("softmax_core.cuh", "      __syncthreads();\n", "", RACE_ROWS),
    "sort: last barrier": Mutation("softmax_core.cuh", "      }\n    }\n  }\n" + BARRIER, "      }\n    }\n  }\n", RACE_ROWS),
    "row: barrier between the warps": Mutation(
        "row_stats.cu", BARRIER + "  if (threadIdx.x < kWarp) {", "  if (threadIdx.x < kWarp) {", RACE_ROWS
    ),
    "product: first barrier": Mutation(
        "tile.cuh", "  __syncthreads();  // whoever used this memory before is done with it\n", "", RACE_GUIDED
    ),
    "product: barrier of a step": Mutation(
        "tile.cuh", "      stage(k, which);\n      __syncthreads();\n", "      stage(k, which);\n", RACE_GUIDED
    ),
    "column sums: barrier between": Mutation(
        "tile.cuh", "    __syncthreads();\n    if (threadIdx.x < kTile) {", "    if (threadIdx.x < kTile) {", RACE_GRADIENTS
    ),
    "logits: barrier after the dump": Mutation(
        "guided_linear_ce.cu", "  product.dump(dump);\n  __syncthreads();\n  float* const out = a.logits",
        "  product.dump(dump);\n  float* const out = a.logits", RACE_GUIDED,
    ),
    "head: barrier after the dump": Mutation(
        "guided_linear_ce.cu", "kFirstDump : kSecondDump)));\n    __syncthreads();\n", "kFirstDump : kSecondDump)));\n", RACE_GUIDED
    ),
    "Gram: barrier after the dump": Mutation(
        "guided_linear_ce.cu", "  product.dump(dump);\n  __syncthreads();\n  float* const out = global(a.gram",
        "  product.dump(dump);\n  float* const out = global(a.gram", RACE_GUIDED,
    ),
    "splits: barrier after their sum": Mutation(
        "linear_ce_grad.cu", "      }\n    }\n    __syncthreads();\n", "      }\n    }\n", RACE_GRADIENTS
    ),
    **{
        f"grid: wait {what}": Mutation("guided_linear_ce.cu", before, before.replace("grid.sync();", ""), RACE_GUIDED)
        for what, before in {
            "after the logits": "  grid.sync();\n  constexpr int warps",
            "after the rows": "  grid.sync();\n  // One block sorts",
            "after the selection": "  grid.sync();\n  if (a.sample_space) {",
            "after the Gram matrices": "    grid.sync();\n    for (int strip",
            "before v": "  grid.sync();\n  const double v = correction",
        }.items()
    },
}  # fmt: skip


def poisoned(
    *sizes: object, dtype: torch.dtype | None = None, device: torch.device | None = None
) -> torch.Tensor:
    """In the place of torch.empty: NaN, and -1 for integers."""
    made = torch.zeros(*sizes, dtype=dtype, device=device)
    made.view(-1).view(torch.uint8).fill_(0xFF)
    return made


def fails(check: Callable[[], None], kernels: str, folder: str) -> bool:
    """Whether a check notices what was done to the kernels; only once in a process, since it keeps the first module of a name."""
    broken = build.emulated_module(Path(folder), Path(kernels), "-O0")
    host.load = lambda: broken.module
    host.stream = lambda device: 0
    composed.gram = lambda x: x.float() @ x.float().t()
    torch_empty, glue.torch.empty = glue.torch.empty, poisoned
    try:
        check()
    except (AssertionError, RuntimeError):
        return True
    finally:
        glue.torch.empty = torch_empty
    return False


def caught(name: str) -> bool:
    """Break the kernels, and run the check."""
    mutation = MUTATIONS[name]
    with tempfile.TemporaryDirectory() as folder:
        kernels, out = Path(folder) / "kernels", Path(folder) / "out"
        shutil.copytree(build.KERNELS, kernels)
        file = kernels / mutation.file
        file.write_text(mutation.applied(file.read_text()))
        if isinstance(mutation.check, tuple):
            checker, part = mutation.check
            return (
                run_checked(
                    build.checked_program(out, checker, part, kernels, "-O0"), schedules=2, types=2
                ).returncode
                != 0
            )
        call = f"m.fails(m.MUTATIONS[{name!r}].check, {str(kernels)!r}, {str(out)!r})"
        script = f"import sys; from tests.native_cuda import mutations as m; sys.exit(10 + {call})"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode >= 0 and done.returncode not in (10, 11):
            raise RuntimeError(f"the check did not run: {done.stderr[-3000:]}")
        return done.returncode != 10  # a crash is noticed too


def main(arguments: list[str] | None = None) -> int:
    """Print a table of all changes; returns 1 if one survived."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.native_cuda.mutations", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--only", default="", help="changes whose file or description contains this"
    )
    options = parser.parse_args(arguments)
    survivors = 0
    for number, (name, mutation) in enumerate(MUTATIONS.items()):
        if options.only not in f"{mutation.file} {name}":
            continue
        noticed = caught(name)
        survivors += not noticed
        print(
            f"{number:>3}  {mutation.file:<20} {name:<48} {mutation.by if noticed else 'SURVIVED'}",
            flush=True,
        )
    return min(survivors, 1)


if __name__ == "__main__":
    raise SystemExit(main())
