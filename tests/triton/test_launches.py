"""Whole kernels in the interpreter, at the sizes where their launches change shape: against the
oracle, in any order of the programs, and counted.

``tests/ops`` runs the suite of the public operations over the same kernels; here are the forms that
its sizes would not reach.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gaal_fast.kernels import _common, softmax_stats
from gaal_fast.kernels import guided_linear_ce as guided
from gaal_fast.kernels.entropy_topk import entropy_topk
from gaal_fast.kernels.linear_ce_grad import linear_ce_grad
from gaal_fast.kernels.project import BLOCK, CHUNK, SLOTS, project_
from torch import Tensor

from tests.ops.helpers import assert_no_worse, naive_head_gradient, naive_project, naive_stats
from tests.reference import oracle
from tests.triton import helpers

DTYPES = [pytest.param(torch.float32, id="float32"), pytest.param(torch.float16, id="float16")]


def assert_stats(logits: Tensor, target: Tensor | None) -> None:
    entropy, lse, nll = softmax_stats.softmax_stats(logits, target)
    truth, naive = oracle.softmax_stats(helpers.array(logits), target), naive_stats(logits, target)
    assert_no_worse(entropy, naive[0], truth.entropy, 1.0)
    assert_no_worse(lse, naive[1], truth.lse, 1.0)
    if target is not None:
        assert_no_worse(nll, naive[2], truth.nll, 1.0)


@pytest.mark.parametrize("dtype", [*DTYPES, pytest.param(torch.bfloat16, id="bfloat16")])
@pytest.mark.parametrize(("rows", "classes"), [(129, 2), (3, 4096), (2, 4097), (2, 10007)])
def test_tiles_of_a_row(rows: int, classes: int, dtype: torch.dtype) -> None:
    logits = helpers.generator(classes)(rows, classes, dtype=dtype, scale=4.0)
    assert_stats(logits, helpers.labels(rows, classes, 0))


@pytest.mark.parametrize(
    "kind",
    [
        "rising",
        "falling",
        "-inf first",
        "-inf last",
        "one logit",
        "+inf last",
        "NaN last",
        "NaN first",
        "far",
    ],
)
def test_the_maximum_moves_between_tiles(kind: str) -> None:
    """Two rows of 4096 + 904 columns, so that what is special stands in the first tile or in the
    second.
    """
    logits = helpers.generator(1)(2, 5000)
    if kind == "rising":
        logits += torch.linspace(0, 200, 5000)
    elif kind == "falling":
        logits -= torch.linspace(0, 200, 5000)
    elif kind == "-inf first":
        logits[:, :4500] = -math.inf
    elif kind == "-inf last":
        logits[:, 300:] = -math.inf
    elif kind == "one logit":
        logits[:] = -math.inf
        logits[0, 4999], logits[1, 0] = 3.0, 3.0
    elif kind == "far":
        logits[0, :4096], logits[0, 4096:], logits[1, :4096], logits[1, 4096:] = (
            -3e38,
            3e38,
            3e38,
            -3e38,
        )
    else:
        value, _, where = kind.partition(" ")
        logits[0, 4999 if where == "last" else 0] = float(value)
    assert_stats(logits, torch.tensor([4999, 0]))


def test_several_programs_share_a_row() -> None:
    """Merged by the last program to arrive; with -inf, NaN and the maximum in parts of their own,
    and a selection of the rows.
    """
    classes = 4 * 4096 + 5
    splits, width = softmax_stats.split_columns(5, classes)
    assert splits == 2 and width == 3 * 4096
    logits = helpers.generator(2)(5, classes, scale=3.0)
    logits[1, :width], logits[2, width:] = -math.inf, -math.inf
    logits[3, -1] = math.nan
    logits[4, width] = 90.0
    assert_stats(logits, torch.tensor([0, width, 5, 7, classes - 1]))
    entropy, index = entropy_topk(logits, 5)
    truth = oracle.softmax_stats(helpers.array(logits)).entropy
    assert index.tolist() == oracle.topk(truth, 5).tolist()
    assert helpers.bits(entropy) == helpers.bits(softmax_stats.softmax_stats(logits)[0][index])

    chosen, target = torch.tensor([4, 0]), torch.tensor([0, 1, 2, 3, width])
    maximum, scale, residual = (torch.full((5,), -1.0) for _ in range(3))
    softmax_stats.launch_stats(
        logits, target=target, index=chosen, row_max=maximum, row_scale=scale, row_residual=residual
    )
    assert (
        maximum.tolist() == [logits[0].max(), -1.0, -1.0, -1.0, 90.0]
        and scale[1:4].tolist() == [-1.0] * 3
    )
    probability = torch.softmax(logits[chosen].double(), 1).max(1).values
    np.testing.assert_allclose(scale[chosen].double(), probability, rtol=1e-6)
    expected = helpers.exact_residual(logits[chosen], target[chosen])[[0, 1], target[chosen]]
    np.testing.assert_allclose(residual[chosen].double(), expected, rtol=1e-5)
    assert residual[1:4].tolist() == [-1.0] * 3


def test_programs_of_many_rows_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lanes without a row leave the other rows' partial statistics alone."""
    monkeypatch.setattr(softmax_stats, "MAX_TILE", 64)
    rows, _, _ = softmax_stats.tile_shape(300)
    assert rows > 1 and 37 % rows and softmax_stats.split_columns(37, 300)[0] > 1
    assert_stats(helpers.generator(3)(37, 300, scale=3.0), torch.arange(37))


def test_shapes_of_work() -> None:
    """One row per thread at Y = 2, about one warp per row at 286 and 717, and no split that leaves
    a program without columns.
    """
    assert softmax_stats.tile_shape(2) == (128, 2, 4)
    for classes in (286, 717):
        rows, _, warps = softmax_stats.tile_shape(classes)
        assert rows == warps
    for classes in (
        1,
        2,
        31,
        33,
        128,
        129,
        257,
        1025,
        4096,
        4097,
        16384,
        16385,
        100_000,
        1_000_003,
    ):
        rows, columns, _ = softmax_stats.tile_shape(classes)
        assert rows * columns <= 4096 and columns >= min(classes, 4096)
        for batch in (0, 1, 7, 64, 133, 4096):
            splits, width = softmax_stats.split_columns(batch, classes)
            assert (splits - 1) * width < classes <= splits * width and width % columns == 0
            assert splits == 1 or (
                -(-batch // rows) * splits <= _common.TARGET_PROGRAMS and width >= 2 * columns
            )
    assert softmax_stats.split_columns(8, 100_000)[0] > 8


HEADS = [(1, 1, 1, 1), (17, 64, 64, 17), (33, 65, 63, 20), (40, 130, 129, 1), (5, 3, 0, 2)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("rows", "classes", "width", "k"), HEADS)
def test_head_gradient(
    rows: int, classes: int, width: int, k: int, weighted: bool, dtype: torch.dtype
) -> None:
    """Around the edges of the tiles; a row that is chosen twice counts twice, one that is not
    chosen may hold anything.
    """
    normal = helpers.generator(rows)
    features, logits = (
        normal(rows, width, dtype=dtype),
        normal(rows, classes, dtype=dtype, scale=3.0),
    )
    target = helpers.labels(rows, classes, 0)
    index = torch.randperm(rows, generator=torch.Generator().manual_seed(0))[:k]
    if k > 1:
        index[-1] = index[0]
    class_weights = normal(classes).abs() + 0.1 if weighted else None
    others = torch.ones(rows, dtype=torch.bool).index_fill(0, index, False)
    features[others], logits[others] = math.nan, math.nan
    weight, bias = linear_ce_grad(features, logits, target, index, class_weights)
    plain_weights = None if class_weights is None else class_weights.numpy()
    truth = oracle.linear_ce_grad(
        helpers.array(features), helpers.array(logits), target.numpy(), index.numpy(), plain_weights
    )
    naive = naive_head_gradient(features, logits, target, index, class_weights)
    assert_no_worse(weight, naive[0], truth.weight, truth.weight_scale)
    assert_no_worse(bias, naive[1], truth.bias, truth.bias_scale)


@pytest.mark.parametrize("bad", ["label below", "label above", "row below", "row above"])
def test_what_nobody_checks_on_a_gpu_becomes_nan(bad: str) -> None:
    """And reads nothing out of bounds. Labels of rows that are not chosen do not matter."""
    normal = helpers.generator(0)
    features, logits, target, index = (
        normal(6, 4),
        normal(6, 3),
        torch.tensor([0, 1, 2, 0, 7, 1]),
        torch.tensor([0, 2]),
    )
    for class_weights in (None, normal(3).abs()):
        assert all(
            x.isfinite().all()
            for x in linear_ce_grad(features, logits, target, index, class_weights)
        )
    far = -(10**12) if "below" in bad else 10**12  # where nothing can be read
    near = -1 if "below" in bad else 3 if "label" in bad else 6
    for value in (far, near):
        (target if bad.startswith("label") else index)[1 if bad.startswith("row") else 2] = value
        for class_weights in (None, normal(3).abs()):
            assert all(
                x.isnan().all()
                for x in linear_ce_grad(features, logits, target, index, class_weights)
            )
        if bad.startswith("label"):
            nll = softmax_stats.softmax_stats(logits, target)[2]
            assert nll.isnan().tolist() == [False, False, True, False, True, False]
            step = run_guided(make_guided(6, 6, 3, 4, 2) | {"target": target})
            assert all(
                x.isnan().all() for x in (step["loss"], step["grad_features"], step["grad_weight"])
            )
            step = run_guided(make_guided(6, 6, 3, 4, 6) | {"guide_target": target})
            assert step["loss"].isfinite() and step["grad_features"].isfinite().all()
            assert step["v"].isnan() and step["grad_weight"].isnan().all()


SHAPES = {
    "weight and bias": [(70, 65), (70,)],
    "one element": [(1,)],
    "around a block": [(BLOCK - 1,), (BLOCK,), (BLOCK + 1,)],
    "around a chunk": [(CHUNK,), (CHUNK + 1,), (CHUNK - 1,), (2 * CHUNK + 3,)],
    "more than one launch": [(3,)] * (2 * SLOTS + 1),
    "empty ones between": [(0,), (5,), (2, 0), (), (7,)],
}


@pytest.mark.parametrize("dtype", [*DTYPES, pytest.param(torch.bfloat16, id="bfloat16")])
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
        scalars = project_(grads, guides, **vars(rule))
        sizes = [sum(float(np.abs(helpers.array(a) * helpers.array(b)).sum()) for a, b in pairs) for pairs in
                 (zip(before, guides, strict=True), zip(guides, guides, strict=True), zip(before, before, strict=True))]  # fmt: skip
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


@pytest.mark.parametrize("dtype", [*DTYPES, pytest.param(torch.bfloat16, id="bfloat16")])
def test_a_gradient_without_conflict_keeps_its_bits(dtype: torch.dtype) -> None:
    """-0 too, which adding 0 would turn into 0."""
    g = torch.tensor([1.0, -0.0, 2.0, 1e-7, -0.0], dtype=dtype)
    before = helpers.bits(g)
    v, *_ = project_([g], [torch.tensor([1.0, 3.0, 0.5, -1.0, -2.0], dtype=dtype)])
    assert v == 0.0 and helpers.bits(g) == before


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("side", ["gradient", "guide"])
def test_a_broken_gradient_stays_visible(side: str, value: float) -> None:
    grads, guides = [torch.ones(2000), torch.ones(3)], [torch.ones(2000), torch.ones(3)]
    (grads if side == "gradient" else guides)[0][1500] = value
    v, *_ = project_(grads, guides)
    assert v.isnan() and all(g.isnan().all() for g in grads)


def test_sums_of_huge_and_tiny_gradients() -> None:
    """Products are formed in float64: float32 would overflow, or lose a guide that is not zero."""
    for scale in (1e25, 1e-30):
        g, p = torch.tensor([-1.0, 2.0]) * scale, torch.tensor([3.0, 1.0]) * scale
        truth = oracle.project([helpers.array(g)], [helpers.array(p)], oracle.Rule())
        v, *_ = project_([g], [p])
        assert v > 0 and v.item() == pytest.approx(truth.v, rel=1e-6)
        np.testing.assert_allclose(helpers.array(g) / scale, truth.grads[0] / scale, atol=1e-6)
        g = torch.tensor([-1.0, 2.0]) * scale
        truth = oracle.project(
            [helpers.array(g)], [helpers.array(p)], oracle.Rule(epsilon=0.5, relative=True)
        )
        v, *_ = project_([g], [p], epsilon=0.5, relative=True)
        assert v > 0 and v.item() == pytest.approx(truth.v, rel=1e-6)


def test_nothing_to_project() -> None:
    grads = [torch.empty(0), torch.empty(3, 0)]
    assert [x.item() for x in project_(grads, [torch.empty(0), torch.empty(3, 0)])] == [0.0] * 4


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
    with _common.trace() as launches:
        v, *_ = project_([g], [p], epsilon=1000.0)
    assert v.item() == pytest.approx(truth.v, rel=1e-5) and len(launches) == 2
    np.testing.assert_allclose(g.numpy(), truth.grads[0], rtol=1e-5, atol=1e-5)
    if layout == "gaps":
        assert (around[1::2] == 7.0).all() and (around[:, 1::2] == 7.0).all()


def make_guided(
    rows: int,
    guides: int,
    classes: int,
    width: int,
    k: int,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> dict:
    normal = helpers.generator(seed)
    return {
        "features": normal(rows, width, dtype=dtype),
        "target": helpers.labels(rows, classes, seed),
        "guide_features": normal(guides, width, dtype=dtype),
        "guide_target": helpers.labels(guides, classes, seed + 1),
        "weight": normal(classes, width, dtype=dtype, scale=1.0 / math.sqrt(max(width, 1))),
        "bias": normal(classes, dtype=dtype, scale=0.3),
        "class_weights": None,
        "top_k": k,
        "epsilon": 0.2,
        "relative": True,
    }


NAMES = (
    "loss",
    "grad_features",
    "grad_weight",
    "grad_bias",
    "v",
    "dot",
    "guide_norm2",
    "grad_norm2",
    "index",
)


def run_guided(arguments: dict) -> dict[str, Tensor]:
    return dict(zip(NAMES, guided.guided_linear_ce(**arguments), strict=True))


@pytest.fixture(params=["own-gram", "own-direct", "blas-gram", "blas-direct"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each form of launches 1 and 2, whatever the sizes would choose."""
    own, gram = request.param.split("-")
    monkeypatch.setattr(guided, "own_logits", lambda *_: own == "own")
    monkeypatch.setattr(
        guided, "use_gram", lambda n_active, k, *_: gram == "gram" and n_active > 0 and k > 0
    )
    return request.param


def assert_guided(arguments: dict) -> dict[str, Tensor]:
    """Against float64; errors relative to the sizes of the parts, with the error of PyTorch's own
    float32 or float16 allowed for.
    """
    step = run_guided(arguments)
    features, weight = arguments["features"], arguments["weight"]
    eps = torch.finfo(features.dtype).eps
    plain = {
        name: helpers.array(x) if isinstance(x, Tensor) and x.is_floating_point() else x
        for name, x in arguments.items()
    }
    rule = oracle.Rule(**{key: plain[key] for key in vars(oracle.Rule()) if key in plain})
    truth = oracle.guided_linear_ce(
        plain["features"], arguments["target"].numpy(), plain["guide_features"], arguments["guide_target"].numpy(), plain["weight"],
        plain["bias"], plain["top_k"], rule, plain["class_weights"], step["index"].numpy(),
    )  # fmt: skip
    assert sorted(step["index"].tolist()) == sorted(
        oracle.topk(truth.guide_entropy, plain["top_k"]).tolist()
    )
    # A logit is off by its rounding, and so is log p; every part of a gradient is then off by that
    # relative amount.
    off = (
        16
        * eps
        * (
            1
            + np.abs(plain["features"]).sum(1).max(initial=0.0)
            * np.abs(weight.double().numpy()).max(initial=0.0)
        )
    )
    tiny = torch.finfo(features.dtype).smallest_normal

    def near(name: str, want: np.ndarray | float, scale: np.ndarray | float) -> None:
        got, scale = helpers.array(step[name]), scale + np.abs(want)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        assert (np.nan_to_num(np.abs(got - want)) <= np.nan_to_num(off * scale) + tiny).all(), (
            name,
            np.abs(got - want).max(),
            off,
        )

    dot_scale = (truth.plain.weight_scale * truth.guide.weight_scale).sum() + (
        truth.plain.bias_scale * truth.guide.bias_scale
    ).sum()
    guide_scale = (truth.guide.weight_scale**2).sum() + (truth.guide.bias_scale**2).sum()
    grad_scale = (truth.plain.weight_scale**2).sum() + (truth.plain.bias_scale**2).sum()
    near("loss", truth.loss, 1 + abs(truth.loss))
    near("grad_features", truth.grad_features, truth.feature_scale)
    near("dot", truth.dot, dot_scale)
    near("guide_norm2", truth.guide_norm2, guide_scale)
    near("grad_norm2", truth.grad_norm2, grad_scale)
    v_scale = 0.0
    if truth.guide_norm2:
        v_scale = (
            (dot_scale + rule.epsilon * math.sqrt(guide_scale * grad_scale))
            / truth.guide_norm2
            * guide_scale
            / truth.guide_norm2
        )
    near("v", truth.v, v_scale)
    allowed = np.abs(truth.plain.weight_scale) + (truth.v + v_scale) * truth.guide.weight_scale
    near("grad_weight", truth.grad_weight, allowed)
    if arguments["bias"] is not None:
        near(
            "grad_bias",
            truth.grad_bias,
            truth.plain.bias_scale + (truth.v + v_scale) * truth.guide.bias_scale,
        )
    return step


GUIDED = [
    (1, 1, 1, 1, 1),
    (5, 7, 2, 3, 3),
    (33, 31, 65, 20, 16),
    (31, 34, 63, 65, 33),
    (64, 65, 64, 7, 32),
    (3, 130, 130, 4, 1),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "guides", "classes", "width", "k"), GUIDED)
def test_guided_step(
    form: str, rows: int, guides: int, classes: int, width: int, k: int, dtype: torch.dtype
) -> None:
    arguments = make_guided(rows, guides, classes, width, k, dtype, seed=rows)
    assert_guided(arguments)
    if rows == 33:
        assert_guided(arguments | {"bias": None, "rule": "official"})
        assert_guided(
            arguments
            | {"class_weights": helpers.generator(9)(classes).abs() + 0.1, "max_correction": 0.2}
        )


def test_guided_step_of_nothing(form: str) -> None:
    """No rows, no guide, nothing selected, no features."""
    for sizes in [
        (0, 5, 3, 4, 2),
        (4, 0, 3, 4, 0),
        (4, 5, 3, 4, 0),
        (0, 0, 3, 4, 0),
        (4, 5, 3, 0, 2),
    ]:
        step = assert_guided(make_guided(*sizes) | {"relative": False})
        assert step["loss"].isnan().item() == (sizes[0] == 0)


def test_without_a_guide_nothing_looks_at_the_gradient(form: str) -> None:
    """0 * NaN is not 0: with nothing selected v is 0 even where g is broken."""
    arguments = make_guided(4, 5, 3, 4, 0)
    arguments["features"][2, 1] = math.nan
    step = run_guided(arguments)
    assert (
        step["v"] == step["dot"] == step["guide_norm2"] == 0.0 and step["grad_weight"].isnan().any()
    )


def test_satisfied_constraint_leaves_the_plain_gradient(form: str) -> None:
    """v = 0: bit for bit what the same launches give without a guide's correction."""
    for dtype in (torch.float32, torch.float16):
        arguments = make_guided(20, 20, 9, 6, 10, dtype=dtype) | {
            "epsilon": -1e6,
            "relative": False,
        }
        step = run_guided(arguments)
        assert step["v"] == 0.0
        alone = run_guided(arguments | {"top_k": 0})
        assert helpers.bits([step["grad_weight"], step["grad_bias"]]) == helpers.bits(
            [alone["grad_weight"], alone["grad_bias"]]
        )
        features, weight = arguments["features"].double(), arguments["weight"].double()
        probability = torch.softmax(features @ weight.t() + arguments["bias"].double(), 1)
        residual = (probability - torch.nn.functional.one_hot(arguments["target"], 9)) / 20
        plain = (residual.t() @ features).to(dtype)
        torch.testing.assert_close(
            step["grad_weight"], plain, rtol=1e-2, atol=1e-3 if dtype is torch.float16 else 1e-6
        )


def test_guide_of_zeros(form: str) -> None:
    """Rows that are certain of their label: |g_p| is 0, or the rounding error of it, and never
    negative.
    """
    arguments = make_guided(20, 6, 4, 5, 3)
    arguments["weight"] *= 0
    arguments["bias"] = torch.tensor([200.0, 0.0, 0.0, 0.0])
    arguments["guide_target"] *= 0
    step = run_guided(arguments)
    assert step["guide_norm2"] == 0.0 and step["v"] == 0.0 and step["grad_weight"].isfinite().all()


@pytest.mark.parametrize("seed", range(2))
def test_any_order_of_the_programs(form: str, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Whoever arrives last adds the same partial sums in the same order: the bits do not change."""
    arguments = make_guided(70, 40, 66, 70, 20, seed=seed)
    logits = helpers.generator(seed)(300, 20)
    # <g, g_p> = 2^60 + 1 - 2^60 over three programs: 0 or 1, depending on the order of the sum.
    grads, guides = (
        [torch.zeros(3 * CHUNK), torch.ones(40)],
        [torch.ones(3 * CHUNK), torch.zeros(40)],
    )
    grads[0][0], guides[0][0], grads[0][CHUNK], grads[0][2 * CHUNK], guides[0][2 * CHUNK] = (
        2.0**30,
        2.0**30,
        1.0,
        -(2.0**30),
        2.0**30,
    )

    def everything() -> list[bytes]:
        moved = [g.clone() for g in grads]
        scalars = project_(moved, guides)
        return helpers.bits(
            [run_guided(arguments).values(), entropy_topk(logits, 50), moved, scalars]
        )

    expected = everything()
    with helpers.shuffled_programs(monkeypatch, seed):
        assert everything() == expected


def test_program_order_is_really_shuffled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: a kernel that writes its arrival shows another order."""
    import triton
    import triton.language as tl

    @triton.jit
    def arrival(out_ptr, count_ptr):
        tl.store(out_ptr + tl.program_id(0), tl.atomic_add(count_ptr, 1))

    out, count = torch.zeros(30, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    with helpers.shuffled_programs(monkeypatch, 0):
        arrival[(30,)](out, count)
    assert sorted(out.tolist()) == list(range(30)) != out.tolist()


def test_launches_and_tickets(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many launches every operation makes; and each leaves the counter at zero, or the next
    call would hang on to it.
    """
    tickets: list[Tensor] = []
    real = torch.zeros

    def zeros(*size: int, **options: object) -> Tensor:
        tickets.append(real(*size, **options))
        return tickets[-1]

    monkeypatch.setattr(_common.torch, "zeros", zeros)
    normal = helpers.generator(0)
    logits, features, target = normal(200, 7), normal(200, 5), helpers.labels(200, 7, 0)
    arguments = make_guided(70, 70, 66, 5, 30)
    calls = {
        "softmax_stats": (lambda: softmax_stats.softmax_stats(logits, target), 1),
        "split rows": (lambda: softmax_stats.softmax_stats(normal(2, 16385)), 1),
        "entropy_topk": (lambda: entropy_topk(logits, 9), 1),
        "linear_ce_grad": (lambda: linear_ce_grad(features, logits, target), 2),
        "project_": (
            lambda: project_(
                [normal(70, 65), normal(70)], [normal(70, 65), normal(70)], epsilon=1e6
            ),
            2,
        ),
        "project_ of nine": (lambda: project_([normal(3)] * 9, [normal(3)] * 9), 6),
        "guided_linear_ce": (lambda: run_guided(arguments), 3),
    }
    for name, (call, count) in calls.items():
        with _common.trace() as launches:
            call()
        assert len(launches) == count, name
    assert tickets and all(ticket.item() == 0 for ticket in tickets if ticket.dtype is torch.int32)


def test_choice_of_the_form() -> None:
    """The formulas of the docstrings, at shapes where both sides are plain to see."""
    assert (
        guided.own_logits(256, 256, 1024)
        and not guided.own_logits(257, 1, 2)
        and not guided.own_logits(1, 257, 2)
    )
    assert not guided.own_logits(1, 1, 1025)
    for dtype, precision, balance in (
        (torch.float32, "ieee", 3.5),
        (torch.float32, "tf32", 25.0),
        (torch.bfloat16, "ieee", 50.0),
    ):
        # With Y = d the rule reads (B + k)^2 < 16 * balance * Y.
        edge = math.isqrt(int(16 * balance * 1000 - 1))
        assert guided.use_gram(edge - 10, 10, 1000, 1000, dtype, precision)
        assert not guided.use_gram(edge - 8, 10, 1000, 1000, dtype, precision)
    assert not guided.use_gram(0, 5, 100, 100, torch.float32, "ieee") and not guided.use_gram(
        5, 0, 100, 100, torch.float32, "ieee"
    )


def test_precision_follows_pytorch() -> None:
    assert _common.dot_precision(torch.float32) == "ieee"
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        assert (
            _common.dot_precision(torch.float32) == "tf32"
            and _common.dot_precision(torch.float16) == "ieee"
        )
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
