"""The ceilings beside a training and a comparison."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.commands.conftest import SIDE, Answer, flags

Run = Callable[..., Answer]


def summary(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


def test_a_training_shows_and_keeps_them(
    trained: Path, trees: Path, tmp_path: Path, run_command: Run
) -> None:
    answer = run_command("train", *flags(trees, tmp_path / "run"))
    assert answer.code == 0, answer.err
    (line,) = [line for line in answer.out.splitlines() if line.startswith("ceilings: ")]
    found = summary(tmp_path / "run")
    fused = found["test"]["accuracy"]["fused"]
    assert line.endswith(f"| fused {fused:.3f}")
    assert f"product {found['ceilings']['product']['test']:.3f}" in line
    assert set(found["ceilings"]) == {
        *(
            f"{what} {how}"
            for what in ("image", "table", "image+table")
            for how in ("logistic", "trees")
        ),
        "product",
    }
    frame = pd.read_csv(tmp_path / "run" / "ceilings.csv")
    for row in frame.to_dict("records"):
        kept = found["ceilings"][row["name"]]
        assert (row["val"], row["test"], row["learner"]) == (
            kept["val"],
            kept["test"],
            kept["learner"],
        )
    # The image shows the class plainly.
    assert found["ceilings"]["image logistic"]["test"] > 0.9
    assert summary(trained)["ceilings"] == found["ceilings"]


def test_off_skips_them(trees: Path, tmp_path: Path, run_command: Run) -> None:
    answer = run_command("train", *flags(trees, tmp_path / "run"), "--train.ceilings", "off")
    assert answer.code == 0, answer.err
    assert "ceiling" not in answer.out
    assert "ceilings" not in summary(tmp_path / "run")
    assert not (tmp_path / "run" / "ceilings.csv").exists()


def test_several_seeds_show_them_once(trees: Path, tmp_path: Path, run_command: Run) -> None:
    arguments = [*flags(trees, tmp_path / "run"), "--train.seeds", "2", "--train.epochs", "1"]
    answer = run_command("train", *arguments)
    assert answer.code == 0, answer.err
    assert answer.out.count("ceilings: ") == 1
    assert "product" in summary(tmp_path / "run")["ceilings"]
    for seed in (0, 1):
        assert "ceilings" not in summary(tmp_path / "run" / f"seed-{seed}")
        assert not (tmp_path / "run" / f"seed-{seed}" / "ceilings.csv").exists()


def test_one_modality_alone_has_no_others_beside_it(
    trees: Path, tmp_path: Path, run_command: Run
) -> None:
    answer = run_command("train", *flags(trees, tmp_path / "run"), "--method.name", "table")
    assert answer.code == 0, answer.err
    assert set(summary(tmp_path / "run")["ceilings"]) == {"table logistic", "table trees"}


def test_a_comparison_shows_them_once_for_all_methods(
    trees: Path, tmp_path: Path, run_command: Run
) -> None:
    arguments = [*flags(trees, tmp_path / "run"), "--methods", "concat,table"]
    answer = run_command("compare", *arguments, "--train.epochs", "1")
    assert answer.code == 0, answer.err
    rows = [line for line in answer.out.splitlines() if line.startswith("ceiling: ")]
    assert [row.split()[1] for row in rows] == ["logistic", "trees", "product"]
    frame = pd.read_csv(tmp_path / "run" / "ceilings.csv").set_index("name")
    assert f"{frame.loc['image+table trees', 'test']:.3f}" == rows[1].split()[2]
    methods = pd.read_csv(tmp_path / "run" / "comparison.csv")["method"]
    assert set(methods) == {"concat", "table"}
    assert not (tmp_path / "run" / "concat" / "ceilings.csv").exists()
    # A comparison that was stopped before them gets them when it goes on, and is then finished.
    (tmp_path / "run" / "ceilings.csv").unlink()
    again = run_command("compare", "--resume", tmp_path / "run")
    assert again.code == 0, again.err
    assert "ceiling: product" in again.out
    finished = run_command("compare", "--resume", tmp_path / "run")
    assert "is finished" in finished.err


@pytest.fixture
def useless_images(trees: Path, tmp_path: Path) -> Path:
    """A table that says the class, beside images of noise."""
    rng = np.random.default_rng(0)
    frame = pd.read_csv(trees)
    frame["height"] = frame["species"].map({"ash": 0, "birch": 1, "oak": 2}) + rng.normal(
        0, 0.05, len(frame)
    )
    folder = tmp_path / "useless"
    (folder / "images").mkdir(parents=True)
    for name in frame["photo"]:
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / name)
    frame.to_csv(folder / "trees.csv", index=False)
    return folder / "trees.csv"


def test_a_table_that_is_better_alone_is_said_so(
    useless_images: Path, tmp_path: Path, run_command: Run
) -> None:
    answer = run_command("train", *flags(useless_images, tmp_path / "run"), "--train.epochs", "1")
    assert answer.code == 0, answer.err
    found = summary(tmp_path / "run")
    assert found["ceilings"]["table logistic"]["test"] > found["test"]["accuracy"]["fused"]
    assert "the table alone (" in answer.out
    assert "does better than the fused model: test accuracy 1.000 against" in answer.out


def test_regression_has_ridge(trees: Path, tmp_path: Path, run_command: Run) -> None:
    arguments = [*flags(trees, tmp_path / "run"), "--data.target", "height"]
    answer = run_command("train", *arguments, "--data.task", "regression", "--train.epochs", "1")
    assert answer.code == 0, answer.err
    found = summary(tmp_path / "run")["ceilings"]
    assert found["image+table ridge"]["learner"] == "ridge"
    assert found["image ridge"]["test"] is not None
    assert "ceilings: image " in answer.out
