"""``bench.ops`` on tiny shapes: it runs to its end, writes its files, and reports no time for a
wrong result.
"""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import machine, plain, report, timing, variants
from bench import ops as bench_ops
from bench.gate import Gate, errors
from bench.problems import OPS, RULE, Problem, Shape, Truth
from bench.timing import Pool, Timing
from gaal_fast import ops
from tests.reference import oracle

CPU = torch.device("cpu")
SHAPE = Shape(9, 5, 8)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bandwidth and matrix rate are of no interest here and would take most of the time."""
    monkeypatch.setattr(machine, "copy_bandwidth", lambda device: 1e10)
    monkeypatch.setattr(machine, "matmul_rate", lambda device, dtype: 1e11)


def problem(op: str, shape: Shape = SHAPE, dtype: torch.dtype = torch.float32) -> Problem:
    return Problem(op, shape, dtype, CPU)


def options(**changes: Any) -> bench_ops.Options:
    settings = {
        "seconds": math.inf,
        "case_seconds": 0.01,
        "call_seconds": math.inf,
        "memory": 1 << 30,
        "compile": False,
    }
    return bench_ops.Options(CPU, torch.float32, **(settings | changes))


def run_main(folder: Path, *arguments: str) -> tuple[int, list[dict[str, str]]]:
    code = bench_ops.main(
        [
            "--device",
            "cpu",
            "--no-compile",
            "--case-seconds",
            "0.01",
            "--out",
            str(folder),
            *arguments,
        ]
    )
    with next(folder.glob("ops-cpu*.csv")).open(newline="") as stream:
        return code, list(csv.DictReader(stream))


# -- end to end
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_op_is_checked_timed_and_written(
    dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows = run_main(
        tmp_path, "--shape", "9x5x8", "--shape", "12x3x8", "--dtype", dtype, "--alternatives"
    )
    assert code == 0
    assert {row["op"] for row in rows} == set(OPS)
    for row in rows:
        assert row["status"] == "ok" or row["status"].startswith("not available"), row
        if row["status"] == "ok":
            assert (
                float(row["call_us_min"])
                <= float(row["call_us_p20"])
                <= float(row["call_us"])
                <= float(row["call_us_p80"])
            )
    for op in OPS:
        names = {row["variant"] for row in rows if row["op"] == op and row["status"] == "ok"}
        assert {"floor", "eager", "ours torch"} <= names
        assert ("released" in names) == (op in ("project_", "surgery", "guided_linear_ce"))
        assert len([n for n in names if n.startswith("eager ")]) == len(plain.ALTERNATIVES[op])
        assert (
            sum(
                bool(row["auto"])
                for row in rows
                if row["op"] == op and row["shape"] == rows[0]["shape"]
            )
            <= 1
        )
    assert rows[0]["torch"] == torch.__version__
    assert rows[0]["commit"]
    picture = next(tmp_path.glob("*.png")).read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000
    printed = capsys.readouterr().out
    assert all(op in printed for op in OPS)


@pytest.mark.parametrize("op", OPS)
def test_compiled_baselines_are_one_graph_and_right(
    op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    rows = {row["variant"]: row for row in bench_ops.measure(problem(op), options(compile=True))}
    assert rows["compile"]["status"] == "ok"


@pytest.mark.parametrize("op", OPS)
def test_the_form_for_cuda_graphs_leaves_its_inputs_alone(op: str) -> None:
    x = problem(op).inputs(0)
    before = {name: tensor.clone() for name, tensor in x.items()}
    arguments = plain.arguments(op, x, SHAPE.selected)
    copied = plain.FUNCTIONS[op](*variants._copies(op, arguments))
    assert all(torch.equal(tensor, before[name]) for name, tensor in x.items())
    for name, value in plain.FUNCTIONS[op](*arguments).items():
        torch.testing.assert_close(copied[name], value)


# -- the gate
# --------------------------------------------------------------------------------------------------


def _off(result: Any, place: int) -> Any:
    """The tensor at ``place`` of a result is off by a thousandth."""
    changed = list(result)
    changed[place] = changed[place] * (1 + 1e-3)
    return type(result)(*changed) if hasattr(result, "_fields") else tuple(changed)


def _reversed_selection(result: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return result[0].flip(0), result[1].flip(0)


WRONG: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "softmax_stats entropy": ("softmax_stats", lambda r: _off(r, 0)),
    "softmax_stats nll": ("softmax_stats", lambda r: _off(r, 2)),
    "entropy_topk order": ("entropy_topk", _reversed_selection),
    "linear_ce_grad weight": ("linear_ce_grad", lambda r: _off(r, 0)),
    "linear_ce_grad bias": ("linear_ce_grad", lambda r: _off(r, 1)),
    "guided_linear_ce loss": ("guided_linear_ce", lambda r: _off(r, 0)),
    "guided_linear_ce features": ("guided_linear_ce", lambda r: _off(r, 1)),
    "guided_linear_ce weight": ("guided_linear_ce", lambda r: _off(r, 2)),
    "guided_linear_ce selection": ("guided_linear_ce", lambda r: r._replace(index=r.index.roll(1))),
    "guided_linear_ce NaN": (
        "guided_linear_ce",
        lambda r: r._replace(grad_bias=r.grad_bias * torch.nan),
    ),
    "guided_linear_ce shape": (
        "guided_linear_ce",
        lambda r: r._replace(grad_weight=r.grad_weight[:-1]),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_result_has_no_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op, damage = WRONG[name]
    right = getattr(ops, op)
    monkeypatch.setattr(ops, op, lambda *a, **k: damage(right(*a, **k)))
    rows = {row["variant"]: row for row in bench_ops.measure(problem(op), options())}
    assert rows["ours torch"]["status"].startswith("WRONG before timing")
    assert "call_us" not in rows["ours torch"]
    assert rows["eager"]["status"] == "ok"


def test_a_gradient_that_is_not_repaired_has_no_time_and_fails_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = ops.project_

    def idle(grads: list[Tensor], guides: list[Tensor], **rule: Any) -> Any:
        return right([grad.clone() for grad in grads], guides, **rule)

    monkeypatch.setattr(ops, "project_", idle)
    code, rows = run_main(tmp_path, "--shape", "9x5x8", "--op", "project_", "--op", "surgery")
    assert code == 1
    for row in rows:
        if row["variant"].startswith("ours") and not row["status"].startswith("not available"):
            assert row["status"].startswith("WRONG before timing: grad_weight")
            assert not row["call_us"]


def test_a_result_that_goes_stale_while_it_is_timed_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right, results = ops.softmax_stats, {}

    def stale(logits: Tensor, target: Tensor) -> Any:
        mine = results.setdefault(ops.requested_backend(), [])
        if len(mine) < 3:  # two calls to warm up and one that is judged
            mine.append(right(logits, target))
            return mine[-1]
        return mine[0]

    monkeypatch.setattr(ops, "softmax_stats", stale)
    found = {
        row["variant"]: row["status"]
        for row in bench_ops.measure(problem("softmax_stats"), options())
    }
    assert found["ours torch"].startswith("WRONG after timing")


def test_one_that_breaks_takes_no_other_along(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such kernel\nsecond line")

    monkeypatch.setattr(ops, "entropy_topk", broken)
    found = {
        row["variant"]: row["status"]
        for row in bench_ops.measure(problem("entropy_topk"), options())
    }
    assert found["ours torch"] == "failed: RuntimeError: no such kernel"
    assert found["eager"] == "ok"


def test_tolerance_is_set_by_plain_torch() -> None:
    mine = problem("softmax_stats")
    truth = Truth(mine, mine.inputs(0))
    results = {
        name: expected.value.float()
        for name, expected in truth.expected(None).items()
        if name != "loss"
    }
    exact, loose = Gate(mine, {}), Gate(mine, {"entropy": 0.1})
    assert exact.verdict(truth, results) is None
    off = results | {"entropy": results["entropy"] * 1.01}
    assert "entropy is off" in exact.verdict(truth, off)
    assert loose.verdict(truth, off) is None
    assert exact.verdict(truth, {"entropy": results["entropy"]}) == "no lse"


# -- what results are judged by
# --------------------------------------------------------------------------------------------------


def _arrays(x: dict[str, Tensor], *names: str) -> list[np.ndarray]:
    return [x[name].numpy() for name in names]


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape", [SHAPE, Shape(64, 2, 33), Shape(5, 1, 3)], ids=str)
def test_truth_agrees_with_the_oracle(
    op: str, shape: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "bench.problems._CHUNK", 3 * shape.classes
    )  # several chunks, the last one not full
    mine = problem(op, shape)
    x, rule, k = mine.inputs(3), oracle.Rule(**RULE), shape.selected
    found = Truth(mine, x).expected(None)
    if op == "softmax_stats":
        stats = oracle.softmax_stats(*_arrays(x, "logits", "target"))
        expected = {
            "entropy": stats.entropy,
            "lse": stats.lse,
            "nll": stats.nll,
            "loss": stats.nll.mean(),
        }
    elif op == "entropy_topk":
        expected = {"entropy": oracle.entropy_topk(x["logits"].numpy(), k)[0]}
    elif op == "linear_ce_grad":
        gradient = oracle.linear_ce_grad(*_arrays(x, "features", "logits", "target", "index"))
        expected = {"grad_weight": gradient.weight, "grad_bias": gradient.bias}
    elif op == "guided_linear_ce":
        step = oracle.guided_linear_ce(
            *_arrays(x, "features", "target", "guide_features", "target", "weight", "bias"),
            top_k=k,
            rule=rule,
        )
        expected = {
            name: getattr(step, name)
            for name in ("loss", "grad_features", "grad_weight", "grad_bias", "v")
        }
    else:
        guides = _arrays(x, "guide_weight", "guide_bias") if op == "project_" else None
        if guides is None:
            chosen = oracle.entropy_topk(x["logits"].numpy(), k)[1]
            gradient = oracle.linear_ce_grad(
                *_arrays(x, "guide_features", "logits", "target"), chosen
            )
            guides = [gradient.weight, gradient.bias]
        repaired = oracle.project(_arrays(x, "fresh_weight", "fresh_bias"), guides, rule)
        expected = {
            "grad_weight": repaired.grads[0],
            "grad_bias": repaired.grads[1],
            "v": repaired.v,
        }
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(
            found[name].value.numpy(),
            value,
            rtol=1e-9,
            atol=1e-11 * found[name].scale,
            err_msg=name,
        )


@pytest.mark.parametrize("op", ["project_", "surgery", "guided_linear_ce"])
@pytest.mark.parametrize("shape", ["64x286x512", "256x2x512", "1024x2x64", "16x5000x32"])
def test_gradients_conflict_so_that_the_repair_is_timed(op: str, shape: str) -> None:
    mine = problem(op, Shape.parse(shape))
    for seed in range(2):
        assert float(Truth(mine, mine.inputs(seed)).expected(None)["v"].value) >= RULE["margin"]


def test_selections_are_judged_as_sets_in_order() -> None:
    mine = problem("entropy_topk", Shape(8, 5, 1))
    x = mine.inputs(0)
    x["logits"][1] = x["logits"][0]  # a tie
    truth = Truth(mine, x)
    good = truth.entropy.argsort(descending=True)
    assert truth.selection_error(good[:4]) is None
    swapped = good.clone()
    places = [int((good == row).nonzero()) for row in (0, 1)]
    swapped[places] = swapped[places[::-1]]
    assert truth.selection_error(swapped[:4]) is None, (
        "rows of equal entropy may stand in any order"
    )
    assert "order" in truth.selection_error(good[:4].flip(0))
    assert "leaves out" in truth.selection_error(good[4:])
    assert "twice" in truth.selection_error(good[[0, 0, 1, 2]])
    assert "int32" in truth.selection_error(good[:4].int())


def test_errors_are_relative_to_what_a_result_is_made_of() -> None:
    mine = problem("linear_ce_grad")
    truth = Truth(mine, mine.inputs(0))
    expected = truth.expected(None)["grad_weight"]
    found = errors(truth, {"grad_weight": expected.value + 0.5 * expected.scale})
    assert found["grad_weight"] == pytest.approx(0.5)
    assert errors(truth, {"grad_weight": expected.value[:-1]})["grad_weight"] == math.inf
    assert errors(truth, {"grad_weight": expected.value * torch.nan})["grad_weight"] == math.inf


def test_compulsory_traffic_is_counted_by_hand() -> None:
    b, y, d, k = 8, 3, 5, 4
    counted = {op: problem(op, Shape(b, y, d)).bytes for op in OPS}
    gradient = 4 * (y * d + y)
    assert counted == {
        "softmax_stats": 4 * b * y + 8 * b + 12 * b,
        "entropy_topk": 4 * b * y + 12 * k,
        "linear_ce_grad": 4 * k * (y + d) + 16 * k + gradient,
        "project_": 5 * gradient,
        "surgery": 4 * (b * y + k * d) + 8 * b + 2 * gradient,
        "guided_linear_ce": 4 * (3 * b * d + y * d) + 16 * b + gradient,
    }
    assert problem("guided_linear_ce", Shape(b, y, d)).flops == 2 * (4 * b + k) * y * d


# -- budgets, reports, timers
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"memory": 1000}, "--memory"),
        ({"call_seconds": 0.0}, "--call-seconds"),
        ({"seconds": -1.0}, "--seconds"),
    ],
)
def test_what_a_budget_leaves_out_is_said(changes: dict[str, Any], words: str) -> None:
    saved: list[int] = []
    rows = bench_ops.run(
        ["softmax_stats"], [SHAPE], options(**changes), lambda so_far: saved.append(len(so_far))
    )
    assert [row["status"].startswith("not run") and words in row["status"] for row in rows] == [
        True
    ]
    assert saved == [1]
    assert words in bench_ops.tables(rows)


def test_cases_that_do_not_differ_are_timed_once_and_the_first_shapes_come_first() -> None:
    shapes = [Shape(64, 10, 512), Shape(64, 10, 2048), Shape(1, 2, 3), *bench_ops.FIRST]
    found = bench_ops.problems(["softmax_stats", "project_", "surgery"], shapes, options())
    assert found[0].shape in bench_ops.FIRST
    assert len([p for p in found if p.op == "softmax_stats"]) == len(
        {(s.rows, s.classes) for s in shapes}
    )
    assert len([p for p in found if p.op == "surgery"]) == len(shapes)


def test_ratios_and_losses() -> None:
    def row(variant: str, kind: str, call: float, auto: str = "") -> dict[str, Any]:
        return {
            "op": "project_",
            "shape": "5x8",
            "Y": 5,
            "B": 9,
            "d": 8,
            "variant": variant,
            "kind": kind,
            "status": "ok",
            "call_us": call,
            "auto": auto,
        }

    times = {
        name: {"call_us": Timing(us, us, us, us, 1)}
        for name, us in {"floor": 5.0, "ours native": 20.0, "eager": 10.0, "compile": 40.0}.items()
    }
    ratios = bench_ops._ratios("ours native", times)
    assert ratios == {"call_vs_eager": 0.5, "call_vs_compile": 2.0, "call_over_floor": 4.0}
    rows = [row("ours native", "ours", 20.0, "native") | ratios, row("eager", "baseline", 10.0)]
    text = bench_ops.tables(rows)
    assert "slower: project_ 5x8 ours native takes 2.00 times as long as eager" in text
    assert "compile (call" not in text


def test_quantiles() -> None:
    timing_ = Timing.of([x * 1e-6 for x in (5, 1, 2, 3, 4, 6)])
    assert (timing_.median, timing_.p20, timing_.p80, timing_.least, timing_.count) == (
        3.5,
        2,
        5,
        1,
        6,
    )


def test_a_set_that_is_changed_in_place_is_fresh_for_every_call() -> None:
    seen: list[float] = []

    def add(x: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(float(x["g"]))
        x["g"] += 1
        return {"g": x["g"]}

    sets = [{"g": torch.tensor(float(i)), "first": torch.tensor(float(i))} for i in range(3)]
    pool = Pool(sets, lambda x: x["g"].copy_(x["first"]), once=True)
    two = [variants.Variant(name, "baseline", add) for name in ("a", "b")]
    found = timing.time_on_cpu(two, pool, seconds=0.0, least=4)
    assert seen == [0, 0, 1, 1, 2, 2] * 2, "whole turns through the sets"
    for measured in found.values():
        assert measured.times["call_us"].count == 6
        assert measured.last_set == 2
        assert float(measured.returned["g"]) == 3, (
            "what one variant returned must survive the next one's call"
        )


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("cold", [False, True])
def test_gpu_timer_takes_every_kind_of_variant(once: bool, cold: bool, fake_cuda: None) -> None:
    def run(x: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y": x["x"] + 1}

    def uncapturable(x: dict[str, Tensor]) -> dict[str, Tensor]:
        raised.append(1)
        if len(raised) > calls_before_capture:
            raise RuntimeError("not permitted when stream is capturing")
        return run(x)

    sets = [{"x": torch.tensor(float(i))} for i in range(4)]
    pool = Pool(sets, lambda x: None, once=once)
    raised: list[int] = []
    calls_before_capture = 1 + 5 * (4 if once else timing.LOOP)
    kinds = [
        variants.Variant("graph", "ours", run),
        variants.Variant("loop", "baseline", run, graphable=False),
        variants.Variant("waits", "baseline", run, graphable=False, synchronizes=True),
        variants.Variant("floor", "floor", run),
        variants.Variant("uncapturable", "baseline", uncapturable),
    ]
    found = timing.time_on_gpu(kinds, pool, hot_sets=2, cold=cold, seconds=0.0)
    device = {"device_hot_us"} | ({"device_cold_us"} if cold else set())
    assert (
        set(found["graph"].times)
        == set(found["loop"].times)
        == set(found["floor"].times)
        == {"call_us", "host_us"} | device
    )
    assert set(found["waits"].times) == {"call_us"}
    assert set(found["uncapturable"].times) == {"call_us", "host_us"}
    assert "capturing" in found["uncapturable"].failure
    for name in ("graph", "loop", "waits"):
        assert float(found[name].returned["y"]) == found[name].last_set + 1
    assert found["floor"].returned is None


def test_csv_and_table_leave_missing_numbers_empty(tmp_path: Path) -> None:
    report.write_csv(tmp_path / "sub" / "x.csv", [{"a": 1.23456789}, {"b": "text"}], ["a", "b"])
    assert (tmp_path / "sub" / "x.csv").read_text().splitlines() == ["a,b", "1.2346,", ",text"]
    assert report.table(["a", "b"], [["x", None], ["y", 12345.6]]).splitlines()[-2:] == [
        "x      -",
        "y  12346",
    ]


def test_what_is_timed_apart_disturbs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes after all others, and each after a pause."""
    calls: list[str] = []
    monkeypatch.setattr(timing, "wait_for_other_threads", lambda device: calls.append("pause"))
    made = [
        variants.Variant(
            name,
            "baseline",
            lambda inputs, name=name: calls.append(name) or {},
            apart=name not in ("eager", "ours"),
        )
        for name in ("released", "ours torch", "eager", "ours")
    ]
    found = timing.time_on_cpu(
        made, Pool([{}, {}], lambda inputs: None, once=False), seconds=0.0, least=4
    )
    groups = " ".join(calls).split("pause")
    assert [set(group.replace("ours torch", "torch").split()) for group in groups] == [
        set(),
        {"eager", "ours"},
        {"released"},
        {"torch"},
    ]
    assert all(found[variant.name].times["call_us"].count >= 4 for variant in made)
