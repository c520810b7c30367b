"""How a table's text and numbers are read: decided once, said, kept, and compared with the file to
predict.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gaal_fast.data.reading import Reading, TableReading
from gaal_fast.data.tables.number_cells import NumberStyle, parse_number
from gaal_fast.data.tables.numbers import NumberColumns, NumberOptions
from gaal_fast.data.tables.read import TableOptions, open_table
from gaal_fast.errors import UserError

NAN = float("nan")


def columns(cells: dict[str, list[str]], **options: object) -> NumberColumns:
    return NumberColumns(pd.DataFrame(cells, dtype=object), **options)


def opened(
    path: Path, content: bytes, **options: object
) -> tuple[dict[str, list[str]], TableReading, list[str]]:
    path.write_bytes(content)
    warnings: list[str] = []
    frame, reading = open_table(path, warnings, TableOptions(**options))
    return frame.to_dict("list"), reading, warnings


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["0,13", "2,87"], [0.13, 2.87]),
        (["0,13", "2,87", "unknown", "k.A.", "-", ""], [0.13, 2.87, NAN, NAN, NAN, NAN]),
        (["1.306,5", "2.517.000"], [1306.5, 2517000]),
        (["1,306.5", "2,517,000", "7"], [1306.5, 2517000, 7]),
        (["1 306,5", "1\u00a0306", "1\u202f306", "1\u2009306"], [1306.5, 1306, 1306, 1306]),
        (["1'306.50", "1\u2019306", "12"], [1306.5, 1306, 12]),
        (["12,34,567", "1,00,000"], [1234567, 100000]),
        (["$1,000", "$1,137.50", "12"], [1000, 1137.5, 12]),
        (["1.000,50 €", "12 €", "-3 €"], [1000.5, 12, -3]),
        (["EUR 12.5", "eur 1,000.25", "3.5 €"], [12.5, 1000.25, 3.5]),
        (["£0.5", "-£2", "£ 3"], [0.5, -2, 3]),
        (["R$ 1.234,50", "R$ 7"], [1234.5, 7]),
        (["7%", "12.5 %", "0"], [7, 12.5, 0]),
        (["12 cm", "3.5cm", "0"], [12, 3.5, 0]),
        (["3,5 kg", "12 kg", "4"], [3.5, 12, NAN]),
        (["12 m²", "9.5 m²"], [12, 9.5]),
        (["3 years", "1 year", "2 Years"], [3, 1, 2]),
        (["1st", "2nd", "3rd", "4th"], [1, 2, 3, 4]),
        (["(1,234)", "(12)", "5.5"], [-1234, -12, 5.5]),
        (["1.234,50-", "12-", "3"], [-1234.5, -12, 3]),
        (["\u22125.5", "\u20137", "\u2013"], [-5.5, -7, NAN]),
        (["\uff11\uff12.5", "3"], [12.5, 3]),
        (["1,5e3", "2,5E-1"], [1500, 0.25]),
        ([",5", "-,25"], [0.5, -0.25]),
        (["1e3", " 2.5 ", "+4"], [1000, 2.5, 4]),
    ],
)
def test_numbers_are_read_as_people_write_them(cells: list[str], values: list[float]) -> None:
    np.testing.assert_array_equal(columns({"w": cells}).numbers("w").values, values)


@pytest.mark.parametrize(
    "cells",
    [
        ["1,2,3", "4,5,6"],
        ["12.05.2024", "13.06.2024"],
        ["001.png", "002.png"],
        ["12:30", "14:45"],
        ["10-20", "20-30"],
        ["192.168.1.1", "10.0.0.1"],
        ["1.2.3", "1.10.0"],
        ["12 34", "5 67"],
        ["red", "blue"],
        ["Q1", "Q2"],
        ["x12", "x13"],
    ],
)
def test_what_only_looks_like_numbers_is_none(cells: list[str]) -> None:
    numbers = columns({"w": cells}).numbers("w")
    assert numbers.bad.all()
    assert np.isnan(numbers.values).all()


@pytest.mark.parametrize(
    ("other", "unclear", "value"),
    [
        ("9,1", "1.306", 1306),
        ("9,1", "1,306", 1.306),
        ("9.1", "1.306", 1.306),
        ("9.1", "1,306", 1306),
    ],
)
def test_other_columns_settle_an_unclear_mark(other: str, unclear: str, value: float) -> None:
    read = columns({"other": [other], "unclear": [unclear]})
    assert read.numbers("unclear").values.tolist() == [value]
    assert read.warning("unclear") == ""


@pytest.mark.parametrize(
    ("cells", "delimiter", "value"),
    [
        (["1.306", "1.517"], ",", 1.306),
        (["1,306", "1,517"], ",", 1306),
        (["1,306", "1,517"], ";", 1.306),
        (["1.306", "1.517"], ";", 1.306),
        (["1.306", "987"], ";", 1306),
        (["1,306", "987"], ";", 1306),
    ],
)
def test_an_unclear_mark_that_nothing_settles_is_told(
    cells: list[str], delimiter: str, value: float
) -> None:
    read = columns({"w": cells}, delimiter=delimiter)
    assert read.numbers("w").values[0] == value
    assert (
        read.warning("w")
        == f'column "w": "{cells[0]}" is read as {value}, which the file does not settle '
        "(--data.decimal or --data.thousands says otherwise)"
    )


@pytest.mark.parametrize(
    ("cell", "options", "value"),
    [
        ("1.306", {"decimal": ","}, 1306),
        ("1.306", {"decimal": "."}, 1.306),
        ("1.306", {"thousands": "."}, 1306),
        ("1,306", {"decimal": ","}, 1.306),
        ("1,306", {"thousands": ","}, 1306),
        ("1,306", {"thousands": ""}, 1.306),
    ],
)
def test_flags_settle_an_unclear_mark(cell: str, options: dict[str, str], value: float) -> None:
    read = columns({"w": [cell]}, options=NumberOptions(**options))
    assert read.numbers("w").values.tolist() == [value]
    assert read.warning("w") == ""


def test_a_flag_that_no_cell_of_a_column_can_follow_is_told() -> None:
    read = columns({"w": ["9.1", "7.25"]}, options=NumberOptions(decimal=","))
    assert read.numbers("w").values.tolist() == [9.1, 7.25]
    assert (
        read.warning("w")
        == 'column "w": its numbers cannot be read as --data.decimal says; read with decimal point'
    )


def test_prediction_takes_the_trained_style_where_the_new_file_is_silent() -> None:
    trained = {"w": NumberStyle(","), "v": NumberStyle(".")}
    read = columns({"w": ["1,306"], "v": ["1.306"]}, trained=trained, delimiter=",")
    assert read.numbers("w").values.tolist() == [1.306]
    assert read.numbers("v").values.tolist() == [1.306]
    assert read.warning("w") == read.warning("v") == ""


def test_prediction_warns_of_a_mark_that_training_did_not_have() -> None:
    read = columns({"w": ["1.306"]}, trained={"w": NumberStyle(",")})
    assert read.numbers("w").values.tolist() == [1306]
    assert (
        read.warning("w")
        == 'column "w": "1.306" is read as 1306, by the decimal mark of training (--decimal or'
        " --thousands says otherwise)"
    )
    known = columns({"w": ["1.306"]}, trained={"w": NumberStyle(",", ".")})
    assert known.numbers("w").values.tolist() == [1306]
    assert known.warning("w") == ""


def test_prediction_warns_where_neither_file_shows_what_a_mark_is() -> None:
    read = columns({"w": ["1.306"]}, trained={"w": NumberStyle("")})
    assert read.numbers("w").values.tolist() == [1306]
    assert (
        '"1.306" is read as 1306, a whole number as in training, which this file does not settle'
        in read.warning("w")
    )


def test_prediction_warns_where_the_new_file_contradicts_the_training() -> None:
    read = columns({"w": ["1.306"], "v": ["9,1"]}, trained={"w": NumberStyle(".")})
    assert read.numbers("w").values.tolist() == [1306]
    assert (
        '"1.306" is read as 1306, as in the other columns of this file, unlike in training'
        in read.warning("w")
    )


def test_another_unit_than_in_training_is_missing_and_none_at_all_is_told() -> None:
    read = columns({"w": ["12 cm", "3 cm"]}, trained={"w": NumberStyle("", suffix="mm")})
    assert np.isnan(read.numbers("w").values).all()
    assert read.warning("w") == 'column "w" has "cm" here, had "mm" in training'
    bare = columns({"w": ["12", "3"]}, trained={"w": NumberStyle("", suffix="mm")})
    assert bare.numbers("w").values.tolist() == [12, 3]
    assert (
        bare.warning("w")
        == 'column "w" has no unit here, had "mm" in training; its numbers are taken as they stand'
    )


def test_mixed_units_are_never_mixed() -> None:
    read = columns({"w": ["12 cm", "3 cm", "5 cm", "1 m"]})
    np.testing.assert_array_equal(read.numbers("w").values, [12, 3, 5, NAN])
    assert columns({"w": ["12 cm", "3 mm", "1 m"]}).different_units("w") == ["cm", "mm", "m"]


def test_declared_missing_numbers_are_missing_however_they_are_written() -> None:
    options = NumberOptions(missing_values=("-999",))
    for cells in (["-999,0", "1,5"], ["-999.00", "1.5"], ["-999", "1.5"]):
        read = columns({"w": cells}, options=options)
        numbers = read.numbers("w")
        assert not read.others("w").any()
        np.testing.assert_array_equal(numbers.values, [NAN, 1.5])
        assert not numbers.bad.any()


def test_a_cell_is_read_only_in_its_columns_style() -> None:
    german = NumberStyle(",", ".")
    assert parse_number("1.234.567,5", german) == 1234567.5
    assert parse_number("1.5", german) is None
    assert parse_number("12.34", german) is None
    assert parse_number("1234,5", german) == 1234.5
    assert parse_number("1.5", NumberStyle("", ".")) is None


def test_a_reading_survives_its_file(tmp_path: Path) -> None:
    table = TableReading("cp1252", ";", ",", ".", ("-999",), {"w": NumberStyle(",", "", "", "cm")})
    Reading(table).save(tmp_path)
    assert Reading.load(tmp_path).table == table
    assert table.describe() == [
        'read as: cp1252, semicolon-separated, decimal comma, thousands point, missing: "-999"',
        'numbers with "cm": "w"',
    ]
    assert TableReading().describe() == ["read as: Parquet, decimal point, no thousands mark"]


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
