"""``bench.step`` on tiny networks: it runs to its end, its parts add up, and it notices a step that
learns something else.
"""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import step
from gaal_fast import ops

TINY = [
    "--image",
    "small",
    "--pixels",
    "8",
    "--batch",
    "6",
    "--classes",
    "4",
    "--seconds",
    "0",
    "--device",
    "cpu",
]


def options(**changes: Any) -> step.Options:
    settings = {
        "image": "small",
        "pixels": 8,
        "batch": 6,
        "classes": 4,
        "seconds": 0.0,
        "preparation": math.inf,
        "compile": False,
    }
    return step.Options(torch.device("cpu"), **(settings | changes))


def test_runs_to_its_end_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert step.main([*TINY, "--out", str(tmp_path)]) == 0
    with (tmp_path / "step-cpu.csv").open(newline="") as stream:
        rows = {row["variant"]: row for row in csv.DictReader(stream)}
    assert list(rows) == ["released", "ours", "ours, cached guide"]
    for row in rows.values():
        assert row["status"] == "ok"
        assert float(row["images_per_s"]) == pytest.approx(6e3 / float(row["step_ms"]), rel=1e-3)
        assert float(row["times_released"]) == pytest.approx(
            float(rows["released"]["step_ms"]) / float(row["step_ms"]), rel=1e-3
        )
        assert row["backend"] in (("",) if row["variant"] == "released" else ("native", "torch"))
    assert float(rows["released"]["guide forward ms"]) == 0.0, (
        "the released step records a graph in every forward pass"
    )
    assert float(rows["ours"]["guide forward ms"]) > 0.0
    assert float(rows["ours, cached guide"]["guide forward ms"]) == 0.0
    assert all(
        float(row[f"{phase} ms"]) > 0
        for row in rows.values()
        for phase in ("forward", "backward", "head and surgery", "optimizer")
    )
    assert float(rows["ours"]["float64_difference"]) < 1e-8
    assert (tmp_path / "step-cpu.png").read_bytes().startswith(b"\x89PNG")
    assert "after one step" in capsys.readouterr().out


def test_phases_share_the_time_out_without_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(step.time, "perf_counter", lambda: float(next(clock)))
    phases = step.Phases(torch.device("cpu"))  # reads 0
    inner = phases.wrap(lambda: None, "backward")  # each border reads the clock once

    def outer() -> None:
        inner()
        inner()

    with phases.phase("rest"):  # 1 .. 8
        phases.wrap(outer, "optimizer")()  # 2 .. 7, of which 3 .. 4 and 5 .. 6 are the inner one's
    assert phases.seconds["backward"] == 2
    assert phases.seconds["optimizer"] == 3
    assert phases.seconds["rest"] == 1 + 1 + 1  # also what comes before the first border


def test_nothing_stays_patched() -> None:
    trainer = step.ours(options())
    before = torch.Tensor.backward, ops.guided_linear_ce
    step.breakdown(trainer, [step.make_batch(options(), 0)], torch.device("cpu"), steps=1)
    assert (torch.Tensor.backward, ops.guided_linear_ce) == before


@pytest.mark.parametrize("damage", ["head", "features"])
def test_a_step_that_learns_something_else_is_noticed(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = ops.guided_linear_ce

    def wrong(*args: Any, **kwargs: Any) -> ops.GuidedStep:
        result = right(*args, **kwargs)
        if damage == "head":
            return result._replace(grad_weight=result.grad_weight.roll(1, dims=0))
        return result._replace(grad_features=-result.grad_features)

    assert step.equality(options()).good
    monkeypatch.setattr(ops, "guided_linear_ce", wrong)
    assert not step.equality(options()).good
    assert step.main([*TINY, "--out", str(tmp_path)]) == 1


def test_a_variant_that_breaks_or_comes_too_late_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> step.Trainer:
        raise RuntimeError("no such encoder")

    original = step.makers
    monkeypatch.setattr(step, "makers", lambda o: {**original(o), "broken": broken})
    rows, _ = step.run(options())
    assert [row["status"] for row in rows] == [
        "ok",
        "ok",
        "ok",
        "failed: RuntimeError: no such encoder",
    ]
    rows, _ = step.run(options(preparation=-1.0))
    assert {row["status"] for row in rows} == {"not run: preparation took too long (--preparation)"}


def test_the_variants_for_a_gpu_step_here_too() -> None:
    """bfloat16 encoders and channels-last images need no GPU; compiled encoders and graphs do, to
    be worth their time.
    """
    batch = step.to_channels_last(step.make_batch(options(), 0))
    assert batch.views["image"].values.is_contiguous(memory_format=torch.channels_last)
    for trainer in (
        step.fast(options(), guide="fresh", compile=False, graph=False, name="fast"),
        step.released_fast(options(), compile=False),
    ):
        before = [p.detach().clone() for p in trainer.model.parameters()]
        trainer.step(batch)
        assert any(
            not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True)
        )
        assert all(p.dtype == torch.float32 for p in trainer.model.parameters())


def test_a_graphed_step_is_captured_once_and_fed_new_batches(fake_cuda: None) -> None:
    calls: list[torch.Tensor] = []

    def one(batch: step.Batch) -> list[str]:
        calls.append(batch.target)
        return ["report"]

    graphed = step.GraphedStep(one, warm_up=2)
    first, second = (step.make_batch(options(), seed) for seed in range(2))
    assert graphed(first) == graphed(second) == ["report"]
    assert len(calls) == 3
    assert torch.equal(graphed.batch.target, second.target)
    assert torch.equal(graphed.batch.views["image"].values, second.views["image"].values)
    assert not torch.equal(first.target, second.target), (
        "the batch that was captured must stay as it was"
    )


def test_a_gpu_adds_the_fast_settings_for_both() -> None:
    names = list(
        step.makers(dataclasses.replace(options(compile=True), device=torch.device("cuda")))
    )
    assert names[:3] == ["released", "ours", "ours, cached guide"]
    assert {
        "released, bf16, compiled",
        "ours, bf16, compiled",
        "ours, bf16, compiled, graph",
    } <= set(names)
    plain = step.makers(dataclasses.replace(options(), device=torch.device("cuda")))
    assert not any("compiled" in name for name in plain)
    assert not any("cached" in name and "graph" in name for name in names), (
        "a graph would not see the last step's guide change"
    )
