"""The words of the ceilings."""

from __future__ import annotations

from gaal_fast.runs.ceilings import as_rows, ceiling_words, compared
from gaal_fast.runs.comparison import table
from gaal_fast.runs.summary import Ceiling, Ceilings, RunSummary

ROWS = 400


def ceiling(inputs: str, learner: str, val: float | None, test: float | None) -> Ceiling:
    features = "thumbnails 16x16, 30 components" if inputs.startswith("image") else "table"
    return Ceiling(
        inputs=inputs,
        learner=learner,
        features=features,
        chosen="",
        train_rows=99,
        val=val,
        test=test,
    )


def four(**test: float) -> Ceilings:
    """Ceilings below 0.9 but for those that are given."""
    found = {
        "image": ceiling("image", "logistic", 0.7, test.get("image", 0.71)),
        "table": ceiling("table", "trees", 0.8, test.get("table", 0.82)),
        "weaker": ceiling("table", "logistic", 0.79, test.get("weaker", 0.81)),
        "both": ceiling("image+table", "logistic", 0.85, test.get("both", 0.86)),
        "product": ceiling("image+table", "product", 0.86, test.get("product", 0.88)),
    }
    return found


def summary(fused: float = 0.9, score: str = "accuracy", rows: int = ROWS) -> RunSummary:
    scores = {
        score: {"fused": fused, "image": 0.7, "table": 0.6},
        "rows": {"fused": rows, "image": rows, "table": rows},
    }
    return RunSummary(
        method="gaal",
        seed=0,
        epochs=1,
        steps=1,
        best_epoch=1,
        seconds=1.0,
        split="",
        val=scores,
        test=scores,
    )


def test_one_line_shows_each_input_by_its_best_learner_on_validation_rows() -> None:
    assert ceiling_words(four(), summary()) == [
        "ceilings: image 0.710 (logistic on thumbnails 16x16), table 0.820 (trees), both 0.860"
        " (logistic), product 0.880 | fused 0.900"
    ]


def test_a_modality_that_alone_beats_the_fused_model_is_said_with_the_noise() -> None:
    (_, words) = ceiling_words(four(table=0.91), summary())
    assert words == (
        "the table alone (trees) does better than the fused model: test accuracy 0.910 against"
        " 0.900, within the noise of 400 rows (±0.041)"
    )
    (_, words) = ceiling_words(four(table=0.97, product=0.99), summary())
    assert words.startswith("the table alone (trees) does better than the fused model")
    assert words.endswith("more than the noise of 400 rows (±0.034)")
    # Also where another learner on the same input was better on the validation rows.
    (_, words) = ceiling_words(four(weaker=0.93), summary())
    assert words.startswith("the table alone (logistic) does better")


def test_simple_models_of_all_inputs_that_beat_it_are_said_too() -> None:
    (_, words) = ceiling_words(four(product=0.95), summary())
    assert words.startswith("the product of one linear model per modality does better")
    (_, words) = ceiling_words(four(both=0.95), summary())
    assert words.startswith("logistic on both does better")


def test_r2_is_compared_without_a_word_of_noise() -> None:
    (_, words) = ceiling_words(four(table=0.93), summary(score="r2"))
    assert words.endswith("test R² 0.930 against 0.900")


def test_without_test_rows_the_validation_rows_count() -> None:
    known = summary(rows=0)
    known["val"] = summary(0.75)["val"]
    lines = ceiling_words(four(), known)
    assert lines[0].endswith("product 0.860 | fused 0.750")
    assert "validation accuracy 0.800 against 0.750" in lines[1]


def test_names_that_words_use_may_be_modalities() -> None:
    odd = {
        "product logistic": ceiling("product", "logistic", 0.5, 0.5),
        "both trees": ceiling("both", "trees", 0.4, 0.4),
        "product": ceiling("product+both", "product", 0.6, 0.6),
    }
    assert ceiling_words(odd, summary())[0] == (
        "ceilings: product 0.500 (logistic), both 0.400 (trees), product 0.600 | fused 0.900"
    )


def test_a_comparison_shows_a_row_for_each_learner() -> None:
    lines = table(compared(four(), "test")).splitlines()
    assert lines[0].split() == ["test", "accuracy", "fused", "image", "table"]
    assert [line.split()[1:] for line in lines[1:]] == [
        ["logistic", "0.860", "0.710", "0.810"],
        ["trees", "-", "-", "0.820"],
        ["product", "0.880", "-", "-"],
    ]


def test_the_rows_of_the_file_have_all_that_is_known() -> None:
    first = as_rows(four())[0]
    assert first == {
        "name": "image",
        "inputs": "image",
        "learner": "logistic",
        "features": "thumbnails 16x16, 30 components",
        "chosen": "",
        "train_rows": 99,
        "val": 0.7,
        "test": 0.71,
    }
