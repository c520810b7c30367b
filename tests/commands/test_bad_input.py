"""Every mistake a user can make ends in one line naming it, exit code 2, and nothing written or
lost.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from gaal_fast.runs import folder as run_folder
from tests.commands.conftest import Answer, flags, write_data

Run = Callable[..., Answer]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_one_line(answer: Answer, pattern: str) -> None:
    assert answer.code == 2, answer
    lines = [line for line in answer.err.strip().splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, answer.err
    assert lines[0].startswith("error: ")
    assert re.search(pattern, lines[0]), lines[0]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data", rows=24)


def edit(csv: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_csv(csv, dtype=str)).to_csv(csv, index=False)


def one_label(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(species="ash")


def lonely_label(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(species=["yew", *frame["species"][1:]])


def empty(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[:0]


def bad_number(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(height="tall")


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (None, ["--data.csv", "absent.csv"], r"no such file: absent\.csv"),
        (None, ["--data.images", "absent"], r"--data\.images: no such folder: absent"),
        (None, ["--data.target", "specie"], r'"specie".*"species"'),
        (None, ["--data.image-column", "foto"], r'"foto".*"photo"'),
        (None, ["--data.numeric", "hight"], r'"hight".*"height"'),
        (one_label, [], r'"species".*one class'),
        (lonely_label, [], r'"yew".*one row.*--data\.rare-classes drop'),
        (empty, [], r"trees\.csv.*no rows"),
        (bad_number, ["--data.numeric", "height"], r'"height".*"tall"'),
        (
            None,
            ["--method.lamda-image", "0.5"],
            r"--method\.lamda-image; did you mean --method\.lambda-image",
        ),
        (
            None,
            ["--method.lambda-image", "1.2"],
            r"--method\.lambda-image must lie in \(0, 1\], got 1\.2",
        ),
        (
            None,
            ["--data.rare-classes", "keep"],
            r"--data\.rare-classes must be one of 'error', 'drop' or 'train', got keep",
        ),
        (
            None,
            ["--train.select", "f1"],
            r"--train\.select must be one of 'auto', 'accuracy', 'balanced', 'r2' or 'loss', got",
        ),
        (
            None,
            ["--data.test-fraction", "-0.1"],
            r"--data\.test-fraction must lie in \[0, 1\), got -0\.1",
        ),
        (None, ["--optim.lr", "-0.1"], r"--optim\.lr must be greater than 0, got -0\.1"),
        (None, ["--model.image", "resnet51"], r"--model\.image.*resnet51; did you mean resnet50"),
        (None, ["--model.weights", "absent.pth"], r"--model\.weights: no such file: absent\.pth"),
        (None, ["--train.device", "cuda:99"], r"--train\.device cuda:99"),
        (None, ["--config", "absent.yaml"], r"--config: no such file: absent\.yaml"),
        (
            None,
            ["--optim.lr", "1e30", "--optim.name", "sgd"],
            r"training diverged; lower --optim\.lr",
        ),
    ],
)
def test_train(
    data: Path,
    tmp_path: Path,
    run_command: Run,
    change: Callable[[pd.DataFrame], pd.DataFrame] | None,
    more: list[str],
    message: str,
) -> None:
    if change:
        edit(data, change)
    before = snapshot(tmp_path)
    assert_one_line(run_command("train", *flags(data, tmp_path / "run"), *more), message)
    assert snapshot(tmp_path) == before
    assert not (tmp_path / "run").exists()


def test_no_target_named(data: Path, run_command: Run) -> None:
    assert_one_line(run_command("train", "--data.csv", data), r"--data\.target is needed")


def test_all_images_missing_hints_at_the_extension_or_the_folder(
    data: Path, tmp_path: Path, run_command: Run
) -> None:
    edit(data, lambda frame: frame.assign(photo=frame["photo"].str.replace(".png", ".jpg")))
    assert_one_line(run_command("train", *flags(data, tmp_path / "run")), r"\.png")
    edit(data, lambda frame: frame.assign(photo=frame["photo"].str.replace(".jpg", ".png")))
    assert_one_line(
        run_command("train", *flags(data, tmp_path / "run"), "--data.images", tmp_path), r"images"
    )
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_exists_is_left_alone(
    data: Path, trained: Path, run_command: Run
) -> None:
    before = snapshot(trained)
    assert_one_line(
        run_command("train", *flags(data, trained)),
        r"--run\.dir: .*trained exists and is not overwritten",
    )
    assert snapshot(trained) == before


def test_resume(data: Path, trees: Path, trained: Path, tmp_path: Path, run_command: Run) -> None:
    run = tmp_path / "copy"
    shutil.copytree(trained, run)
    before = snapshot(run)
    assert_one_line(
        run_command("train", "--resume", tmp_path / "absent"), r"--resume: no such run folder"
    )
    assert_one_line(
        run_command("train", "--resume", data.parent), r"--resume: .*is not a run folder"
    )
    assert_one_line(run_command("train", "--resume", run), r"is finished after 3 epochs")
    assert_one_line(
        run_command("train", "--resume", run, "--optim.lr", "0.1"), r"--optim\.lr cannot change"
    )
    other = run_command(
        "train",
        "--resume",
        run,
        "--train.epochs",
        9,
        "--data.csv",
        data,
        "--data.images",
        data.parent / "images",
    )
    assert_one_line(other, r"--resume: the data is not what .*copy was trained on")
    assert snapshot(run) == before


def test_a_checkpoint_of_another_version_is_not_gone_on_from(
    trained: Path, trees: Path, tmp_path: Path, run_command: Run
) -> None:
    run = tmp_path / "old"
    shutil.copytree(trained, run)
    state = torch.load(run / run_folder.CHECKPOINT, weights_only=True)
    assert state.pop("format") == run_folder.CHECKPOINT_FORMAT
    torch.save(state, run / run_folder.CHECKPOINT)
    before = snapshot(run)
    assert_one_line(
        run_command("train", "--resume", run, "--train.epochs", 9),
        rf"--resume: {run}/{run_folder.CHECKPOINT} has no format number, this version reads format"
        rf" {run_folder.CHECKPOINT_FORMAT}; go on with the older version",
    )
    assert snapshot(run) == before
    out = tmp_path / "p.csv"
    answer = run_command("predict", "--run", run, "--csv", trees, "--out", out)
    assert answer.code == 0, "its weights are as good as ever"


def test_predict(trees: Path, data: Path, trained: Path, tmp_path: Path, run_command: Run) -> None:
    out = tmp_path / "preds.csv"

    def predict(csv: Path, *more: object, run: Path = trained) -> Answer:
        return run_command(
            "predict",
            "--run",
            run,
            "--csv",
            csv,
            "--images",
            csv.parent / "images",
            "--out",
            out,
            *more,
        )

    edit(data, lambda frame: frame.assign(height="tall"))
    assert_one_line(predict(data), r'"height".*"tall"')
    edit(data, lambda frame: frame[["photo", "species"]])
    assert_one_line(
        run_command("predict", "--run", trained, "--csv", data, "--out", out),
        r"--images: none of the 24 images",
    )
    pd.DataFrame({"colour": ["red"], "size": [3]}).to_csv(data, index=False)
    assert_one_line(predict(data), r"another data set")
    assert_one_line(predict(tmp_path / "absent.csv"), r"no such file: .*absent\.csv")
    assert_one_line(predict(trees, run=tmp_path), r"is not a run folder")
    assert_one_line(predict(trees, "--imags", "x"), r"--imags; did you mean --images")
    unfinished = tmp_path / "unfinished"
    shutil.copytree(trained, unfinished, ignore=shutil.ignore_patterns(run_folder.WEIGHTS))
    assert_one_line(predict(trees, run=unfinished), rf"has no {run_folder.WEIGHTS}")
    assert not out.exists()
    out.write_text("precious")
    assert_one_line(predict(trees), r"--out: .*preds\.csv exists")
    assert out.read_text() == "precious"
