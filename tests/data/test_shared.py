"""What is in two parts of the split at once is named; ordinary columns are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gaal_fast.config import DataConfig
from gaal_fast.data import load_data
from gaal_fast.data.shared import warn_of_shared_ids, warn_of_shared_images
from gaal_fast.data.split import Split
from gaal_fast.data.tables.schema import TableSchema
from tests.data.conftest import catalogue

N = 200
RNG = np.random.default_rng(2)
ROWS = RNG.permutation(N)
SPLIT = Split(*(np.sort(part) for part in (ROWS[:140], ROWS[140:160], ROWS[160:])))


def shared_ids(name: str, values: object, **roles: str) -> list[str]:
    warnings: list[str] = []
    frame = pd.DataFrame({name: values, "kind": ["a", "b"] * (N // 2)})
    warn_of_shared_ids(frame, TableSchema("kind", **roles), SPLIT, warnings)
    return warnings


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("patient", [f"P{i:03d}" for i in np.arange(N) // 4]),
        ("patient_id", np.arange(N) // 4),
        ("PatientID", [str(i) for i in np.arange(N) // 20]),
        ("subject", [f"s{i}" for i in np.arange(N) // 10]),
        ("lesion_id", [f"HAM_{i:07d}" for i in np.arange(N) // 2]),
        ("user_id", np.arange(N) // 5),
        ("group_id", np.arange(N) // 8),
        ("product_no", np.arange(N) // 3),
        (
            "Customer Name",
            [f"Anna {chr(65 + i % 26)}{chr(65 + i // 26)}" for i in np.arange(N) // 4],
        ),
        ("what", [f"K-{i:04d}" for i in np.arange(N) // 4]),
    ],
)
def test_ids_of_several_rows_are_named(name: str, values: object) -> None:
    [warning] = shared_ids(name, values)
    parts = np.empty(N, dtype=int)
    for number, rows in enumerate((SPLIT.train, SPLIT.val, SPLIT.test)):
        parts[rows] = number
    spread = pd.DataFrame({"v": values, "p": parts}).groupby("v")["p"].nunique()
    assert (
        warning
        == f'column "{name}": {(spread > 1).sum()} of its {len(spread)} values are in more than one'
        " part of the split; rows with one value may give each other away: keep them together"
        f' with --data.group-column "{name}"'
    )
    assert shared_ids(name, values, group_column=name) == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("colour", RNG.choice(["red", "blue", "green", "black", "white"], N)),
        ("breed", RNG.choice([f"breed {chr(65 + i)}" for i in range(26)], N)),
        ("width", np.round(RNG.normal(size=N), 1)),
        ("age", RNG.integers(1, 90, N)),
        ("patient_age", RNG.integers(1, 90, N)),
        ("household_income", RNG.integers(1, 90, N)),
        ("family_size", RNG.integers(1, 9, N)),
        ("group", RNG.choice(["control", "treated"], N)),
        ("group", RNG.integers(1, 8, N)),
        ("visit", RNG.integers(1, 8, N)),
        ("zip", RNG.integers(98001, 98040, N)),
        ("code", RNG.integers(100, 150, N)),
        ("id", np.arange(N)),
        ("patient_id", [f"P{i:03d}" for i in range(N)]),
        ("animal", RNG.choice(["cat", "dog", "fox", "cow", "pig", "hen"], N)),
        ("store_id", RNG.integers(1, 9, N)),
        ("size", RNG.choice(["S10", "M20", "L30"], N)),
        ("share", RNG.random(N)),
        ("ok", RNG.integers(0, 2, N).astype(bool)),
    ],
)
def test_ordinary_columns_are_not(name: str, values: object) -> None:
    assert shared_ids(name, values) == []


def test_groups_that_stay_in_one_part_are_fine() -> None:
    part = np.empty(N, dtype=int)
    for number, rows in enumerate((SPLIT.train, SPLIT.val, SPLIT.test)):
        part[rows] = number
    assert shared_ids("patient", [f"P{p}{i // 10:03d}" for i, p in enumerate(part)]) == []
    [warning] = shared_ids("patient", np.arange(N) // 4, split_column="part")
    assert warning.endswith(
        'the parts are those of column "part"; --data.group-column "patient" alone keeps them'
        " together"
    )


def test_one_image_in_two_parts_is_named(tmp_path: Path) -> None:
    split = Split(np.array([0, 1, 2, 5]), np.array([3]), np.array([4, 6]))
    paths: list[str | None] = [
        str(tmp_path / name)
        for name in ("a.png", "b.png", "b.png", "c.png", "./a.png", "d.png", "copy.png")
    ]
    warnings: list[str] = []
    for name, content in (
        ("a.png", "one"),
        ("b.png", "two"),
        ("c.png", "333"),
        ("d.png", "four"),
        ("copy.png", "four"),
    ):
        (tmp_path / name).write_text(content)
    warn_of_shared_images(paths, "file", split, warnings)
    assert warnings == [
        (
            "1 pictures are in more than one part of the split (first: rows 1, 5): what is learned"
            " of one is scored again; keep the rows of one together with --data.group-column"
            ' "file"'
        ),
        (
            "1 pictures are in more than one part of the split under different file names (first:"
            " rows 6, 7): leave the copies out, or give them one value in a column for"
            " --data.group-column"
        ),
    ]
    warnings.clear()
    warn_of_shared_images([None, *paths[1:4], None, None, None], "file", split, warnings)
    assert warnings == []


def test_training_says_it_and_a_group_column_mends_it(
    make_config: Callable[..., DataConfig],
) -> None:
    frame = catalogue(90)
    frame["photo"] = [f"{row // 3:03d}.png" for row in range(90)]
    data = load_data(make_config(frame), progress=False)
    assert any(
        "pictures are in more than one part of the split" in line and '"photo"' in line
        for line in data.warnings
    )
    assert load_data(make_config(frame, group_column="photo"), progress=False).warnings == []
