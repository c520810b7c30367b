"""Columns that give the label away are named; features that are merely good are not."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

from gaal_fast.data.tables.leakage import _grown_tree, _unit_range, leaking_columns

RNG = np.random.default_rng(1)


@pytest.mark.parametrize("classes", [2, 7, 99])
def test_copies_codes_and_consequences_of_the_label_are_found(classes: int) -> None:
    target = np.repeat(np.arange(classes), 40)
    RNG.shuffle(target)
    code = RNG.permutation(classes)
    columns = {
        "copy": target.astype(float),
        "code": 1000.0 * code[target],
        "noisy copy": target + RNG.uniform(-0.3, 0.3, len(target)),
        "finer levels": code[target] * 2.0 + RNG.integers(0, 2, len(target)),
        "huge": 1e30 * target,
        "noise": RNG.normal(size=len(target)),
        "constant": np.zeros(len(target)),
        "empty": np.full(len(target), np.nan),
    }
    found = leaking_columns(columns, target)
    assert set(found) == {"copy", "code", "noisy copy", "finer levels", "huge"}
    assert all(0.98 <= accuracy <= 1 for accuracy in found.values())


def test_filled_only_for_one_class_is_a_leak() -> None:
    target = np.repeat([0, 1], 50)
    assert set(
        leaking_columns(
            {"date of death": np.where(target == 1, RNG.normal(size=100), np.nan)}, target
        )
    ) == {"date of death"}


def test_strong_features_and_rare_classes_are_no_leak() -> None:
    target = np.repeat([0, 1], 500)
    wrong = RNG.random(1000) < 0.06
    rare = np.r_[np.zeros(985, int), np.ones(15, int)]
    assert (
        leaking_columns({"strong": np.where(wrong, 1 - target, target).astype(float)}, target) == {}
    )
    assert leaking_columns({"separated": target + RNG.normal(0, 0.3, 1000)}, target) == {}
    assert leaking_columns({"always the common class": RNG.normal(size=1000)}, rare) == {}


def test_too_few_rows_prove_nothing() -> None:
    assert leaking_columns({"copy": np.array([0.0, 0, 1, 1])}, np.array([0, 0, 1, 1])) == {}


def test_two_hundred_columns_of_99_classes_take_seconds() -> None:
    target = np.arange(1000) % 99
    columns = {str(i): RNG.normal(size=1000) for i in range(200)}
    start = time.process_time()
    assert leaking_columns(columns, target) == {}
    assert time.process_time() - start < 3


@pytest.mark.parametrize("kind", ["continuous", "levels", "rounded", "nearly equal"])
def test_the_tree_of_one_column_is_scikit_learns(kind: str) -> None:
    for seed in range(25):
        rng = np.random.default_rng(seed)
        values = {
            "continuous": rng.normal(size=200),
            "levels": rng.integers(0, 10, 200).astype(float),
            "rounded": rng.normal(size=200).round(1),
            "nearly equal": rng.normal(size=200) * 1e-6 + rng.integers(0, 2, 200),
        }[kind]
        values[rng.random(200) < 0.1] = np.nan
        labels, column = rng.integers(0, 4, 200), _unit_range(values)
        tree = DecisionTreeClassifier(random_state=0).fit(column[:100, None], labels[:100])
        expected = tree.predict(column[100:, None])
        np.testing.assert_array_equal(
            _grown_tree(column[:100], labels[:100], column[100:]), expected
        )
