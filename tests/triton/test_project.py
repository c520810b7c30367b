"""The projection in the interpreter, at the sizes where its launches change shape."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gaal_fast.kernels import _launch
from gaal_fast.kernels.project import BLOCK, CHUNK, SLOTS
from tests.ops.helpers import assert_no_worse, naive_project
from tests.reference import oracle
from tests.triton import helpers
from tests.triton.steps import project

SHAPES = {
    "weight and bias": [(70, 65), (70,)],
    "one element": [(1,)],
    "around a block": [(BLOCK - 1,), (BLOCK,), (BLOCK + 1,)],
    "around a chunk": [(CHUNK,), (CHUNK + 1,), (CHUNK - 1,), (2 * CHUNK + 3,)],
    "more than one launch": [(3,)] * (2 * SLOTS + 1),
    "empty ones between": [(0,), (5,), (2, 0), (), (7,)],
}


@pytest.mark.parametrize("dtype", [*helpers.DTYPES, pytest.param(torch.bfloat16, id="bfloat16")])
@pytest.mark.parametrize("shapes", list(SHAPES))
def test_projection(shapes: str, dtype: torch.dtype) -> None:
    normal = helpers.generator(len(shapes))
    for rule in (
        oracle.Rule(epsilon=2.0),
        oracle.Rule("official"),
        oracle.Rule(epsilon=0.9, relative=True, max_correction=0.3),
    ):
        guides = [normal(*shape, dtype=dtype) for shape in SHAPES[shapes]]
        grads = [
            (normal(*shape) - 0.3 * p.float()).to(dtype)
            for shape, p in zip(SHAPES[shapes], guides, strict=True)
        ]
        before = [g.clone() for g in grads]
        truth = oracle.project([*map(helpers.array, grads)], [*map(helpers.array, guides)], rule)
        naive, naive_scalars = naive_project(grads, guides, rule)
        scalars = project(grads, guides, **vars(rule))
        products = ((before, guides), (guides, guides), (before, before))
        sizes = [
            sum(
                float(np.abs(helpers.array(a) * helpers.array(b)).sum())
                for a, b in zip(left, right, strict=True)
            )
            for left, right in products
        ]
        v_scale = (
            abs(rule.epsilon) * (1 if not rule.relative else math.sqrt(sizes[1] * sizes[2]))
            + sizes[0]
        ) / sizes[1]
        for got, plain, want, scale in zip(
            scalars,
            naive_scalars,
            (truth.v, truth.dot, truth.guide_norm2, truth.grad_norm2),
            (v_scale, *sizes),
            strict=True,
        ):
            assert_no_worse(got, plain.float(), want, scale)
        for got, old, plain, want, guide in zip(
            grads, before, naive, truth.grads, guides, strict=True
        ):
            if truth.v == 0.0:
                assert helpers.bits(got) == helpers.bits(old)
            elif got.numel():
                assert_no_worse(
                    got,
                    plain,
                    want,
                    np.abs(helpers.array(old)) + v_scale * np.abs(helpers.array(guide)),
                )


@pytest.mark.parametrize("dtype", [*helpers.DTYPES, pytest.param(torch.bfloat16, id="bfloat16")])
def test_a_gradient_without_conflict_keeps_its_bits(dtype: torch.dtype) -> None:
    """-0 too, which adding 0 would turn into 0."""
    g = torch.tensor([1.0, -0.0, 2.0, 1e-7, -0.0], dtype=dtype)
    before = helpers.bits(g)
    v, *_ = project([g], [torch.tensor([1.0, 3.0, 0.5, -1.0, -2.0], dtype=dtype)])
    assert v == 0.0 and helpers.bits(g) == before


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("side", ["gradient", "guide"])
def test_a_broken_gradient_stays_visible(side: str, value: float) -> None:
    grads, guides = [torch.ones(2000), torch.ones(3)], [torch.ones(2000), torch.ones(3)]
    (grads if side == "gradient" else guides)[0][1500] = value
    v, *_ = project(grads, guides)
    assert v.isnan() and all(g.isnan().all() for g in grads)


def test_sums_of_huge_and_tiny_gradients() -> None:
    """Products are formed in float64: float32 would overflow, or lose a guide that is not zero."""
    for scale in (1e25, 1e-30):
        g, p = torch.tensor([-1.0, 2.0]) * scale, torch.tensor([3.0, 1.0]) * scale
        truth = oracle.project([helpers.array(g)], [helpers.array(p)], oracle.Rule())
        v, *_ = project([g], [p])
        assert v > 0 and v.item() == pytest.approx(truth.v, rel=1e-6)
        np.testing.assert_allclose(helpers.array(g) / scale, truth.grads[0] / scale, atol=1e-6)
        g = torch.tensor([-1.0, 2.0]) * scale
        truth = oracle.project(
            [helpers.array(g)], [helpers.array(p)], oracle.Rule(epsilon=0.5, relative=True)
        )
        v, *_ = project([g], [p], epsilon=0.5, relative=True)
        assert v > 0 and v.item() == pytest.approx(truth.v, rel=1e-6)


def test_nothing_to_project() -> None:
    grads = [torch.empty(0), torch.empty(3, 0)]
    assert [x.item() for x in project(grads, [torch.empty(0), torch.empty(3, 0)])] == [0.0] * 4


@pytest.mark.parametrize(
    "layout", ["both transposed", "gradient transposed", "gaps", "guide expanded"]
)
def test_projection_of_other_layouts(layout: str) -> None:
    normal = helpers.generator(5)
    g, p = normal(20, 30), normal(20, 30)
    if layout == "guide expanded":
        p = normal(20, 1).expand(20, 30)
    p = p - 0.2 * g if layout != "guide expanded" else p
    truth = oracle.project([g.double().numpy()], [p.double().numpy()], oracle.Rule(epsilon=1000.0))
    around = torch.full((40, 60), 7.0)
    if layout in ("both transposed", "gradient transposed"):
        g = g.t().contiguous().t()
    if layout == "both transposed":
        p = p.t().contiguous().t()
    if layout == "gaps":
        around[::2, ::2] = g
        g = around[::2, ::2]
    with _launch.trace() as launches:
        v, *_ = project([g], [p], epsilon=1000.0)
    assert v.item() == pytest.approx(truth.v, rel=1e-5) and len(launches) == 2
    np.testing.assert_allclose(g.numpy(), truth.grads[0], rtol=1e-5, atol=1e-5)
    if layout == "gaps":
        assert (around[1::2] == 7.0).all() and (around[:, 1::2] == 7.0).all()
