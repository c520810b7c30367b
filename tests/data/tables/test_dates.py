"""Dates in the forms that people and programs write: decided over the column, and read the same way
at prediction.
"""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pytest

from gaal_fast.data.tables.dates import (
    choose_format,
    date_parts,
    example,
    informative_parts,
    to_days,
)
from gaal_fast.data.tables.preprocess import TablePreprocessor
from tests.data.conftest import schema_of

DAYS = pd.to_datetime(["2023-12-31", "2024-02-29", "2021-07-04"])
NUMBERS = [19722.0, 19782.0, 18812.0]


def choose(texts: list[object], order: str = "auto") -> str | None:
    found = choose_format(pd.Series(texts, dtype=object), order)
    return None if found is None else found.format


@pytest.mark.parametrize(
    ("form", "written"),
    [
        ("ISO8601", "%Y-%m-%d"), ("%Y/%m/%d", "%Y/%m/%d"), ("%Y.%m.%d", "%Y.%m.%d"),
        ("%d.%m.%Y", "%d.%m.%Y"), ("%m/%d/%Y", "%m/%d/%Y"),
        ("%d/%m/%Y", "%d/%m/%Y"), ("%d-%m-%Y", "%d-%m-%Y"), ("%m-%d-%Y", "%m-%d-%Y"),
        ("%m.%d.%Y", "%m.%d.%Y"), ("%d.%m.%y", "%d.%m.%y"),
        ("%m/%d/%y", "%m/%d/%y"), ("%d/%m/%y", "%d/%m/%y"), ("%d-%b-%Y", "%d-%b-%Y"),
        ("%d-%b-%y", "%d-%b-%y"), ("%d %b %Y", "%d %b %Y"),
        ("%d %B %Y", "%d %B %Y"), ("%b %d, %Y", "%b %d, %Y"), ("%B %d, %Y", "%B %d, %Y"),
        ("%a %b %d %Y", "%a %b %d %Y"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("time", "part"),
    [
        ("", 0.0),
        (" 18:00", 0.75),
        (" 18:00:00", 0.75),
        (", 6:00 PM", 0.75),
        (" 6:00:00 p.m.", 0.75),
        ("T18:00:00.000", 0.75),
    ],
)
def test_every_common_form_is_read_exactly(form: str, written: str, time: str, part: float) -> None:
    texts = pd.Series([day.strftime(written) + time for day in DAYS] + [""], dtype=object)
    found = choose_format(texts)
    assert found is not None
    # ISO 8601 has no afternoon: the same order of year, month and day with a time as people write
    # it.
    assert found.format == ("%Y-%m-%d" if form == "ISO8601" and "m" in time.lower() else form)
    assert not found.ambiguous
    assert to_days(texts, found.format).values[:3].tolist() == [number + part for number in NUMBERS]
    assert np.isnan(to_days(texts, found.format).values[3])


@pytest.mark.parametrize(
    ("texts", "form"),
    [
        (["1.2.2023", "13.2.2023"], "%d.%m.%Y"),
        (["2023-01-05 9:30", "2023-01-06 10:00"], "%Y-%m-%d"),
        (["2023-01-05T09:30:00Z", "2023-01-05T09:30:00+02:00"], "ISO8601"),
        (["2023-05", "2023-12"], "ISO8601"),
        ([str(day) for day in range(20230101, 20230113)], "%Y%m%d"),
        ([str(day) for day in range(20230131, 20230143)], None),
        (["20230101", "20230102"], None),
        (["09:30", "23:59", "0:05"], "time of day"),
        (["9:30 AM", "11:59 pm"], "time of day"),
        (["75:30", "09:30"], None),
        (["1.2.10", "1.2.11"], None),
        (["192.168.0.1", "10.0.0.1"], None),
        (["3/4", "5/6"], None),
        (["2023", "2024"], None),
        (["red", "blue"], None),
        (["31/12/2023", "12/31/2023"], None),
        ([datetime.date(2023, 1, 5), None, datetime.date(2023, 1, 6)], "ISO8601"),
        ([1, 2, 3], None),
    ],
)
def test_the_form_is_decided_by_the_whole_column(texts: list[object], form: str | None) -> None:
    assert choose(texts) == form


def test_times_are_fractions_of_a_day() -> None:
    texts = pd.Series(["06:00", "6:00 PM", "23:59:59.5", "", "25:00"], dtype=object)
    read = to_days(texts, "time of day")
    np.testing.assert_allclose(read.values[:3], [0.25, 0.75, 1 - 0.5 / 86400], rtol=0, atol=1e-11)
    assert read.bad.tolist() == [False, False, False, False, True]


def test_open_order_of_day_and_month() -> None:
    texts = ["01/02/2023", "03/04/2023", "05/05/2023"]
    found = choose_format(pd.Series(texts, dtype=object))
    assert (found.format, found.ambiguous) == ("%m/%d/%Y", True)
    assert choose(texts, "day-month") == "%d/%m/%Y"
    assert choose([text.replace("/", ".") for text in texts]) == "%d.%m.%Y"
    assert choose([text.replace("/", "-") for text in texts], "month-day") == "%m-%d-%Y"
    assert not choose_format(pd.Series(["01/01/2023", "05/05/2023"], dtype=object)).ambiguous
    assert choose(["13/01/2023", "01/02/2023"], "month-day") == "%d/%m/%Y", (
        "what the column tells is not overruled"
    )


def test_an_open_column_is_named_or_follows_another() -> None:
    frame = pd.DataFrame(
        {"kind": ["a", "b", "a"], "seen": ["01/02/2023", "03/04/2023", "07/08/2023"]}
    )
    warnings: list[str] = []
    schema = schema_of(frame, target="kind", warnings=warnings)
    assert schema.date_formats == {"seen": "%m/%d/%Y"}
    assert warnings == [
        'column "seen": its dates leave open which number is the day; read as 12/31/2023 (month'
        " before day); say otherwise with --data.date-order"
    ]
    assert 'dates are read: "seen" as 12/31/2023' in schema.describe()
    for told, form in (("25/12/2023", "%d/%m/%Y"), ("12/25/2023", "%m/%d/%Y")):
        warnings.clear()
        schema = schema_of(
            frame.assign(sold=told, born=[told, "01/01/2023", ""]), target="kind", warnings=warnings
        )
        assert schema.date_formats == {"seen": form, "born": form}
        assert warnings == []
    assert schema_of(
        frame, target="kind", date_order="day-month", warnings=warnings
    ).date_formats == {"seen": "%d/%m/%Y"}
    assert warnings == []


def test_a_few_bad_dates_are_missing_and_named() -> None:
    texts = [f"{1 + i % 28:02d}.{1 + i % 12:02d}.2023" for i in range(39)]
    warnings: list[str] = []
    schema = schema_of(
        pd.DataFrame({"kind": ["a", "b"] * 20, "d": ["soon", *texts]}),
        target="kind",
        warnings=warnings,
    )
    assert schema.date_formats == {"d": "%d.%m.%Y"}
    assert warnings == [
        'column "d": 1 of 40 values are no dates (row 1 holds "soon"); taken as missing'
    ]


def test_dates_that_mean_never_do_not_flatten_the_others() -> None:
    frame = pd.DataFrame(
        {"kind": ["a", "b"] * 2, "end": ["2023-01-01", "9999-12-31", "2023-01-03", "0001-01-01"]}
    )
    warnings: list[str] = []
    schema = schema_of(frame, target="kind", warnings=warnings)
    assert warnings == [
        'column "end": 2 dates far from all others count as missing (row 2 holds "9999-12-31")'
    ]
    assert np.isnan(to_days(frame["end"], schema.date_formats["end"]).values).tolist() == [
        False,
        True,
        False,
        True,
    ]


def test_what_comes_round_becomes_features_where_the_rows_span_it() -> None:
    days = pd.Series(pd.date_range("2022-01-01 06:00", periods=800, freq="25h"))
    frame = pd.DataFrame({"d": days.dt.strftime("%d.%m.%Y %H:%M"), "kind": "a"})
    schema = schema_of(frame, target="kind")
    names = ["d", "d: day of month"]
    names += [
        f"d: {word} ({wave})"
        for word in ("time of year", "weekday", "time of day")
        for wave in ("sin", "cos")
    ]
    fitted = TablePreprocessor(schema).fit(frame, np.arange(800))
    assert fitted.feature_names == names
    assert fitted.feature_columns == ["d"] * len(names)
    parts = date_parts(to_days(frame["d"], "%d.%m.%Y %H:%M"[:8]).values, "d")
    weekday = days.dt.day_of_week.to_numpy() * 2 * np.pi / 7
    np.testing.assert_allclose(parts["d: weekday (sin)"], np.sin(weekday), atol=1e-9)
    np.testing.assert_allclose(parts["d: weekday (cos)"], np.cos(weekday), atol=1e-9)
    np.testing.assert_allclose(
        parts["d: time of day (sin)"][:2], [1, np.sin(2 * np.pi * 7 / 24)], atol=1e-9
    )
    assert parts["d: day of month"][:3].tolist() == [1, 2, 3]
    few = to_days(frame["d"][:20], "%d.%m.%Y").values
    assert list(informative_parts(np.floor(few), "d")) == ["d: weekday (sin)", "d: weekday (cos)"]
    assert list(informative_parts(np.floor(few[:5]), "d")) == []


def test_prediction_reads_the_form_of_the_training() -> None:
    frame = pd.DataFrame({"d": ["03/04/2023", "25/12/2023", "01/02/2023", ""]})
    schema = schema_of(frame.assign(kind="a"), target="kind")
    fitted = TablePreprocessor(schema).fit(frame, np.arange(3))
    warnings: list[str] = []
    open_order = pd.DataFrame({"d": ["03/04/2023", "01/02/2023"]})
    features = fitted.transform(open_order, "new.csv", warnings).features
    np.testing.assert_array_equal(features, fitted.transform(frame).features[[0, 2]])
    typed = pd.DataFrame({"d": pd.to_datetime(["2023-04-03", "2023-02-01"])})
    np.testing.assert_array_equal(fitted.transform(typed, "new.csv", warnings).features, features)
    objects = pd.DataFrame(
        {"d": pd.Series([datetime.date(2023, 4, 3), datetime.date(2023, 2, 1)], dtype=object)}
    )
    np.testing.assert_array_equal(fitted.transform(objects, "new.csv", warnings).features, features)
    assert warnings == []
    other = fitted.transform(pd.DataFrame({"d": ["2023-04-03", "25/12/2023"]}), "new.csv", warnings)
    assert warnings == [
        'column "d": 1 of 2 values are no dates like 31/12/2023 (row 1 holds "2023-04-03"); taken'
        " as missing"
    ]
    assert other.present.tolist() == [False, True]


def test_examples_are_the_last_day_of_a_year() -> None:
    assert [example(form) for form in ("ISO8601", "%d.%m.%Y", "%m/%d/%y", "time of day")] == [
        "2023-12-31", "31.12.2023", "12/31/23", "23:59"
    ]  # fmt: skip
