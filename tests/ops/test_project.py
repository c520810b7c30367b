"""project_ against the oracle, on every backend."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gaal_fast import ops
from gaal_fast.ops.backends import torch as torch_backend
from tests.ops import helpers
from tests.ops.helpers import Backend
from tests.reference import oracle
from tests.reference.oracle import Rule

RULES = [
    Rule(),
    Rule(epsilon=0.5),
    Rule(epsilon=-0.5),
    Rule(epsilon=0.3, relative=True),
    Rule(epsilon=-0.1, relative=True),
    Rule(epsilon=4.0, max_correction=0.5),
    Rule(epsilon=0.9, relative=True, max_correction=100.0),
    Rule(max_correction=0.0),
    Rule("official"),
    Rule("official", margin=0.0, ridge=0.0),
    Rule("official", margin=3.0, ridge=10.0),
    Rule("official", max_correction=0.25),
]


def make(
    shapes: Sequence[tuple[int, ...]],
    dtype: torch.dtype,
    device: str,
    *,
    cosine: float,
    ratio: float = 1.0,
    seed: int = 0,
) -> tuple[list[Tensor], list[Tensor]]:
    """A gradient of length about 1 an element, and a guide at this angle to it with ``ratio`` times
    its length.
    """
    rng = np.random.default_rng(seed)
    g = rng.normal(size=sum(math.prod(s) for s in shapes))
    other = rng.normal(size=g.size)
    if g.size > 1:
        other -= g * (g @ other) / (g @ g)
        other *= np.linalg.norm(g) / np.linalg.norm(other)
    p = ratio * (cosine * g + math.sqrt(1.0 - cosine**2) * other)

    def split(flat: np.ndarray) -> list[Tensor]:
        parts = np.split(flat, np.cumsum([math.prod(s) for s in shapes])[:-1])
        return [
            torch.tensor(part).reshape(shape).to(dtype).to(device)
            for part, shape in zip(parts, shapes, strict=True)
        ]

    return split(g), split(p)


def check(grads: list[Tensor], guides: list[Tensor], rule: Rule) -> ops.Projection:
    """Project in place, and compare everything with the truth and with the plain expressions."""
    g, p = [helpers.array(t) for t in grads], [helpers.array(t) for t in guides]
    truth = oracle.project(g, p, rule)
    naive_grads, naive_scalars = helpers.naive_project(grads, guides, rule)
    guide_bits = helpers.bits(guides)
    result = ops.project_(grads, guides, **helpers.options(rule))
    assert helpers.bits(guides) == guide_bits, "the guide was changed"

    dtype = torch.float64 if grads[0].dtype is torch.float64 else torch.float32
    assert all(
        scalar.dim() == 0 and scalar.dtype is dtype and scalar.device == grads[0].device
        for scalar in result
    )
    # Sums of products cancel in <g, g_p>, and v inherits that.
    dot_scale = sum(float(np.abs(a * b).sum()) for a, b in zip(g, p, strict=True))
    v_scale = (
        dot_scale
        + abs(rule.epsilon)
        * (math.sqrt(truth.grad_norm2 * truth.guide_norm2) if rule.relative else 1.0)
    ) / (truth.guide_norm2 or 1.0)
    for name, scale in (
        ("dot", dot_scale),
        ("guide_norm2", 0.0),
        ("grad_norm2", 0.0),
        ("v", v_scale),
    ):
        naive = naive_scalars[("v", "dot", "guide_norm2", "grad_norm2").index(name)]
        helpers.assert_no_worse(
            getattr(result, name), naive, np.asarray(getattr(truth, name)), scale
        )
    for grad, naive, want, before, guide in zip(grads, naive_grads, truth.grads, g, p, strict=True):
        helpers.assert_no_worse(
            grad, naive, want, np.abs(before) + (truth.v + v_scale) * np.abs(guide)
        )
    return result


SHAPES = [(17, 9), (17,)]


@pytest.mark.parametrize("dtype", helpers.DTYPES)
@pytest.mark.parametrize("cosine", [-1.0, -0.6, -0.02, 0.05, 0.7])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_every_rule(backend: Backend, rule: Rule, cosine: float, dtype: torch.dtype) -> None:
    for ratio in (1.0,) if helpers.INTERPRETED else (1.0, 0.05, 30.0):
        grads, guides = make(SHAPES, dtype, backend.device, cosine=cosine, ratio=ratio)
        backend.require("project_", *grads, *guides)
        check(grads, guides, rule)


@pytest.mark.parametrize(
    "shapes",
    [
        [()],
        [(1,)],
        [(0,), (5,)],
        [(31,), (33,)],
        [(286, 64), (286,)],
        [(1023,)],
        [(1024,)],
        [(1025,)],
        [(33_000,), (7, 11)],  # beyond one block of every backend
        [(3, 4, 5, 2), (2,), (1, 1), (6, 1)],
        [(101, 997), (997,)],
        [(2,)] * 70,  # beyond what fits into one launch's arguments
    ],
    ids=str,
)
def test_every_list_of_shapes(backend: Backend, shapes: list[tuple[int, ...]]) -> None:
    for rule in (Rule(epsilon=0.1), Rule("official")):
        grads, guides = make(shapes, torch.float32, backend.device, cosine=-0.5)
        backend.require("project_", *grads, *guides)
        check(grads, guides, rule)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "rule", [Rule(epsilon=1.0, max_correction=1.0), Rule(epsilon=0.9, relative=True)], ids=str
)
def test_a_v_beyond_float32(backend: Backend, rule: Rule, dtype: torch.dtype) -> None:
    """The guide is subnormal. v is 1e40 and its float32 infinite, but v g_p is of the size of g."""
    if dtype is torch.bfloat16 and helpers.INTERPRETED:
        pytest.skip("Triton's interpreter reads subnormal bfloat16 numbers as 0")
    grads, guides = (
        [torch.ones(2, dtype=dtype), torch.ones(3, 2, dtype=dtype)],
        [torch.zeros(2, dtype=dtype), torch.zeros(3, 2, dtype=dtype)],
    )
    guides[0][1], guides[1][2, 0] = 1e-40, 2e-40
    grads, guides = ([t.to(backend.device) for t in tensors] for tensors in (grads, guides))
    backend.require("project_", *grads, *guides)
    want = oracle.project(
        [helpers.array(g) for g in grads], [helpers.array(p) for p in guides], rule
    )
    assert want.v > torch.finfo(torch.float32).max
    result = ops.project_(grads, guides, **helpers.options(rule))
    assert result.v.item() == math.inf
    for got, truth in zip(grads, want.grads, strict=True):
        np.testing.assert_allclose(
            helpers.array(got), truth, rtol=1e-4 if dtype is torch.float32 else 0.01
        )


def test_a_subnormal_guide_by_hand(backend: Backend) -> None:
    grad, guide = (
        torch.ones(2, device=backend.device),
        torch.tensor([0.0, 1e-40], device=backend.device),
    )
    backend.require("project_", grad, guide)
    ops.project_([grad], [guide], epsilon=1.0, max_correction=1.0)
    assert grad.tolist() == pytest.approx([1.0, 1.0 + math.sqrt(2.0)], rel=1e-4)


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "long"])
@pytest.mark.parametrize("name", ["torch", "native"])
def test_v_out_of_range_in_every_layout(name: str, layout: str) -> None:
    """Far beyond float32 and far below it, for the gradients of the CPU."""
    with Backend(name, "cpu").in_force():
        for of_grad, of_guide in ((1.0, 1e-43), (1e20, 1e-40), (1e-22, 1e22), (1e-30, 1e10)):
            grad, guide = (
                helpers.random_logits(
                    *((500, 120) if layout == "long" else (7, 5)), torch.float32, seed
                )
                for seed in (1, 2)
            )
            grad, guide = grad * of_grad, guide * of_guide
            if layout == "transposed":
                grad, guide = grad.t(), guide.t()
            rule = Rule(epsilon=1.5, relative=True)
            want = oracle.project([helpers.array(grad)], [helpers.array(guide)], rule)
            ops.project_([grad], [guide], **helpers.options(rule))
            assert np.linalg.norm(helpers.array(grad) - want.grads[0]) < 1e-5 * np.linalg.norm(
                want.grads[0]
            )


@pytest.mark.parametrize(
    "rule",
    [Rule(epsilon=0.7, relative=True), Rule(epsilon=3.0), Rule("official", margin=2.0)],
    ids=str,
)
def test_the_torch_backend_takes_epsilon_and_margin_as_tensors(rule: Rule) -> None:
    """0-d, float64, as they come from a schedule on the device."""
    plain = helpers.rule_of(rule)
    as_tensors = plain._replace(
        epsilon=torch.tensor(plain.epsilon, dtype=torch.float64),
        margin=torch.tensor(plain.margin, dtype=torch.float64),
    )
    results = []
    for form in (plain, as_tensors):
        grads, guides = make(SHAPES, torch.float32, "cpu", cosine=-0.5)
        results.append(helpers.bits((torch_backend.project_(grads, guides, form), grads)))
    assert results[0] == results[1]


def test_a_million_elements(backend: Backend) -> None:
    grads, guides = make([(1000, 1000), (1000,)], torch.float32, backend.device, cosine=-1e-3)
    backend.require("project_", *grads, *guides)
    check(grads, guides, Rule())


@pytest.mark.parametrize(
    "rule",
    [Rule(), Rule(epsilon=-1e9), Rule("official"), Rule(epsilon=0.1, max_correction=0.0)],
    ids=str,
)
@pytest.mark.parametrize("dtype", helpers.DTYPES)
def test_without_conflict_not_a_bit_changes(
    backend: Backend, rule: Rule, dtype: torch.dtype
) -> None:
    grads, guides = make(SHAPES, dtype, backend.device, cosine=0.5)
    backend.require("project_", *grads, *guides)
    grads[0][0] = -0.0
    guides[0][0] = torch.tensor(
        [1.0, -1.0, 0.0, -0.0, 3.0, -3.0, 65504.0 / 4, -2.0, 2.0], dtype=dtype
    )
    before = helpers.bits(grads)
    result = ops.project_(grads, guides, **helpers.options(rule))
    assert result.v.item() == 0.0
    assert helpers.bits(grads) == before


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_no_guide_no_change(backend: Backend, rule: Rule) -> None:
    """g_p = 0 gives v = 0, whatever ε asks for."""
    grads, guides = make(SHAPES, torch.float32, backend.device, cosine=0.5)
    guides = [torch.zeros_like(guide) for guide in guides]
    before = helpers.bits(grads)
    result = ops.project_(grads, guides, **helpers.options(rule))
    assert (result.v.item(), result.dot.item(), result.guide_norm2.item()) == (
        0.0,
        0.0,
        0.0,
    ) and result.grad_norm2.item() > 0.0
    assert helpers.bits(grads) == before


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_no_gradient(backend: Backend, rule: Rule) -> None:
    grads, guides = make(SHAPES, torch.float32, backend.device, cosine=0.5)
    check([torch.zeros_like(grad) for grad in grads], guides, rule)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["grads", "guides", "both"])
def test_broken_gradients_stay_visible(
    backend: Backend, rule: Rule, broken: float, where: str
) -> None:
    """No max, clamp or comparison may turn a NaN into 0."""
    for element in (0, -1):
        grads, guides = make(SHAPES, torch.float32, backend.device, cosine=-0.5)
        for tensors in {"grads": [grads], "guides": [guides], "both": [grads, guides]}[where]:
            tensors[element].view(-1)[element] = broken
        result = ops.project_(grads, guides, **helpers.options(rule))
        assert result.v.isnan()
        assert all(grad.isnan().all() for grad in grads)


def test_a_broken_gradient_without_a_guide_stays_visible(backend: Backend) -> None:
    grads, guides = make(SHAPES, torch.float32, backend.device, cosine=0.5)
    grads[1][3] = math.nan
    result = ops.project_(grads, [torch.zeros_like(guide) for guide in guides])
    assert result.v.isnan() and grads[1][3].isnan()


@pytest.mark.parametrize("exponent", [-15, -8, 8, 15])
def test_very_small_and_very_large_gradients(backend: Backend, exponent: int) -> None:
    """Squares of 1e15 stay in range and squares of 1e-15 do not vanish."""
    grads, guides = make(SHAPES, torch.float32, backend.device, cosine=-0.5)
    for tensor in (*grads, *guides):
        tensor.mul_(10.0**exponent)
    check(grads, guides, Rule())


def test_float16_near_its_limit(backend: Backend) -> None:
    grads, guides = make([(64, 8)], torch.float16, backend.device, cosine=-0.5)
    backend.require("project_", *grads, *guides)
    grads[0].mul_(1e4)
    guides[0].mul_(1e4)
    check(grads, guides, Rule())
    grads, guides = make([(64, 8)], torch.float16, backend.device, cosine=-0.5, ratio=1e-3)
    grads[0].mul_(1e4)  # v is 5e6 here: too large for float16
    check(grads, guides, Rule())


@pytest.mark.parametrize("layout", list(helpers.LAYOUTS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("which", ["grads", "guides", "both"])
def test_layouts_and_canaries(
    backend: Backend, layout: str, dtype: torch.dtype, which: str
) -> None:
    """Strided views of larger tensors; what lies around and between their elements stays."""
    grads, guides = make([(19, 33), (1, 33)], dtype, backend.device, cosine=-0.5)
    lay = helpers.LAYOUTS[layout]
    if which in ("grads", "both"):
        grads = [lay(grad) for grad in grads]
    if which in ("guides", "both"):
        guides = [lay(guide) for guide in guides]
    backend.require("project_", *grads, *guides)
    around = [grad.untyped_storage() for grad in grads]
    owned = [
        torch.zeros(len(storage) // grad.element_size(), dtype=torch.bool)
        for storage, grad in zip(around, grads, strict=True)
    ]
    for mask, grad in zip(owned, grads, strict=True):
        mask.as_strided(grad.shape, grad.stride(), grad.storage_offset()).fill_(True)

    def canaries() -> list[bytes]:
        return [
            grad.detach()
            .as_strided((len(mask),), (1,), 0)
            .cpu()[~mask]
            .view(torch.uint8)
            .numpy()
            .tobytes()
            for mask, grad in zip(owned, grads, strict=True)
        ]

    before = canaries()
    check(grads, guides, Rule(epsilon=0.2))
    assert canaries() == before


@pytest.mark.parametrize("shape", [(300, 400), (3, 50_000), (40, 2, 30, 20)], ids=str)
def test_large_strided_gradients(backend: Backend, shape: tuple[int, ...]) -> None:
    """Beyond one block, with the dimensions in another order than in memory, and with gaps."""
    grads, guides = make([shape], torch.float32, backend.device, cosine=-0.5)
    backend.require("project_", *grads, *guides)
    reordered = grads[0].transpose(0, -1).contiguous().transpose(0, -1)
    gaps = guides[0].repeat_interleave(2, dim=-1)[..., ::2]
    check([reordered], [gaps], Rule(epsilon=0.2))


def test_canary_borders(backend: Backend) -> None:
    """Contiguous gradients inside a larger buffer, at odd offsets: not a byte beside them is
    written.
    """
    for size, offset in ((1, 1), (37, 3), (1024, 1), (1025, 7), (40_001, 5)):
        buffer = torch.full((size + 64,), -7.0, device=backend.device)
        grads, guides = make([(size,)], torch.float32, backend.device, cosine=-0.5)
        inside = buffer[offset : offset + size]
        inside.copy_(grads[0])
        backend.require("project_", inside, guides[0])
        check([inside], guides, Rule(epsilon=0.2))
        assert (buffer[:offset] == -7.0).all() and (buffer[offset + size :] == -7.0).all()


def test_mixed_dtypes_in_one_list() -> None:
    """A model may keep its norms in float32 and its weights in bfloat16. Results are float64 where
    any gradient is.
    """
    for dtypes, expected in (
        ((torch.bfloat16, torch.float32), torch.float32),
        ((torch.float32, torch.float64), torch.float64),
    ):
        grads, guides = make(SHAPES, torch.float32, "cpu", cosine=-0.5)
        grads = [grad.to(dtype) for grad, dtype in zip(grads, dtypes, strict=True)]
        guides = [guide.to(dtype) for guide, dtype in zip(guides, dtypes, strict=True)]
        truth = oracle.project(
            [helpers.array(t) for t in grads], [helpers.array(t) for t in guides], Rule()
        )
        result = ops.project_(grads, guides)
        assert result.v.dtype is expected and result.v.item() == pytest.approx(truth.v, rel=1e-6)
        for grad, want in zip(grads, truth.grads, strict=True):
            np.testing.assert_allclose(
                helpers.array(grad), want, rtol=torch.finfo(grad.dtype).eps, atol=1e-6
            )


def test_the_same_tensors_as_gradient_and_guide(backend: Backend) -> None:
    """g_p = g: never a conflict, and with ε the gradient grows along itself."""
    grads, _ = make(SHAPES, torch.float32, backend.device, cosine=0.5)
    before = [grad.clone() for grad in grads]
    assert ops.project_(grads, grads).v.item() == 0.0
    result = ops.project_(grads, grads, epsilon=2.0, relative=True)
    assert result.v.item() == pytest.approx(1.0, rel=1e-6)
    for grad, old in zip(grads, before, strict=True):
        torch.testing.assert_close(grad, 2.0 * old)


@pytest.mark.parametrize("shapes", [SHAPES, [(50_001,), (3,)]], ids=["small", "large"])
def test_reproducible(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, shapes: list[tuple[int, ...]]
) -> None:
    grads, guides = make(shapes, torch.float32, backend.device, cosine=-0.5)
    backend.require("project_", *grads, *guides)

    def call() -> tuple[list[Tensor], ops.Projection]:
        copies = [grad.clone() for grad in grads]
        return copies, ops.project_(copies, guides, epsilon=0.3, relative=True, max_correction=2.0)

    helpers.assert_reproducible(monkeypatch, call)


@given(
    seed=st.integers(0, 2**31),
    size=st.integers(2, 300),
    cosine=st.floats(-0.95, 0.95),
    epsilon=st.floats(-0.5, 0.9),
    relative=st.booleans(),
)
def test_properties_of_the_paper_rule(
    backend: Backend, seed: int, size: int, cosine: float, epsilon: float, relative: bool
) -> None:
    """The constraint holds afterwards; a second projection changes nothing; the move is along the
    guide only.
    """
    grads, guides = make(
        [(size,)],
        torch.float64 if backend.name == "torch" else torch.float32,
        backend.device,
        cosine=cosine,
        seed=seed,
    )
    before = grads[0].clone()
    result = ops.project_(grads, guides, epsilon=epsilon, relative=relative)
    eps = torch.finfo(grads[0].dtype).eps
    guide = guides[0].double()
    lengths = (result.grad_norm2.double() * result.guide_norm2.double()).sqrt()
    floor = epsilon * (lengths if relative else 1.0)
    # The result is rounded element by element, so the constraint holds up to that.
    slack = (
        64 * eps * (lengths + abs(floor))
        + 64 * eps * result.v.double() * result.guide_norm2.double()
    )
    reached = grads[0].double() @ guide
    if result.v > 0.0:
        assert (reached - floor).abs() <= slack
    else:
        assert torch.equal(grads[0], before) and before.double() @ guide >= floor - slack
    torch.testing.assert_close(
        grads[0].double(),
        before.double() + result.v.double() * guide,
        rtol=4 * eps,
        atol=float(8 * eps * lengths),
    )

    if not relative:  # with a cosine the floor moves, as ‖g‖ has changed
        again = [grads[0].clone()]
        ops.project_(again, guides, epsilon=epsilon)
        assert ((again[0] - grads[0]).double().norm() * guide.norm()) <= slack


@given(
    seed=st.integers(0, 2**31),
    size=st.integers(1, 200),
    power=st.integers(-6, 6),
    cosine=st.floats(-0.9, 0.9),
)
def test_scaling(backend: Backend, seed: int, size: int, power: int, cosine: float) -> None:
    """Bilinear in g and g_p: a power of two scales <g, g_p> exactly, and the projected gradient
    does not depend on the guide's length.
    """
    grads, guides = make([(size,)], torch.float32, backend.device, cosine=cosine, seed=seed)
    scale = 2.0**power
    scaled_guides = [scale * guide for guide in guides]
    scaled_grads = [grad.clone() for grad in grads]
    tripled = [scale * grad for grad in grads]
    plain = ops.project_(grads, guides)
    result = ops.project_(scaled_grads, scaled_guides)
    assert result.dot.item() == scale * plain.dot.item()
    assert result.guide_norm2.item() == scale**2 * plain.guide_norm2.item()
    torch.testing.assert_close(scaled_grads[0], grads[0], rtol=1e-6, atol=1e-6)
    assert ops.project_(tripled, guides).dot.item() == scale * plain.dot.item()
    torch.testing.assert_close(tripled[0], scale * grads[0], rtol=1e-6, atol=1e-6 * scale)


@given(
    seed=st.integers(0, 2**31),
    cosine=st.floats(-0.9, -0.1),
    ratio=st.sampled_from([1e-6, 1e-2, 1.0, 1e3]),
    bound=st.floats(0.01, 10.0),
)
def test_the_bound_on_the_correction(
    backend: Backend, seed: int, cosine: float, ratio: float, bound: float
) -> None:
    """‖v g_p‖ <= c ‖g‖, also where g_p is nearly 0 and the plain formula explodes."""
    for rule in ("paper", "official"):
        grads, guides = make(
            [(50,)], torch.float32, backend.device, cosine=cosine, ratio=ratio, seed=seed
        )
        result = ops.project_(
            grads, guides, rule=rule, epsilon=3.0, margin=2.0, max_correction=bound
        )
        assert (
            0.0
            < result.v.item() * result.guide_norm2.sqrt().item()
            <= bound * result.grad_norm2.sqrt().item() * (1 + 1e-6)
        )


def test_cosine(backend: Backend) -> None:
    grads, guides = make(SHAPES, torch.float32, backend.device, cosine=-0.3)
    truth = oracle.cosine(
        *(
            np.concatenate([helpers.array(t).ravel() for t in tensors])
            for tensors in (grads, guides)
        )
    )
    assert ops.project_(grads, guides).cosine.item() == pytest.approx(truth, rel=1e-5)


def test_autograd_does_not_see_the_change(backend: Backend) -> None:
    """Gradients of leaves, leaves themselves and tensors in a graph are all taken, and nothing is
    recorded.
    """
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0], device=backend.device))
    guide = torch.tensor([-1.0, 0.0], device=backend.device)
    attached = parameter * 1.0
    history, version = attached.grad_fn, attached._version
    result = ops.project_([attached], [guide])
    assert (
        attached.tolist() == [0.0, 2.0]
        and attached.grad_fn is history
        and attached._version > version
    )
    ops.project_([parameter], [guide])
    assert parameter.tolist() == [0.0, 2.0] and parameter.is_leaf and parameter.requires_grad
    parameter.grad = torch.tensor([2.0, 2.0], device=backend.device)
    ops.project_([parameter.grad], [guide.clone().requires_grad_()])
    assert parameter.grad.tolist() == [0.0, 2.0] and not parameter.grad.requires_grad
    assert not any(scalar.requires_grad for scalar in result)
    assert torch.is_grad_enabled()


def test_autograd_notices_that_a_saved_tensor_changed(backend: Backend) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True, device=backend.device)
    saved = x.exp()  # its backward uses its own result
    ops.project_([saved], [-saved.detach().clone()])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        saved.sum().backward()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda g, p: ops.project_(g[0], p[0]),
            TypeError,
            "grads must be a sequence of tensors, got one tensor",
        ),
        (
            lambda g, p: ops.project_(g, p[0]),
            TypeError,
            "guides must be a sequence of tensors, got one tensor",
        ),
        (lambda g, p: ops.project_([], []), ValueError, "grads must hold at least one tensor"),
        (
            lambda g, p: ops.project_(g, p[:1]),
            ValueError,
            "guides must hold as many tensors as grads: got 1 and 2",
        ),
        (
            lambda g, p: ops.project_(g, [p[0], p[1][:1]]),
            ValueError,
            r"guides\[1\] must have the shape of grads\[1\]: got \(1,\) and \(3,\)",
        ),
        (
            lambda g, p: ops.project_(g, [p[0], p[1].half()]),
            TypeError,
            r"guides\[1\] must have the dtype of grads\[1\]",
        ),
        (
            lambda g, p: ops.project_([g[0], g[1].int()], p),
            TypeError,
            r"grads\[1\] must be float32",
        ),
        (
            lambda g, p: ops.project_([g[0], None], p),
            TypeError,
            r"grads\[1\] must be a tensor, got NoneType",
        ),
        (
            lambda g, p: ops.project_(g, [p[0], None]),
            TypeError,
            r"guides\[1\] must be a tensor, got NoneType",
        ),
        (
            lambda g, p: ops.project_(g, [p[0], p[1].to("meta")]),
            ValueError,
            "grads and guides must be on one device: number 1",
        ),
        (
            lambda g, p: ops.project_([g[0], g[1][:1].expand(3)], p),
            ValueError,
            r"grads\[1\] is an expanded tensor",
        ),
        (
            lambda g, p: ops.project_(g, p, rule="papr"),
            ValueError,
            "rule must be 'paper' or 'official', got 'papr'",
        ),
        (lambda g, p: ops.project_(g, p, epsilon=math.nan), ValueError, "epsilon must be finite"),
        (
            lambda g, p: ops.project_(g, p, margin=-1.0),
            ValueError,
            "margin must be finite and not negative",
        ),
        (
            lambda g, p: ops.project_(g, p, ridge=-1.0),
            ValueError,
            "ridge must be finite and not negative",
        ),
        (
            lambda g, p: ops.project_(g, p, ridge=math.inf),
            ValueError,
            "ridge must be finite and not negative",
        ),
        (
            lambda g, p: ops.project_(g, p, max_correction=-0.1),
            ValueError,
            "max_correction must be finite and not negative",
        ),
        (
            lambda g, p: ops.project_(g, p, max_correction=math.nan),
            ValueError,
            "max_correction must be finite and not negative",
        ),
    ],
)
def test_bad_arguments_change_nothing(call, error: type[Exception], message: str) -> None:
    grads, guides = [torch.ones(2, 2), torch.ones(3)], [-torch.ones(2, 2), -torch.ones(3)]
    with pytest.raises(error, match=f"^{message}"):
        call(grads, guides)
    assert all((grad == 1.0).all() for grad in grads)
