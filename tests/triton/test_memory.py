"""What the kernels read and write, in the interpreter: every tensor ends at a page that may not be
touched, outputs and workspaces are poisoned, rows lie far apart, and inputs stay as they were.

compute-sanitizer cannot see an access that stays inside the caching allocator's block; here there
is no such block.
"""

from __future__ import annotations

import ctypes
import faulthandler
import math
import os
import signal
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gaal_fast.kernels import softmax_stats as row_statistics
from gaal_fast.kernels.entropy_topk import entropy_topk
from gaal_fast.kernels.guided import guided_linear_ce, plan
from gaal_fast.kernels.linear_ce_grad import linear_ce_grad
from gaal_fast.kernels.softmax_stats import softmax_stats
from tests.reference import oracle
from tests.triton import helpers
from tests.triton.steps import project

normal = helpers.generator(7)

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "rows apart": lambda x: _inside(x, x.shape[0], 3 * x.shape[1] + 7)[:, 2 : 2 + x.shape[1]],
    "every other row": lambda x: _inside(x, 2 * x.shape[0], x.shape[1], 2)[::2, 2:],
    "columns apart": lambda x: _every_other_column(x),
    "transposed": lambda x: x.t().contiguous().t(),
}


def _inside(x: Tensor, rows: int, columns: int, step: int = 1) -> Tensor:
    around = x.new_full((rows, columns + 2), math.nan)
    around[::step, 2 : 2 + x.shape[1]] = x
    return around


def _every_other_column(x: Tensor) -> Tensor:
    around = x.new_full((x.shape[0], 2 * x.shape[1]), math.nan)
    around[:, ::2] = x
    return around[:, ::2]


def calls(
    rows: int, classes: int, width: int, dtype: torch.dtype
) -> dict[str, tuple[Callable, list[Tensor | None]]]:
    """Every kernel's host function as a function of all its tensors."""
    logits, features = (
        normal(rows, classes, dtype=dtype, scale=3.0),
        normal(rows, width, dtype=dtype),
    )
    weight, guide = normal(classes, width, dtype=dtype), normal(rows + 3, width, dtype=dtype)
    target, guide_target, k = (
        helpers.labels(rows, classes, 0),
        helpers.labels(rows + 3, classes, 1),
        max(1, rows // 2),
    )
    index, class_weights = torch.arange(rows - 1, rows - 1 - k, -1), normal(classes).abs() + 0.5
    step = [
        features,
        target,
        guide,
        guide_target,
        weight,
        normal(classes, dtype=dtype),
        class_weights,
    ]
    return {
        "softmax_stats": (softmax_stats, [logits, target]),
        "entropy_topk": (lambda z: entropy_topk(z, k), [logits]),
        "linear_ce_grad": (linear_ce_grad, [features, logits, target, index, class_weights]),
        "linear_ce_grad, all rows": (linear_ce_grad, [features, logits, target, None, None]),
        "guided_linear_ce": (
            lambda *x: guided_linear_ce(*x, k, oracle.Rule(epsilon=0.5, relative=True)),
            step,
        ),
        "guided_linear_ce, no bias": (
            lambda *x: guided_linear_ce(*x[:5], None, None, k, oracle.Rule("official")),
            step[:5],
        ),
    }


def test_the_fence_and_the_canaries_hold() -> None:
    """The control of the tests below: what they would have to catch is caught."""
    inside = helpers.Arena().allocate((5,), torch.float32)
    assert inside.isnan().all()
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        ctypes.string_at(inside.data_ptr() + 5 * 4, 1)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGSEGV
    arena = helpers.Arena()
    ctypes.memset(arena.allocate((5,), torch.float32).data_ptr() - 1, 0, 1)
    with pytest.raises(AssertionError, match="in front of its tensor"):
        arena.assert_intact()


# The last one with tiles of 64 columns: rows take several, and several programs share rows.
SIZES = [(1, 1, 1, None), (3, 2, 5, None), (33, 65, 70, None), (5, 300, 17, None), (37, 300, 4, 64)]
OPS = list(calls(1, 1, 1, torch.float32))
FORMS = {"own-gram": (True, True), "blas-direct": (False, False)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("rows", "classes", "width", "tile"), SIZES)
@pytest.mark.parametrize("op", OPS)
def test_nothing_outside_is_read_or_written(
    op: str,
    rows: int,
    classes: int,
    width: int,
    tile: int | None,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between a canary and a fence, outputs and workspaces poisoned: the bits are those that
    ordinary memory gives.
    """
    if tile is not None:
        monkeypatch.setattr(row_statistics, "MAX_TILE", tile)
        assert (
            row_statistics.split_columns(rows, classes)[0]
            > 1
            < row_statistics.tile_shape(classes)[0]
        )
    function, inputs = calls(rows, classes, width, dtype)[op]
    for own, gram in FORMS.values() if op.startswith("guided") else [(True, True)]:
        monkeypatch.setattr(plan, "own_logits", lambda *_, own=own: own)
        monkeypatch.setattr(plan, "use_gram", lambda *_, gram=gram: gram)
        expected = helpers.bits(function(*inputs))
        with helpers.guarded(monkeypatch) as arena:
            moved = [arena.place(x) for x in inputs]
            results = function(*moved)
        assert helpers.bits(results) == expected
        assert helpers.bits(moved) == helpers.bits(inputs), "an input was changed"


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "contiguous"])
@pytest.mark.parametrize("op", OPS)
def test_layouts(op: str, layout: str) -> None:
    """The same bits from every layout of the matrices; what lies between the elements is NaN."""
    function, inputs = calls(20, 37, 21, torch.float32)[op]
    expected = helpers.bits(function(*inputs))
    strided = [LAYOUTS[layout](x) if x is not None and x.dim() == 2 else x for x in inputs]
    assert all(torch.equal(a, b) for a, b in zip(inputs, strided, strict=True) if a is not None)
    assert helpers.bits(function(*strided)) == expected


@pytest.mark.parametrize("op", ["softmax_stats", "entropy_topk"])
def test_rows_that_share_memory(op: str) -> None:
    """Row stride 0, as after ``expand``."""
    function, inputs = calls(20, 37, 21, torch.float32)[op]
    shared = inputs[0][:1].expand(20, 37)
    assert helpers.bits(function(shared, *inputs[1:])) == helpers.bits(
        function(shared.contiguous(), *inputs[1:])
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("count", [1, 1023, 1025, 8193])
def test_projection_writes_its_gradients_only(
    count: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    grads, guides = (
        [normal(count, dtype=dtype), normal(7, 3, dtype=dtype)],
        [normal(count, dtype=dtype), normal(7, 3, dtype=dtype)],
    )
    for epsilon, moves in ((1e4, True), (-1e4, False)):
        expected = [g.clone() for g in grads]
        scalars = helpers.bits(project(expected, guides, epsilon=epsilon))
        with helpers.guarded(monkeypatch) as arena:
            moved, left = [arena.place(x) for x in grads], [arena.place(x) for x in guides]
            assert helpers.bits(project(moved, left, epsilon=epsilon)) == scalars
        assert helpers.bits(moved) == helpers.bits(expected) and helpers.bits(left) == helpers.bits(
            guides
        )
        assert (helpers.bits(moved) != helpers.bits(grads)) == moves


def test_rows_beyond_two_gigaelements() -> None:
    """Offsets of rows are 64-bit: the third of three rows begins 2^31 + 128 elements behind the
    first, in memory that is hardly touched.

    The distance of two rows still fits 32 bits, so that it is the product that has to be wide.
    """
    apart = 2**30 + 64
    try:
        memory = torch.empty(2 * apart + 64, dtype=torch.float16)
    except RuntimeError:
        pytest.skip("no 4.3 GB of address space")
    near, target = normal(3, 33, dtype=torch.float16, scale=2.0), torch.tensor([3, 30, 2])
    far = memory.as_strided((3, 33), (apart, 1))
    far.copy_(near)
    assert helpers.bits(softmax_stats(far, target)) == helpers.bits(softmax_stats(near, target))
    assert helpers.bits(entropy_topk(far, 3)) == helpers.bits(entropy_topk(near, 3))
    features = normal(3, 33, dtype=torch.float16)
    for index in (None, torch.tensor([2, 0])):
        expected = helpers.bits(linear_ce_grad(features, near, target, index))
        assert helpers.bits(linear_ce_grad(features, far, target, index)) == expected
        assert helpers.bits(linear_ce_grad(far, features, target, index)) == helpers.bits(
            linear_ce_grad(near, features, target, index)
        )


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("argument", ["features", "guide_features", "weight"])
def test_guided_rows_beyond_two_gigaelements(
    argument: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, gram = FORMS[form]
    monkeypatch.setattr(plan, "own_logits", lambda *_: own)
    monkeypatch.setattr(plan, "use_gram", lambda *_: gram)
    apart = 2**30 + 64
    try:
        memory = torch.empty(2 * apart + 64, dtype=torch.float16)
    except RuntimeError:
        pytest.skip("no 4.3 GB of address space")
    inputs = {
        name: normal(3, 33, dtype=torch.float16)
        for name in ("features", "guide_features", "weight")
    }
    others = {
        "target": torch.tensor([2, 1, 0]),
        "guide_target": torch.tensor([0, 2, 2]),
        "bias": None,
        "class_weights": None,
        "top_k": 2,
        "rule": oracle.Rule(epsilon=1.0),
    }
    expected = helpers.bits(guided_linear_ce(**inputs, **others))
    inputs[argument] = memory.as_strided((3, 33), (apart, 1)).copy_(inputs[argument])
    assert helpers.bits(guided_linear_ce(**inputs, **others)) == expected
