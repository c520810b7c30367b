"""Small tables with images, and the data configuration that reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

DEFAULTS = {
    "images": None,
    "image_column": None,
    "target": "kind",
    "numeric": [],
    "categorical": [],
    "drop": [],
    "split_column": None,
    "group_column": None,
    "val_fraction": 0.1,
    "test_fraction": 0.2,
    "split_seed": 0,
    "image_size": 8,
    "image_range": None,
    "augment": "none",
    "class_weights": "none",
    "cache": "auto",
    "cache_dir": None,
    "workers": None,
    "min_category_count": 1,
    "encoding": None,
    "delimiter": None,
    "decimal": None,
    "thousands": None,
    "missing_values": [],
    "rare_classes": "error",
    "date_order": "auto",
}


def catalogue(rows: int = 60) -> pd.DataFrame:
    """Three classes, a numeric, a categorical and a date column, missing cells, and an image for
    each row.
    """
    rng = np.random.default_rng(5)
    kind = np.arange(rows) % 3
    day = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 300, rows), unit="D")
    return pd.DataFrame(
        {
            "code": [f"c-{row:03d}" for row in range(rows)],
            "photo": [f"{row:03d}.png" for row in range(rows)],
            "width": np.where(
                rng.random(rows) < 0.2, np.nan, np.round(kind + rng.normal(0, 1, rows), 3)
            ),
            "colour": np.where(
                rng.random(rows) < 0.3, "grey", np.array(["red", "green", "blue"])[kind]
            ),
            "seen": day.strftime("%Y-%m-%d"),
            "kind": np.array(["cup", "bowl", "plate"])[kind],
        }
    )


def write_images(folder: Path, names: list[str], size: int = 12) -> None:
    """Image i is plain (i, 2i, 255 - i)."""
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size, size), (i % 256, 2 * i % 256, 255 - i % 256)).save(path)


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """Writes a table (and, unless told otherwise, its images) and returns the configuration that
    reads it.
    """

    def make(frame: pd.DataFrame, with_images: bool = True, **changes: object) -> SimpleNamespace:
        csv = tmp_path / "table.csv"
        frame.to_csv(csv, index=False)
        images = tmp_path / "images"
        if with_images and "photo" in frame:
            images.mkdir(exist_ok=True)
            write_images(images, frame["photo"].dropna().tolist())
            changes = {"images": images, **changes}
        return SimpleNamespace(**{**DEFAULTS, "csv": csv, **changes})

    return make
