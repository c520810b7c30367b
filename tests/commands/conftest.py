"""A small data set on disk and commands run on it in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gaal_fast import compare, evaluate, export, predict, train

MODULES = {
    "train": train,
    "predict": predict,
    "evaluate": evaluate,
    "compare": compare,
    "export": export,
}
ROWS, CLASSES, SIDE = 72, ("ash", "birch", "oak"), 16


@dataclass
class Answer:
    code: int
    out: str
    err: str


def write_data(folder: Path, *, rows: int = ROWS, seed: int = 0) -> Path:
    """A table with numeric, categorical, missing and id cells and one image a row; returns the
    CSV.
    """
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.arange(rows) % len(CLASSES))
    images = folder / "images"
    images.mkdir(parents=True)
    for row in range(rows):
        pixels = rng.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8)
        pixels[4:12, 4:12, label[row]] += 120
        Image.fromarray(pixels).save(images / f"{row:03d}.png")
    height = np.round(label + rng.normal(0, 0.6, rows), 3)
    frame = pd.DataFrame(
        {
            "id": [f"tree-{row}" for row in range(rows)],
            "photo": [f"{row:03d}.png" for row in range(rows)],
            "height": np.where(rng.random(rows) < 0.1, np.nan, height),
            "age": rng.integers(1, 90, rows),
            "bark": np.where(
                rng.random(rows) < 0.3, "rough", np.array(["grey", "white", "brown"])[label]
            ),
            "species": np.array(CLASSES)[label],
        }
    )
    frame.to_csv(folder / "trees.csv", index=False)
    return folder / "trees.csv"


def flags(csv: Path, run: Path) -> list[str]:
    """A training of two seconds."""
    values = {
        "data.csv": csv,
        "data.images": csv.parent / "images",
        "data.image-column": "photo",
        "data.target": "species",
        "data.image-size": 16,
        "data.augment": "light",
        "model.image": "small",
        "model.width": 16,
        "train.epochs": 3,
        "train.batch-size": 8,
        "train.progress": "false",
        "run.dir": run,
    }
    return [part for key, value in values.items() for part in (f"--{key}", str(value))]


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CSV of the small data set. Tests copy it before they change it."""
    return write_data(tmp_path_factory.mktemp("trees"))


@pytest.fixture
def run_command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    def run(name: str, *argv: object) -> Answer:
        capsys.readouterr()
        code = MODULES[name].main([str(a) for a in argv])
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def trained(trees: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the small data set. Tests only read it."""
    run = tmp_path_factory.mktemp("runs") / "trained"
    assert train.main(flags(trees, run)) == 0
    return run
