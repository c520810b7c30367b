"""Several seeds as one summary, and the words for it."""

from __future__ import annotations

import pytest

from gaal_fast.runs.comparison import Row, as_cells, columns, rows_of, table, title
from gaal_fast.runs.summary import (
    RunSummary,
    Scores,
    fused_first,
    over_seeds,
    result_words,
    scored_part,
)


def summary(seed: int, accuracy: float | None, *, test: bool = True) -> RunSummary:
    def scores(rows: int) -> Scores:
        return {
            "accuracy": {"image": 0.25 if rows else None, "fused": accuracy if rows else None},
            "balanced_accuracy": {"image": 0.25, "fused": 0.5},
            "rows": {"image": rows, "fused": rows},
        }

    return {
        "method": "gaal",
        "seed": seed,
        "epochs": 1,
        "steps": 2,
        "best_epoch": 1,
        "seconds": 0.0,
        "split": "s",
        "val": scores(10),
        "test": scores(20 if test else 0),
    }


def test_means_and_sample_deviations_over_seeds() -> None:
    found = over_seeds([summary(5, 0.5), summary(6, 0.75)])
    assert found["seeds"] == [5, 6]
    assert found["test"]["accuracy"] == {"image": 0.25, "fused": 0.625}
    assert found["std"]["test"]["accuracy"]["fused"] == pytest.approx(0.17678, abs=1e-5)
    assert found["runs"][1] == {
        "seed": 6,
        "val": {"image": 0.25, "fused": 0.75},
        "test": {"image": 0.25, "fused": 0.75},
    }


def test_a_score_that_one_seed_lacks_has_no_mean() -> None:
    found = over_seeds([summary(5, 0.5), summary(6, None)])
    assert found["test"]["accuracy"]["fused"] is None
    assert found["std"]["test"]["accuracy"]["fused"] is None


def test_without_a_test_part_the_validation_part_is_scored() -> None:
    assert scored_part(summary(0, 0.5)) == "test"
    assert scored_part(summary(0, 0.5, test=False)) == "val"
    assert result_words(summary(0, 0.5, test=False)).splitlines() == [
        "there is no test part: these are the rows that chose the epoch",
        "validation accuracy  fused 0.500  image 0.250  (10 rows)",
    ]


def test_words_of_one_seed_and_of_several() -> None:
    assert result_words(summary(0, 0.5), uneven=True).splitlines() == [
        "test accuracy  fused 0.500  image 0.250  (20 rows)",
        "test balanced accuracy  fused 0.500  image 0.250  (20 rows)",
    ]
    several = over_seeds([summary(5, 0.5), summary(6, 0.75)])
    assert (
        result_words(several)
        == "test accuracy over 2 seeds  fused 0.625 ± 0.177  image 0.250 ± 0.000"
    )


def test_fused_comes_first_and_modalities_keep_their_order() -> None:
    assert fused_first(["table", "image", "fused", "front"]) == ["fused", "table", "image", "front"]


def test_a_comparison_has_a_row_for_every_modality_of_every_method() -> None:
    one, several = summary(0, 0.5), over_seeds([summary(5, 0.5), summary(6, None)])
    rows = [*rows_of("gaal", one), *rows_of("concat", several)]
    assert rows[:2] == [Row("gaal", "image", 0.25, None, 1), Row("gaal", "fused", 0.5, None, 1)]
    assert rows[2:] == [Row("concat", "image", 0.25, 0.0, 2), Row("concat", "fused", None, None, 2)]
    assert as_cells(rows[0], "accuracy") == dict(
        zip(columns("accuracy"), ("gaal", "image", 0.25, None, 1), strict=True)
    )
    assert [line.split() for line in table(rows, title(one)).splitlines()] == [
        ["test", "accuracy", "fused", "image"],
        ["gaal", "0.500", "0.250"],
        ["concat", "-", "0.250", "±", "0.000"],
    ]
