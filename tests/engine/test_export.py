"""The preprocessing of an exported graph is the fitted one, and its file needs nothing of ours."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from gaal_fast.data.batch import InputSpec
from gaal_fast.data.tables.columns import TypedTable
from gaal_fast.data.tables.dates import FIRST_YEAR, LAST_YEAR, date_parts
from gaal_fast.data.tables.fitted import MISSING_CODE, MISSING_LEVEL, part_names
from gaal_fast.data.tables.preprocess import TablePreprocessor
from gaal_fast.data.tables.schema import TableSchema
from gaal_fast.engine.export import _inputs, table_inputs
from gaal_fast.models.table_inputs import _date_parts

ROWS = 400
# float32 of features that are a few standard deviations at most.
FLOAT32 = 2.0**-21


def days_of(year: int) -> float:
    return float((np.datetime64(f"{year}-01-01") - np.datetime64("1970-01-01")).astype(np.int64))


def some_rows(rows: int = ROWS, seed: int = 0) -> TypedTable:
    """Numbers, dates with times and without, and levels of which some are rare; missing cells."""
    rng = np.random.default_rng(seed)
    schema = TableSchema(
        "y", numeric=("size", "never missing"), categorical=("kind", "flag"), dates=("at", "on")
    )
    holes = {name: rng.random(rows) < 0.15 for name in ("size", "at", "on", "kind")}
    at = rng.uniform(days_of(2015), days_of(2024), rows)
    numbers = {
        "size": np.where(holes["size"], np.nan, rng.normal(1e6, 3, rows)),
        "never missing": rng.integers(0, 5, rows).astype(float),
        "at": np.where(holes["at"], np.nan, at),
        "on": np.where(holes["on"], np.nan, np.floor(at[::-1])),
    }
    kind = np.array([*"abcdef"], dtype=object)[np.minimum(rng.geometric(0.5, rows) - 1, 5)]
    levels = {
        "kind": np.where(holes["kind"], None, kind),
        "flag": np.array(["True", "False"], dtype=object)[rng.integers(0, 2, rows)],
    }
    return TypedTable(schema, rows, numbers, levels)


def as_tensors(
    table: TypedTable, levels: dict[str, list[str]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The inputs of a graph; a level that is not among ``levels`` gets a code of its own."""
    codes = [
        [
            MISSING_CODE if text is None else known.index(text) if text in known else len(known) + 7
            for text in table.levels[name]
        ]
        for name, known in levels.items()
    ]
    numbers = np.stack(list(table.numbers.values()), axis=1)
    return torch.from_numpy(numbers), torch.tensor(codes).T.contiguous()


@pytest.mark.parametrize("smallest", [1, 20])
def test_features_are_those_of_the_fitted_preprocessor(smallest: int) -> None:
    table = some_rows()
    fitted = TablePreprocessor(table.schema).fit(table, np.arange(200), smallest)
    plain = fitted.fitted()
    assert plain.n_features == fitted.n_features
    assert len(plain.parts) >= 10, "both columns of dates have repeating parts"
    assert len(plain.indicators) == 3 and MISSING_LEVEL in plain.levels["kind"]
    other = some_rows(seed=1)
    other.levels["kind"][:20] = "never seen"
    other.levels["flag"][10:30] = None  # it was never missing in training
    other.numbers["never missing"][:15] = np.nan
    other.numbers["size"][15] = 1e99  # cut off
    numbers, codes = as_tensors(other, plain.levels)
    features, present = table_inputs(plain)(numbers, codes)
    expected = fitted.transform(other)
    assert features.dtype == torch.float32
    np.testing.assert_allclose(features, expected.features, rtol=FLOAT32, atol=FLOAT32)
    assert present.all() and expected.present.all()


def test_rows_without_a_value_are_told_and_values_beyond_bounds_are_missing() -> None:
    table = some_rows()
    fitted = TablePreprocessor(table.schema).fit(table, np.arange(ROWS))
    plain = fitted.fitted()
    module = table_inputs(plain)
    empty = table.take(np.array([-1, 0, -1, -1]))
    numbers, codes = as_tensors(empty, plain.levels)
    usual, present = module(numbers, codes)
    assert (
        present.tolist() == [False, True, False, False] == fitted.transform(empty).present.tolist()
    )
    # No number and no date that a table could hold: they count as missing where a table is read.
    numbers[0, 0], numbers[2, 0] = 2e100, -torch.inf
    numbers[3, 2], numbers[2, 2] = days_of(LAST_YEAR + 1), days_of(FIRST_YEAR) - 1
    features, present = module(numbers, codes)
    assert present.tolist() == [False, True, False, False]
    assert torch.equal(features, usual)
    numbers[3, 2] = days_of(LAST_YEAR + 1) - 1e-3
    assert module(numbers, codes)[1].tolist() == [False, True, False, True]


def test_parts_of_dates_are_right_on_every_day() -> None:
    # Two of the four centuries of a cycle, with the year 2000, and a time of day.
    days = np.arange(days_of(1850), days_of(2110)) + 0.3125
    found = _date_parts(torch.from_numpy(days)[:, None]).numpy()
    expected = date_parts(days, "d")
    assert list(expected) == part_names("d")
    for place, (name, values) in enumerate(expected.items()):
        np.testing.assert_allclose(found[:, place], values, atol=1e-14, err_msg=name)


def test_days_before_nanoseconds_and_after_are_right_too() -> None:
    texts = ["1000-01-01", "1200-02-29", "1500-02-28", "1500-03-01", "2199-12-31", "2200-12-31"]
    dates = [pd.Timestamp(text).to_pydatetime() for text in texts]
    days = torch.tensor(
        [float((np.datetime64(t) - np.datetime64("1970-01-01")).astype(int)) for t in texts]
    )
    found = _date_parts(days.double()[:, None])
    assert found[:, 0].tolist() == [date.day for date in dates]
    turn = torch.tensor([(d.timetuple().tm_yday - 1) / 365.25 for d in dates]).double()
    torch.testing.assert_close(found[:, 1], (2 * torch.pi * turn).sin(), atol=1e-7, rtol=0)
    week = torch.tensor([date.weekday() / 7 for date in dates]).double()
    torch.testing.assert_close(found[:, 4], (2 * torch.pi * week).cos(), atol=1e-7, rtol=0)


def test_the_module_is_exported_with_any_number_of_rows() -> None:
    table = some_rows()
    fitted = TablePreprocessor(table.schema).fit(table, np.arange(ROWS), 20)
    plain = fitted.fitted()
    inputs = as_tensors(table, plain.levels)
    rows = torch.export.Dim("rows")
    program = torch.export.export(
        table_inputs(plain),
        tuple(values[:2] for values in inputs),
        dynamic_shapes=({0: rows}, {0: rows}),
    )
    stream = io.BytesIO()
    torch.export.save(program, stream)
    stream.seek(0)
    again = torch.export.load(stream).module()
    features = fitted.transform(table).features
    for count in (1, 2, 7, ROWS):
        found, _ = again(*(values[:count] for values in inputs))
        np.testing.assert_allclose(found, features[:count], rtol=FLOAT32, atol=FLOAT32)


@pytest.mark.parametrize("kinds", ["numbers", "codes"])
def test_a_table_may_have_numbers_or_levels_alone(kinds: str) -> None:
    table = some_rows()
    schema = (
        TableSchema("y", numeric=("size",))
        if kinds == "numbers"
        else TableSchema("y", categorical=("kind",))
    )
    numbers = {name: table.numbers[name] for name in schema.numeric}
    levels = {name: table.levels[name] for name in schema.categorical}
    own = TypedTable(schema, ROWS, numbers, levels)
    fitted = TablePreprocessor(schema).fit(own, np.arange(ROWS))
    plain = fitted.fitted()
    given = (
        (torch.from_numpy(table.numbers["size"])[:, None], None)
        if kinds == "numbers"
        else (None, as_tensors(table, plain.levels)[1])
    )
    features, present = table_inputs(plain)(*given)
    expected = fitted.transform(own)
    np.testing.assert_allclose(features, expected.features, rtol=FLOAT32, atol=FLOAT32)
    assert present.tolist() == expected.present.tolist() and not present.all()


def test_every_input_has_an_identifier_of_its_own() -> None:
    spec = InputSpec("image", (3, 8, 8))
    names = ["front-side", "front_side", "1st", "größe", "present", "predictions", "class", "len"]
    inputs = list(_inputs(SimpleNamespace(inputs=dict.fromkeys(names, spec)), {}))  # type: ignore[arg-type]
    assert [one.modality for one in inputs] == ["", *names]
    found = [one.name for one in inputs]
    assert found == [
        *("present", "front_side", "front_side_1", "input_1st", "gr__e"),
        *("present_1", "predictions_1", "input_class", "input_len"),
    ]
    assert inputs[0].shape == (len(names),)
