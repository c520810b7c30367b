"""Small tables with images, and the data configuration that reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gaal_fast.config import DataConfig
from gaal_fast.data.images.folder import ImageFolder
from gaal_fast.data.tables.infer import infer_schema
from gaal_fast.data.tables.schema import TableSchema

# Small images, and none of the randomness that training has.
DEFAULTS = {"target": "kind", "image_size": 8, "augment": "none"}


def schema_of(
    frame: pd.DataFrame,
    *,
    folder: ImageFolder | None = None,
    source: object = "the table",
    warnings: list[str] | None = None,
    **keys: object,
) -> TableSchema:
    """``infer_schema`` under a configuration with these keys."""
    return infer_schema(frame, DataConfig(**keys), folder=folder, source=source, warnings=warnings)


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
def make_config(tmp_path: Path) -> Callable[..., DataConfig]:
    """Writes a table (and, unless told otherwise, its images) and returns the configuration that
    reads it.
    """

    def make(frame: pd.DataFrame, with_images: bool = True, **changes: object) -> DataConfig:
        csv = tmp_path / "table.csv"
        frame.to_csv(csv, index=False)
        images = tmp_path / "images"
        if with_images and "photo" in frame:
            images.mkdir(exist_ok=True)
            write_images(images, frame["photo"].dropna().tolist())
            changes = {"images": images, **changes}
        return DataConfig(**{**DEFAULTS, "csv": csv, **changes})

    return make
