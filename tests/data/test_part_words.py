"""The words that people write into a split column."""

from __future__ import annotations

import pytest

from gaal_fast.data.part_words import read_parts

T, V, E = "train", "val", "test"


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        (["train", "valid", "test"], [T, V, E]),
        ([" TRAIN", "Validation", "Testing"], [T, V, E]),
        (["training", "dev", "TEST"], [T, V, E]),
        (["Training set", "validation_set", "test-data"], [T, V, E]),
        (["trainset", "valset", "testset"], [T, V, E]),
        (["trn", "vld", "tst"], [T, V, E]),
        (["train", "tset", None], [T, None, None]),
    ],
)
def test_plain_words_need_no_warning(values: list[str | None], parts: list[str | None]) -> None:
    warnings: list[str] = []
    assert read_parts(values, "fold", warnings) == parts
    assert warnings == []


@pytest.mark.parametrize(
    ("column", "values", "parts", "warning"),
    [
        ("Usage", ["Training", "PublicTest", "PrivateTest"], [T, V, E], '"PublicTest" as val'),
        ("Usage", ["Training", "PublicTest", "Training"], [T, E, T], '"PublicTest" as test'),
        ("part", ["train", "valid", "holdout"], [T, V, E], '"holdout" as test'),
        ("part", ["train", "eval", "test"], [T, V, E], '"eval" as val'),
        ("part", ["train", "valid", "eval"], [T, V, E], '"eval" as test'),
        (
            "is_valid",
            ["True", "FALSE", "true"],
            [V, T, V],
            '"FALSE" as train, "True" as val, "true" as val',
        ),
        ("is_valid", ["1", "0", "0"], [V, T, T], '"0" as train, "1" as val'),
        ("isTest", ["yes", "no", "no"], [E, T, T], '"no" as train, "yes" as test'),
        ("is_training_image", ["1", "0", "1"], [T, E, T], '"0" as test, "1" as train'),
        ("in_train", ["True", "False", "True"], [T, E, T], '"False" as test, "True" as train'),
        ("holdout", ["False", "True", "False"], [T, E, T], '"False" as train, "True" as test'),
        ("partition", ["0", "1", "2"], [T, V, E], '"0" as train, "1" as val, "2" as test'),
    ],
)
def test_what_is_decided_by_the_other_words_or_the_name_is_said(
    column: str, values: list[str | None], parts: list[str | None], warning: str
) -> None:
    warnings: list[str] = []
    assert read_parts(values, column, warnings) == parts
    assert warnings == [f'split column "{column}": {warning}']


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("flag", ["True", "False"]),
        ("fold", ["0", "1", "2"]),
        ("split", ["0", "1"]),
        ("split", ["1", "2", "3"]),
        ("train_test", ["True", "False"]),
        ("part", ["holdout", "eval"]),
    ],
)
def test_what_nobody_can_know_is_no_part(column: str, values: list[str]) -> None:
    warnings: list[str] = []
    assert read_parts(values, column, warnings) == [None] * len(values)
    assert warnings == []
