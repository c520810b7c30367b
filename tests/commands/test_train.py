"""The main command: what a run leaves behind, and that it can be stopped, resumed and repeated bit
for bit.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from gaal_fast.runs import analysis
from gaal_fast.runs import folder as run_folder
from tests.commands.conftest import Answer, flags

Run = Callable[..., Answer]


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / run_folder.CHECKPOINT, weights_only=True)["method"]


def assert_same_bits(first: Path, second: Path) -> None:
    for a, b in (
        (final_weights(first), final_weights(second)),
        *[tuple(load_file(f / run_folder.WEIGHTS) for f in (first, second))],
    ):
        assert a.keys() == b.keys()
        for name in a:
            assert torch.equal(a[name], b[name]), name
    assert (first / run_folder.STEPS).read_bytes() == (second / run_folder.STEPS).read_bytes()


def test_a_run_folder_holds_what_is_promised(trained: Path) -> None:
    names = {p.name for p in trained.iterdir()}
    assert {
        run_folder.CONFIG,
        run_folder.ENVIRONMENT,
        run_folder.DATA,
        "preprocessor.skops",
        "schema.json",
        "reading.json",
        run_folder.SPLIT,
        run_folder.DATA_ISSUES,
        run_folder.METRICS,
        run_folder.STEPS,
        run_folder.SUMMARY,
        run_folder.CEILINGS,
        run_folder.WEIGHTS,
        run_folder.CHECKPOINT,
        run_folder.CURVES,
        run_folder.CONFLICT,
        *(set(analysis.COLUMNS) - {analysis.RESIDUALS, analysis.COVERAGE, analysis.DIFFERENCES}),
        analysis.FACTS,
        analysis.CALIBRATION,
        analysis.MISTAKES,
        analysis.OUTCOMES,
        analysis.REPORT,
    } == names
    summary = json.loads((trained / run_folder.SUMMARY).read_text())
    for name in ("fused", "image", "table"):
        assert 0 <= summary["test"]["accuracy"][name] <= 1
    metrics = pd.read_csv(trained / run_folder.METRICS)
    assert list(metrics["epoch"]) == [1, 2, 3]
    assert {
        "train.loss.image",
        "train.loss.table",
        "val.accuracy.fused",
        "cosine.image",
        "projected.table",
        "lr",
    } <= set(metrics)
    steps = pd.read_csv(trained / run_folder.STEPS)
    assert list(steps["modality"][:4]) == ["image", "table", "image", "table"]
    assert steps["cosine"].between(-1.0001, 1.0001).all()
    assert (steps["v"] >= 0).all()
    for image in (run_folder.CURVES, run_folder.CONFLICT):
        pixels = np.asarray(Image.open(trained / image).convert("L"))
        assert pixels.std() > 5, "the image is empty"
    split = pd.read_csv(trained / run_folder.SPLIT)
    assert len(split) == 72
    assert summary["split"] == json.loads((trained / run_folder.DATA).read_text())["split"]


def test_it_learns(trained: Path) -> None:
    summary = json.loads((trained / run_folder.SUMMARY).read_text())
    assert summary["test"]["accuracy"]["fused"] > 0.6, "three classes by chance are 0.33"


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(
    trees: Path, trained: Path, tmp_path: Path, run_command: Run
) -> None:
    assert run_command("train", *flags(trees, tmp_path / "again")).code == 0
    assert_same_bits(trained, tmp_path / "again")
    assert run_command("train", *flags(trees, tmp_path / "other"), "--train.seed", 1).code == 0
    assert not torch.equal(
        final_weights(trained)["head.weight"], final_weights(tmp_path / "other")["head.weight"]
    )


@pytest.mark.parametrize(
    "extra",
    [[], ["--method.guide", "cached", "--optim.schedule", "cosine"]],
    ids=["fresh", "cached"],
)
def test_forty_steps_and_twenty_resumed_for_twenty_more_end_in_the_same_bits(
    trees: Path, tmp_path: Path, run_command: Run, extra: list[str]
) -> None:
    """The training rows make seven batches, so that 20 steps stop inside the third epoch."""
    base = [*extra, "--train.epochs", "9", "--data.augment", "paper"]
    assert (
        run_command("train", *flags(trees, tmp_path / "whole"), *base, "--train.max-steps", 40).code
        == 0
    )
    assert (
        run_command("train", *flags(trees, tmp_path / "parts"), *base, "--train.max-steps", 20).code
        == 0
    )
    assert not torch.equal(
        final_weights(tmp_path / "whole")["head.weight"],
        final_weights(tmp_path / "parts")["head.weight"],
    )
    answer = run_command("train", "--resume", tmp_path / "parts", "--train.max-steps", 40)
    assert answer.code == 0, answer.err
    assert_same_bits(tmp_path / "whole", tmp_path / "parts")
    columns = ["epoch", "step", "val.accuracy.fused", "train.loss.image"]
    whole, parts = (
        pd.read_csv(tmp_path / n / run_folder.METRICS)[columns] for n in ("whole", "parts")
    )
    pd.testing.assert_frame_equal(whole, parts)
    first, second = (
        json.loads((tmp_path / n / run_folder.SUMMARY).read_text()) for n in ("whole", "parts")
    )
    assert first["test"] == second["test"]


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is a signal of another kind on Windows")
@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_saves_exits_130_and_resumes_to_the_same_bits(
    trees: Path, tmp_path: Path, run_command: Run, workers: int
) -> None:
    base = [
        *flags(trees, tmp_path / "stopped")[:-2],
        "--train.epochs",
        "40",
        "--train.patience",
        "40",
        "--data.workers",
        str(workers),
    ]
    command = [
        sys.executable,
        "-m",
        "gaal_fast.train",
        *base,
        "--run.dir",
        str(tmp_path / "stopped"),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 90
    while not (tmp_path / "stopped" / run_folder.METRICS).exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the loader's processes too
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in err
    assert f"--resume {tmp_path / 'stopped'}" in err
    assert not (tmp_path / "stopped" / run_folder.SUMMARY).exists()
    assert run_command("train", "--resume", tmp_path / "stopped").code == 0
    assert run_command("train", *base, "--run.dir", tmp_path / "whole").code == 0
    assert_same_bits(tmp_path / "stopped", tmp_path / "whole")


def test_several_seeds_are_summarised_with_the_sample_deviation(
    trees: Path, tmp_path: Path, run_command: Run
) -> None:
    answer = run_command(
        "train", *flags(trees, tmp_path / "seeds"), "--train.seeds", 3, "--train.seed", 5
    )
    assert answer.code == 0, answer.err
    runs = [
        json.loads((tmp_path / "seeds" / f"seed-{s}" / run_folder.SUMMARY).read_text())
        for s in (5, 6, 7)
    ]
    summary = json.loads((tmp_path / "seeds" / run_folder.SUMMARY).read_text())
    for name in ("fused", "image", "table"):
        values = [run["test"]["accuracy"][name] for run in runs]
        assert summary["test"]["accuracy"][name] == pytest.approx(np.mean(values))
        assert summary["std"]["test"]["accuracy"][name] == pytest.approx(np.std(values, ddof=1))
    assert "±" in answer.out


@pytest.mark.parametrize("method", ["alternating", "concat", "image", "table"])
def test_every_method_trains(trees: Path, tmp_path: Path, run_command: Run, method: str) -> None:
    answer = run_command(
        "train", *flags(trees, tmp_path / method), "--method.name", method, "--train.epochs", 1
    )
    assert answer.code == 0, answer.err
    accuracy = json.loads((tmp_path / method / run_folder.SUMMARY).read_text())["test"]["accuracy"]
    assert set(accuracy) == (
        {"fused", method} if method in ("image", "table") else {"fused", "image", "table"}
    )


@pytest.mark.parametrize(
    ("select", "column", "best"),
    [("accuracy", "accuracy", max), ("balanced", "balanced_accuracy", max), ("loss", "nll", min)],
)
def test_the_epoch_is_chosen_by_what_select_names(
    trees: Path,
    tmp_path: Path,
    run_command: Run,
    select: str,
    column: str,
    best: Callable[..., float],
) -> None:
    frame = pd.read_csv(trees, dtype=str)
    uneven = pd.concat([frame[frame["species"] == "ash"], frame[frame["species"] != "ash"][:24]])
    uneven.to_csv(tmp_path / "uneven.csv", index=False)
    answer = run_command(
        "train",
        *flags(trees, tmp_path / "run"),
        "--data.csv",
        tmp_path / "uneven.csv",
        "--train.select",
        select,
        "--train.epochs",
        6,
        "--data.val-fraction",
        0.3,
        "--method.name",
        "table",
    )
    assert answer.code == 0, answer.err
    summary = json.loads((tmp_path / "run" / run_folder.SUMMARY).read_text())
    metrics = pd.read_csv(tmp_path / "run" / run_folder.METRICS).set_index("epoch")
    scores = metrics[f"val.{column}.fused"]
    assert scores[summary["best_epoch"]] == best(scores)
    assert summary["val"][column]["fused"] == pytest.approx(best(scores), rel=1e-6)
    assert "test balanced accuracy  fused " in answer.out, (
        "24 rows of one class and about 12 of the others"
    )


def test_options_reach_the_run(trees: Path, tmp_path: Path, run_command: Run) -> None:
    options = [
        "--method.rule",
        "official",
        "--data.class-weights",
        "balanced",
        "--optim.name",
        "adamw",
        "--train.precision",
        "bf16",
        "--method.order",
        "table,image",
        "--data.workers",
        "2",
        "--data.cache",
        "none",
        "--train.epochs",
        "1",
    ]
    answer = run_command("train", *flags(trees, tmp_path / "run"), *options)
    assert answer.code == 0, answer.err
    steps = pd.read_csv(tmp_path / "run" / run_folder.STEPS)
    assert list(steps["modality"][:2]) == ["table", "image"]
    assert steps["v"].map(lambda v: v == 0 or v >= 0.75).all(), (
        "rule official never takes a v below its margin"
    )
    config = yaml.safe_load((tmp_path / "run" / run_folder.CONFIG).read_text())
    assert config["data"]["class-weights"] == "balanced"


def test_loader_processes_and_cache_do_not_change_the_bits(
    trees: Path, tmp_path: Path, run_command: Run
) -> None:
    base = ["--train.epochs", "2", "--data.augment", "paper"]
    for name, more in (
        ("ram", ["--data.cache", "ram"]),
        ("workers", ["--data.cache", "none", "--data.workers", "2"]),
    ):
        assert run_command("train", *flags(trees, tmp_path / name), *base, *more).code == 0
    assert_same_bits(tmp_path / "ram", tmp_path / "workers")


def test_dry_run_and_print_config_write_nothing(
    trees: Path, tmp_path: Path, run_command: Run
) -> None:
    answer = run_command("train", *flags(trees, tmp_path / "run"), "--dry-run")
    assert answer.code == 0
    assert "3 classes" in answer.out
    answer = run_command("train", *flags(trees, tmp_path / "run"), "--print-config")
    assert yaml.safe_load(answer.out)["data"]["target"] == "species"
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_file_repeats_a_run(
    trees: Path, trained: Path, tmp_path: Path, run_command: Run
) -> None:
    answer = run_command(
        "train", "--config", trained / run_folder.CONFIG, "--run.dir", tmp_path / "again"
    )
    assert answer.code == 0, answer.err
    assert_same_bits(trained, tmp_path / "again")


def test_importing_the_package_is_quick_and_touches_no_gpu() -> None:
    program = (
        "import time; start = time.perf_counter(); import gaal_fast; seconds = time.perf_counter()"
        " - start\nimport gaal_fast.ops, gaal_fast.surgery, torch\nassert not"
        " torch.cuda.is_initialized()\nassert seconds < 3, seconds"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ})
