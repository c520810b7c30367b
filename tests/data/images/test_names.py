"""What the cells of an image column say, and which column names images."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gaal_fast.data.images import find
from gaal_fast.data.images.find import find_image_column
from gaal_fast.data.images.folder import ImageFolder
from gaal_fast.data.images.names import image_names
from gaal_fast.errors import UserError
from tests.data.conftest import write_images


def test_names_are_the_cells_as_they_are_written() -> None:
    texts = ["007", "1e5", "1.0", "20230101", " a.png ", "NA", ""]
    assert image_names(pd.Series(texts, dtype=object)).tolist() == texts
    assert image_names(pd.Series([7, 20230101])).tolist() == ["7", "20230101"]
    assert image_names(pd.Series([7.0, np.nan])).tolist() == ["7", None]
    assert image_names(pd.Series([7, None], dtype="Int64")).tolist() == ["7", None]
    assert image_names(pd.Series([["a.png"], None], dtype=object)).tolist() == [
        json.dumps(["a.png"]),
        None,
    ]
    for cell in (b"\x89PNG", {"bytes": b"\x89PNG", "path": "a.png"}):
        with pytest.raises(UserError, match='column "photo" holds image data, not a file name'):
            image_names(pd.Series([cell], name="photo", dtype=object))


def test_the_search_for_the_image_column_looks_at_few_cells_of_columns_of_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path, [f"{i}.png" for i in range(40)])
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({f"x{i}": rng.normal(size=5000).astype(str) for i in range(300)})
    frame["photo"] = [f"{i % 40}.png" for i in range(5000)]
    looked_at = []
    look_up = ImageFolder.look_up
    monkeypatch.setattr(
        ImageFolder, "look_up", lambda self, name: looked_at.append(name) or look_up(self, name)
    )
    monkeypatch.setattr(
        find, "missing_cells", lambda series: pytest.fail("a whole column was read")
    )
    assert find_image_column(frame, ImageFolder(tmp_path), "t.csv") == ("photo", [])
    assert len(looked_at) <= 300 * 16


@pytest.mark.parametrize(
    ("cells", "files"),
    [
        ([f"{i}" for i in range(30)], [f"{i:05d}.png" for i in range(30)]),
        (
            [f"ä{i}" for i in range(30)],
            [unicodedata.normalize("NFD", f"ä{i}.png") for i in range(30)],
        ),
        ([json.dumps([f"{i}.png", "b.png"]) for i in range(30)], []),
        ([f"https://x.org/{i}.png?size=3" for i in range(30)], []),
        ([f"C:\\a\\{i}.png" for i in range(30)], []),
        ([None] * 4990 + [f"{i}.png" for i in range(10)], []),
    ],
)
def test_names_that_need_another_reading_make_an_image_column_too(
    tmp_path: Path, cells: list[str | None], files: list[str]
) -> None:
    write_images(tmp_path, files)
    frame = pd.DataFrame(
        {
            "width": [f"{i / 7:.3f}" for i in range(len(cells))],
            "photo": pd.Series(cells, dtype=object),
        }
    )
    assert find_image_column(frame, ImageFolder(tmp_path), "t.csv") == ("photo", [])
