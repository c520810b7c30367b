"""Whole numbers that are no quantities: left-over indices are dropped, likely codes are named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from gaal_fast.data.tables.codes import looks_like_codes
from tests.data.conftest import schema_of

N = 60
RNG = np.random.default_rng(3)
GAPS = np.sort(RNG.permutation(150)[:N])
TWO_TABLES = np.r_[np.arange(40), np.arange(20)]


@pytest.mark.parametrize(
    "name",
    [
        "Unnamed: 0",
        "Unnamed: 0.1",
        "Unnamed: 0.1.1",
        "unnamed_0",
        "index",
        "level_0",
        "row.names",
        "rownames",
    ],
)
@pytest.mark.parametrize(
    "values",
    [
        np.arange(N),
        np.arange(1, N + 1),
        RNG.permutation(N),
        GAPS,
        RNG.permutation(GAPS),
        TWO_TABLES,
    ],
)
def test_left_over_indices_are_no_features(name: str, values: np.ndarray) -> None:
    schema = schema_of(
        pd.DataFrame({name: values.astype(str), "kind": list("ab") * (N // 2)}), target="kind"
    )
    assert schema.features == ()
    assert set(schema.dropped) == {name}


@pytest.mark.parametrize("name", ["Column1", "X", "X.1", "...1"])
@pytest.mark.parametrize("values", [np.arange(1, N + 1), GAPS, RNG.permutation(GAPS)])
def test_a_column_that_nobody_named_and_that_counts_up_is_an_index(
    name: str, values: np.ndarray
) -> None:
    assert (
        schema_of(
            pd.DataFrame({name: values, "kind": list("ab") * (N // 2)}), target="kind"
        ).features
        == ()
    )


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Column1", RNG.integers(0, 9, N)),
        ("Column1", RNG.permutation(10 * N)[:N] * 7),
        ("X", RNG.normal(size=N)),
        ("index", RNG.normal(size=N)),
        ("index", RNG.integers(0, 5, N)),
        ("Unnamed: 3", RNG.integers(0, 5, N)),
        ("refractive index", RNG.integers(100, 140, N)),
        ("width", GAPS),
    ],
)
def test_quantities_stay(name: str, values: np.ndarray) -> None:
    assert schema_of(
        pd.DataFrame({name: values, "kind": list("ab") * (N // 2)}), target="kind"
    ).numeric == (name,)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("zip", RNG.integers(98001, 98040, 500), True),
        ("ZipCode", RNG.integers(98001, 98040, 500), True),
        ("PLZ", RNG.integers(10000, 10200, 500), True),
        ("store_id", RNG.integers(1, 45, 500), True),
        ("idBranch", RNG.integers(1, 45, 500), True),
        ("class code", RNG.integers(20, 190, 500), True),
        ("quality", RNG.integers(1, 5, 500), True),
        ("area", RNG.integers(98001, 98040, 500), False),
        ("price", RNG.integers(0, 5, 500) * 10, False),
        ("rooms", RNG.integers(1, 5, 20), False),
        ("flag", RNG.integers(0, 2, 500), False),
        ("zip", RNG.normal(size=500), False),
        ("code", np.arange(500), False),
        ("height", np.array([]), False),
    ],
)
def test_likely_codes(name: str, values: np.ndarray, expected: bool) -> None:
    assert looks_like_codes(name, values.astype(np.float64)) is expected


def test_likely_codes_stay_quantities_and_are_named_unless_declared() -> None:
    frame = pd.DataFrame(
        {
            "zip": RNG.integers(98001, 98040, 200),
            "grade": RNG.integers(1, 5, 200),
            "w": RNG.normal(size=200),
            "kind": ["a", "b"] * 100,
        }
    )
    warnings: list[str] = []
    assert schema_of(frame, target="kind", warnings=warnings).numeric == ("zip", "grade", "w")
    assert warnings == [
        'whole numbers that may be codes are read as quantities: "zip", "grade"; where they are'
        ' codes of things, make them categories with --data.categorical "zip,grade"'
    ]
    warnings.clear()
    schema = schema_of(
        frame, target="kind", numeric=["grade"], categorical=["zip"], warnings=warnings
    )
    assert (schema.numeric, schema.categorical, warnings) == (("grade", "w"), ("zip",), [])
