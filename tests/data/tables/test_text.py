"""Encodings, delimiters and archives of table files."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from pathlib import Path

import pytest

from gaal_fast.data.reading import TableReading
from gaal_fast.data.tables.read import TableOptions, open_table
from gaal_fast.errors import UserError


def opened(
    path: Path, content: bytes, **options: object
) -> tuple[dict[str, list[str]], TableReading, list[str]]:
    path.write_bytes(content)
    warnings: list[str] = []
    frame, reading = open_table(path, warnings, TableOptions(**options))
    return frame.to_dict("list"), reading, warnings


ROWS = {"name": ["Zoë’s", "añb"], "x": ["1", "2"]}
TEXT = "name,x\nZoë’s,1\nañb,2\n"


@pytest.mark.parametrize(
    ("encoding", "found"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
        ("utf-16-be", "utf-16-be"),
        ("utf-32", "utf-32"),
        ("utf-32-le", "utf-32-le"),
        ("utf-32-be", "utf-32-be"),
        ("cp1252", "cp1252"),
    ],
)
def test_encodings_are_found(tmp_path: Path, encoding: str, found: str) -> None:
    rows, reading, warnings = opened(tmp_path / "t.csv", TEXT.encode(encoding))
    assert rows == ROWS
    assert reading.encoding == found
    told = [f"{tmp_path / 't.csv'} is not UTF-8; read as cp1252 (--data.encoding says otherwise)"]
    assert warnings == (told if encoding == "cp1252" else [])


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("gb18030", ["红色的杯子", "蓝色的盘子", "绿色的碗", "白色的花瓶"]),
        ("cp932", ["赤いカップ", "青い皿です", "緑のボウル", "白い花瓶"]),
        ("cp1251", ["красная чашка", "синяя тарелка", "зелёная миска", "белая ваза"]),
        ("cp949", ["빨간 컵입니다", "파란 접시", "초록 그릇", "하얀 꽃병"]),
        ("big5", ["紅色的杯子", "藍色的盤子", "綠色的碗", "白色的花瓶"]),
        ("cp1253", ["κόκκινο φλιτζάνι", "μπλε πιάτο", "πράσινο μπολ", "λευκό βάζο"]),
    ],
)
def test_other_scripts_are_found(tmp_path: Path, encoding: str, words: list[str]) -> None:
    text = "label,x\n" + "".join(f"{word},{i}\n" for i, word in enumerate(words * 5))
    rows, _, warnings = opened(tmp_path / "t.csv", text.encode(encoding))
    assert rows["label"] == words * 5
    assert len(warnings) == 1


def test_a_few_bad_bytes_do_not_change_the_encoding_of_the_rest(tmp_path: Path) -> None:
    content = "n,x\n" + "".join(f"größe{i},{i}\n" for i in range(9))
    rows, reading, warnings = opened(
        tmp_path / "t.csv", content.encode().replace("ß".encode(), b"\xdf", 3)
    )
    assert rows["n"] == [
        "grö\ufffde0",
        "grö\ufffde1",
        "grö\ufffde2",
        *(f"größe{i}" for i in range(3, 9)),
    ]
    assert reading.encoding == "utf-8"
    assert warnings == [
        f"{tmp_path / 't.csv'}: 3 bytes that are no UTF-8 are replaced (first: line 2)"
    ]


def test_an_encoding_is_declared_or_taken_from_training_where_the_bytes_leave_it_open(
    tmp_path: Path,
) -> None:
    content = "n,x\nЖук,1\n".encode("koi8-r")
    assert opened(tmp_path / "t.csv", content, encoding="koi8-r")[0]["n"] == ["Жук"]
    rows, _, warnings = opened(tmp_path / "t.csv", content, trained=TableReading("koi8-r", ","))
    assert rows["n"] == ["Жук"]
    assert warnings == []
    assert opened(tmp_path / "t.csv", "n,x\nЖук,1\n".encode(), trained=TableReading("koi8-r", ","))[
        0
    ]["n"] == ["Жук"]


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("a,b\n1,2\n3,4\n", ","),
        ("a;b\n1;2\n3;4\n", ";"),
        ("a\tb\n1\t2\n3\t4\n", "\t"),
        ("a|b\n1|2\n3|4\n", "|"),
        ("a b\n1 2\n3 4\n", " "),
        ("  a    b\n  1    2  \n 33    4\n".replace("33", " 3"), " "),
        ("sep=;\r\na;b\r\n1;2\r\n3;4\r\n", ";"),
        ('"sep=|"\na|b\n1|2\n3|4\n', "|"),
        ("a,b\r1,2\r3,4\r", ","),
        ("\r\n\r\na;b\r\n1;2\r\n3;4", ";"),
    ],
)
def test_delimiters_are_found(tmp_path: Path, text: str, delimiter: str) -> None:
    rows, reading, warnings = opened(tmp_path / "t.csv", text.encode())
    assert rows == {"a": ["1", "3"], "b": ["2", "4"]}
    assert reading.delimiter == delimiter
    assert warnings == []


def test_a_declared_delimiter_is_taken(tmp_path: Path) -> None:
    assert opened(tmp_path / "t.csv", b"a:b,c\n1:2,3\n", delimiter=":")[0] == {
        "a": ["1"],
        "b,c": ["2,3"],
    }
    assert opened(tmp_path / "t.csv", b"sep=;\na,b;c\n1,2;3\n", delimiter=",")[0] == {
        "a": ["1"],
        "b;c": ["2;3"],
    }


def test_expected_columns_choose_between_delimiters(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("width,height;kind,of\n1,2;3,4\n")
    assert list(open_table(tmp_path / "t.csv")[0]) == ["width", "height;kind", "of"]
    assert list(open_table(tmp_path / "t.csv", expected=["kind,of"])[0]) == [
        "width,height",
        "kind,of",
    ]


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zip"])
def test_compressed_tables_are_unpacked(tmp_path: Path, suffix: str) -> None:
    path, content = tmp_path / f"t.tsv.{suffix}", b"a\tb\n1\t2\n"
    if suffix == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("t.tsv", content)
    else:
        path.write_bytes({"gz": gzip, "bz2": bz2, "xz": lzma}[suffix].compress(content))
    assert open_table(path)[0].to_dict("list") == {"a": ["1"], "b": ["2"]}
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=rf"t\.tsv\.{suffix} is a damaged archive"):
        open_table(path)


def test_an_archive_of_several_files_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("a.csv", "a\n1\n")
        archive.writestr("b.csv", "a\n1\n")
    with pytest.raises(UserError, match=r"t\.zip holds 2 files: a table must be the only one"):
        open_table(tmp_path / "t.zip")


def test_rows_of_another_width_are_told_by_their_line(tmp_path: Path) -> None:
    content = b'sep=,\na,b\n"x\ny",1\n2\n3,4\n'
    rows, _, warnings = opened(tmp_path / "t.csv", content)
    assert rows["a"] == ["x\ny", "2", "3"]
    told = "line 5 has 1 fields, the header has 2; in such rows the other cells count as missing"
    assert warnings == [f"{tmp_path / 't.csv'}: {told}"]
    assert opened(tmp_path / "t.csv", b"a,b\n1\n3,4\n")[2] == [
        f"{tmp_path / 't.csv'}: {told.replace('5', '2')}"
    ]
    with pytest.raises(UserError, match=r"t\.csv: line 5 has 3 fields, the header has 2"):
        opened(tmp_path / "t.csv", b'sep=,\na,b\n"x\ny",1\n2,3,4\n5,6\n')
