"""A method in a file of the user's own trains, goes on, compares and predicts as the others do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file

from gaal_fast.runs import folder as run_folder
from tests.commands.conftest import Answer, flags
from tests.commands.test_bad_input import assert_one_line
from tests.commands.test_train import assert_same_bits

Run = Callable[..., Answer]
TOY = Path(__file__).with_name("toy_plugin.py")


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A copy of the toy method, which a test may change."""
    return Path(shutil.copy(TOY, tmp_path / "toy.py"))


def toy(trees: Path, run: Path, plugin: Path) -> list[object]:
    own = ["--plugin", plugin, "--method.name", "toy", "--method.lessons", 2]
    return [*flags(trees, run), *own, "--train.epochs", 2]


def test_it_trains_in_two_phases_and_predicts(
    trees: Path, tmp_path: Path, plugin: Path, run_command: Run
) -> None:
    assert len(plugin.read_text().splitlines()) <= 60
    run = tmp_path / "run"
    answer = run_command("train", *toy(trees, run, plugin))
    assert answer.code == 0, answer.err
    steps = pd.read_csv(run / run_folder.STEPS)
    assert list(steps.columns) == [
        *("step", "epoch", "modality", "loss", "cosine", "v"), "phase", "distance",
    ]  # fmt: skip
    assert list(steps["phase"]) == ["teacher"] * 14 + ["student"] * 14
    assert list(steps["modality"]) == ["teacher"] * 14 + ["fused"] * 14
    assert steps["distance"].isna().sum() == 14 and steps["v"].isna().all()
    metrics = pd.read_csv(run / run_folder.METRICS)
    assert list(metrics["phase"]) == ["teacher", "teacher", "student", "student"]
    assert list(metrics["epoch"]) == [1, 2, 3, 4]
    assert metrics["distance.fused"].notna().sum() == 2
    weights = load_file(run / run_folder.WEIGHTS)
    assert "teacher.head.weight" in weights
    training_rows = (pd.read_csv(run / run_folder.SPLIT)["part"] == "train").sum()
    passes = weights["rows_seen"].item() / training_rows
    assert passes in (3, 4), "one pass over the whole set an epoch, to the best one"
    summary = json.loads((run / run_folder.SUMMARY).read_text())
    assert summary["best_epoch"] in (3, 4), "an epoch of the phase that selects"
    out = tmp_path / "p.csv"
    named = ["--run", run, "--plugin", plugin]
    answer = run_command("predict", *named, "--csv", trees, "--out", out)
    assert answer.code == 0, answer.err
    assert len(pd.read_csv(out)) == 72
    answer = run_command("evaluate", *named, "--out", tmp_path / "s.json")
    assert answer.code == 0, answer.err
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["accuracy"] == summary["test"]["accuracy"]


@pytest.mark.parametrize("stop", [3, 14, 18], ids=["teacher", "between", "student"])
def test_it_goes_on_to_the_same_bits(
    trees: Path, tmp_path: Path, plugin: Path, run_command: Run, stop: int
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run_command("train", *toy(trees, whole, plugin)).code == 0
    answer = run_command("train", *toy(trees, parts, plugin), "--train.max-steps", stop)
    assert answer.code == 0, answer.err
    answer = run_command("train", "--resume", parts, "--plugin", plugin, "--train.max-steps", 1000)
    assert answer.code == 0, answer.err
    assert_same_bits(whole, parts)


def test_it_is_compared_with_the_others(
    trees: Path, tmp_path: Path, plugin: Path, run_command: Run
) -> None:
    run = tmp_path / "run"
    more = ["--plugin", plugin, "--methods", "toy,concat,gaal", "--train.epochs", 1]
    own = ["--method.weight", 0.25, "--method.epsilon", 0.1]
    answer = run_command("compare", *flags(trees, run), *more, *own)
    assert answer.code == 0, answer.err
    rows = pd.read_csv(run / "comparison.csv")
    assert list(dict.fromkeys(rows["method"])) == ["toy", "concat", "gaal"]
    assert "weight: 0.25" in (run / "toy" / run_folder.CONFIG).read_text()
    assert "epsilon: 0.1" in (run / "gaal" / run_folder.CONFIG).read_text()
    assert "epsilon" not in (run / "concat" / run_folder.CONFIG).read_text()
    assert_one_line(
        run_command("compare", "--resume", run, "--plugin", plugin),
        r"is finished: all of its 3 methods",
    )


def test_a_run_folder_runs_no_code_that_nobody_named(
    trees: Path, tmp_path: Path, plugin: Path, run_command: Run
) -> None:
    run, sign = tmp_path / "run", tmp_path / "sign"
    assert run_command("train", *toy(trees, run, plugin), "--train.max-steps", 1).code == 0
    out = ["--csv", trees, "--out", tmp_path / "p.csv"]
    opened = (
        ["predict", "--run", run, *out],
        ["train", "--resume", run],
        ["evaluate", "--run", run],
    )
    text = plugin.read_text()
    plugin.write_text(text + f"\nopen({str(sign)!r}, 'w')\n")
    for command in opened:
        message = rf"--plugin {plugin} is needed: {run} was trained with a method of this file"
        assert_one_line(run_command(*command), message)
        named = run_command(*command, "--plugin", plugin)
        assert_one_line(named, rf"--plugin: {plugin} is not what {run} was trained with, or has ch")
    assert not sign.exists()
    moved = tmp_path / "elsewhere.py"
    moved.write_text(text)
    plugin.unlink()
    absent = run_command(*opened[0], "--plugin", plugin)
    assert_one_line(absent, rf"--plugin: no such file: {plugin}$")
    assert run_command(*opened[0], "--plugin", moved).code == 0


def test_a_run_without_a_plug_in_takes_none(
    trees: Path, tmp_path: Path, plugin: Path, run_command: Run
) -> None:
    run = tmp_path / "run"
    assert run_command("train", *flags(trees, run), "--train.max-steps", 1).code == 0
    answer = run_command("evaluate", "--run", run, "--plugin", plugin)
    assert_one_line(answer, rf"--plugin: {run} was trained without a plug-in$")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (", r"--plugin: .*toy\.py is no Python, line 1: "),
        ("x = 1", r"--plugin: .*toy\.py registers no method with @method\(NAME\)$"),
        (
            TOY.read_text().replace('"toy"', '"gaal"'),
            r"--plugin: .*toy\.py registers gaal, as the package does$",
        ),
        (
            TOY.read_text().replace('"toy"', '"To y"'),
            r"small letters, digits and hyphens, got To y$",
        ),
        (
            TOY.read_text().replace("Field(0.5", "Field(F.THERE"),
            r"the options of Toy cannot be read without running the file: name 'F' is not",
        ),
        (
            TOY.read_text() + "\nraise RuntimeError('stop here')\n",
            r"--plugin: .*toy\.py, line \d+: RuntimeError: stop here$",
        ),
    ],
)
def test_a_file_that_is_wrong_is_one_line(
    trees: Path, tmp_path: Path, plugin: Path, run_command: Run, text: str, message: str
) -> None:
    plugin.write_text(text)
    run = tmp_path / "run"
    assert_one_line(run_command("train", *toy(trees, run, plugin)), message)
    assert not run.exists()
    assert_one_line(
        run_command("train", *toy(trees, run, tmp_path / "absent.py")),
        r"--plugin: cannot read .*absent\.py: No such file or directory$",
    )


def test_options_belong_to_methods(
    trees: Path, tmp_path: Path, plugin: Path, run_command: Run
) -> None:
    run = tmp_path / "run"
    base = flags(trees, run)
    assert_one_line(
        run_command("train", *base, "--method.name", "concat", "--method.epsilon", 0.1),
        r"^error: --method\.epsilon is an option of gaal, not of concat$",
    )
    assert_one_line(
        run_command("train", *base, "--plugin", plugin, "--method.weight", 1),
        r"^error: --method\.weight is an option of toy, not of gaal$",
    )
    assert_one_line(
        run_command("train", *base, "--method.weight", 1), r"^error: unknown key --method\.weight"
    )
    assert_one_line(
        run_command("train", *toy(trees, run, plugin), "--method.lessons", 0),
        r"^error: --method\.lessons must be 1 or more, got 0$",
    )
    assert_one_line(
        run_command("train", *base, "--method.name", "gall"),
        r"^error: --method\.name must be one of gaal, .*, got gall; did you mean gaal\?$",
    )
    assert_one_line(
        run_command("train", *base, "--method.name", "unimodal"),
        r"^error: --method\.modality is needed with --method\.name unimodal$",
    )
    with pytest.raises(SystemExit):
        run_command("train", "--plugin", plugin, "--help")


def test_help_lists_the_options_of_a_plug_in(
    plugin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gaal_fast.train import main

    with pytest.raises(SystemExit):
        main(["--plugin", str(plugin), "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "method toy: --method.weight VALUE weight of the distance to the teacher" in text
