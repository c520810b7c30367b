"""What each column is taken for, and what the user is told about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gaal_fast.data.images.folder import ImageFolder
from gaal_fast.data.tables.schema import TableSchema
from gaal_fast.errors import UserError
from tests.data.conftest import schema_of, write_images

N = 40
RNG = np.random.default_rng(0)
KIND = ["a", "b"] * (N // 2)


def infer(columns: dict[str, object], **options: object) -> tuple[TableSchema, list[str]]:
    warnings: list[str] = []
    frame = pd.DataFrame({"kind": KIND, **columns})
    return schema_of(frame, target="kind", warnings=warnings, **options), warnings


def texts(values: object) -> list[str]:
    return [str(value) for value in values]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (texts(RNG.normal(size=N)), "numeric"),
        (texts(RNG.integers(0, 3, N)), "numeric"),
        (RNG.integers(0, 2, N), "numeric"),
        ([" 1.5 ", "?", "NA", "", "-2e3"] * (N // 5), "numeric"),
        (["red", "blue"] * (N // 2), "categorical"),
        (["", "yes"] * (N // 2), "categorical"),
        ([True, False] * (N // 2), "categorical"),
        (pd.Series([True, None] * (N // 2), dtype=object), "categorical"),
        (["01234", "01235", "99999", "1"] * (N // 4), "categorical"),
        (["2024-01-01", "2024-02-01", "", "2023-05-05 12:30"] * (N // 4), "dates"),
        (pd.date_range("2024-01-01", periods=N).to_series().tolist(), "dates"),
        ([1.5] * N, "is constant"),
        (["x"] * N, "is constant"),
        (["2024-01-01"] * N, "is constant"),
        ([""] * N, "has no values"),
        (["inf"] * N, "has no finite values"),
        ([f"key {i}" for i in range(N)], "an identifier"),
        (RNG.permutation(1000)[:N], "numeric"),
        (RNG.permutation(N), "row numbers"),
        (np.arange(1, N + 1), "row numbers"),
        (np.arange(5, N + 5), "numeric"),
        ([[1, 2]] * N, "lists or binary"),
    ],
)
def test_kinds_are_found(cells: object, kind: str) -> None:
    schema, _ = infer({"column": cells})
    if kind in ("numeric", "categorical", "dates"):
        assert getattr(schema, kind) == ("column",)
        assert schema.features == ("column",)
    else:
        assert kind in schema.dropped["column"]
        assert schema.features == ()


@pytest.mark.parametrize(
    "name", ["id", "ID", "PassengerId", "row_id", "id_leaf", "item-no", "unnamed_0", "UUID"]
)
def test_different_integers_are_an_identifier_where_the_name_says_so(name: str) -> None:
    values = RNG.permutation(1000)[:N]
    assert "identifier" in infer({name: values})[0].dropped[name]
    for other in ("width", "idea", "humid", "notes", "paid"):
        assert infer({other: values})[0].numeric == (other,)


def test_few_different_integers_out_of_order_are_a_quantity() -> None:
    frame = pd.DataFrame({"kind": list("aabb"), "rank": [3, 1, 2, 4], "row": [1, 2, 3, 4]})
    schema = schema_of(frame, target="kind")
    assert schema.numeric == ("rank",)
    assert schema.dropped == {"row": "an identifier (every value is different)"}


def test_a_number_column_with_a_few_bad_cells_stays_numeric_and_remembers_them() -> None:
    schema, warnings = infer({"w": ["n.d.", *texts(range(100, 100 + N - 1))]})
    assert schema.numeric == ("w",)
    assert schema.missing_texts == {"w": ("n.d.",)}
    assert len(warnings) == 1
    assert '"w": 1 of 40 values are no numbers (row 1 holds "n.d.")' in warnings[0]


def test_a_column_most_of_whose_cells_are_numbers_is_numeric() -> None:
    schema, warnings = infer({"w": ["1.5", "2", "3", "low"] * (N // 4)})
    assert schema.numeric == ("w",)
    assert warnings == [
        'column "w": 10 of 40 values are no numbers (row 4 holds "low"); taken as missing'
    ]
    schema, warnings = infer({"w": ["1", "2", "low", "high"] * (N // 4)})
    assert schema.categorical == ("w",)
    assert warnings == [
        'column "w": 20 of 40 values are no numbers (row 3 holds "low"); categorical'
    ]
    assert infer({"w": ["1", "low", "mid", "high"] * (N // 4)})[1] == []


def test_words_for_missing_do_not_count_against_the_numbers() -> None:
    schema, warnings = infer(
        {"w": ["1.5", "unknown", "N.A.", "(none)"] * (N // 4 - 1) + ["2", "3", "4", "x"]}
    )
    assert schema.numeric == ("w",)
    assert warnings == [
        'column "w": 28 of 40 values are no numbers (row 2 holds "unknown"); taken as missing'
    ]
    assert infer({"w": ["red", "unknown"] * (N // 2)})[0].categorical == ("w",)


def test_numbers_of_different_units_are_told() -> None:
    schema, warnings = infer({"w": ["1 mm", "2 cm", "3 m", "4 cm"] * (N // 4)})
    assert schema.categorical == ("w",)
    assert warnings == [
        'column "w" holds numbers of different units ("cm", "mm", "m"); categorical'
    ]
    assert infer({"seat": ["1A", "2B", "3C", "4A"] * (N // 4)})[1] == [
        'column "seat": 20 of 40 values are no numbers (row 2 holds "2B"); categorical'
    ]


def test_many_columns_with_bad_cells_are_told_together() -> None:
    _, warnings = infer({f"w{i}": ["x", *texts(range(100, 100 + N - 1))] for i in range(25)})
    assert len(warnings) == 21
    assert warnings[-1] == "5 more columns hold values that are no numbers; taken as missing"


def test_free_text_is_left_out_with_a_warning_unless_declared() -> None:
    frame = pd.DataFrame({"kind": ["a", "b"] * 100, "note": [f"text {i % 60}" for i in range(200)]})
    warnings: list[str] = []
    schema = schema_of(frame, target="kind", warnings=warnings)
    assert schema.dropped == {"note": "free text (60 levels)"}
    assert '"note" has 60 different texts' in warnings[0]
    assert schema_of(frame, target="kind", categorical=["note"]).categorical == ("note",)
    assert schema_of(frame[frame.index % 60 < 50], target="kind").categorical == ("note",)


def test_declarations_override_what_would_be_found() -> None:
    columns = {
        "n1": texts(range(3, N + 3)),
        "n2": texts(range(7, N + 7)),
        "same": ["1"] * N,
        "c": ["x", "y"] * (N // 2),
    }
    schema, _ = infer(columns, categorical=["n*"], numeric=["same"], drop=["c"])
    assert schema.categorical == ("n1", "n2")
    assert schema.numeric == ("same",)
    assert schema.dropped == {"c": "dropped on request"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"numeric": ["word"]}, r'column "word" is declared numeric but row 1 holds "x"'),
        ({"numeric": ["wurd"]}, r'no column "wurd" in t\.csv; nearest: "word"'),
        ({"drop": ["kind"]}, r'--data\.drop: column "kind" is the target'),
        ({"numeric": ["w"], "categorical": ["w"]}, "both numeric and categorical"),
        ({"drop": ["w"], "categorical": ["w"]}, "both dropped and declared"),
        ({"image_column": "foto"}, 'no column "foto"'),
        ({"group_column": "kind"}, '"kind" is the target'),
        ({"split_column": "parts"}, 'no column "parts"'),
    ],
)
def test_wrong_declarations_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        infer({"w": range(3, N + 3), "word": ["x", "y"] * (N // 2)}, source="t.csv", **options)


def test_missing_target_names_the_nearest_column() -> None:
    with pytest.raises(UserError, match=r'no column "kins" in t\.csv; nearest: "kind"'):
        schema_of(pd.DataFrame({"kind": ["a"]}), target="kins", source="t.csv")


def test_infinite_numbers_and_padded_texts_are_reported() -> None:
    schema, warnings = infer(
        {"w": ["inf", "-1e300", *texts(range(N - 2))], "c": [" x", "y"] * (N // 2)}
    )
    assert schema.numeric == ("w",)
    assert any('"w": 2 infinite values' in w for w in warnings)
    assert any('blanks around the values of "c"' in w for w in warnings)


def test_split_and_group_columns_are_no_features() -> None:
    schema, _ = infer(
        {"part": ["train", "test"] * (N // 2), "who": texts(range(N))},
        split_column="part",
        group_column="who",
    )
    assert (schema.split_column, schema.group_column) == ("part", "who")
    assert schema.features == ()
    assert schema.dropped == {}


def test_the_image_column_is_found_by_files_then_suffixes_then_stems(tmp_path: Path) -> None:
    names = [f"{i:02d}.png" for i in range(N)]
    write_images(tmp_path, names)
    folder = ImageFolder(tmp_path)
    other = [f"{i}.jpg" for i in range(N)]
    stems = [f"{i:02d}" for i in range(N)]
    assert infer({"pic": names, "old": other, "id": stems}, folder=folder)[0].image_column == "pic"
    assert infer({"old": other, "id": stems}, folder=folder)[0].image_column == "old"
    assert infer({"id": stems, "w": range(N)}, folder=folder)[0].image_column == "id"
    assert infer({"w": ["01", "02"] * (N // 2)}, folder=folder)[0].image_column is None
    assert infer({"pic": names, "old": other}, folder=folder, drop=["pic"])[0].image_column == "old"
    with pytest.raises(
        UserError, match=r'several columns name images \("left", "right"\).*--data\.image-column'
    ):
        infer({"left": names, "right": names[::-1]}, folder=folder)


def test_a_second_image_column_is_said_not_to_be_used_as_images(tmp_path: Path) -> None:
    names = [f"{i:02d}.png" for i in range(N)]
    write_images(tmp_path, names)
    columns = {
        "pic": names,
        "back": [f"b{i}.png" for i in range(N)],
        "thumb": [f"http://x.org/{i}.jpg" for i in range(N)],
        "more": ['["a.png", "b.png"]'] * N,
        "mark": ["x.png", "y.png"] * (N // 2),
    }
    reason = 'names pictures too, and those of one column are used: "pic"'
    for options in ({}, {"image_column": "pic"}):
        schema, _ = infer(columns, folder=ImageFolder(tmp_path), **options)
        assert schema.image_column == "pic"
        assert schema.dropped == dict.fromkeys(("back", "thumb", "more", "mark"), reason)
        assert (
            f'not used: 4 columns ("back", "thumb", "more", "mark"): {reason}' in schema.describe()
        )
    schema, _ = infer(columns, folder=ImageFolder(tmp_path), categorical=["mark"])
    assert schema.categorical == ("mark",)


def test_a_schema_survives_json() -> None:
    schema, _ = infer(
        {"w": ["n.d.", *texts(range(100, 100 + N - 1))], "c": ["ä", "y"] * (N // 2), "k": ["z"] * N}
    )
    schema = TableSchema(**{**schema.__dict__, "classes": ("a", 2)})
    assert TableSchema.from_json(schema.to_json()) == schema
    for text in ("[]", "{}", '{"target": "x"}', "nonsense"):
        with pytest.raises(ValueError):
            TableSchema.from_json(text)
