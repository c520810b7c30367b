"""Reading tables of every accepted kind, and refusing the others in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gaal_fast.data.tables.read import expand_columns, find_column, read_table, require_column
from gaal_fast.errors import UserError

ROWS = {"id": ["007", "8"], "name": ["a, b", "ü"], "x": ["1.5", ""]}


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("t.csv", 'id,name,x\n007,"a, b",1.5\n8,ü,\n', "utf-8"),
        ("t.csv", 'id,name,x\r\n007,"a, b",1.5\r\n8,ü,\r\n', "utf-8-sig"),
        ("t.csv", "id;name;x\n007;a, b;1.5\n8;ü;\n", "utf-8"),
        ("t.txt", "id\tname\tx\n007\ta, b\t1.5\n8\tü\t\n", "utf-8"),
        ("t.tsv", "id\tname\tx\n007\ta, b\t1.5\n8\tü\t\n", "latin-1"),
        ("t.csv", '\n  \nid,name,x\n007,"a, b",1.5\n\n8,ü,\n', "utf-8"),
        ("t.csv", "id;name;x\n007;a, b;1.5\n8;ü;\n", "utf-16"),
    ],
)
def test_text_files_keep_every_cell_as_written(
    tmp_path: Path, name: str, text: str, encoding: str
) -> None:
    (tmp_path / name).write_bytes(text.encode(encoding))
    warnings: list[str] = []
    frame = read_table(tmp_path / name, warnings)
    assert frame.to_dict("list") == ROWS
    assert list(frame.index) == [0, 1]
    assert [("read as cp1252" in w) for w in warnings] == ([True] if encoding == "latin-1" else [])


def test_decimal_commas_stay_as_they_are_written(tmp_path: Path) -> None:
    cells = {"a": ["1,5", "-2"], "b": ["1,2,3", ""], "c": ["x,y", "z"]}
    (tmp_path / "t.csv").write_text("a;b;c\n1,5;1,2,3;x,y\n-2;;z\n")
    assert read_table(tmp_path / "t.csv").to_dict("list") == cells


def test_parquet_keeps_types_and_turns_a_named_index_into_a_column(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"x": [1.5, np.nan], "n": [1, 2], "ok": [True, False], "c": pd.Categorical(["a", "b"])}
    )
    frame.index = pd.Index(["r1", "r2"], name="key")
    frame.to_parquet(tmp_path / "t.parquet")
    read = read_table(tmp_path / "t.parquet")
    assert list(read.columns) == ["key", "x", "n", "ok", "c"]
    assert read["n"].tolist() == [1, 2]
    assert read["ok"].dtype == bool
    assert read["c"].tolist() == ["a", "b"]
    (tmp_path / "renamed.csv").write_bytes((tmp_path / "t.parquet").read_bytes())
    pd.testing.assert_frame_equal(read_table(tmp_path / "renamed.csv"), read)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "is empty"),
        ("t.csv", b" \n\n", "is empty"),
        ("t.csv", b"a,b\n", "a header but no rows"),
        ("t.csv", b"a,b,a\n1,2,3\n", 'two columns have the same name: "a"'),
        ("t.csv", b"a,b\n1,2\n1,2,3\n", "line 3 has 3 fields, the header has 2"),
        ("t.csv", b"a,b\n1,2,3\n4,5,6\n", "line 2 has 3 fields, the header has 2"),
        ("t.csv", b'a,b\n1,"2\n', "is not a table"),
        ("t.csv", b"\x89PNG\r\n\x1a\n\0\0", "binary data"),
        ("t.xlsx", b"PK\x03\x04", "is a spreadsheet"),
        ("t.parquet", b"PAR1 and no more", "not a readable Parquet table"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_table(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_absent_files_and_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cars.csv").write_text("a\n1\n")
    with pytest.raises(UserError, match=r'no such file: .*car\.csv; nearest: "cars\.csv"'):
        read_table(tmp_path / "car.csv")
    with pytest.raises(UserError, match="is a folder"):
        read_table(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "t.csv", format="PNG")
    with pytest.raises(UserError, match="is not a table"):
        read_table(tmp_path / "t.csv")


def test_columns_are_found_by_name_with_blanks_ignored_only_where_that_is_unique() -> None:
    assert find_column([" a", "b "], "a") == " a"
    assert find_column(["a", " a"], "a") == "a"
    assert find_column([" a", "a "], "a") is None
    with pytest.raises(UserError, match=r'no column "Colr" in cars\.csv; nearest: "colour"'):
        require_column(["width", "colour"], "Colr", "cars.csv")
    with pytest.raises(UserError, match=r'its columns are "width", "colour"'):
        require_column(["width", "colour"], "zzzz", "cars.csv")


def test_patterns_name_columns_but_never_those_with_a_role() -> None:
    columns = ["margin2", "margin1", "shape1", "margin_kind", "a[b"]
    assert expand_columns(columns, ["margin*"], "--data.drop", "t", {"margin_kind"}) == [
        "margin2",
        "margin1",
    ]
    assert expand_columns(columns, ["shape1", "*1", "a[b"], "--data.drop", "t", set()) == [
        "margin1",
        "shape1",
        "a[b",
    ]
    with pytest.raises(UserError, match=r'--data\.drop: no column of t matches "tex\*"'):
        expand_columns(columns, ["tex*"], "--data.drop", "t", set())
    with pytest.raises(UserError, match='"margin_kind" is the target'):
        expand_columns(columns, ["margin_kind"], "--data.drop", "t", {"margin_kind"})
