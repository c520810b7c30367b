"""Gradient surgery while things change: scaled half precision, errors in between, replaced
parameters, saved guides, several ranks.
"""

from __future__ import annotations

import copy
import io
import math
import os
import pickle
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from gaal_fast import ops
from gaal_fast.surgery import GradientSurgery

HALF = [torch.float16, torch.bfloat16]


def head(dtype: torch.dtype = torch.float32) -> nn.Linear:
    return nn.Linear(2, 1, bias=False).to(dtype)


def give(module: nn.Linear, *values: float) -> None:
    module.weight.grad = torch.tensor([values], dtype=module.weight.dtype)


def scaler_of(scale: float) -> torch.amp.GradScaler:
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    scaler.scale(torch.ones(()))  # the scaler learns its device, as in the first scale(loss)
    return scaler


@pytest.mark.parametrize("scale", [1.0, 2.0**12, 2.0**16])
@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
def test_a_scaled_gradient_keeps_every_bit_where_nothing_is_repaired(
    dtype: torch.dtype, scale: float
) -> None:
    """Divided by the scale in float16 these elements would be rounded, multiplied again they would
    be infinite.
    """
    module = nn.Linear(64, 32).to(dtype)
    surgery = GradientSurgery(module)
    scaler = scaler_of(scale)
    for name in ("a", "b"):
        for parameter in module.parameters():
            parameter.grad = (
                torch.linspace(1e-3, 6e4, parameter.numel(), dtype=torch.float64)
                .to(dtype)
                .view(parameter.shape)
            )
        before = [p.grad.clone() for p in module.parameters()]
        surgery.capture(name, scaler=scaler)
        report = surgery.repair(name, scaler=scaler)
    assert report["a"].v.item() == 0.0
    assert all(
        torch.equal(p.grad, want) for p, want in zip(module.parameters(), before, strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("options", "v"),
    [
        ({"epsilon": 1.0}, 0.75),
        ({"epsilon": torch.tensor(1.0)}, 0.75),
        ({"epsilon": 0.0}, 0.5),
        ({"epsilon": 0.5, "relative": True}, (0.5 * 2 * 5**0.5 + 2.0) / 4.0),
        ({"rule": "official", "ridge": 4.0, "margin": 0.125}, 0.25),
        ({"rule": "official", "ridge": 4.0, "margin": 2.0}, 2.0),
        ({"rule": "official", "ridge": 4.0, "margin": torch.tensor(2.0)}, 2.0),
        ({"epsilon": 1e3, "max_correction": 1.0}, 5**0.5 / 2.0),
    ],
    ids=str,
)
def test_options_refer_to_true_gradients(options: dict, v: float, dtype: torch.dtype) -> None:
    """g = (-1, 2), g_p = (2, 0): <g, g_p> = -2, ‖g_p‖² = 4, ‖g‖² = 5, also where both come scaled,
    each by another scale.
    """
    module = head(dtype)
    surgery = GradientSurgery(module, **options)
    give(module, 2.0 * 8.0, 0.0)
    surgery.capture("a", scaler=scaler_of(8.0))
    give(module, -1.0 * 1024.0, 2.0 * 1024.0)
    report = surgery.repair("b", scaler=scaler_of(1024.0))["a"]
    assert [x.item() for x in report] == pytest.approx([v, -2.0, 4.0, 5.0], rel=1e-6)
    rounding = {torch.float16: 1e-3}.get(dtype, 1e-6)
    assert module.weight.grad.flatten().tolist() == pytest.approx(
        [1024.0 * (2.0 * v - 1.0), 2048.0], rel=rounding, abs=1e-3
    )


def test_a_guide_in_half_precision_is_kept_as_it_is_in_float32() -> None:
    """Unscaled in float16 the guide 2^-20 would be 2^-24 times 16: coarse; and 2^-26 would be 0."""
    module = head(torch.float16)
    surgery = GradientSurgery(module, epsilon=2.0**-30)
    give(module, 2.0**-10 * 1.5, 0.0)
    surgery.capture("a", scaler=scaler_of(2.0**16))
    assert surgery.state_dict()["guides"]["a"]["weight"].tolist() == [[1.5 * 2.0**-26, 0.0]]
    give(module, 0.0, 1.0)
    v = surgery.repair("b", scaler=scaler_of(2.0**16))["a"].v.item()
    assert v == pytest.approx(2.0**-30 / (1.5 * 2.0**-26) ** 2)
    assert module.weight.grad.flatten().tolist() == pytest.approx(
        [2.0**16 * 2.0**-30 / (1.5 * 2.0**-26), 1.0], rel=1e-3
    )


def state(surgery: GradientSurgery, module: nn.Module) -> list[Tensor]:
    guides = [part for guide in surgery.state_dict()["guides"].values() for part in guide.values()]
    return [
        t.clone() for t in (*guides, *(p.grad for p in module.parameters() if p.grad is not None))
    ]


def bad_guides(surgery: GradientSurgery, module: nn.Linear) -> None:
    module.weight.data = torch.zeros(1, 3)
    module.weight.grad = torch.ones(1, 3)
    surgery.repair("b")


def bad_backend(surgery: GradientSurgery, module: nn.Linear) -> None:
    with ops.backend("native"):  # which takes the first guide, but not the second in float64
        surgery.repair("b", scaler=scaler_of(16.0))


def bad_option(surgery: GradientSurgery, module: nn.Linear) -> None:
    surgery._rule.epsilon.fill_(math.nan)
    surgery.repair("b", scaler=scaler_of(16.0))


@pytest.mark.parametrize(
    ("attempt", "error"),
    [
        (bad_guides, ValueError),
        (bad_backend, RuntimeError),
        (bad_option, ValueError),
        (lambda s, m: s.repair("b", against=["a", "unknown"]), ValueError),
        (lambda s, m: s.capture("a", [torch.ones(2, 2)]), ValueError),
        (lambda s, m: s.capture("a", [torch.ones(1, 2).to_sparse()]), TypeError),
        (lambda s, m: s.capture("a", [torch.ones(1, 2).int()]), TypeError),
        (lambda s, m: s.capture("a", [torch.ones(1, 3)], accumulate=True), ValueError),
        (lambda s, m: s.load_state_dict({"guides": {"a": {"weight": torch.ones(2)}}}), ValueError),
    ],
)
def test_an_error_leaves_gradients_and_guides_as_they_were(
    attempt: Callable, error: type[Exception]
) -> None:
    if attempt is bad_backend and ops.availability()["native"]["cpu"] is not None:
        pytest.skip("the C++ kernels were not built")
    module = head()
    surgery = GradientSurgery(module, epsilon=torch.tensor(1.0))
    surgery.capture("a", [torch.tensor([[1.0, 0.0]])])
    surgery.capture("c", [torch.tensor([[0.0, 1.0]], dtype=torch.float64)])
    give(module, -3.0, -4.0)
    before = state(surgery, module)
    with pytest.raises(error):
        attempt(surgery, module)
    after = state(surgery, module)
    if attempt is bad_guides:  # it set another gradient itself
        before[-1] = torch.ones(1, 3)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_guide_of_another_dtype_is_used_as_it_is() -> None:
    module = head()
    surgery = GradientSurgery(module)
    surgery.capture("a", [torch.tensor([[1.0 + 2.0**-40, 0.0]], dtype=torch.float64)])
    give(module, -1.0, 1.0)
    assert surgery.repair("b")["a"].v.dtype is torch.float64
    assert module.weight.grad.flatten().tolist() == pytest.approx([0.0, 1.0], abs=1e-20)
    assert module.weight.grad.dtype is torch.float32


def test_parts_of_several_dtypes_add_up_in_float32() -> None:
    module = head(torch.float16)
    surgery = GradientSurgery(module)
    surgery.capture("a", [torch.tensor([[2048.0, 60000.0]], dtype=torch.float16)], accumulate=True)
    surgery.capture("a", [torch.tensor([[0.25, 1.0]], dtype=torch.float32)], accumulate=True)
    surgery.capture("a", [torch.tensor([[1.0, 60000.0]], dtype=torch.float16)], accumulate=True)
    assert surgery.state_dict()["guides"]["a"]["weight"].tolist() == [[2049.25, 120001.0]]
    give(module, -1.0, 1.0)
    assert surgery.repair("b")["a"].v.item() == 0.0


def test_a_guide_from_inference_mode_can_be_replaced_and_added_to() -> None:
    module = head()
    surgery = GradientSurgery(module)
    grads = [torch.tensor([[1.0, 2.0]])]
    with torch.inference_mode():
        surgery.capture("a", grads)
        surgery.capture("a", [grads[0].clone()], accumulate=True)
    surgery.capture("a", grads, accumulate=True)
    assert surgery.state_dict()["guides"]["a"]["weight"].tolist() == [[3.0, 6.0]]
    surgery.capture("a", grads)
    with torch.inference_mode():
        surgery.capture("a", [2.0 * grads[0]])
    assert surgery.state_dict()["guides"]["a"]["weight"].tolist() == [[2.0, 4.0]]


def test_a_captured_graph_is_not_kept() -> None:
    x = torch.ones(1, 2, requires_grad=True)
    module = head()
    surgery = GradientSurgery(module)
    for _ in range(2):
        surgery.capture(
            "a", torch.autograd.grad((module(x) ** 2).sum(), surgery.parameters, create_graph=True)
        )
        surgery.capture(
            "b",
            torch.autograd.grad((module(x) ** 2).sum(), surgery.parameters, create_graph=True),
            accumulate=True,
        )
    assert not any(
        part.requires_grad
        for guide in surgery.state_dict()["guides"].values()
        for part in guide.values()
    )


def test_replaced_parameters_are_followed() -> None:
    module = head()
    surgery = GradientSurgery(module)
    surgery.capture("a", [torch.tensor([[1.0, 0.0]])])
    old = module.weight
    module.load_state_dict({"weight": torch.zeros(1, 2)}, assign=True)
    assert surgery.parameters == (module.weight,) and surgery.parameters[0] is not old
    give(module, -1.0, 1.0)
    assert surgery.repair("b")["a"].v.item() == 1.0 and module.weight.grad.tolist() == [[0.0, 1.0]]
    module.double()
    give(module, -1.0, 1.0)
    assert surgery.repair("b")["a"].v.item() == 1.0 and module.weight.grad.dtype is torch.float64
    module.weight = nn.Parameter(torch.zeros(1, 3))
    module.weight.grad = torch.ones(1, 3)
    with pytest.raises(
        ValueError,
        match=(
            r"^the captured gradient of 'a' for parameter weight has shape \(1, 2\), the current"
            r" one \(1, 3\)"
        ),
    ):
        surgery.repair("b")
    del module.weight
    module.kernel = nn.Parameter(torch.zeros(1, 2))
    module.kernel.grad = torch.ones(1, 2)
    with pytest.raises(
        ValueError,
        match=(
            r"^the captured gradient of 'a' is of parameter weight, which is shared no more:"
            r" forget\(\) it"
        ),
    ):
        surgery.repair("b")


def test_frozen_parameters_take_no_part() -> None:
    module = nn.Linear(2, 1)
    surgery = GradientSurgery(module)
    surgery.capture("a", [torch.tensor([[1.0, 0.0]]), torch.tensor([3.0])])
    give(module, -1.0, 1.0)
    module.bias.grad = torch.tensor([100.0])  # of a step before
    module.bias.requires_grad_(False)
    assert [p.shape for p in surgery.parameters] == [(1, 2)]
    assert surgery.repair("b")["a"].v.item() == 1.0
    assert module.weight.grad.tolist() == [[0.0, 1.0]] and module.bias.grad.tolist() == [100.0]
    module.bias.requires_grad_()
    assert [p.shape for p in surgery.parameters] == [(1, 2), (1,)]


def test_single_parameters_and_several_modules() -> None:
    parameter = nn.Parameter(torch.zeros(2, 3))
    surgery = GradientSurgery(parameter)
    assert len(surgery.parameters) == 1 and surgery.parameters[0] is parameter
    parameter.grad = torch.ones(2, 3)
    surgery.capture("a")
    parameter.grad = -torch.ones(2, 3)
    assert surgery.repair("b")["a"].v.item() == 1.0
    first, second = nn.Linear(2, 1), nn.Linear(3, 1, bias=False)
    assert [p.shape for p in GradientSurgery([first, second.weight, first]).parameters] == [
        (1, 2),
        (1,),
        (1, 3),
    ]
    with pytest.raises(
        TypeError, match=r"^shared must hold parameters, \[0\] is the result of an operation"
    ):
        GradientSurgery([2.0 * parameter])
    with pytest.raises(TypeError, match=r"^shared must be a module or tensors, got int"):
        GradientSurgery(5)


BAD_OPTIONS = {
    "rule": "bad",
    "epsilon": math.nan,
    "margin": -1.0,
    "ridge": math.inf,
    "max_correction": -1.0,
}


@pytest.mark.parametrize("option", BAD_OPTIONS)
def test_bad_options_are_refused_at_construction_wherever_that_is(option: str) -> None:
    module = head()
    value = BAD_OPTIONS[option]
    with torch.device("meta"), pytest.raises(ValueError, match=f"^{option} must be"):
        GradientSurgery(module, **{option: value})
    with ops.backend("triton"):
        assert GradientSurgery(nn.Linear(3, 2, device="meta")).captured == ()
        with pytest.raises(ValueError, match=f"^{option} must be"):
            GradientSurgery(module, **{option: value})
    if option in ("epsilon", "margin"):
        with pytest.raises(ValueError, match=f"^{option} must be"):
            GradientSurgery(module, **{option: torch.tensor(value)})


def test_the_environment_variable_does_not_stop_construction() -> None:
    code = (
        "import torch; from gaal_fast.surgery import GradientSurgery;"
        " print(GradientSurgery(torch.nn.Linear(1, 1)).captured)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {
        "GAAL_FAST_BACKEND": "triton"
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "()", done.stderr


def test_epsilon_and_margin_are_read_at_each_repair() -> None:
    module = head()
    epsilon, margin = torch.tensor(0.0), torch.tensor(0.0)
    surgery = GradientSurgery(module, epsilon=epsilon)
    official = GradientSurgery(module, rule="official", margin=margin)
    for tool in (surgery, official):
        tool.capture("a", [torch.tensor([[1.0, 0.0]])])
    for value in (1.0, 2.0, 3.0):
        epsilon.fill_(value)
        margin.fill_(10.0 * value)
        give(module, 0.0, 1.0)
        assert surgery.repair("b")["a"].v.item() == value
        give(module, -1.0, 1.0)
        assert official.repair("b")["a"].v.item() == 10.0 * value


def filled() -> tuple[nn.Linear, GradientSurgery]:
    module = nn.Linear(2, 1)
    surgery = GradientSurgery(module, epsilon=0.5)
    surgery.capture("image", [torch.tensor([[1.0, 2.0]]), None])
    surgery.capture("table", [torch.tensor([[3.0, 4.0]]), torch.tensor([5.0])])
    return module, surgery


def test_saved_guides() -> None:
    _, surgery = filled()
    file = io.BytesIO()
    torch.save(surgery.state_dict(), file)
    surgery.capture("image", [torch.zeros(1, 2), torch.zeros(1)])  # the state is a copy
    file.seek(0)
    again = GradientSurgery(nn.Linear(2, 1))
    again.capture("stale", [torch.ones(1, 2), None])
    again.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    assert again.captured == ("image", "table")
    assert {
        m: {n: t.tolist() for n, t in g.items()} for m, g in again.state_dict()["guides"].items()
    } == {"image": {"weight": [[1.0, 2.0]]}, "table": {"weight": [[3.0, 4.0]], "bias": [5.0]}}


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ({}, TypeError, r"state must be what state_dict\(\) returns"),
        ({"guides": []}, TypeError, r"state must be what state_dict\(\) returns"),
        (
            {"guides": {"a": [torch.ones(2)]}},
            TypeError,
            "state: the guide 'a' must be a dictionary of tensors, got list",
        ),
        (
            {"guides": {"a": {"wieght": torch.ones(1, 2)}}},
            ValueError,
            "state: the guide 'a' has a gradient of 'wieght', which is no shared",
        ),
        (
            {"guides": {"a": {"weight": torch.ones(2)}}},
            ValueError,
            r"state: the guide 'a' of parameter weight must have shape \(1, 2\), got \(2,\)",
        ),
        (
            {"guides": {"a": {"weight": [1.0]}}},
            TypeError,
            "state: the guide 'a' of parameter weight must be a tensor",
        ),
    ],
)
def test_a_wrong_state_is_refused(state: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        filled()[1].load_state_dict(state)


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))],
    ids=["deepcopy", "pickle"],
)
def test_copies_are_whole_and_apart(duplicate: Callable) -> None:
    module, surgery = filled()
    twin, copied = duplicate((module, surgery))
    assert copied.parameters[0] is twin.weight is not module.weight
    surgery.forget()
    twin.weight.grad = torch.tensor([[-1.0, 0.0]])
    assert (
        list(copied.repair("image")) == ["table"]
        and twin.weight.grad[0, 0] > -1.0
        and module.weight.grad is None
    )


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"image": nn.Linear(6, 8), "table": nn.Linear(4, 8)})
        self.head = nn.Linear(8, 3)

    def forward(self, name: str, x: Tensor) -> Tensor:
        return self.head(self.encoders[name](x))


def train(rank: int, folder: str, port: int, average: bool | None, use_scaler: bool) -> None:
    """Alternate on data of this rank's own. With ``average`` None the guides come from ``.grad``,
    which DDP averages.
    """
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    net = Net()
    model = nn.parallel.DistributedDataParallel(net, find_unused_parameters=True)
    optimizer, surgery = torch.optim.SGD(net.parameters(), lr=0.3), GradientSurgery(net.head)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, enabled=use_scaler)
    torch.manual_seed(rank + 1)
    acted = 0.0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(6):
            batch, y = (
                {"image": torch.randn(8, 6), "table": torch.randn(8, 4)},
                torch.randint(0, 3, (8,)),
            )
            for name, other in (("image", "table"), ("table", "image")):
                optimizer.zero_grad()
                scaler.scale(nn.functional.cross_entropy(model(name, batch[name]), y)).backward()
                if average is None:
                    surgery.capture(name, scaler=scaler)
                else:
                    features = net.encoders[other](batch[other]).detach()
                    loss = scaler.scale(nn.functional.cross_entropy(net.head(features), y))
                    surgery.capture(
                        other,
                        torch.autograd.grad(loss, surgery.parameters),
                        average=average or None,
                        scaler=scaler,
                    )
                acted += sum(r.v.item() for r in surgery.repair(name, scaler=scaler).values())
                scaler.step(optimizer)
                scaler.update()
    told = [
        str(w.message)
        for w in caught
        if "of this rank only" in str(w.message) and w.filename == __file__
    ]
    # One rank has no gradient at all: it counts as zero.
    mean = GradientSurgery(net.head)
    mean.capture("x", [torch.ones(3, 8), None] if rank else [None, None], average=True)
    torch.save(
        (len(told), acted, [p.detach() for p in net.head.parameters()], mean.state_dict()),
        f"{folder}/{rank}.pt",
    )
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("average", "use_scaler"), [(None, False), (True, False), (True, True), (False, False)]
)
def test_two_ranks(tmp_path: Path, average: bool | None, use_scaler: bool) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(train, args=(str(tmp_path), port, average, use_scaler), nprocs=2)
    (told, acted, a, mean), (_, _, b, _) = (
        torch.load(tmp_path / f"{rank}.pt") for rank in range(2)
    )
    assert acted > 0.0
    equal = all(torch.equal(p, q) for p, q in zip(a, b, strict=True))
    # Gradients of one rank only, without a mean: the ranks drift apart, and it is said, once.
    assert (equal, told) == ((False, 1) if average is False else (True, 0))
    assert (
        mean["guides"]["x"]["weight"].unique().tolist() == [0.5]
        and mean["guides"]["x"]["bias"].tolist() == [0.0] * 3
    )


def test_one_process_has_nothing_to_average() -> None:
    surgery = GradientSurgery(head())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        surgery.capture("a", [torch.ones(1, 2)])
    surgery.capture("b", [torch.ones(1, 2)], average=True)
    assert surgery.state_dict()["guides"]["b"]["weight"].tolist() == [[1.0, 1.0]]
    with pytest.raises(ValueError, match=r"^grads: no shared parameter has a gradient"):
        surgery.capture("b", [None], average=True)


def test_parameters_of_fully_sharded_data_parallel_are_refused() -> None:
    module = head()
    surgery = GradientSurgery(module)
    module.weight._fsdp_flattened = True  # as FSDP marks the views of its flat parameters
    with pytest.raises(TypeError, match=r"^shared: parameter weight belongs to FullySharded"):
        surgery.capture("a", [torch.ones(1, 2)])


def test_sharded_parameters_are_refused() -> None:
    code = """
import os, torch, torch.distributed as dist
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh
from gaal_fast.surgery import GradientSurgery
from gaal_fast import ops
dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
mesh = init_device_mesh("cpu", (1,))
weight = torch.nn.Parameter(distribute_tensor(torch.ones(2, 3), mesh, [Shard(0)]))
plain = torch.nn.Parameter(torch.ones(2, 3))
for attempt in (
    lambda: GradientSurgery([torch.nn.Parameter(torch.ones(3)), weight]),
    lambda: GradientSurgery(plain).capture("a", [weight.detach()]),
    lambda: ops.project_([plain.detach()], [weight.detach()]),
    lambda: ops.softmax_stats(weight.detach()),
):
    try:
        attempt()
    except (TypeError, RuntimeError, NotImplementedError) as error:
        print(str(error).splitlines()[0])
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 4, done.stdout + done.stderr
    assert lines[0] == "shared: parameter [1] is a DTensor: sharded gradients are not supported"
    assert lines[1] == "grads of parameter shared is a DTensor: sharded gradients are not supported"
    assert lines[2] == "guides[0] is a DTensor: sharded tensors are not supported"
    assert lines[3] == "logits is a DTensor: sharded tensors are not supported"
