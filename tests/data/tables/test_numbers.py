"""Numbers as people write them, and the marks that a whole table settles."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from gaal_fast.data.tables.number_cells import NumberStyle, parse_number
from gaal_fast.data.tables.numbers import NumberColumns, NumberOptions

NAN = float("nan")


def columns(cells: dict[str, list[str]], **options: object) -> NumberColumns:
    return NumberColumns(pd.DataFrame(cells, dtype=object), **options)


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
