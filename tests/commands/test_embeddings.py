"""Features out of a trained run, images from an archive, and paths that are none."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gaal_fast.engine import TrainedRun
from tests.commands.conftest import Answer, flags

Run = Callable[..., Answer]
WIDTH = 16
COLUMNS = [f"{name}.{place}" for name in ("image", "table") for place in range(WIDTH)]


@pytest.fixture
def lacking(trees: Path, tmp_path: Path) -> Path:
    """The table in another order, with a row without an image and one without cells."""
    frame = pd.read_csv(trees, dtype=str).iloc[::-1]
    frame.iloc[0, list(frame.columns).index("photo")] = None
    frame.loc[frame.index[1], ["height", "age", "bark"]] = None
    frame.to_csv(tmp_path / "new.csv", index=False)
    return tmp_path / "new.csv"


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npy"])
def test_the_features_of_every_row_are_those_that_the_head_reads(
    suffix: str, trees: Path, trained: Path, lacking: Path, tmp_path: Path, run_command: Run
) -> None:
    out, embeddings = tmp_path / "preds.csv", tmp_path / f"features{suffix}"
    answer = run_command(
        "predict",
        "--run",
        trained,
        "--csv",
        lacking,
        "--images",
        trees.parent / "images",
        "--out",
        out,
        "--embeddings",
        embeddings,
    )
    assert answer.code == 0, answer.err
    assert f"32 features of each row written to {embeddings}" in answer.out
    if suffix == ".npy":
        found = np.load(embeddings, allow_pickle=False)
        assert found.dtype == np.float32
    else:
        table = (pd.read_parquet if suffix == ".parquet" else pd.read_csv)(embeddings)
        # What says which row it is stays; the features of the table do not.
        assert list(table.columns) == ["id", "photo", "species", *COLUMNS]
        assert table["id"].tolist() == pd.read_csv(lacking)["id"].tolist()
        found = table[COLUMNS].to_numpy()
    image, cells = found[:, :WIDTH], found[:, WIDTH:]
    assert np.isnan(image).all(axis=1).tolist() == [True] + [False] * (len(image) - 1)
    assert np.isnan(cells).all(axis=1).tolist() == [False, True] + [False] * (len(image) - 2)
    assert not np.isnan(found[2:]).any()
    # The head on these features gives the predictions of the same run.
    run = TrainedRun.load(trained, device=torch.device("cpu"))
    both = torch.from_numpy(found[2:].astype(np.float32)).reshape(-1, 2, WIDTH)
    with torch.no_grad():
        logits = run.method.head(both).mean(dim=1)  # type: ignore[operator, union-attr]
    predicted = pd.read_csv(out)[2:]
    expected = predicted.filter(like="probability_").to_numpy()
    np.testing.assert_allclose(torch.softmax(logits, 1).numpy(), expected, atol=1e-5)


def test_nothing_is_written_where_one_of_both_files_cannot_be(
    trees: Path, trained: Path, tmp_path: Path, run_command: Run
) -> None:
    start = ["predict", "--run", trained, "--csv", trees, "--out", tmp_path / "preds.csv"]
    taken = tmp_path / "taken.npy"
    taken.write_bytes(b"mine")
    for name, words in (
        (taken, "--embeddings: "),
        (
            tmp_path / "features.txt",
            "must end in one of .csv, .tsv, .parquet, .csv.gz, .tsv.gz, .npy",
        ),
        (tmp_path / "preds.csv", "name the same file"),
    ):
        answer = run_command(*start, "--embeddings", name)
        assert answer.code == 2
        assert words in answer.err
        assert answer.err.count("\n") == 1
    assert taken.read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken.npy"]


def test_images_of_an_archive_predict_as_those_of_a_folder(
    trees: Path, trained: Path, tmp_path: Path, run_command: Run
) -> None:
    packed = tmp_path / "images.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted((trees.parent / "images").iterdir()):
            archive.write(file, f"images/{file.name}")
    results = []
    for images in (trees.parent / "images", packed):
        out = tmp_path / f"{images.name}.csv"
        answer = run_command(
            "predict", "--run", trained, "--csv", trees, "--images", images, "--out", out
        )
        assert answer.code == 0, answer.err
        assert answer.err == ""
        results.append(out.read_bytes())
    assert results[0] == results[1]
    answer = run_command(
        "train",
        *flags(trees, tmp_path / "run"),
        "--data.images",
        packed,
        "--train.epochs",
        1,
        "--train.ceilings",
        "off",
    )
    assert answer.code == 0, answer.err
    answer = run_command("evaluate", "--run", tmp_path / "run")
    assert answer.code == 0, answer.err


def test_a_parquet_table_is_predicted_as_its_csv(
    trees: Path, trained: Path, tmp_path: Path, run_command: Run
) -> None:
    pd.read_csv(trees).to_parquet(tmp_path / "new.parquet")
    found = []
    for table in (trees, tmp_path / "new.parquet"):
        out = tmp_path / f"{table.suffix[1:]}.parquet"
        answer = run_command(
            "predict",
            "--run",
            trained,
            "--csv",
            table,
            "--images",
            trees.parent / "images",
            "--out",
            out,
        )
        assert answer.code == 0, answer.err
        found.append(pd.read_parquet(out).filter(like="probability_"))
    pd.testing.assert_frame_equal(found[0], found[1])


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("predict", "--csv"),
        ("predict", "--images"),
        ("predict", "--out"),
        ("predict", "--run"),
        ("train", "--data.csv"),
        ("train", "--data.images"),
        ("train", "--data.tables"),
        ("train", "--run.dir"),
        ("train", "--model.weights"),
        ("train", "--config"),
        ("evaluate", "--csv"),
    ],
)
def test_an_address_for_a_path_is_refused_in_one_line(
    command: str, flag: str, trees: Path, trained: Path, tmp_path: Path, run_command: Run
) -> None:
    given: dict[str, object] = (
        {"--data.csv": trees, "--data.target": "species"}
        if command == "train"
        else {"--run": trained, "--csv": trees, "--out": tmp_path / "out.csv"}
    )
    given[flag] = "https://example.org/some/thing.csv"
    answer = run_command(command, *(part for pair in given.items() for part in pair))
    assert answer.code == 2
    assert answer.err == (
        f"error: {flag} is a web address, not a path: download it and name the file, got"
        " https://example.org/some/thing.csv\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_ready_features_are_trained_on_predicted_from_and_evaluated(
    trees: Path, tmp_path: Path, run_command: Run
) -> None:
    """The table and vectors, without images; the vectors say the class."""
    frame = pd.read_csv(trees)
    rng = np.random.default_rng(0)
    codes = frame["species"].map({"ash": 0, "birch": 1, "oak": 2}).to_numpy()
    values = np.eye(40)[10 * codes] + rng.normal(0, 0.1, (len(frame), 40))
    np.save(tmp_path / "clip.npy", values)
    frame.drop(columns="photo").to_csv(tmp_path / "trees.csv", index=False)
    arguments = flags(tmp_path / "trees.csv", tmp_path / "run")
    for flag in ("--data.images", "--data.image-column"):
        at = arguments.index(flag)
        del arguments[at : at + 2]
    answer = run_command("train", *arguments, "--data.embeddings", tmp_path / "clip.npy")
    assert answer.code == 0, answer.err
    assert "clip " in answer.out.splitlines()[-3]
    assert "(logistic on embedding)" in answer.out
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert list(found["test"]["accuracy"]) == ["table", "clip", "fused"]
    assert found["ceilings"]["clip logistic"]["test"] > 0.9
    assert run_command("evaluate", "--run", tmp_path / "run").code == 0

    new = pd.read_csv(tmp_path / "trees.csv").drop(columns="species").iloc[:12]
    new.to_csv(tmp_path / "new.csv", index=False)
    values[3] = np.nan
    np.save(tmp_path / "new.npy", values[:12])
    start = ["predict", "--run", tmp_path / "run", "--csv", tmp_path / "new.csv", "--out"]
    answer = run_command(*start, tmp_path / "a.csv", "--features", tmp_path / "new.npy")
    assert answer.code == 0, answer.err
    used = pd.read_csv(tmp_path / "a.csv")["used_modalities"]
    assert used.tolist() == ["table" if row == 3 else "table+clip" for row in range(12)]
    answer = run_command(*start, tmp_path / "b.csv")
    assert answer.code == 0
    assert 'the embedding "clip" of the training is not given' in answer.err
    assert set(pd.read_csv(tmp_path / "b.csv")["used_modalities"]) == {"table"}
    answer = run_command(*start, tmp_path / "c.csv", "--features", tmp_path / "none.npy")
    assert answer.code == 2
    assert answer.err.startswith("error: --features: no such file: ")
    assert not (tmp_path / "c.csv").exists()
    answer = run_command("evaluate", "--run", tmp_path / "run", "--features", tmp_path / "new.npy")
    assert answer.err == "error: --features goes with --csv\n"


def test_what_predict_writes_another_training_reads(
    trees: Path, trained: Path, tmp_path: Path, run_command: Run
) -> None:
    answer = run_command(
        "predict", "--run", trained, "--csv", trees, "--images", trees.parent / "images",
        "--out", tmp_path / "preds.csv", "--embeddings", tmp_path / "frozen.parquet",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    answer = run_command(
        "train", *flags(trees, tmp_path / "run"), "--data.embeddings", tmp_path / "frozen.parquet",
        "--data.key", "id", "--train.epochs", 1, "--train.ceilings", "off",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert "frozen: embedding of 32 numbers" in answer.out
    assert 'columns that are no embedding are left out: "photo", "species"' in answer.err
