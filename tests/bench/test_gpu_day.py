"""The one command for a GPU machine: nothing that fails or hangs stops it, and what it finds is
judged and written.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import gpu_checks, gpu_day, machine, report, sanitizer
from bench import ops as bench_ops
from bench import step as bench_step
from bench.gpu_day import Part
from bench.problems import Shape


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_parts_that_fail_or_hang_are_recorded_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def plan(out: Path, gpu: bool) -> list[list[Part]]:
        return [
            [
                Part("tests gpu", python("print('first'); raise SystemExit(3)"), 60),
                Part(
                    "sanitizer",
                    python(
                        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import"
                        " time; time.sleep(60)'])"
                    ),
                    1,
                ),
                Part("tests cpu", ["/no/such/program"], 60),
            ],
            [Part("ops", python("import os; print('commit', os.environ['BENCH_COMMIT'])"), 60)],
            [Part("step", python("print(6 * 7)"), 60, needs_gpu=True)],
        ]

    monkeypatch.setattr(gpu_day, "plan", plan)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv(machine.COMMIT_VARIABLE, "taken back after the test")
    code = gpu_day.main(
        [
            "--out",
            str(tmp_path),
            "--commit",
            "abc123",
            "--parts",
            "tests gpu,sanitizer,tests cpu,ops,step",
        ]
    )
    assert code == 1
    parts = json.loads((tmp_path / "summary.json").read_text())["parts"]
    assert {name: part["status"] for name, part in parts.items()} == {
        "tests gpu": "exit code 3",
        "sanitizer": "stopped after 1 s",
        "tests cpu": parts["tests cpu"]["status"],
        "ops": "ok",
        "step": "not run: no GPU that torch can use",
    }
    assert parts["tests cpu"]["status"].startswith("could not be started")
    assert parts["ops"]["last"] == "commit abc123"
    log = (tmp_path / "log.txt").read_text()
    assert "first" in log
    assert "42" not in log
    assert "dry run" in capsys.readouterr().out


def test_no_part_is_begun_when_the_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_day, "plan", lambda out, gpu: [[Part("ops", python("print(1)"), 60)]])
    assert [part.status for part in gpu_day.run(tmp_path, 0.0, ["ops"])] == [
        "not run: no time was left"
    ]


def test_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu_day.main(["--parts", "opps"])
    assert "no part 'opps'" in capsys.readouterr().err


def test_the_plan_fits_ten_minutes_and_names_every_part(tmp_path: Path) -> None:
    for gpu in (True, False):
        names = [part.name for group in gpu_day.plan(tmp_path, gpu) for part in group]
        assert ["build", *names] == list(gpu_day.PARTS)


def test_a_copy_of_the_tree_runs_without_being_installed(tmp_path: Path) -> None:
    tree = gpu_day.copy_of_the_tree(tmp_path / "tree")
    found = subprocess.run(
        python(
            "import gaal_fast, gaal_fast.kernels as k, bench;"
            " print(gaal_fast.__file__, k.__file__, bench.__file__)"
        ),
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        text=True,
        capture_output=True,
        check=True,
    ).stdout.split()
    assert found == [
        str(tree / "gaal_fast" / "__init__.py"),
        str(tree / "gaal_fast" / "kernels" / "__init__.py"),
        str(tree / "bench" / "__init__.py"),
    ]
    assert not list(tree.rglob("*.so"))
    assert (tree / "setup.py").is_file()


def test_what_is_there_is_not_built_again() -> None:
    ready = {
        "native": {"cpu": None, "cuda:0": None},
        "triton": {"cpu": "interpreter", "cuda:0": None},
        "torch": {"cpu": None, "cuda:0": None},
    }
    assert gpu_day.is_complete(ready, gpu=True)
    assert not gpu_day.is_complete(
        ready | {"native": {"cpu": None, "cuda:0": "not built"}}, gpu=True
    )
    assert gpu_day.is_complete({"native": {"cpu": None}}, gpu=False)
    assert not gpu_day.is_complete({}, gpu=False)


# -- verdicts
# --------------------------------------------------------------------------------------------------


def _ops_row(variant: str, **numbers: object) -> report.Row:
    defaults = {
        "op": "guided_linear_ce",
        "shape": "256x286x2048",
        "B": 256,
        "Y": 286,
        "dtype": "float32",
        "status": "ok",
        "cuda": "13.0",
    }
    return defaults | {"variant": variant} | numbers


def test_verdicts_follow_from_the_files(tmp_path: Path) -> None:
    large = {"op": "softmax_stats", "shape": "1024x10000", "B": 1024, "Y": 10_000}
    rows = [
        _ops_row("ours native", call_us=20.0, host_us=30.0, device_hot_us=8.0),
        _ops_row("eager", call_us=200.0, device_hot_us=80.0),
        _ops_row("compile graphs static", call_us=50.0, device_hot_us=40.0),
        _ops_row("compile graphs", call_us=80.0, device_hot_us=60.0),
        _ops_row("ours triton", status="WRONG before timing: loss"),
        _ops_row(
            "ours triton",
            **large,
            call_us=20.0,
            device_hot_us=9.0,
            device_cold_us=10.0,
            fraction_of_copy=0.9,
            roofline_us=9.0,
        ),
        _ops_row("eager", **large, call_us=200.0, device_cold_us=90.0),
    ]
    report.write_csv(tmp_path / "ops-x.csv", rows, bench_ops.COLUMNS)
    step_rows = [
        {
            "variant": "released",
            "status": "ok",
            "image": "resnet50",
            "pixels": 128,
            "batch": 256,
            "times_released": 1.0,
            "step_ms": 100.0,
            "cuda": "13.0",
        },
        {"variant": "ours", "status": "ok", "times_released": 1.5, "step_ms": 66.0, "cuda": "13.0"},
        {
            "variant": "ours, bf16",
            "status": "ok",
            "times_released": 3.0,
            "step_ms": 33.0,
            "surgery_share": 0.02,
            "cuda": "13.0",
        },
        {
            "variant": "ours, bf16, graph",
            "status": "ok",
            "times_released": 4.5,
            "step_ms": 22.0,
            "cuda": "13.0",
        },
        {
            "variant": "ours, cached guide, bf16",
            "status": "ok",
            "times_released": 9.0,
            "step_ms": 11.0,
            "cuda": "13.0",
        },
    ]
    report.write_csv(tmp_path / "step-x.csv", step_rows, bench_step.COLUMNS)
    found = {
        (check.check, check.backend): (check.value, check.good)
        for check in gpu_checks.derived(tmp_path)
    }
    assert found == {
        ("host time", "native"): (30.0, False),
        ("device time under a graph", "native"): (8.0, True),
        ("faster than eager (call)", "native"): (10.0, True),
        ("faster than reduce-overhead (call)", "native"): (2.5, False),
        ("faster than reduce-overhead (device_hot)", "native"): (5.0, None),
        ("fraction of copy bandwidth", "triton"): (0.9, True),
        ("faster than eager (device_cold)", "triton"): (9.0, False),
        ("ours in float32 over the released step", ""): (1.5, True),
        ("ours at its fastest over the released step", "ours, bf16, graph"): (4.5, True),
        ("share of surgery and selection", "ours, bf16"): (0.02, False),
    }


def test_checks_are_kept_when_more_are_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_checks.main(["--out", str(tmp_path)]) == 0
    assert "no GPU" in capsys.readouterr().out
    monkeypatch.setattr(
        gpu_checks,
        "derived",
        lambda folder: iter([gpu_checks.at_most("host time", 30.0, 25.0, "us")]),
    )
    assert (
        gpu_checks.main(
            ["--out", str(tmp_path), "--no-live", "--append", "--results", str(tmp_path)]
        )
        == 1
    )
    with (tmp_path / "checks.csv").open(newline="") as stream:
        assert [(row["check"], row["verdict"]) for row in csv.DictReader(stream)] == [
            ("everything live", "not judged"),
            ("host time", "FAIL"),
        ]
    assert "0 pass, 1 FAIL, 1 not judged" in capsys.readouterr().out


def test_every_live_check_runs_with_the_plain_backend(
    fake_cuda: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in captures nothing, so graphs cannot be judged here; everything else must hold,
    and nothing may break.
    """
    cpu = torch.device("cpu")
    monkeypatch.setattr(gpu_checks, "SMALL", (Shape(9, 5, 8),))
    monkeypatch.setattr(gpu_checks, "LARGE", Shape(4, 50, 8))
    monkeypatch.setattr(gpu_checks, "MANY_ROWS", 70)
    monkeypatch.setattr(gpu_checks, "MANY_ELEMENTS", 200)
    for check in (
        gpu_checks.no_synchronisation,
        gpu_checks.two_streams,
        gpu_checks.peak_memory,
        gpu_checks.past_two_billion,
    ):
        for found in check(cpu, "torch"):
            assert found.good, found
    (launches,) = gpu_checks.launches(cpu, "torch")
    assert launches.good is None
    (graph,) = gpu_checks.graph_on_new_data(cpu, "torch")
    assert graph.good is False, "a graph that does not replay must be noticed"
    (whole,) = gpu_checks.training_step_without_synchronisation(cpu)
    assert whole.good
    (broken,) = gpu_checks._guarded("launches", "triton", lambda: iter([][0]))
    assert (broken.good, broken.note) == (False, "IndexError: list index out of range")


def test_sanitizer_report_is_read() -> None:
    text = (
        "========= Invalid __global__ read of size 4 bytes\n=========     at row_stats_kernel(float"
        " const*)+0x120\n========= Invalid __global__ read of size 4 bytes\n=========     at"
        " row_stats_kernel(float const*)+0x180\n========= ERROR SUMMARY: 2 errors\n"
    )
    assert sanitizer.kernels_at_fault(text) == {"row_stats_kernel(float const*)": 2}
    assert sanitizer.command("racecheck", ["python", "x.py"])[1:3] == ["--tool", "racecheck"]


def test_sanitizer_driver_agrees_with_itself_and_sees_a_wrong_op(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = torch.device("cpu")
    for shape in sanitizer.SHAPES[:4]:
        assert list(sanitizer._one(cpu, "auto", *shape, torch.float32)) == []
    right = sanitizer.ops.softmax_stats
    calls: list[int] = []

    def wrong(*args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        calls.append(1)
        entropy, lse, nll = right(*args)
        return (entropy + 0.01, lse, nll) if len(calls) > 1 else (entropy, lse, nll)

    monkeypatch.setattr(sanitizer.ops, "softmax_stats", wrong)
    assert list(sanitizer._one(cpu, "auto", 7, 5, 3, 2, torch.float32)) == [
        "auto softmax_stats result 0 at 7x5x3, k=2, torch.float32"
    ]
