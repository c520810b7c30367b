"""What only a GPU can show: streams, host threads, CUDA graphs, waiting, very large tensors, and
the device's own scheduling.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from gaal_fast import ops
from gaal_fast.ops._rule import Rule as PlainRule
from gaal_fast.ops.backends.native import cuda as glue
from tests.native_cuda import test_confident_step as confident_step
from tests.native_cuda.test_paths import arguments
from tests.ops import helpers
from tests.ops import test_guided_linear_ce as guided
from tests.ops.helpers import Backend
from tests.reference.oracle import Rule

pytestmark = pytest.mark.gpu

# (B, P, Y, d, k) of the head step: the sizes of the paper, and one that fills the device several
# times.
STEPS = [
    (64, 64, 286, 512, 32),
    (256, 256, 286, 2048, 128),
    (256, 256, 717, 2048, 205),
    (256, 256, 2, 2048, 128),
]
WAYS = [
    (path, sample_space)
    for path in ("cooperative", "launches", "composed")
    for sample_space in (False, True)
]


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    with Backend("native", "cuda").in_force():
        yield


def step(size: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> guided.Case:
    return guided.make(
        *size, dtype, "cuda", Rule(epsilon=0.1, relative=True), seed=seed, conflict=size[2] > 1
    )


Op = Callable[[int], tuple[list[Tensor], Callable[[], Any]]]


def _step_op(path: str, sample_space: bool) -> Op:
    def make(seed: int) -> tuple[list[Tensor], Callable[[], Any]]:
        case = step(STEPS[0], seed=seed)
        inputs = [
            case.features,
            case.target,
            case.guide_features,
            case.guide_target,
            case.weight,
            case.bias,
        ]
        return inputs, lambda: glue.guided_linear_ce(
            *arguments(case), path=path, sample_space=sample_space
        )

    return make


def _numbers_op(path: str, sample_space: bool) -> Op:
    """epsilon and margin in the device's memory, new ones for every seed."""

    def make(seed: int) -> tuple[list[Tensor], Callable[[], Any]]:
        case = step(STEPS[0], seed=seed)
        epsilon, margin = (
            torch.tensor(number + 0.1 * seed, dtype=torch.float64, device="cuda")
            for number in (0.1, 0.75)
        )
        case.rule = Rule(epsilon=epsilon, relative=True, margin=margin)
        inputs = [
            case.features,
            case.target,
            case.guide_features,
            case.guide_target,
            case.weight,
            case.bias,
            epsilon,
            margin,
        ]
        return inputs, lambda: glue.guided_linear_ce(
            *arguments(case), path=path, sample_space=sample_space
        )

    return make


def _confident_op(path: str, sample_space: bool) -> Op:
    """Residuals that carry a power of two, another one for every seed."""

    def make(seed: int) -> tuple[list[Tensor], Callable[[], Any]]:
        case = confident_step.head(20 * (seed + 1), torch.float32, "cuda", batch_gap=12)
        inputs = [case.features, case.target, case.guide_features, case.guide_target]
        return inputs, lambda: glue.guided_linear_ce(
            *arguments(case), path=path, sample_space=sample_space
        )

    return make


def _entropy_op(seed: int) -> tuple[list[Tensor], Callable[[], Any]]:
    logits = helpers.random_logits(300, 717, torch.float32, seed, device="cuda")
    return [logits], lambda: glue.entropy_topk(logits, 150)


def _split_rows_op(seed: int) -> tuple[list[Tensor], Callable[[], Any]]:
    logits = helpers.random_logits(7, 100_003, torch.bfloat16, seed, device="cuda")
    target = helpers.random_labels(7, 100_003, seed, device="cuda")
    return [logits, target], lambda: (
        *glue.softmax_stats(logits, target),
        *glue.entropy_topk(logits, 4),
    )


def _gradient_op(seed: int) -> tuple[list[Tensor], Callable[[], Any]]:
    features = helpers.random_logits(2000, 64, torch.float32, seed, device="cuda")
    logits = helpers.random_logits(2000, 33, torch.float32, seed + 1, device="cuda")
    target = helpers.random_labels(2000, 33, seed, device="cuda")
    index = torch.randperm(2000, generator=torch.Generator().manual_seed(seed))[:1500].cuda()
    return [features, logits, target, index], lambda: glue.linear_ce_grad(
        features, logits, target, index, None
    )


def _project_op(seed: int) -> tuple[list[Tensor], Callable[[], Any]]:
    grads = [
        helpers.random_logits(1000, 517, torch.float32, seed, device="cuda"),
        helpers.random_logits(1, 33, torch.float32, seed, device="cuda"),
    ]
    guides = [0.5 * g.flip(0) - g for g in grads]

    def call() -> Any:
        copies = [g.clone() for g in grads]
        return (*glue.project_(copies, guides, PlainRule()), *copies)

    return [*grads, *guides], call


OPS: dict[str, Op] = {
    "entropy_topk": _entropy_op,
    "rows in parts": _split_rows_op,
    "linear_ce_grad in splits": _gradient_op,
    "project_": _project_op,
    **{
        f"head step, {path}, {'sample space' if sample else 'direct'}": _step_op(path, sample)
        for path, sample in WAYS
    },
    **{
        f"numbers on the device, {path}, {'sample space' if sample else 'direct'}": _numbers_op(
            path, sample
        )
        for path, sample in WAYS
    },
    **{
        f"confident rows, {path}, {'sample space' if sample else 'direct'}": _confident_op(
            path, sample
        )
        for path, sample in WAYS
    },
}


@pytest.mark.parametrize("size", STEPS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_head_step_at_the_sizes_of_the_paper(
    size: tuple, dtype: torch.dtype, way: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glue, "guided_path", lambda *sizes: way[0])
    monkeypatch.setattr(glue, "sample_space_is_cheaper", lambda *sizes: way[1])
    guided.check(step(size, dtype))


@pytest.mark.parametrize("name", list(OPS))
def test_twenty_runs_beside_another_kernel_give_the_same_bits(name: str) -> None:
    _, call = OPS[name](0)
    first = helpers.bits(call())
    noise, other = torch.randn(2048, 2048, device="cuda"), torch.cuda.Stream()
    for _ in range(20):
        with torch.cuda.stream(other):
            noise @ noise
        assert helpers.bits(call()) == first


@pytest.mark.parametrize("name", list(OPS))
def test_two_streams_at_once(name: str) -> None:
    """Tickets and workspaces of calls that run at the same time are apart."""
    made = [OPS[name](seed) for seed in (0, 1)]
    expected = [helpers.bits(call()) for _, call in made]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    for _ in range(50):
        results = []
        for stream, (_, call) in zip(streams, made, strict=True):
            with torch.cuda.stream(stream):
                results.append([call() for _ in range(3)])
        torch.cuda.synchronize()
        for result, want in zip(results, expected, strict=True):
            assert all(helpers.bits(one) == want for one in result)


@pytest.mark.parametrize("name", list(OPS))
def test_two_host_threads_at_once(name: str) -> None:
    made = [OPS[name](seed) for seed in (0, 1)]
    expected = [helpers.bits(call()) for _, call in made]
    torch.cuda.synchronize()
    found: list[bool] = []

    def work(call: Callable[[], Any], want: list[bytes]) -> None:
        for _ in range(50):
            found.append(helpers.bits(call()) == want)

    threads = [
        threading.Thread(target=work, args=(call, want))
        for (_, call), want in zip(made, expected, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 100 and all(found)


def capture(call: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()
    return graph, results


@pytest.mark.parametrize("name", list(OPS))
def test_a_captured_call_replays_on_new_data(name: str) -> None:
    inputs, call = OPS[name](0)
    graph, results = capture(call)
    for seed in (1, 2, 3):
        fresh, expected = OPS[name](seed)
        for tensor, new in zip(inputs, fresh, strict=True):
            tensor.copy_(new)
        graph.replay()
        assert helpers.bits(results) == helpers.bits(expected())


@pytest.mark.parametrize("name", list(OPS))
def test_two_graphs_replayed_on_two_streams_at_once(name: str) -> None:
    """Both were captured on one stream: their replays may share nothing that a stream owns."""
    graphs = []
    for seed in (0, 1):
        _, call = OPS[name](seed)
        graphs.append((*capture(call), helpers.bits(call())))
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    for _ in range(30):
        for stream, (graph, _, _) in zip(streams, graphs, strict=True):
            with torch.cuda.stream(stream):
                for _ in range(3):
                    graph.replay()
        torch.cuda.synchronize()
        for _, results, expected in graphs:
            assert helpers.bits(results) == expected


@pytest.mark.parametrize("name", list(OPS))
def test_nothing_waits_for_the_device(name: str) -> None:
    _, call = OPS[name](0)
    call()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_work_goes_to_the_current_stream() -> None:
    """A call behind a long wait on its stream sees what that stream wrote before."""
    logits = helpers.random_logits(64, 286, torch.float32, device="cuda")
    expected = helpers.bits(glue.entropy_topk(logits, 10))
    late = torch.full_like(logits, torch.nan)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        late.copy_(logits)
        result = glue.entropy_topk(late, 10)
    stream.synchronize()
    assert helpers.bits(result) == expected


@pytest.mark.skipif("torch.cuda.device_count() < 2")
def test_the_tensors_device_not_the_current_one() -> None:
    logits = helpers.random_logits(64, 286, torch.float32)
    with torch.cuda.device(0):
        there, here = (ops.entropy_topk(logits.to(f"cuda:{i}"), 10) for i in (1, 0))
        assert torch.cuda.current_device() == 0 and there[0].device.index == 1
    assert helpers.bits(there) == helpers.bits(here)


def needs(gigabytes: float) -> None:
    free = torch.cuda.mem_get_info()[0] / 1e9
    if free < gigabytes:
        pytest.skip(f"needs {gigabytes} GB of GPU memory, {free:.0f} are free")


def test_rows_beyond_two_to_the_31_elements() -> None:
    needs(14)
    rows, classes = 8191, 262_657
    assert rows * classes > 2**31
    logits = torch.empty(rows, classes, dtype=torch.bfloat16, device="cuda").normal_()
    target = torch.randint(0, classes, (rows,), device="cuda")
    entropy, lse, nll = ops.softmax_stats(logits, target)
    top, index = ops.entropy_topk(logits, 100)
    boundary = 2**31 // classes
    for row in (0, boundary // 2, boundary - 1, boundary, boundary + 1, rows - 1):
        alone = ops.softmax_stats(logits[row : row + 1].float(), target[row : row + 1])
        for result, want in zip((entropy, lse, nll), alone, strict=True):
            torch.testing.assert_close(result[row], want[0], rtol=2e-6, atol=2e-5)
    assert (
        helpers.bits(top) == helpers.bits(entropy[index])
        and top[-1] >= entropy.sort(descending=True).values[99]
    )


def test_a_head_gradient_beyond_two_to_the_31_elements() -> None:
    needs(20)
    rows, classes, width = 5, 1_100_007, 2048
    assert classes * width > 2**31
    logits = torch.empty(rows, classes, dtype=torch.bfloat16, device="cuda").normal_()
    features = torch.empty(rows, width, dtype=torch.bfloat16, device="cuda").normal_()
    target = torch.tensor([0, 1, classes - 1, 2**31 // width, 2**31 // width + 1], device="cuda")
    index = torch.tensor([4, 3, 2, 1, 0], device="cuda")
    weight, bias = ops.linear_ce_grad(features, logits, target, index)
    residual = logits.float().softmax(1)
    residual[torch.arange(rows), target] -= 1.0
    for row in (0, 1, 77, 2**31 // width - 1, 2**31 // width, 2**31 // width + 1, classes - 1):
        want = residual[:, row] @ features.float() / rows
        torch.testing.assert_close(
            weight[row].float(), want, rtol=2e-2, atol=2e-2 * want.abs().max().item()
        )
        torch.testing.assert_close(bias[row].float(), residual[:, row].mean(), rtol=2e-2, atol=1e-8)


def test_a_projection_beyond_two_to_the_31_elements() -> None:
    needs(14)
    count = 2**31 + 12_345
    grads, guides = (
        [torch.full((count,), 2.0**-16, dtype=torch.bfloat16, device="cuda") for _ in range(1)],
        [],
    )
    guides = [-2.0 * grads[0]]
    grads[0][-1] = 1.0
    result = ops.project_(grads, guides)
    norm2 = count * 2.0**-30
    assert result.guide_norm2.item() == pytest.approx(norm2, rel=1e-6)
    assert result.v.item() == pytest.approx((count * 2.0**-31 + 2.0**-15) / norm2, rel=1e-5)
    assert grads[0][0].item() == grads[0][2**31].item() == grads[0][-2].item() == 0.0
    assert grads[0][-1].item() == 1.0
