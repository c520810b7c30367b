"""True and false in every spelling, and what only looks like them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from gaal_fast.data.tables.preprocess import TablePreprocessor
from gaal_fast.data.tables.truth import is_boolean, unify
from tests.data.conftest import schema_of


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["True", "False"], True), (["TRUE", "FALSE", None], True), (["WAHR", "FALSCH"], True),
        (["yes", "No"], True),
        (["T", "F"], True), (["y", "n"], True), (["j", "n"], True), (["on", "off"], True),
        (["oui", "non"], True),
        (["True", "False", "1", "0"], True), (["yes", "1", "0"], True), (["TRUE", None], True),
        (["yes", None], True),
        (["yes", "no", "unknown"], True), (["Yes", "No", "No internet"], True),
        (["1", "0"], False), (["NO", "SE"], False), (["NO", None], False), (["F", "M"], False),
        (["t", "f", "n"], False),
        (["n", "o", "w", "y"], False), (["Si", "N"], False), (["yes", "no", "1", "2"], False),
        (["on", "in"], False), ([None], False),
    ],
)  # fmt: skip
def test_boolean_columns(texts: list[str | None], expected: bool) -> None:
    assert is_boolean(texts) is expected


def test_spellings_become_one_level_and_other_levels_stay() -> None:
    def levels(texts: list[str | None]) -> list[str | None]:
        return unify(np.array(texts, dtype=object)).tolist()

    assert levels(["TRUE", "wahr", "1", "Yes", "t", None, "0", "no"]) == ["True"] * 5 + [
        None,
        "False",
        "False",
    ]
    assert levels(["TRUE", "no", "1", "n", "unknown"]) == ["True", "False", "1", "n", "unknown"]


SPELLINGS = [
    ("True", "False"), ("TRUE", "FALSE"), ("true", "false"), ("T", "F"), ("yes", "no"),
    ("Yes", "No"), ("WAHR", "FALSCH"), ("1", "0"),
    ("1.0", "0.0"), (True, False), (1, 0), (1.0, 0.0),
]  # fmt: skip


@pytest.mark.parametrize("trained", SPELLINGS, ids=str)
@pytest.mark.parametrize("given", SPELLINGS, ids=str)
def test_every_spelling_of_training_and_prediction_gives_the_same_features(
    trained: tuple, given: tuple
) -> None:
    truth = [True, True, False, True, False, False]
    train = pd.DataFrame(
        {"flag": [trained[0] if t else trained[1] for t in truth], "kind": list("ababab")}
    )
    schema = schema_of(train, target="kind")
    assert schema.booleans == ("flag",)
    fitted = TablePreprocessor(schema).fit(train, np.arange(6))
    new = pd.DataFrame({"flag": [given[0] if t else given[1] for t in truth]})
    warnings: list[str] = []
    found = fitted.transform(new, "new.csv", warnings)
    np.testing.assert_array_equal(found.features, fitted.transform(train).features)
    assert warnings == []


def test_a_level_beside_true_and_false_is_kept_and_a_new_one_named() -> None:
    train = pd.DataFrame({"flag": ["True", "False", "unknown"] * 4, "kind": list("ab") * 6})
    fitted = TablePreprocessor(schema_of(train, target="kind")).fit(train, np.arange(12))
    assert fitted.feature_names == ["flag=False", "flag=True", "flag=unknown"]
    warnings: list[str] = []
    features = fitted.transform(
        pd.DataFrame({"flag": ["TRUE", "FALSE", "unknown", "maybe"]}), "new.csv", warnings
    ).features
    assert features.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert warnings == [
        'column "flag": 1 of 4 values (25 %) were never seen in training (first: "maybe")'
    ]


def test_one_value_in_two_spellings_is_constant() -> None:
    frame = pd.DataFrame({"flag": ["TRUE", "True"] * 3, "kind": list("ab") * 3})
    assert schema_of(frame, target="kind").dropped == {"flag": "is constant"}


def test_a_declared_number_may_be_a_truth_value() -> None:
    frame = pd.DataFrame({"flag": ["yes", "no"] * 3, "kind": list("aba") * 2})
    schema = schema_of(frame, target="kind", numeric=["flag"])
    fitted = TablePreprocessor(schema).fit(frame, np.arange(6))
    assert fitted.transform(frame).features[:, 0].tolist() == [1, -1] * 3
