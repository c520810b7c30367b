"""Confident rows and tiny guides: what is small beside 1 keeps its digits, and no product of small
numbers is lost.

The truth is float64 arithmetic without cancellation on the very numbers that the kernels get:
logits are made so that they are exact in every dtype, by a head whose weight is the identity.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from gaal_fast.ops.backends.native import cuda as glue
from tests.native_cuda.test_paths import PATHS, arguments
from tests.ops import helpers
from tests.ops import test_guided_linear_ce as guided
from tests.ops.helpers import Backend
from tests.reference.oracle import Rule

GAPS = [0, 5, 12, 15, 17, 20, 40, 60, 80]
HALF = [torch.float16, torch.bfloat16]
TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def confident(rows: int, classes: int, gap: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows whose largest logit is 0, at a random place, and the others ``gap`` to ``gap + 3.5``
    lower; and where the largest ones are.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = -gap - torch.randint(0, 8, (rows, classes), generator=generator) / 2
    largest = torch.randint(0, classes, (rows,), generator=generator)
    logits[torch.arange(rows), largest] = 0.0
    return logits, largest


def statistics(logits: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entropy, lse and nll."""
    rows = np.arange(len(logits))
    top = logits.argmax(1)
    shifted = logits - logits[rows, top][:, None]
    others = np.exp(shifted)
    others[rows, top] = 0.0
    rest = others.sum(1)
    log_sum = np.log1p(rest)
    entropy = log_sum - (others * shifted).sum(1) / (1.0 + rest)
    return entropy, logits[rows, top] + log_sum, log_sum - shifted[rows, target]


def residuals(
    logits: np.ndarray, target: np.ndarray, class_weights: np.ndarray | None
) -> np.ndarray:
    """w_i (p - onehot) / sum of w, with minus the sum of the others at the target."""
    rows = np.arange(len(logits))
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    residual = shifted / shifted.sum(1, keepdims=True)
    residual[rows, target] = 0.0
    residual[rows, target] = -residual.sum(1)
    weights = np.ones(len(logits)) if class_weights is None else class_weights[target]
    return residual * (weights / weights.sum())[:, None]


def assert_near(got: Tensor, want: np.ndarray, scale: np.ndarray) -> None:
    """Near as a whole, and near element by element in units of the parts that were summed."""
    tolerance, result = TOLERANCE[got.dtype], helpers.array(got)
    # Below the normal numbers of a dtype precision is absolute.
    floor = torch.finfo(got.dtype).smallest_normal
    assert np.linalg.norm(result - want) <= tolerance * (
        np.linalg.norm(want) + math.sqrt(want.size) * floor
    )
    assert (np.abs(result - want) <= tolerance * (scale + floor)).all()


# Widths of one lane, of several, of a warp, of a block, and of several blocks.
@pytest.mark.parametrize("classes", [2, 7, 33, 717, 1500, 17003])
@pytest.mark.parametrize("shift", [0.0, 2.0**20, -1000.0])
@pytest.mark.parametrize("gap", GAPS)
def test_statistics(place: Backend, gap: int, shift: float, classes: int) -> None:
    logits, largest = confident(3, classes, gap, seed=classes)
    logits += shift
    other = (largest + 1) % classes
    for target in (largest, other):
        results = glue.softmax_stats(logits.to(place.device), target.to(place.device))
        for result, want in zip(
            results, statistics(helpers.array(logits), target.numpy()), strict=True
        ):
            np.testing.assert_allclose(helpers.array(result), want, rtol=1e-5)
    entropy, index = glue.entropy_topk(logits.to(place.device), 3)
    want = statistics(helpers.array(logits), largest.numpy())[0]
    np.testing.assert_allclose(helpers.array(entropy), want[index.cpu().numpy()], rtol=1e-5)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("gap", GAPS)
def test_statistics_of_half_precision(place: Backend, gap: int, dtype: torch.dtype) -> None:
    """Every logit is exact in these dtypes (the lowest from half a step on), and the arithmetic is
    that of float32.
    """
    logits, largest = confident(5, 700, gap)
    logits = logits.to(dtype)
    results = glue.softmax_stats(logits.to(place.device), largest.to(place.device))
    for result, want in zip(
        results, statistics(helpers.array(logits), largest.numpy()), strict=True
    ):
        np.testing.assert_allclose(helpers.array(result), want, rtol=1e-5)


@pytest.mark.parametrize("classes", [5, 64, 1500, 17003])
@pytest.mark.parametrize("ties", [2, 3, 5])
def test_ties_of_the_largest(place: Backend, classes: int, ties: int) -> None:
    """All but one copy of the largest count, side by side or far apart: over lanes, turns of a
    loop, and blocks.
    """
    for places in (
        range(ties),
        range(classes - ties, classes),
        [i * (classes - 1) // (ties - 1) for i in range(ties)],
    ):
        logits = torch.full((2, classes), -50.0)
        logits[0, list(places)] = 3.0
        logits[1, list(places)] = -7.0
        target = torch.full((2,), max(places))
        entropy, lse, nll = (
            helpers.array(result)
            for result in glue.softmax_stats(logits.to(place.device), target.to(place.device))
        )
        np.testing.assert_allclose(entropy, math.log(ties), rtol=1e-6)
        np.testing.assert_allclose(lse, [3.0 + math.log(ties), -7.0 + math.log(ties)], rtol=1e-6)
        np.testing.assert_allclose(nll, math.log(ties), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("classes", [7, 21, 285, 717, 10007])
def test_equal_rows_have_equal_bits_in_every_layout(
    place: Backend, classes: int, dtype: torch.dtype
) -> None:
    """At another position, of an odd width, at every offset from an aligned address, between other
    rows, and with other strides.
    """
    row = helpers.random_logits(1, classes, dtype, seed=classes)
    matrix = row.expand(9, classes).contiguous().to(place.device)
    target = torch.full((9,), classes // 2, device=place.device)
    features = helpers.random_logits(9, 5, dtype, seed=1, device=place.device)
    layouts = [matrix]
    for offset in range(8):
        memory = torch.full((9 * classes + 8,), torch.nan, dtype=dtype, device=place.device)
        layouts.append(memory[offset : offset + 9 * classes].view(9, classes).copy_(matrix))
        wide = torch.full((9, classes + 9), torch.nan, dtype=dtype, device=place.device)
        layouts.append(wide[:, offset : offset + classes].copy_(matrix))
    layouts += [layout(matrix) for layout in helpers.LAYOUTS.values()]
    statistics_seen, gradients_seen = set(), set()
    for logits in layouts:
        entropy, lse, nll = glue.softmax_stats(logits, target)
        top, index = glue.entropy_topk(logits, 9)
        statistics_seen |= {
            tuple(helpers.bits(list(values))) for values in zip(entropy, lse, nll, strict=True)
        }
        assert index.tolist() == list(range(9)) and helpers.bits(top) == helpers.bits(entropy)
        gradients_seen.add(
            tuple(helpers.bits(glue.linear_ce_grad(features, logits, target, None, None)))
        )
    assert len(statistics_seen) == 1 and len(gradients_seen) == 1


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize(
    "path", ["cooperative", "launches"]
)  # a composed step has the logits of the library's product
def test_equal_guide_rows_are_taken_in_their_order(
    place: Backend, path: str, dtype: torch.dtype
) -> None:
    """In any tile, from any address: an entropy that differs in its last bit would select by where
    a row lies.
    """
    case = guided.make(5, 130, 21, 33, 100, dtype, place.device, Rule(epsilon=0.2, relative=True))
    row = case.guide_features[:1].clone()
    seen = set()
    for offset in range(8):
        memory = torch.full((130, 33 + 8), torch.nan, dtype=dtype, device=place.device)
        case.guide_features = memory[:, offset : offset + 33]
        case.guide_features[:] = row
        result = glue.guided_linear_ce(*arguments(case), path=path, sample_space=False)
        assert result[-1].tolist() == list(range(100))
        seen.add(tuple(helpers.bits(result)))
    assert len(seen) == 1


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("indexed", [False, True], ids=["", "indexed"])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("product", ["kernel", "library"])
def test_head_gradient(
    place: Backend,
    monkeypatch: pytest.MonkeyPatch,
    product: str,
    gap: int,
    dtype: torch.dtype,
    indexed: bool,
    weighted: bool,
) -> None:
    """All rows sure of their label, in more than one split of the rows; features so large that
    float16 has room for most gradients.
    """
    if product == "library":
        monkeypatch.setattr(glue, "_MOST_MULTIPLY_ADDS", 0)
    logits, target = confident(300, 7, gap)
    features = (
        torch.rand(300, 5, generator=torch.Generator().manual_seed(1)).mul(1024).to(dtype) + 1024
    )
    logits = logits.to(dtype)
    index = torch.arange(0, 300, 3) if indexed else None
    weights = torch.linspace(0.5, 2.0, 7) if weighted else None
    rows = slice(None) if index is None else index
    a = residuals(
        helpers.array(logits[rows]),
        target[rows].numpy(),
        None if weights is None else weights.double().numpy(),
    )
    u = helpers.array(features[rows])
    moved = [
        None if t is None else t.to(place.device)
        for t in (features, logits, target, index, weights)
    ]
    grad_weight, grad_bias = glue.linear_ce_grad(*moved)
    assert_near(grad_weight, a.T @ u, np.abs(a).T @ np.abs(u))
    assert_near(grad_bias, a.sum(0), np.abs(a).sum(0))


def head(
    gap: float,
    dtype: torch.dtype,
    device: str,
    *,
    batch_gap: float,
    shift: float = 0.0,
    gain: float = 1.0,
) -> guided.Case:
    """A head that is ``gain`` times the identity on 70 of 75 features, which are logits / gain; two
    tiles of classes and of features.
    """
    classes, extra = 70, 5
    guide, guide_target = confident(66, classes, gap, seed=1)
    batch, largest = confident(40, classes, batch_gap, seed=2)
    generator = torch.Generator().manual_seed(3)
    features, guide_features = (
        torch.cat((logits / gain, torch.rand(len(logits), extra, generator=generator) + 1), 1)
        .to(dtype)
        .to(device)
        for logits in (batch, guide)
    )
    weight = gain * torch.eye(classes, classes + extra, dtype=dtype, device=device)
    bias = torch.full((classes,), shift, dtype=dtype, device=device)
    target = largest if batch_gap else (largest + 1) % classes
    return guided.Case(
        features,
        target.to(device),
        guide_features,
        guide_target.to(device),
        weight,
        bias,
        33,
        Rule(epsilon=0.3, relative=True),
    )


def check_step(case: guided.Case, path: str, sample_space: bool) -> None:
    loss, grad_features, grad_weight, grad_bias, v, dot, guide_norm2, grad_norm2, index = (
        glue.guided_linear_ce(*arguments(case), path=path, sample_space=sample_space)
    )
    u, w, all_guides = (
        helpers.array(case.features),
        helpers.array(case.weight),
        helpers.array(case.guide_features),
    )
    b = 0.0 if case.bias is None else helpers.array(case.bias)
    class_weights = None if case.class_weights is None else helpers.array(case.class_weights)
    rows, target = index.cpu().numpy(), case.target.cpu().numpy()
    entropy = statistics(all_guides @ w.T + b, case.guide_target.cpu().numpy())[0]
    np.testing.assert_allclose(entropy[rows], np.sort(entropy)[::-1][: len(rows)], rtol=1e-5)
    p = all_guides[rows]
    a = residuals(u @ w.T + b, target, class_weights)
    a_p = residuals(p @ w.T + b, case.guide_target.cpu().numpy()[rows], class_weights)
    with_bias = np.ones((1, 1)) if case.bias is not None else np.ones((1, 0))
    u_b, p_b = (np.hstack((x, np.repeat(with_bias, len(x), 0))) for x in (u, p))
    g, g_p = a.T @ u_b, a_p.T @ p_b
    products = (g * g_p).sum(), (g_p * g_p).sum(), (g * g).sum()
    factor = case.rule.factor(*products)
    assert factor > 0.0
    tolerance = TOLERANCE[case.features.dtype]
    wanted = g + factor * g_p
    scale = np.abs(a).T @ np.abs(u_b) + factor * np.abs(a_p).T @ np.abs(p_b)
    got = grad_weight if grad_bias is None else torch.cat((grad_weight, grad_bias[:, None]), 1)
    assert_near(got, wanted, scale)
    assert_near(grad_features, a @ w, np.abs(a) @ np.abs(w))
    nll = statistics(u @ w.T + b, target)[2]
    weights = np.ones(len(u)) if class_weights is None else class_weights[target]
    assert loss.item() == pytest.approx(
        (nll * weights).sum() / weights.sum(), rel=1e-5 if tolerance < 1e-3 else tolerance
    )
    for got_scalar, want in zip(
        (v, dot, guide_norm2, grad_norm2), (factor, *products), strict=True
    ):
        with np.errstate(over="ignore"):
            expected = float(np.float32(want))
        # Norms as small as 1e-70 are 0 in float32, and v as large as 1e40 is infinite: only the
        # reported numbers.
        assert got_scalar.item() == pytest.approx(expected, rel=max(tolerance, 1e-3), abs=1e-44)


@pytest.mark.parametrize("sample_space", [False, True], ids=["direct", "sample-space"])
@pytest.mark.parametrize("path", PATHS)
class TestHeadStep:
    @pytest.mark.parametrize("gap", GAPS)
    def test_confident_guide(self, place: Backend, path: str, sample_space: bool, gap: int) -> None:
        case = head(gap, torch.float32, place.device, batch_gap=0)
        check_step(case, path, sample_space)
        check_step(
            replace(
                case, bias=None, class_weights=torch.linspace(0.2, 3.0, 70, device=place.device)
            ),
            path,
            sample_space,
        )

    @pytest.mark.parametrize("gap", [20, 80])
    def test_confident_batch_and_guide(
        self, place: Backend, path: str, sample_space: bool, gap: int
    ) -> None:
        case = head(gap, torch.float32, place.device, batch_gap=gap)
        check_step(case, path, sample_space)
        check_step(
            replace(
                case, bias=None, class_weights=torch.linspace(0.2, 3.0, 70, device=place.device)
            ),
            path,
            sample_space,
        )

    @pytest.mark.parametrize("shift", [2.0**20, -3000.0])
    def test_shifted_logits(
        self, place: Backend, path: str, sample_space: bool, shift: float
    ) -> None:
        case = head(20, torch.float32, place.device, batch_gap=12, shift=shift)
        check_step(replace(case, features=case.features.mul(8).round().div(8)), path, sample_space)

    @pytest.mark.parametrize("dtype", HALF, ids=str)
    @pytest.mark.parametrize("gaps", [(12, 0), (20, 0), (80, 0), (12, 12), (20, 5)], ids=str)
    def test_half_precision(
        self,
        place: Backend,
        path: str,
        sample_space: bool,
        gaps: tuple[int, int],
        dtype: torch.dtype,
    ) -> None:
        check_step(head(gaps[0], dtype, place.device, batch_gap=gaps[1]), path, sample_space)

    @pytest.mark.parametrize("dtype", HALF, ids=str)
    def test_features_gradient_of_half_precision(
        self, place: Backend, path: str, sample_space: bool, dtype: torch.dtype
    ) -> None:
        """A weight so large that float16 has room for the gradient to the features, although not
        for the residuals.
        """
        check_step(head(12, dtype, place.device, batch_gap=15, gain=1024.0), path, sample_space)

    def test_weights_of_any_size(self, place: Backend, path: str, sample_space: bool) -> None:
        """A common factor of the class weights changes nothing, however far from 1."""
        case = head(12, torch.float32, place.device, batch_gap=0)
        for factor in (1e-25, 1e25):
            check_step(
                replace(
                    case, class_weights=factor * torch.linspace(0.5, 2.0, 70, device=place.device)
                ),
                path,
                sample_space,
            )

    def test_a_row_without_residuals_and_with_a_great_weight(
        self, place: Backend, path: str, sample_space: bool
    ) -> None:
        """Beside rows whose residuals are scaled by as much as there is."""
        case = head(84, torch.float32, place.device, batch_gap=84)
        weights = torch.ones(70, device=place.device)
        weights[case.target[0]] = weights[case.guide_target[0]] = 1e4
        for features, target in (
            (case.features, case.target),
            (case.guide_features, case.guide_target),
        ):
            features[:, :70] *= torch.where(weights[target] > 1.0, 3.0, 1.0)[
                :, None
            ]  # a gap of 252
        case = replace(case, class_weights=weights, top_k=66)
        results = glue.guided_linear_ce(*arguments(case), path=path, sample_space=sample_space)
        assert (
            all(result.isfinite().all() for result in (*results[:4], results[5]))
            and results[2].abs().max() > 0
        )

    def test_a_bound_for_a_saturated_guide(
        self, place: Backend, path: str, sample_space: bool
    ) -> None:
        """A residual below the normal numbers has few digits, but the step is as long as the bound
        says.
        """
        case = head(100, torch.float32, place.device, batch_gap=0)
        plain = glue.guided_linear_ce(
            *arguments(replace(case, rule=Rule(epsilon=-1e30))),
            path=path,
            sample_space=sample_space,
        )
        case.rule = Rule(epsilon=0.9, relative=True, max_correction=0.25)
        moved = glue.guided_linear_ce(*arguments(case), path=path, sample_space=sample_space)
        step, grad = (torch.cat((r[2], r[3][:, None]), 1).double() for r in (moved, plain))
        assert ((step - grad).norm() / grad.norm()).item() == pytest.approx(0.25, rel=1e-3)

    def test_a_guide_of_nothing(self, place: Backend, path: str, sample_space: bool) -> None:
        """Beyond a gap of 104 every residual is 0, and so is v."""
        case = head(200, torch.float32, place.device, batch_gap=0)
        result = glue.guided_linear_ce(*arguments(case), path=path, sample_space=sample_space)
        assert result[4].item() == 0.0 and result[2].isfinite().all() and result[2].abs().max() > 0


def project(
    grad: list[float],
    guide: list[float],
    rule: Rule,
    device: str,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, ...]:
    grads = [torch.tensor(grad, dtype=dtype, device=device)]
    return (
        *glue.project_(
            grads, [torch.tensor(guide, dtype=dtype, device=device)], helpers.rule_of(rule)
        ),
        grads[0],
    )


# Gradient, guide, rule, and the gradient after it.
TINY = [
    ([1.0, 1.0], [0.0, 1e-40], Rule(epsilon=1.0, max_correction=1.0), [1.0, 1.0 + math.sqrt(2.0)]),
    ([1.0, 1.0], [0.0, 1e-45], Rule(epsilon=1.0, max_correction=1.0), [1.0, 1.0 + math.sqrt(2.0)]),
    ([1.0, 0.0], [-1e-30, 0.0], Rule(), [0.0, 0.0]),  # v = 1e30, |g_p|^2 = 1e-60
    ([1.0, 0.0], [-1e-40, 1e-40], Rule(), [0.5, 0.5]),
    ([0.0, 0.0], [1e-40, 0.0], Rule(epsilon=1e-10), [1e30, 0.0]),  # v = 1e70
    ([0.0, 0.0], [0.0, 1.4e-45], Rule(epsilon=1e-10), [0.0, 1e-10 / 2.0**-149]),  # v = 2^265
    ([1e-25, 0.0], [-1e35, 1e35], Rule(), [0.5e-25, 0.5e-25]),  # v = 5e-61
    ([1e30, 1e30], [-1e30, 0.0], Rule(), [0.0, 1e30]),  # norms of 1e60
    (
        [1e-30, 1e-30],
        [-1e-30, 0.0],
        Rule(epsilon=0.5, relative=True),
        [-math.sqrt(0.5) * 1e-30, 1e-30],
    ),
    # v = max(margin, 1e-40 / ridge), too short a step to see
    ([1.0, 2.0], [-1e-40, 0.0], Rule("official"), [1.0, 2.0]),
    ([1.0, 0.0], [0.0, 1e-45], Rule(epsilon=1e30), [1.0, math.inf]),  # v = 2^397
]  # fmt: skip


@pytest.mark.parametrize(("grad", "guide", "rule", "want"), TINY)
def test_v_beyond_float32(
    place: Backend, grad: list[float], guide: list[float], rule: Rule, want: list[float]
) -> None:
    """v is known in float64, and a step that float32 can represent is taken."""
    v, _, guide_norm2, _, moved = project(grad, guide, rule, place.device)
    g, p = (np.asarray(torch.tensor(x).double()) for x in (grad, guide))
    truth = g + rule.factor(float(g @ p), float(p @ p), float(g @ g)) * p
    truth[np.abs(truth) > torch.finfo(torch.float32).max] = math.inf
    np.testing.assert_allclose(
        helpers.array(moved), truth, rtol=1e-6, atol=1e-6 * float(np.abs(g).max())
    )
    np.testing.assert_allclose(truth, want, rtol=1e-3, atol=1e-6 * float(np.abs(g).max()))
    with np.errstate(over="ignore"):
        assert guide_norm2.item() == pytest.approx(float(np.float32(p @ p)), rel=1e-6, abs=0.0)
        assert v.item() == pytest.approx(
            float(np.float32(rule.factor(float(g @ p), float(p @ p), float(g @ g)))), rel=1e-6
        )


def test_a_step_out_of_range_is_infinite_where_it_is_and_nowhere_else(place: Backend) -> None:
    v, *_, moved = project([1.0, 1.0, 3.0], [0.0, 1e-40, 0.0], Rule(epsilon=1.0), place.device)
    assert v.item() == math.inf and moved.tolist() == [1.0, math.inf, 3.0]  # v g_p = 1e40
    assert project([1.0, math.nan], [0.0, 1e-40], Rule(epsilon=1.0), place.device)[0].isnan()


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_tiny_guide_of_half_precision(place: Backend, dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).smallest_normal
    moved = project(
        [1.0, 1.0], [0.0, tiny], Rule(epsilon=1.0, max_correction=1.0), place.device, dtype
    )[-1]
    torch.testing.assert_close(
        moved.float().cpu(), torch.tensor([1.0, 1.0 + math.sqrt(2.0)]), rtol=1e-2, atol=0.0
    )


@pytest.mark.parametrize(
    "rule",
    [Rule(epsilon=0.3, relative=True), Rule(epsilon=2.5), Rule("official", margin=1.5)],
    ids=lambda r: r.rule,
)
class TestNumbersOnTheDevice:
    """epsilon and margin as 0-d float64 tensors give what the same floats give, to the bit, in as
    many launches.
    """

    def on_device(self, rule: Rule, device: str) -> Rule:
        def number(value: float) -> Tensor:
            return torch.tensor(value, dtype=torch.float64, device=device)

        return replace(rule, epsilon=number(rule.epsilon), margin=number(rule.margin))

    def test_project(self, place: Backend, rule: Rule) -> None:
        results = [
            project([1.0, -2.0, 3.0], [-1.0, 0.5, 0.25], r, place.device)
            for r in (rule, self.on_device(rule, place.device))
        ]
        assert helpers.bits(results[0]) == helpers.bits(results[1])
        assert results[0][0].item() > 0.0

    @pytest.mark.parametrize("sample_space", [False, True], ids=["direct", "sample-space"])
    @pytest.mark.parametrize("path", PATHS)
    def test_head_step(self, place: Backend, path: str, sample_space: bool, rule: Rule) -> None:
        case = guided.make(20, 23, 18, 33, 7, torch.float32, place.device, rule, conflict=True)
        moved = replace(case, rule=self.on_device(rule, place.device))
        results = [
            glue.guided_linear_ce(*arguments(c), path=path, sample_space=sample_space)
            for c in (case, moved)
        ]
        assert helpers.bits(results[0]) == helpers.bits(results[1])
        assert results[0][4].item() > 0.0

    def test_a_number_that_changes(self, place: Backend, rule: Rule) -> None:
        """The kernels read it when they run: a new value needs no new arguments."""
        moving = self.on_device(rule, place.device)
        first = project([1.0, -2.0, 3.0], [-1.0, 0.5, 0.25], moving, place.device)
        moving.epsilon.mul_(2.0)
        moving.margin.mul_(20.0)
        second = project([1.0, -2.0, 3.0], [-1.0, 0.5, 0.25], moving, place.device)
        changed = replace(rule, epsilon=2.0 * rule.epsilon, margin=20.0 * rule.margin)
        assert helpers.bits(second) == helpers.bits(
            project([1.0, -2.0, 3.0], [-1.0, 0.5, 0.25], changed, place.device)
        )
        assert first[0].item() != second[0].item()

    def test_nan_stays(self, place: Backend, rule: Rule) -> None:
        nan = torch.tensor(torch.nan, dtype=torch.float64, device=place.device)
        assert project(
            [1.0, -2.0, 3.0],
            [-1.0, 0.5, 0.25],
            replace(rule, epsilon=nan, margin=nan),
            place.device,
        )[0].isnan()
