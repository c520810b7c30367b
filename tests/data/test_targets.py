"""Labels and the classes they make."""

from __future__ import annotations

import pandas as pd
import pytest

from gaal_fast.data.targets import encode_labels, read_target
from gaal_fast.errors import UserError


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["img10", "img2", "Img1"], ("Img1", "img2", "img10")),
        (["10", "9", "-1"], (-1, 9, 10)),
        ([1.0, 0.0, 1.0], (0, 1)),
        (["1.5", "10", "9"], ("1.5", "9", "10")),
        ([True, False, True], ("False", "True")),
        (["b", "7", "a2"], ("7", "a2", "b")),
        (["007", "7", "8"], ("007", "7", "8")),
    ],
)
def test_classes_are_sorted_as_people_count(
    labels: list[object], classes: tuple[object, ...]
) -> None:
    target = read_target(pd.Series(labels * 2), "kind")
    assert target.classes == classes
    assert [str(target.classes[code]) for code in target.codes] == [
        str(x).removesuffix(".0") for x in labels * 2
    ]
    assert target.issues == []


def test_rows_without_a_label_are_listed_and_left_out() -> None:
    target = read_target(pd.Series(["a", "", "b", "?", "a ", "b"]), "kind")
    assert target.classes == ("a", "b")
    assert target.codes.tolist() == [0, -1, 1, -1, 0, 1]
    assert [(issue.row, issue.column) for issue in target.issues] == [(1, "kind"), (3, "kind")]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "a", ""], 'target column "kind" has one class only: "a"'),
        (["", ""], "has no values"),
        (["a", "a", "b", "c", "c"], r'class "b" has one row \(row 3\)'),
        (["a", "a", "b", "c"], 'classes "b", "c" have one row each'),
        ([str(i / 7) for i in range(30)], "look like a quantity"),
    ],
)
def test_targets_that_cannot_be_learned_are_refused(labels: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_target(pd.Series(labels), "kind")


@pytest.mark.parametrize("word", ["None", "NA", "N/A", "nan", "NaN", "null", "none"])
def test_words_for_nothing_are_classes_and_empty_cells_are_not(word: str) -> None:
    warnings: list[str] = []
    target = read_target(
        pd.Series([word, "mild", "", "severe", f" {word} ", "mild", "severe"]),
        "grade",
        warnings=warnings,
    )
    assert set(target.classes) == {word, "mild", "severe"}
    assert [target.classes[code] if code >= 0 else None for code in target.codes] == [
        word, "mild", None, "severe", word, "mild", "severe"
    ]  # fmt: skip
    assert warnings == [
        f'target column "grade": "{word}" (2 rows) is read as a class; leave a cell empty where'
        " there is no label"
    ]


def test_no_value_of_a_typed_table_is_no_class() -> None:
    warnings: list[str] = []
    target = read_target(
        pd.Series(["a", None, "b", float("nan"), "a", "b"], dtype=object), "kind", warnings=warnings
    )
    assert target.classes == ("a", "b")
    assert target.codes.tolist() == [0, -1, 1, -1, 0, 1]
    assert warnings == []


def test_nan_among_numbers_is_no_label_but_none_is_a_class() -> None:
    warnings: list[str] = []
    target = read_target(pd.Series(["0", "1", "nan", "0", "1", "NaN"]), "y", warnings=warnings)
    assert target.classes == (0, 1)
    assert target.codes.tolist() == [0, 1, -1, 0, 1, -1]
    assert warnings == [
        'target column "y": "nan", "NaN" among numbers means no label; those rows are left out'
    ]
    assert read_target(pd.Series(["1", "2", "None"] * 2), "grade").classes == ("1", "2", "None")


def test_spellings_of_a_truth_value_are_one_label() -> None:
    warnings: list[str] = []
    target = read_target(
        pd.Series(["True", "TRUE", "False", "True", "FALSE", "False"]), "sick", warnings=warnings
    )
    assert target.classes == ("False", "True")
    assert target.codes.tolist() == [1, 1, 0, 1, 0, 0]
    assert warnings == [
        'target column "sick": "TRUE" as "True", "FALSE" as "False" (spellings of one truth value)'
    ]
    assert encode_labels(
        pd.Series(["TRUE", "WAHR", "false", "maybe"]), "sick", ("False", "True")
    ).codes.tolist() == [1, 1, 0, -1]
    assert encode_labels(pd.Series(["TRUE", "No"]), "sick", ("no", "yes")).codes.tolist() == [1, 0]
    assert read_target(pd.Series(["t", "f", "n"] * 2), "letter").classes == ("f", "n", "t")


def test_a_word_is_a_label_of_another_table_only_where_it_is_a_class() -> None:
    labels = pd.Series(["None", "mild", "NA", ""])
    assert encode_labels(labels, "grade", ("None", "mild")).codes.tolist() == [0, 1, -1, -1]
    assert encode_labels(labels, "grade", ("mild", "severe")).codes.tolist() == [-1, 0, -1, -1]


def test_labels_of_another_table_are_coded_by_the_trained_classes() -> None:
    target = encode_labels(pd.Series([2, 10, None, 3]), "kind", (2, 10))
    assert target.codes.tolist() == [0, 1, -1, -1]
    assert [issue.reason for issue in target.issues] == [
        "no label: row left out",
        'unknown class "3"',
    ]
