"""Launches in the interpreter: planned, counted, and in any order of the programs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gaal_fast.kernels import _launch, softmax_stats
from gaal_fast.kernels.entropy_topk import entropy_topk
from gaal_fast.kernels.guided import plan
from gaal_fast.kernels.linear_ce_grad import linear_ce_grad
from gaal_fast.kernels.project import CHUNK
from tests.triton import helpers
from tests.triton.steps import make_guided, project, run_guided


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
        scalars = project(moved, guides)
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

    monkeypatch.setattr(_launch.torch, "zeros", zeros)
    normal = helpers.generator(0)
    logits, features, target = normal(200, 7), normal(200, 5), helpers.labels(200, 7, 0)
    arguments = make_guided(70, 70, 66, 5, 30)
    calls = {
        "softmax_stats": (lambda: softmax_stats.softmax_stats(logits, target), 1),
        "split rows": (lambda: softmax_stats.softmax_stats(normal(2, 16385)), 1),
        "entropy_topk": (lambda: entropy_topk(logits, 9), 1),
        "linear_ce_grad": (lambda: linear_ce_grad(features, logits, target), 2),
        "project_": (
            lambda: project(
                [normal(70, 65), normal(70)], [normal(70, 65), normal(70)], epsilon=1e6
            ),
            2,
        ),
        "project_ of nine": (lambda: project([normal(3)] * 9, [normal(3)] * 9), 6),
        "guided_linear_ce": (lambda: run_guided(arguments), 3),
    }
    for name, (call, count) in calls.items():
        with _launch.trace() as launches:
            call()
        assert len(launches) == count, name
    assert tickets and all(ticket.item() == 0 for ticket in tickets if ticket.dtype is torch.int32)


def test_choice_of_the_form() -> None:
    """The formulas of the docstrings, at shapes where both sides are plain to see."""
    assert (
        plan.own_logits(256, 256, 1024)
        and not plan.own_logits(257, 1, 2)
        and not plan.own_logits(1, 257, 2)
    )
    assert not plan.own_logits(1, 1, 1025)
    for dtype, precision, balance in (
        (torch.float32, "ieee", 3.5),
        (torch.float32, "tf32", 25.0),
        (torch.bfloat16, "ieee", 50.0),
    ):
        # With Y = d the rule reads (B + k)^2 < 16 * balance * Y.
        edge = math.isqrt(int(16 * balance * 1000 - 1))
        assert plan.use_gram(edge - 10, 10, 1000, 1000, dtype, precision)
        assert not plan.use_gram(edge - 8, 10, 1000, 1000, dtype, precision)
    assert not plan.use_gram(0, 5, 100, 100, torch.float32, "ieee") and not plan.use_gram(
        5, 0, 100, 100, torch.float32, "ieee"
    )


def test_precision_follows_pytorch() -> None:
    assert _launch.dot_precision(torch.float32) == "ieee"
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        assert (
            _launch.dot_precision(torch.float32) == "tf32"
            and _launch.dot_precision(torch.float16) == "ieee"
        )
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def a_problem(**changes: object) -> plan.Problem:
    sizes = {"B": 70, "P": 90, "Y": 66, "d": 130, "k": 33}
    properties = {"dtype": torch.float16, "precision": "ieee", "bias": True}
    return plan.Problem(**(sizes | properties | changes))


RULE = {"RULE": 0, "RELATIVE": False, "BOUNDED": False}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_plan_has_all_that_its_launches_take(form: str, dtype: torch.dtype, bias: bool) -> None:
    """Three launches, and beside the tensors of the call every argument of each is in the plan."""
    made = plan.make_plan(a_problem(dtype=dtype, bias=bias), RULE)
    own, gram = form.split("-")
    first = "logits_kernel" if own == "own" else "rows_kernel"
    rest = (
        ["gram_kernel", "stacked_kernel"] if gram == "gram" else ["direct_kernel", "update_kernel"]
    )
    assert [launch.kernel.__name__ for launch in made.launches] == [first, *rest]
    given = {"ticket_ptr", "target_ptr", "guide_target_ptr", "class_weights_ptr", "bias_ptr"}
    given |= {
        f"{name}{part}"
        for name in ("features", "guide_features", "weight", "logits", "guide_logits")
        for part in ("_ptr", "_stride")
    }
    given |= {"epsilon", "margin", "ridge", "max_correction", "epsilon_ptr", "margin_ptr"}
    of_a_bias = set() if bias else {"grad_bias_ptr", "plain_bias_ptr", "guide_bias_ptr"}
    planned = made.memory.keys() | made.numbers.keys() | made.aliases.keys()
    for launch in made.launches:
        taken = set(launch.names)
        assert taken <= planned | given | of_a_bias, launch.kernel.__name__
        assert not launch.constants.keys() - set(launch.kernel.arg_names)
    assert not planned & (given | of_a_bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_plan_covers_the_problem(form: str, dtype: torch.dtype) -> None:
    """Programs for every tile, a place for the sums of each, and float32 gradients in place."""
    made = plan.make_plan(a_problem(dtype=dtype), RULE)
    first, sums, last = made.launches
    own, gram = form.split("-")
    head, features = 2 * 3, 2 * 3  # tiles of 64: of 66 x 130 and of 70 x 130
    if own == "own":
        assert first.programs == (3 + 3) * 2 and made.memory["parts_ptr"][0] == (3, 2, 160)
        assert made.memory["stacked_ptr"] == ((160, 66), torch.float32)
    else:
        rows = first.constants["ROWS"]
        assert first.programs == -(-70 // rows) - (-90 // rows)
    if gram == "gram":
        side = 3 + 2
        assert made.numbers["side"] == side and sums.programs == side**2 + features
        assert made.memory["partial_ptr"][0] == (1 + 3 * side**2,) and last.programs == head
        assert not made.aliases
    else:
        assert sums.programs == head + features
        assert made.memory["partial_ptr"][0] == (1 + 3 * head,)
        assert last.programs == -(-66 * 130 // 1024) + 1
        in_place = dtype is torch.float32
        assert last.constants["IN_PLACE"] == in_place
        aliases = {"plain_ptr": "grad_weight_ptr", "plain_bias_ptr": "grad_bias_ptr"}
        assert made.aliases == (aliases if in_place else {})
        assert ("plain_ptr" in made.memory) != in_place
    values = made.allocate(torch.empty(0, dtype=dtype))
    for name, (shape, kind) in made.memory.items():
        assert values[name].shape == shape and values[name].dtype is kind
    assert all(values[name] is values[other] for name, other in made.aliases.items())


def test_nothing_selected_plans_no_guide_rows(form: str) -> None:
    """Without rows there is still the program that finishes, and without features the bias."""
    made = plan.make_plan(a_problem(B=0, P=0, d=0, k=0), RULE)
    assert not made.gram
    first, sums, last = made.launches
    assert first.programs == 1 and sums.programs == 2 and last.programs == 1
