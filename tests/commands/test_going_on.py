"""A run killed at any moment goes on with ``--resume``, to the bits of one that was not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from gaal_fast.runs import folder as run_folder
from tests.commands.conftest import Answer, flags
from tests.commands.test_bad_input import assert_one_line, snapshot
from tests.commands.test_train import assert_same_bits

Run = Callable[..., Answer]
# Where a process is killed: the place in the program, and the text that stands for it.
KILL = (
    "import os, signal; from gaal_fast.runs.folder import RunFolder; from gaal_fast.engine.trainer"
    " import Trainer\n"
)
DIE = "lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)"


def killed(place: str, command: str, *argv: object) -> None:
    """Run a command in a process of its own that is killed when it comes to ``place``."""
    program = f"{KILL}{place} = {DIE}\nfrom gaal_fast.{command} import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, argv)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def assert_same_numbers(first: Path, second: Path) -> None:
    one, other = (json.loads((f / run_folder.SUMMARY).read_text()) for f in (first, second))
    assert {k: v for k, v in one.items() if k != "seconds"} == {
        k: v for k, v in other.items() if k != "seconds"
    }


@pytest.mark.parametrize(
    "place",
    [
        "RunFolder.write_data",  # nothing there but the configuration
        "Trainer._end_epoch",  # steps.csv is there, no checkpoint
        "RunFolder.save_checkpoint",  # weights and metrics too
        "Trainer._summarize",  # all but the summary
    ],
)
def test_a_killed_run_goes_on_to_the_same_bits(
    trees: Path, trained: Path, tmp_path: Path, run_command: Run, place: str
) -> None:
    run = tmp_path / "run"
    killed(place, "train", *flags(trees, run))
    assert not (run / run_folder.SUMMARY).exists()
    answer = run_command("train", "--resume", run)
    assert answer.code == 0, answer.err
    assert_same_bits(run, trained)
    assert_same_numbers(run, trained)
    assert {p.name for p in run.iterdir()} == {p.name for p in trained.iterdir()}


def test_a_row_that_was_half_written_is_dropped(
    trees: Path, trained: Path, tmp_path: Path, run_command: Run
) -> None:
    run = tmp_path / "run"
    assert run_command("train", *flags(trees, run), "--train.epochs", 2).code == 0
    (run / run_folder.SUMMARY).unlink()
    (run / ".77-abc.part").write_text("of a killed process")
    with (run / run_folder.STEPS).open("a") as stream:
        stream.write("15,3,image,0.5,0.1,0.2\n1")
    assert run_command("train", "--resume", run, "--train.epochs", 3).code == 0
    assert_same_bits(run, trained)
    assert not list(run.glob(".*"))


def test_several_seeds_go_on_and_a_finished_one_is_refused(
    trees: Path, tmp_path: Path, run_command: Run
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    more = ["--train.seeds", 2, "--train.epochs", 1]
    assert run_command("train", *flags(trees, whole), *more).code == 0
    shutil.copytree(whole, run)
    for folder in (run, run / "seed-1"):
        (folder / run_folder.SUMMARY).unlink()
    (run / "seed-1" / run_folder.CHECKPOINT).unlink()
    assert run_command("train", "--resume", run).code == 0
    for seed in ("seed-0", "seed-1"):
        assert_same_bits(run / seed, whole / seed)
    assert_same_numbers(run, whole)
    before = snapshot(run)
    assert_one_line(
        run_command("train", "--resume", run), r"run is finished: all of its 2 seeds are$"
    )
    assert snapshot(run) == before
    assert_one_line(
        run_command("train", "--resume", run, "--train.seeds", 1),
        r"--train\.seeds cannot change between one seed and several when a run is resumed",
    )
    # More epochs are for every seed.
    assert run_command("train", "--resume", run, "--train.epochs", 2).code == 0
    assert list(pd.read_csv(run / "seed-0" / run_folder.METRICS)["epoch"]) == [1, 2]


def test_a_comparison_goes_on(trees: Path, tmp_path: Path, run_command: Run) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    more = ["--methods", "image,table", "--train.epochs", 1]
    assert run_command("compare", *flags(trees, whole), *more).code == 0
    killed("Trainer._summarize", "compare", *flags(trees, run), *more)
    assert_one_line(
        run_command("train", "--resume", run),
        rf"--resume: {run} holds a comparison; go on with: .*compare --resume {run}$",
    )
    assert_one_line(
        run_command("compare", "--resume", run, "--methods", "gaal"), r"--methods cannot change"
    )
    answer = run_command("compare", "--resume", run)
    assert answer.code == 0, answer.err
    assert (run / "comparison.csv").read_bytes() == (whole / "comparison.csv").read_bytes()
    for method in ("image", "table"):
        assert_same_bits(run / method, whole / method)
    before = snapshot(run)
    assert_one_line(
        run_command("compare", "--resume", run), r"is finished: all of its 2 methods are$"
    )
    assert snapshot(run) == before
    assert_one_line(
        run_command("compare", "--resume", whole / "image"),
        r"holds no comparison; go on with: .*train --resume",
    )
    assert_one_line(
        run_command("evaluate", "--run", run),
        rf"--run: {run} holds a comparison; name one of its runs, such as {run}/image$",
    )


def test_a_run_without_a_summary_predicts_and_one_without_weights_says_what_to_do(
    trees: Path, trained: Path, tmp_path: Path, run_command: Run
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / run_folder.SUMMARY).unlink()
    answer = run_command("evaluate", "--run", run)
    assert answer.code == 0
    assert (
        f"warning: the training of {run} has not finished; its best weights so far are used; go on"
        " with:" in answer.err
    )
    (run / run_folder.WEIGHTS).unlink()
    assert_one_line(
        run_command("evaluate", "--run", run),
        rf"{run} has no best\.safetensors: the run has not finished an epoch; "
        rf"go on with: python -m gaal_fast\.train --resume {run}$",
    )


def test_evaluate_and_resume_find_relative_paths_from_any_directory(
    trees: Path, tmp_path: Path, run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration keeps what was written; a tree that is moved as a whole keeps working."""
    project = tmp_path / "project"
    shutil.copytree(trees.parent, project / "data")
    monkeypatch.chdir(project)
    own = [
        str(Path(f).relative_to(trees.parent)) if str(f).startswith(str(trees.parent)) else f
        for f in flags(trees, Path("run"))
    ]
    own = [f"data/{f}" if f in ("trees.csv", "images") else f for f in own]
    assert run_command("train", *own, "--train.epochs", 1).code == 0
    monkeypatch.chdir("/")
    moved = tmp_path / "moved"
    os.rename(project, moved)
    text = (moved / "run" / run_folder.CONFIG).read_text()
    assert "csv: data/trees.csv" in text
    assert str(tmp_path) not in text + (moved / "run" / run_folder.ENVIRONMENT).read_text()
    assert run_command("evaluate", "--run", moved / "run").code == 0
    assert run_command("train", "--resume", moved / "run", "--train.epochs", 2).code == 0
    assert "csv: data/trees.csv" in (moved / "run" / run_folder.CONFIG).read_text()
    monkeypatch.chdir(moved / "data")
    assert (
        run_command(
            "train", "--resume", moved / "run", "--train.epochs", 3, "--data.csv", "trees.csv"
        ).code
        == 0
    )
    assert f"csv: {moved}/data/trees.csv" in (moved / "run" / run_folder.CONFIG).read_text()
    (moved / "data" / "trees.csv").unlink()
    assert_one_line(
        run_command("evaluate", "--run", moved / "run"),
        rf"--run: {moved}/data/trees\.csv, which {moved}/run was trained on, is not there; give a"
        r" table with --csv$",
    )
