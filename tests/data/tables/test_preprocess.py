"""The table preprocessor: what it computes, what it refuses, and that it comes back from disk as it
was.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier

from gaal_fast.data.tables.preprocess import (
    SCHEMA_FILE,
    TRANSFORMER_FILE,
    TableArrays,
    TablePreprocessor,
)
from gaal_fast.data.tables.schema import TableSchema
from gaal_fast.errors import UserError
from tests.data.conftest import schema_of

FRAME = pd.DataFrame(
    {
        "w": ["1", "?", "4", "10", "100", "x"],
        "c": ["red", "red", "", "blue", "green", "violet"],
        "d": ["2024-01-01", "2024-01-03", "", "2024-01-03", "2030-01-01", "2024-01-01"],
    }
)
TRAIN = np.arange(4)
SCHEMA = TableSchema(
    "kind", numeric=("w",), categorical=("c",), dates=("d",), missing_texts={"w": ("x",)}
)


def test_features_are_those_of_the_formulas() -> None:
    fitted = TablePreprocessor(SCHEMA).fit(FRAME, TRAIN)
    features, present = fitted.transform(FRAME).features, fitted.transform(FRAME).present
    width = np.array([1, 4, 4, 10, 100, 4.0])
    day = np.array([0, 2, 2, 2, 2192, 0.0])
    expected = {
        "w": (width - width[:4].mean()) / width[:4].std(),
        "d": (day - day[:4].mean()) / day[:4].std(),
        "w is missing": [0, 1, 0, 0, 0, 1],
        "d is missing": [0, 0, 1, 0, 0, 0],
        "c=(missing)": [0, 0, 1, 0, 0, 0],
        "c=blue": [0, 0, 0, 1, 0, 0],
        "c=red": [1, 1, 0, 0, 0, 0],
    }
    assert fitted.feature_names == list(expected)
    assert fitted.n_features == features.shape[1] == 7
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, np.stack(list(expected.values()), axis=1), rtol=1e-6)
    assert present.all()


def test_rare_levels_share_one_column_with_those_never_seen() -> None:
    frame = pd.DataFrame({"c": ["a"] * 5 + ["b"] * 3 + ["x", "y", "", "new"]})
    fitted = TablePreprocessor(TableSchema("kind", categorical=("c",))).fit(
        frame, np.arange(11), min_category_count=3
    )
    assert fitted.feature_names == ["c=a", "c=b", "c=infrequent"]
    assert fitted.feature_columns == ["c"] * 3
    features = fitted.transform(frame)
    assert features.features[8:].tolist() == [[0, 0, 1]] * 4
    assert features.present.tolist() == [True] * 10 + [False, True]


def test_rows_without_any_value_have_no_table() -> None:
    frame = pd.DataFrame(
        {"w": ["1", "2", "", "inf", ""], "c": ["a", "b", "?", " NA ", "zzz"], "other": ["x"] * 5}
    )
    fitted = TablePreprocessor(TableSchema("kind", numeric=("w",), categorical=("c",))).fit(
        frame, np.arange(3)
    )
    assert fitted.transform(frame).present.tolist() == [True, True, False, False, True]


@pytest.mark.parametrize(
    "columns",
    [
        {"w": [1.0, 2.0, 3.0]},
        {"c": ["a", "b", "a"]},
        {"w": [np.nan] * 3},
        {"w": [5.0] * 3},
        {"w": [1e99, -1e99, 0]},
        {"w": [1e-300, 2e-300, 0]},
        {"c": [None, None, None]},
    ],
)
def test_single_odd_columns_give_finite_features(columns: dict[str, list[object]]) -> None:
    frame = pd.DataFrame(columns)
    schema = TableSchema("kind", **{"numeric" if "w" in columns else "categorical": tuple(columns)})
    fitted = TablePreprocessor(schema).fit(frame, np.arange(3))
    other = pd.DataFrame(
        {name: [1e99, None, -7.5] if name == "w" else ["new", None, "a"] for name in columns}
    )
    for table in (frame, other):
        features = fitted.transform(table).features
        assert np.isfinite(features).all()
        assert features.shape == (3, fitted.n_features)


def test_columns_may_be_shuffled_and_joined_by_others() -> None:
    fitted = TablePreprocessor(SCHEMA).fit(FRAME, TRAIN)
    other = FRAME.assign(extra="?", more=1)[["more", "d", "extra", "c", "w"]].rename(
        columns={"w": " w "}
    )
    np.testing.assert_array_equal(
        fitted.transform(other).features, fitted.transform(FRAME).features
    )


def test_the_same_values_in_typed_and_in_text_files_give_the_same_features() -> None:
    schema = TableSchema("kind", numeric=("w",), categorical=("c", "ok"), dates=("d",))
    text = pd.DataFrame(
        {
            "w": ["1", "", "2.5"],
            "c": ["1", "", "2.0"],
            "ok": ["True", "False", ""],
            "d": ["2024-01-01", "", "2024-01-02T12:00"],
        }
    )
    typed = pd.DataFrame(
        {
            "w": [1, None, 2.5],
            "c": [1.0, None, 2.0],
            "ok": pd.Series([True, False, None], dtype=object),
            "d": pd.to_datetime(["2024-01-01T00:00", None, "2024-01-02T12:00"]),
        }
    )
    fitted = TablePreprocessor(schema).fit(text, np.arange(3))
    np.testing.assert_array_equal(fitted.transform(typed).features, fitted.transform(text).features)
    np.testing.assert_array_equal(
        TablePreprocessor(schema).fit(typed, np.arange(3)).transform(text).features,
        fitted.transform(text).features,
    )


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            FRAME[["w", "c"]].rename(columns=str.upper),
            "none of the columns the model was trained on .*another data set",
        ),
        (FRAME.assign(w="wide"), 'column "w" is numeric but row 1 holds "wide"'),
    ],
)
def test_tables_that_do_not_fit_are_refused(frame: pd.DataFrame, message: str) -> None:
    fitted = TablePreprocessor(SCHEMA).fit(FRAME, TRAIN)
    with pytest.raises(UserError, match=message):
        fitted.transform(frame, "new.csv")


def test_what_a_table_lacks_is_missing_and_named() -> None:
    fitted = TablePreprocessor(SCHEMA).fit(FRAME, TRAIN)
    frame = FRAME.replace({"w": {"x": "?"}})  # a cell that is no number would be named too
    expected = fitted.transform(frame.assign(c="", d="")).features
    warnings: list[str] = []
    found = fitted.transform(frame[["w"]], "new.csv", warnings)
    np.testing.assert_array_equal(found.features, expected)
    assert found.present.tolist() == [True, False, True, True, True, False]
    assert warnings == [
        'new.csv lacks columns the model was trained on: "d", "c"; they count as missing in'
        " every row"
    ]
    warnings.clear()
    fitted.transform(frame.assign(c="", d="?"), "new.csv", warnings)
    assert warnings == ['columns without a single value, which count as missing: "d", "c"']
    warnings.clear()
    odd = frame.assign(
        d=["2024-01-01"] * 5 + ["May"], c=["red", "mauve", "mauve", "", "blue", "pink"]
    )
    found = fitted.transform(odd, "new.csv", warnings)
    np.testing.assert_array_equal(
        found.features[5], fitted.transform(frame.assign(c="none seen", d="")).features[5]
    )
    assert warnings == [
        (
            'column "d": 1 of 6 values are no dates like 2023-12-31 (row 6 holds "May"); taken as'
            " missing"
        ),
        'column "c": 3 of 5 values (60 %) were never seen in training (first: "mauve")',
    ]
    nothing = TableArrays.empty(3, fitted.n_features)
    assert not nothing.present.any()
    assert nothing.features.shape == (3, fitted.n_features)


def test_a_table_without_features_is_refused_with_the_reasons() -> None:
    schema = schema_of(
        pd.DataFrame({"kind": ["a", "b"] * 3, "id": range(6), "k": ["x"] * 6}), target="kind"
    )
    with pytest.raises(
        UserError, match=r'no usable column besides the target.*"id" an identifier.*"k" is constant'
    ):
        TablePreprocessor(schema).fit(pd.DataFrame(), np.arange(0))


def test_a_table_of_images_alone_has_no_features_and_survives_the_disk(tmp_path: Path) -> None:
    frame = pd.DataFrame({"file": ["a.png", "b.png"], "kind": ["a", "b"]})
    schema = TableSchema(target="kind", classes=("a", "b"), image_column="file")
    fitted = TablePreprocessor(schema).fit(frame, np.arange(2))
    fitted.save(tmp_path)
    for preprocessor in (fitted, TablePreprocessor.load(tmp_path)):
        assert preprocessor.feature_names == []
        arrays = preprocessor.transform(frame[["file"]])
        assert arrays.features.shape == (2, 0)
        assert not arrays.present.any()


def test_only_the_training_rows_are_learned_from() -> None:
    changed = FRAME.assign(w=[*FRAME["w"][:4], "1e9", "-5"], c=[*FRAME["c"][:4], "q", "r"])
    one, two = (TablePreprocessor(SCHEMA).fit(frame, TRAIN) for frame in (FRAME, changed))
    assert one.feature_names == two.feature_names
    np.testing.assert_array_equal(one.transform(FRAME).features, two.transform(FRAME).features)


def test_a_saved_preprocessor_holds_no_pickle_and_comes_back(tmp_path: Path) -> None:
    fitted = TablePreprocessor(SCHEMA).fit(FRAME, TRAIN, min_category_count=2)
    fitted.save(tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == sorted([TRANSFORMER_FILE, SCHEMA_FILE])
    assert json.loads((folder / SCHEMA_FILE).read_text())["numeric"] == ["w"]
    with zipfile.ZipFile(folder / TRANSFORMER_FILE) as archive:
        assert {Path(name).suffix for name in archive.namelist()} <= {".json", ".npy"}
    loaded = TablePreprocessor.load(folder)
    assert loaded.schema == SCHEMA
    assert loaded.feature_names == fitted.feature_names
    np.testing.assert_array_equal(
        loaded.transform(FRAME).features, fitted.transform(FRAME).features
    )


def test_foreign_and_damaged_files_are_refused(tmp_path: Path) -> None:
    fitted = TablePreprocessor(SCHEMA).fit(FRAME, TRAIN)
    with pytest.raises(UserError, match="no saved table preprocessor"):
        TablePreprocessor.load(tmp_path)
    fitted.save(tmp_path)

    class Foreign(RandomForestClassifier):
        pass

    Foreign.__module__ = "elsewhere"
    for content, message in (
        (skops.io.dumps(Foreign()), "holds types"),
        (skops.io.dumps([1, 2]), "is not a saved table preprocessor"),
        (pickle.dumps(fitted.schema), "is damaged"),
        ((tmp_path / TRANSFORMER_FILE).read_bytes()[:500], "is damaged"),
    ):
        (tmp_path / TRANSFORMER_FILE).write_bytes(content)
        with pytest.raises(UserError, match=message):
            TablePreprocessor.load(tmp_path)
    fitted.save(tmp_path)
    (tmp_path / SCHEMA_FILE).write_text("{}")
    with pytest.raises(UserError, match="is not a saved table schema"):
        TablePreprocessor.load(tmp_path)


def test_an_unfitted_preprocessor_says_so() -> None:
    with pytest.raises(RuntimeError, match="not been fitted"):
        TablePreprocessor(SCHEMA).transform(FRAME)


numbers = st.one_of(
    st.none(),
    st.sampled_from(["", "?", "NA", "inf", "1e300"]),
    st.floats(allow_nan=False, width=64).map(repr),
    st.integers(-5, 5).map(str),
)
levels = st.one_of(
    st.none(), st.sampled_from(["", "a", "b", " a", "1", "1.0", "nan", "é"]), st.text(max_size=3)
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[pd.DataFrame, TableSchema]:
    rows = draw(st.integers(2, 12))
    kinds = draw(st.lists(st.sampled_from("nc"), min_size=1, max_size=5))
    columns = {
        f"{kind}{i}": draw(
            st.lists(numbers if kind == "n" else levels, min_size=rows, max_size=rows)
        )
        for i, kind in enumerate(kinds)
    }
    schema = TableSchema(
        "kind",
        numeric=tuple(n for n in columns if n[0] == "n"),
        categorical=tuple(n for n in columns if n[0] == "c"),
    )
    return pd.DataFrame(columns, dtype=object), schema


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(table=tables(), rare=st.integers(1, 3), data=st.data())
def test_any_table_is_finite_and_equal_after_a_round_trip(
    tmp_path: Path, table: tuple[pd.DataFrame, TableSchema], rare: int, data: st.DataObject
) -> None:
    frame, schema = table
    train = np.arange(data.draw(st.integers(1, len(frame))))
    fitted = TablePreprocessor(schema).fit(frame, train, rare)
    result = fitted.transform(frame)
    assert np.isfinite(result.features).all()
    assert result.features.shape == (len(frame), len(fitted.feature_names))
    order = data.draw(st.permutations(list(frame.columns)))
    rows = data.draw(st.permutations(range(len(frame))))
    shuffled = fitted.transform(frame[order].iloc[rows].assign(extra=1))
    np.testing.assert_array_equal(shuffled.features, result.features[rows])
    np.testing.assert_array_equal(shuffled.present, result.present[rows])
    fitted.save(tmp_path)
    loaded = TablePreprocessor.load(tmp_path)
    assert loaded.feature_names == fitted.feature_names
    np.testing.assert_array_equal(loaded.transform(frame).features, result.features)
