"""Images through the commands: absent, deep, alone, and files that are none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gaal_fast.data.__main__ import main as data_main
from tests.commands.conftest import Answer, flags, write_data

Run = Callable[..., Answer]


@pytest.fixture
def rows(trees: Path) -> pd.DataFrame:
    return pd.read_csv(trees, dtype=str, keep_default_na=False)


@pytest.fixture
def predict(
    trees: Path, trained: Path, tmp_path: Path, run_command: Run
) -> Callable[..., tuple[Answer, list[str]]]:
    """Predicts a table; the answer and what each row was predicted from."""

    def run(frame: pd.DataFrame, *more: object, folder: Path = trained) -> tuple[Answer, list[str]]:
        csv, out = tmp_path / "new.csv", tmp_path / "preds.csv"
        frame.to_csv(csv, index=False)
        out.unlink(missing_ok=True)
        answer = run_command("predict", "--run", folder, "--csv", csv, "--out", out, *more)
        return answer, pd.read_csv(out)["used_modalities"].tolist() if out.exists() else []

    return run


def test_a_row_without_its_image_is_predicted_from_its_table_alone_or_among_others(
    predict: Callable[..., tuple[Answer, list[str]]], rows: pd.DataFrame, trees: Path
) -> None:
    images = ("--images", trees.parent / "images")
    answer, used = predict(rows[:1].assign(photo="gone.png"), *images)
    assert (answer.code, used) == (0, ["table"])
    assert (
        answer.err.splitlines()[0]
        == f'warning: none of the 1 images named in column "photo" exists in {images[1]} (first:'
        ' "gone.png"): predicting from the table alone'
    )
    answer, used = predict(rows.assign(photo=[f"gone{i}.png" for i in range(len(rows))]), *images)
    assert (answer.code, used) == (0, ["table"] * len(rows))
    answer, used = predict(rows[:1].assign(photo="gone.png", height="", age="", bark=""), *images)
    assert (answer.code, used) == (0, ["none"])


def test_absolute_paths_need_no_folder(
    predict: Callable[..., tuple[Answer, list[str]]], rows: pd.DataFrame, trees: Path
) -> None:
    absolute = rows.assign(photo=[str(trees.parent / "images" / name) for name in rows["photo"]])
    answer, used = predict(absolute)
    assert (answer.code, answer.err, used) == (0, "", ["image+table"] * len(rows))


@pytest.fixture
def files_and_labels(tmp_path: Path) -> Path:
    csv = write_data(tmp_path / "data", rows=36)
    pd.read_csv(csv)[["photo", "species"]].to_csv(csv, index=False)
    return csv


def test_a_table_of_file_and_label_trains_on_images_alone(
    files_and_labels: Path,
    tmp_path: Path,
    run_command: Run,
    predict: Callable[..., tuple[Answer, list[str]]],
) -> None:
    run = tmp_path / "run"
    answer = run_command("train", *flags(files_and_labels, run), "--method.name", "image")
    assert answer.code == 0, answer.err
    frame = pd.read_csv(files_and_labels)
    images = ("--images", files_and_labels.parent / "images")
    answer, used = predict(frame[["photo"]], *images, folder=run)
    assert (answer.code, answer.err, used) == (0, "", ["image"] * 36)
    answer, used = predict(frame.assign(photo="gone.png"), *images, folder=run)
    assert (answer.code, used) == (2, [])
    assert answer.err.startswith('error: none of the 36 images named in column "photo" exists in ')
    answer = run_command("evaluate", "--run", run)
    assert answer.code == 0, answer.err
    summary = json.loads((run / "summary.json").read_text())
    assert f"{summary['test']['accuracy']['image']:.4f}" in answer.out


@pytest.mark.parametrize("method", ["gaal", "concat", "table"])
def test_a_method_that_needs_the_table_names_the_one_that_does_not(
    files_and_labels: Path, tmp_path: Path, run_command: Run, method: str
) -> None:
    answer = run_command(
        "train", *flags(files_and_labels, tmp_path / "run"), "--method.name", method
    )
    assert answer.code == 2
    assert (
        answer.err
        == f"error: {files_and_labels}: the table has no usable column besides the target; "
        "train on the images alone with --method.name image\n"
    )
    assert not (tmp_path / "run").exists()


def test_12_bit_images_are_learned_and_read_alike_at_prediction(
    tmp_path: Path, run_command: Run
) -> None:
    csv = write_data(tmp_path / "data", rows=48)
    deep, bytes_ = csv.parent / "images", csv.parent / "bytes"
    bytes_.mkdir()
    frame = pd.read_csv(csv)
    names = sorted(frame["species"].unique())
    rng = np.random.default_rng(0)
    for name, species in zip(frame["photo"], frame["species"], strict=True):
        pixels = rng.integers(900, 1000, (16, 16)).astype(np.uint16)
        pixels[:, 5 * names.index(species) : 5 * names.index(species) + 5] += 224
        Image.fromarray(pixels).save(deep / name)
        Image.fromarray(np.rint(pixels / 4095 * 255).astype(np.uint8)).save(bytes_ / name)
    run = tmp_path / "run"
    answer = run_command(
        "train",
        *flags(csv, run),
        "--method.name",
        "image",
        "--train.epochs",
        30,
        "--data.augment",
        "none",
    )
    assert answer.code == 0, answer.err
    line = (
        "16-bit images: values 0 to 4095 become 0 to 255 (found in the training images;"
        " --data.image-range changes it)"
    )
    assert line in answer.out.splitlines()
    assert json.loads((run / "reading.json").read_text())["images"]["bits16"] == [0, 4095]
    scores = []
    for images in (deep, bytes_):
        out = tmp_path / f"{images.name}.json"
        answer = run_command(
            "evaluate", "--run", run, "--csv", csv, "--images", images, "--out", out
        )
        assert (answer.code, answer.err) == (0, "")
        scores.append(json.loads(out.read_text()))
    assert scores[0] == scores[1]
    assert scores[0]["accuracy"]["image"] >= 0.9


def test_what_a_file_is_and_how_names_were_read_is_reported(
    trees: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trees.parent, tmp_path / "data")
    images = tmp_path / "data" / "images"
    (images / "003.png").write_text("<!DOCTYPE html><html>")
    (images / "004.png").write_text("version https://git-lfs.github.com/spec/v1\n")
    (images / "005.png").rename(images / "005.PNG")
    assert data_main(flags(tmp_path / "data" / "trees.csv", tmp_path / "run")) == 0
    captured = capsys.readouterr()
    for line in (
        (
            f"problem in row 3, column photo: {images}/003.png: cannot be decoded: "
            "HTML (an error or log-in page?), not an image; download it again"
        ),
        (
            f"problem in row 4, column photo: {images}/004.png: cannot be decoded: "
            "a git-LFS pointer; fetch the file itself with: git lfs pull"
        ),
    ):
        assert line in captured.out.splitlines()
    assert (
        'warning: column "photo": 1 of 72 names are no files as written; '
        'found 1 with the extension in other case ("005.png" is "005.PNG")'
        in captured.err.splitlines()
    )
