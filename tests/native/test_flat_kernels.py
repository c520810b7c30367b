"""Inner products, projection and the small matrix product of the C++ kernels, and what threads do
to any of them.
"""

from __future__ import annotations

import importlib.machinery
import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.native.conftest import DTYPES, Kernels, guarded, wide
from tests.native.test_row_kernels import EPS, SEGMENT, labels_of, logits_of
from tests.reference import oracle

PAPER = (False, 0.0, False, 0.75, 1e-3, -1.0)
PIECE = 16384  # elements of a flat vector that are summed as one


def vector(size: int, dtype: torch.dtype, seed: int, scale: float = 1.0) -> Tensor:
    return logits_of(1, size, dtype, seed, scale)[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_inner_products_of_every_tail(kernels: Kernels, dtype: torch.dtype) -> None:
    """Products of float32 are exact in float64: only the additions round."""
    for size in [*range(0, 71), PIECE - 1, PIECE, PIECE + 1]:
        grad, guide = (
            guarded(vector(size, dtype, seed)[None], 0, shift)
            for seed, shift in ((size, 1), (size + 1, 5))
        )
        got = kernels.inner_products([grad.matrix[0]], [guide.matrix[0]])
        g, h = wide(grad.matrix[0]), wide(guide.matrix[0])
        for value, (a, b) in zip(got, ((g, h), (h, h), (g, g)), strict=True):
            assert value == pytest.approx(
                math.fsum(a * b), abs=2.0**-50 * (np.abs(a * b).sum() + 1e-300) * (1 + size / 1000)
            )


def test_inner_product_of_a_cancelling_pair(kernels: Kernels) -> None:
    """1e8 and more times the result cancels; float32 sums would leave nothing of it."""
    g = vector(100_000, torch.float32, 0)
    h = vector(100_000, torch.float32, 1)
    dot = sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(g, h, strict=True))
    g = torch.cat([g, torch.tensor([float(dot)], dtype=torch.float32)])
    h = torch.cat([h, torch.tensor([-1.0])])
    left = dot - Fraction(float(g[-1]))
    assert 0 < abs(left) < 1e-4
    assert kernels.inner_products([g], [h])[0] == pytest.approx(float(left), abs=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_update_of_every_tail(kernels: Kernels, dtype: torch.dtype) -> None:
    """g + v h is rounded once or, without a fused multiply-add, twice in float32, then to the
    dtype; nothing else is touched.
    """
    for size in [*range(1, 71), 1000]:
        grad, guide = (
            guarded(vector(size, dtype, seed)[None], 0, shift)
            for seed, shift in ((size, 3), (size + 1, 1))
        )
        before = grad.matrix.clone()
        v = kernels.project(
            [grad.matrix[0]], [guide.matrix[0]], False, 1e3, False, 0.75, 1e-3, -1.0
        )[0]
        want = oracle.project([wide(before)], [wide(guide.matrix)], oracle.Rule(epsilon=1e3))
        assert v == pytest.approx(want.v, rel=1e-12)
        factor = float(np.float32(v))
        exact = wide(before) + factor * wide(guide.matrix)
        terms = np.abs(wide(before)) + np.abs(factor * wide(guide.matrix))
        finite = np.abs(exact) < torch.finfo(dtype).max
        bound = (
            torch.finfo(dtype).eps / 2 * np.abs(exact)
            + EPS * terms
            + torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
        )
        assert (np.abs(wide(grad.matrix) - exact) <= bound)[finite].all()
        grad.assert_intact()
        guide.assert_intact()


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize(("size_of_guide", "epsilon"), [(1e-38, 1e3), (1e-38, 1.0), (1e22, 1e-3)])
def test_update_by_a_factor_that_float32_does_not_have(
    kernels: Kernels, dtype: torch.dtype, size_of_guide: float, epsilon: float
) -> None:
    """v is far beyond float32, or among its subnormal numbers and below, where v h is an ordinary
    number.
    """
    for size in [*range(1, 40), 1000]:
        guide = guarded((vector(size, dtype, size) * size_of_guide)[None], 0, 1)
        before = vector(size, dtype, size + 1) * (1.0 if size_of_guide < 1.0 else 1e-22)
        grad = guarded(before[None], 0, 3)
        v = kernels.project(
            [grad.matrix[0]], [guide.matrix[0]], False, epsilon, True, 0.75, 1e-3, -1.0
        )[0]
        want = oracle.project(
            [wide(before)], [wide(guide.matrix[0])], oracle.Rule(epsilon=epsilon, relative=True)
        )
        assert v == pytest.approx(want.v, rel=1e-9, abs=1e-50)
        terms = np.abs(wide(before)) + np.abs(v * wide(guide.matrix[0]))
        assert (
            np.abs(wide(grad.matrix[0]) - want.grads[0]) <= torch.finfo(dtype).eps * terms
        ).all()
        grad.assert_intact()
        guide.assert_intact()


def test_the_pairs_are_one_vector(kernels: Kernels) -> None:
    """Tensors of several sizes and dtypes, an empty one among them."""
    sizes = (3, 0, 40_000, 17, 1)
    dtypes = (torch.float32, torch.float32, torch.bfloat16, torch.float16, torch.float32)
    grads = [vector(n, d, i) for i, (n, d) in enumerate(zip(sizes, dtypes, strict=True))]
    guides = [
        vector(n, d, i + 9) - 0.3 * g
        for i, (n, d, g) in enumerate(zip(sizes, dtypes, grads, strict=True))
    ]
    want = oracle.project([wide(g) for g in grads], [wide(h) for h in guides], oracle.Rule())
    before = [g.clone() for g in grads]
    got = kernels.project(grads, guides, *PAPER)
    assert got == pytest.approx((want.v, want.dot, want.guide_norm2, want.grad_norm2), rel=1e-11)
    assert want.v > 0
    for g, old, h in zip(grads, before, guides, strict=True):
        np.testing.assert_allclose(
            wide(g), wide(old) + want.v * wide(h), rtol=torch.finfo(g.dtype).eps, atol=4 * EPS
        )


RULES = [
    oracle.Rule(),
    oracle.Rule(epsilon=-0.5),
    oracle.Rule(epsilon=2.0),
    oracle.Rule(epsilon=0.3, relative=True),
    oracle.Rule(epsilon=-0.3, relative=True),
    oracle.Rule("official"),
    oracle.Rule("official", margin=0.0, ridge=0.0),
    oracle.Rule("official", max_correction=0.1),
    oracle.Rule(epsilon=9.0, max_correction=0.25),
    oracle.Rule(epsilon=9.0, max_correction=0.0),
]


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_rules(module: ModuleType, rule: oracle.Rule, sign: float) -> None:
    g = vector(37, torch.float32, 3)
    h = sign * 0.4 * g + vector(37, torch.float32, 4, 0.1)
    want = oracle.project([wide(g)], [wide(h)], rule)
    before = g.clone()
    limit = -1.0 if rule.max_correction is None else rule.max_correction
    options = (rule.rule == "official", rule.epsilon, rule.relative, rule.margin, rule.ridge, limit)
    v = Kernels(module, "portable").project([g], [h], *options)[0]
    assert v == pytest.approx(want.v, rel=1e-12)
    assert torch.equal(g, before) == (want.v == 0.0)


@pytest.mark.parametrize(
    ("products", "v"),
    [
        ((-1.0, 0.0, 1.0), 0.0),  # no guide
        ((-0.0, 0.0, 0.0), 0.0),
        ((math.nan, 1.0, 1.0), math.nan),
        ((1.0, math.nan, 1.0), math.nan),
        ((math.nan, 0.0, math.nan), math.nan),
        ((-math.inf, 1.0, math.inf), math.nan),
        ((math.inf, 1.0, math.inf), math.nan),
        ((-1.0, math.inf, 1.0), math.nan),
    ],
)
@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("limit", [-1.0, 0.5])
def test_a_broken_product_stays_visible(
    module: ModuleType, products: tuple[float, ...], v: float, official: bool, limit: float
) -> None:
    assert module.correction(*products, (official, 0.0, False, 0.75, 1e-3, limit)) == pytest.approx(
        v, nan_ok=True
    )


def test_no_correction_leaves_every_bit(kernels: Kernels) -> None:
    g = torch.tensor([-0.0, 0.0, 1e-45, 3.0, -1e38])
    bits = g.view(torch.int32).clone()
    assert kernels.project([g], [torch.tensor([1.0, -1.0, 1e-45, 3.0, -1e38])], *PAPER)[0] == 0.0
    assert torch.equal(g.view(torch.int32), bits)


@pytest.mark.parametrize("inner", range(1, 9))
def test_small_matmul(kernels: Kernels, inner: int) -> None:
    assert inner <= kernels.module.small_inner
    for columns in [*range(1, 40), 100]:
        a = guarded(vector(9 * inner, torch.float32, inner).view(9, inner), 1, 3)
        w = guarded(vector(inner * columns, torch.float32, columns).view(inner, columns), 2, 1)
        out = guarded(torch.full((9, columns), torch.nan), 3, 5)
        kernels.small_matmul(a.matrix, w.matrix, out.matrix)
        bound = inner * EPS * np.abs(wide(a.matrix)) @ np.abs(wide(w.matrix))
        assert (np.abs(wide(out.matrix) - wide(a.matrix) @ wide(w.matrix)) <= bound).all()
        for memory in (a, w, out):
            memory.assert_intact()


# --- threads ---


def everything(kernels: Kernels) -> list[Tensor]:
    """Every kernel at sizes that are shared out over the threads."""
    results = []
    for rows, columns in ((300, 61), (3000, 2), (5, 2 * SEGMENT + 77), (40, 5000)):
        logits, target = logits_of(rows, columns, torch.float32), labels_of(rows, columns)
        results += [kernels.softmax_stats(logits, target), *kernels.entropy_topk(logits, rows // 2)]
        out, sums = torch.empty_like(logits), torch.empty(columns)
        results += [torch.tensor(kernels.residual(logits, target, out, sums)), out, sums]
        guide, guide_target = (
            logits_of(rows, columns, torch.float32, 7),
            labels_of(rows, columns, 8),
        )
        features = logits_of(rows, 700, torch.float32, 9)
        loss, *others = kernels.guided_residuals(
            logits, target, logits[0].clone(), guide, guide_target, features, rows // 3
        )
        results += [torch.tensor(loss), *others]
    g, h = vector(200_001, torch.float32, 1), vector(200_001, torch.float32, 2)
    results += [
        torch.tensor(
            kernels.project([g, g[:999].clone()], [h, h[:999]], False, 1e4, False, 0.75, 1e-3, -1.0)
        ),
        g,
    ]
    a, w, out = (
        logits_of(100, 3, torch.float32),
        logits_of(3, 500, torch.float32),
        torch.empty(100, 500),
    )
    kernels.small_matmul(a, w, out)
    return [*results, out]


def test_results_do_not_depend_on_the_number_of_threads(kernels: Kernels) -> None:
    want = everything(kernels)
    for threads in (2, 3, 8):
        for _ in range(3):
            got = everything(kernels.with_threads(threads))
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True)), (
                f"{threads} threads"
            )


def test_every_piece_of_work_is_taken_once(module: ModuleType) -> None:
    """Rows doubled in place tell how often they were taken. A piece is so short that threads meet
    at the counter all the time, on a busy machine too.
    """
    double = torch.tensor([[2.0]])
    for threads in (2, 3, 8):
        kernels = Kernels(module, module.isas()[-1], threads)
        for _ in range(20):
            rows = torch.ones(400_000, 1)
            kernels.small_matmul(rows, double, rows)
            assert (rows == 2.0).all(), f"{threads} threads"


def test_calls_from_several_python_threads_at_once(module: ModuleType) -> None:
    kernels = Kernels(module, module.isas()[-1], threads=2)
    want = everything(kernels)
    with ThreadPoolExecutor(3) as pool:
        for got in pool.map(lambda _: everything(kernels), range(6)):
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


ALONE = """
import array, importlib.util, json, sys
spec = importlib.util.spec_from_file_location("_native_cpu", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert "torch" not in sys.modules
rows, columns = 400, 97
logits = array.array("f", [((i * 7919) % 1000) / 100 for i in range(rows * columns)])
out = []
for threads in (1, 3):
    entropy, lse = array.array("f", bytes(4 * rows)), array.array("f", bytes(4 * rows))
    data, to_entropy, to_lse = (a.buffer_info()[0] for a in (logits, entropy, lse))
    module.softmax_stats(0, data, columns, rows, columns, 0, to_entropy, to_lse, 0, threads, -1)
    products = module.inner_products([0], [data], [data], [rows * columns], threads, -1)
    out.append([*entropy, *lse, *products])
assert out[0] == out[1]
json.dump(out[0], sys.stdout)
"""


def test_without_torch_in_the_process(module: ModuleType) -> None:
    """The kernels link to nothing of torch, and have threads of their own where there is no OpenMP
    runtime to share.
    """
    assert module.__file__.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES))
    done = subprocess.run(
        [sys.executable, "-c", ALONE, module.__file__], capture_output=True, text=True, check=True
    )
    logits = ((np.arange(400 * 97) * 7919) % 1000 / 100).astype(np.float32).reshape(400, 97)
    want = oracle.softmax_stats(logits)
    np.testing.assert_allclose(
        json.loads(done.stdout),
        np.concatenate([want.entropy, want.lse, [np.sum(logits.astype(float) ** 2)] * 3]),
        rtol=4 * EPS,
    )


def test_the_best_instruction_set_is_the_default(module: ModuleType) -> None:
    logits = logits_of(50, 300, torch.float32)
    best, chosen = Kernels(module, module.isas()[-1]), Kernels(module, "portable")
    chosen.run = (1, -1)
    assert torch.equal(
        best.softmax_stats(logits, labels_of(50, 300)),
        chosen.softmax_stats(logits, labels_of(50, 300)),
    )
    assert module.isas()[0] == "portable"
