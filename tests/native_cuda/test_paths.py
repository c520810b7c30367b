"""What the CUDA kernels do beyond the interface of the ops: every way to take a head step, poisoned
labels, borders, counts of launches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from gaal_fast import ops
from gaal_fast.ops._rule import Rule as PlainRule
from gaal_fast.ops.backends import torch as plain
from gaal_fast.ops.backends.native import cuda as glue
from gaal_fast.ops.backends.native import cuda_host as host
from tests.native_cuda.build import Emulated
from tests.ops import helpers
from tests.ops import test_guided_linear_ce as guided
from tests.ops.helpers import Backend
from tests.reference import oracle
from tests.reference.oracle import Rule

PATHS = ["cooperative", "launches", "composed"]
HALF = [torch.float16, torch.bfloat16]

# Batch, guide batch, classes, features, top_k: edges of tiles, of packs and of splits; fewer
# classes than lanes; more rows than a tile.
SIZES = [
    (1, 1, 1, 1, 1),
    (3, 70, 2, 9, 40),
    (64, 64, 64, 64, 64),
    (65, 63, 66, 130, 20),
    (20, 130, 131, 33, 65),
    (5, 8, 1030, 6, 4),
    (130, 4, 3, 520, 2),
]


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(glue, "guided_path", lambda *sizes: request.param)
    return request.param


@pytest.fixture(params=[False, True], ids=["direct", "sample-space"])
def sample_space(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(glue, "sample_space_is_cheaper", lambda *sizes: request.param)
    return request.param


def arguments(case: guided.Case) -> tuple:
    tensors = (
        case.features,
        case.target,
        case.guide_features,
        case.guide_target,
        case.weight,
        case.bias,
        case.class_weights,
    )
    return (*tensors, case.top_k, helpers.rule_of(case.rule))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_every_path_against_the_oracle(
    place: Backend, path: str, sample_space: bool, size: tuple[int, ...], dtype: torch.dtype
) -> None:
    case = guided.make(
        *size, dtype, place.device, Rule(epsilon=0.2, relative=True), conflict=size[2] > 1
    )
    guided.check(case)
    case.bias = None
    case.class_weights = torch.linspace(0.1, 2.0, size[2], device=place.device)
    case.rule = Rule("official")
    if abs(case.oracle().dot) > 1e-4 * math.sqrt(
        case.oracle().guide_norm2 * case.oracle().grad_norm2
    ):
        guided.check(case)


@pytest.mark.parametrize("number", [1, 2], ids=["one block", "an H200"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_size_of_device(
    backend: Backend,
    device: Emulated,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    sample_space: bool,
    size: tuple[int, ...],
    number: int,
) -> None:
    """How much is split, and how many blocks share the work, depends on the device. It is the
    current one during the call only.
    """
    monkeypatch.setattr(host, "index", lambda device: number)
    guided.check(
        guided.make(
            *size,
            torch.float32,
            backend.device,
            Rule(epsilon=0.1, relative=True),
            conflict=size[2] > 1,
        )
    )
    assert device.current() == 0


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_one_launch_and_three_give_the_same_bits(
    place: Backend, sample_space: bool, dtype: torch.dtype
) -> None:
    case = guided.make(70, 66, 67, 133, 31, dtype, place.device, Rule(epsilon=0.2, relative=True))
    results = [
        glue.guided_linear_ce(*arguments(case), path=path) for path in ("cooperative", "launches")
    ]
    assert helpers.bits(results[0]) == helpers.bits(results[1])


def test_without_a_correction_not_a_bit_changes(
    place: Backend, path: str, sample_space: bool
) -> None:
    """v = 0 gives the plain gradient to the bit, however the guide looks."""
    case = guided.make(40, 50, 35, 65, 20, torch.float32, place.device, Rule(epsilon=-1e9))
    moved = glue.guided_linear_ce(*arguments(case))
    assert moved[4].item() == 0.0
    case.guide_features = 2.0 * case.guide_features + 1.0
    again = glue.guided_linear_ce(*arguments(case))
    assert helpers.bits(moved[:4]) == helpers.bits(again[:4])


@pytest.mark.parametrize("size", [(0, 9, 4), (9, 9, 0), (9, 0, 0), (0, 9, 0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_no_rows_on_either_side(
    place: Backend, path: str, sample_space: bool, size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    """What the plain backend gives: no loss without a batch, no correction without a guide."""
    rows, guide_rows, top_k = size
    case = guided.make(9, 9, 5, 7, 3, dtype, place.device, Rule(epsilon=0.5))
    case.features, case.target = case.features[:rows], case.target[:rows]
    case.guide_features = case.guide_features[:guide_rows]
    case.guide_target = case.guide_target[:guide_rows]
    case.top_k = top_k
    rtol, atol = (1e-5, 1e-6) if dtype is torch.float32 else (2e-2, 1e-3)
    found = glue.guided_linear_ce(*arguments(case))
    expected = plain.guided_linear_ce(*arguments(case))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(
            one, other, rtol=rtol, atol=atol, equal_nan=True, check_dtype=False
        )
    if not top_k:
        assert found[4].item() == 0.0


@pytest.mark.parametrize("bad", [-1, 35, 2**40])
def test_labels_out_of_range_poison(
    place: Backend, path: str, sample_space: bool, bad: int
) -> None:
    """Nobody reads a label on the host: an illegal one makes its results NaN, and nothing else."""
    case = guided.make(40, 50, 35, 65, 20, torch.float32, place.device, Rule())
    case.target[7] = bad
    loss, grad_features, grad_weight, grad_bias, *_ = glue.guided_linear_ce(*arguments(case))
    assert (
        loss.isnan()
        and grad_features[7].isnan().all()
        and grad_weight.isnan().all()
        and grad_bias.isnan().all()
    )
    assert case.class_weights is not None or grad_features[:7].isfinite().all()

    case = guided.make(40, 50, 35, 65, 20, torch.float32, place.device, Rule())
    chosen = glue.guided_linear_ce(*arguments(case))[-1]
    case.guide_target[chosen[3]] = bad
    loss, grad_features, grad_weight, _, v, *_ = glue.guided_linear_ce(*arguments(case))
    assert (
        loss.isfinite()
        and grad_features.isfinite().all()
        and v.isnan()
        and grad_weight.isnan().all()
    )
    others = torch.ones(50, dtype=torch.bool, device=place.device)
    others[chosen] = False
    case = guided.make(40, 50, 35, 65, 20, torch.float32, place.device, Rule())
    case.guide_target[others] = bad
    assert glue.guided_linear_ce(*arguments(case))[2].isfinite().all(), (
        "a label of a row that was not selected counts"
    )


@pytest.mark.parametrize("bad", [-1, 9, 2**40])
def test_labels_and_rows_out_of_range_poison_the_smaller_ops(place: Backend, bad: int) -> None:
    logits = helpers.random_logits(9, 5, torch.float32, device=place.device)
    features = helpers.random_logits(9, 6, torch.float32, seed=1, device=place.device)
    target = helpers.random_labels(9, 5, device=place.device)
    index = torch.tensor([1, bad, 3], device=place.device)
    assert all(
        gradient.isnan().all()
        for gradient in glue.linear_ce_grad(features, logits, target, index, None)
    )
    target[2] = bad
    entropy, lse, nll = glue.softmax_stats(logits, target)
    assert (
        entropy.isfinite().all()
        and lse.isfinite().all()
        and nll.isnan().tolist() == [i == 2 for i in range(9)]
    )
    assert all(
        gradient.isnan().all()
        for gradient in glue.linear_ce_grad(features, logits, target, None, None)
    )


@pytest.mark.parametrize("rows", [1, 2, 511, 512, 513, 2048, 4097, 8192])
def test_selection_of_many_rows(place: Backend, rows: int) -> None:
    """Every size of the sort, with ties all over."""
    logits = (
        torch.randint(0, 7, (rows, 3), generator=torch.Generator().manual_seed(rows))
        .float()
        .to(place.device)
    )
    logits[rows // 2] = torch.nan
    for k in {1, rows // 2 + 1, rows}:
        entropy, index = ops.entropy_topk(logits, k)
        stats = ops.softmax_stats(logits)[0]
        # Exactly by the computed entropies: equal rows have equal bits, wherever they lie.
        assert index.tolist() == oracle.topk(helpers.array(stats), k).tolist()
        assert helpers.bits(entropy) == helpers.bits(stats[index])


def test_more_rows_than_one_block_sorts_are_left_to_another_backend(place: Backend) -> None:
    logits = torch.zeros(8193, 1, device=place.device)
    assert not glue.supports("entropy_topk", logits) and glue.supports(
        "entropy_topk", logits[:8192]
    )
    with ops.backend("auto"):
        assert ops.entropy_topk(logits, 3)[1].tolist() == [0, 1, 2]


@pytest.mark.parametrize("classes", [5, 18, 133, 1031, 17011])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_equal_rows_have_equal_bits_wherever_they_lie(
    place: Backend, classes: int, dtype: torch.dtype
) -> None:
    """Rows of such widths begin at every element of a 16-byte access."""
    row = helpers.random_logits(1, classes, dtype, seed=classes)
    logits = row.expand(9, classes).contiguous().to(place.device)
    for results in ops.softmax_stats(logits, torch.full((9,), classes // 2, device=place.device)):
        assert len(set(helpers.bits(list(results.unbind())))) == 1
    assert ops.entropy_topk(logits, 9)[1].tolist() == list(range(9))


def test_many_tensors(place: Backend) -> None:
    """More than fit one launch, empty ones and 0-d ones among them."""
    generator = torch.Generator().manual_seed(0)
    shapes = [() if i % 7 == 0 else (0, 3) if i % 11 == 0 else (i, 3) for i in range(210)]
    grads = [torch.randn(shape, generator=generator).to(place.device) for shape in shapes]
    guides = [torch.randn(shape, generator=generator).to(place.device) for shape in shapes]
    truth = oracle.project(
        [helpers.array(g) for g in grads], [helpers.array(p) for p in guides], Rule(epsilon=500.0)
    )
    result = ops.project_(grads, guides, epsilon=500.0)
    assert result.v.item() == pytest.approx(truth.v, rel=1e-6) and truth.v > 0
    for grad, want in zip(grads, truth.grads, strict=True):
        np.testing.assert_allclose(helpers.array(grad), want, rtol=1e-6, atol=1e-6)


BORDER = 64


@pytest.fixture
def borders(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Tensor, int]]]:
    """All memory that the glue asks for is poisoned and lies between borders that must survive."""
    made: list[tuple[Tensor, int]] = []
    plain = torch.empty

    def bordered(
        *sizes: int | tuple[int, ...],
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> Tensor:
        shape = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], tuple) else sizes
        wide = plain(math.prod(shape) + 2 * BORDER, dtype=dtype, device=device)
        wide.view(torch.uint8).fill_(0xFF)
        made.append((wide, math.prod(shape)))
        return wide[BORDER : BORDER + math.prod(shape)].view(shape)

    monkeypatch.setattr(glue.torch, "empty", bordered)
    monkeypatch.setattr(
        glue.torch, "empty_like", lambda t: bordered(tuple(t.shape), dtype=t.dtype, device=t.device)
    )
    yield made
    monkeypatch.undo()


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("size", [(20, 13, 18, 33, 7), (3, 5, 1031, 6, 2)], ids=str)
def test_nothing_is_written_outside(
    place: Backend,
    path: str,
    sample_space: bool,
    borders: list[tuple[Tensor, int]],
    size: tuple[int, ...],
    dtype: torch.dtype,
) -> None:
    case = guided.make(*size, dtype, place.device, Rule(epsilon=1.0, relative=True))
    inputs = [
        case.features,
        case.target,
        case.guide_features,
        case.guide_target,
        case.weight,
        case.bias,
    ]
    before = helpers.bits(inputs)
    results = [*glue.guided_linear_ce(*arguments(case))]
    logits = torch.nn.functional.linear(case.features, case.weight, case.bias)
    kept = helpers.bits(logits)
    results += glue.softmax_stats(logits, case.target)
    results += glue.entropy_topk(logits, 3)
    results += glue.linear_ce_grad(
        case.features, logits, case.target, torch.tensor([2, 0], device=place.device), None
    )
    results += glue.linear_ce_grad(case.features, logits, case.target, None, None)
    grads = [results[2].clone(), results[3].clone()]
    results += glue.project_(grads, [results[2], results[3]], PlainRule(epsilon=1.0, relative=True))
    assert helpers.bits(inputs) == before and helpers.bits(logits) == kept, "an input was changed"
    assert len(borders) > 10
    for wide, count in borders:
        edges = torch.cat((wide[:BORDER], wide[BORDER + count :])).view(torch.uint8)
        assert (edges == 0xFF).all(), "a border was written to"
    assert all(result.isfinite().all() for result in results), "an element was never written"


def launches(device: Emulated | None, call) -> tuple[int, int]:
    """Kernels that a call starts, and how many of them are cooperative (0 where that cannot be
    seen).
    """
    if device is not None:
        device.counts()
        call()
        return device.counts()[:2]
    call()  # allocations and module loading apart
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    kernels = [
        e
        for e in profile.events()
        if e.device_type == torch.autograd.DeviceType.CUDA and not e.name.lower().startswith("mem")
    ]
    return len(kernels), 0


def test_counts_of_launches(
    place: Backend, sample_space: bool, request: pytest.FixtureRequest
) -> None:
    device = request.getfixturevalue("device") if place.device == "cpu" else None
    case = guided.make(64, 64, 286, 64, 32, torch.float32, place.device, Rule())
    count, cooperative = launches(
        device, lambda: glue.guided_linear_ce(*arguments(case), path="cooperative")
    )
    assert count == 1 and (device is None or cooperative == 1)
    assert (
        launches(device, lambda: glue.guided_linear_ce(*arguments(case), path="launches"))[0] == 3
    )
    logits = helpers.random_logits(64, 286, torch.float32, device=place.device)
    assert launches(device, lambda: glue.softmax_stats(logits, case.target))[0] == 1
    assert launches(device, lambda: glue.entropy_topk(logits, 32))[0] == 1
    assert (
        launches(
            device, lambda: glue.linear_ce_grad(case.features, logits, case.target, None, None)
        )[0]
        == 2
    )
    grads, guides = (
        [torch.ones(70, 5, device=place.device), torch.ones(3, device=place.device)]
        for _ in range(2)
    )
    number = torch.tensor(0.5, dtype=torch.float64, device=place.device)
    assert (
        launches(
            device, lambda: glue.project_(grads, guides, PlainRule(epsilon=number, margin=number))
        )[0]
        == 2
    )
    case.rule = Rule(epsilon=number, relative=True, margin=number)
    assert (
        launches(device, lambda: glue.guided_linear_ce(*arguments(case), path="cooperative"))[0]
        == 1
    )
    assert (
        launches(device, lambda: glue.guided_linear_ce(*arguments(case), path="launches"))[0] == 3
    )
    assert launches(device, lambda: glue.project_(grads, guides, PlainRule()))[0] == 2
