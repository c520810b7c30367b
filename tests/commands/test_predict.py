"""Predictions keep the rows as they came and use what each row has; evaluation reproduces the run's
own numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gaal_fast.runs import folder as run_folder
from tests.commands.conftest import CLASSES, Answer, flags

Run = Callable[..., Answer]
PROBABILITIES = [f"probability_{name}" for name in CLASSES]
TABLE = ["height", "age", "bark"]


@pytest.fixture
def predict(
    trees: Path, trained: Path, tmp_path: Path, run_command: Run
) -> Callable[..., pd.DataFrame]:
    def run(frame: pd.DataFrame, images: bool = True) -> pd.DataFrame:
        csv, out = tmp_path / "new.csv", tmp_path / "preds.csv"
        frame.to_csv(csv, index=False)
        out.unlink(missing_ok=True)
        folder = ["--images", trees.parent / "images"] if images else []
        answer = run_command("predict", "--run", trained, "--csv", csv, "--out", out, *folder)
        assert answer.code == 0, answer.err
        result = pd.read_csv(out, dtype=dict.fromkeys(frame.columns, str), keep_default_na=False)
        assert len(result) == len(frame)
        np.testing.assert_allclose(result[PROBABILITIES].sum(axis=1), 1, atol=1e-9)
        assert (
            result["prediction"]
            == np.array(CLASSES)[result[PROBABILITIES].to_numpy().argmax(axis=1)]
        ).all()
        return result

    return run


@pytest.fixture
def rows(trees: Path) -> pd.DataFrame:
    return pd.read_csv(trees, dtype=str, keep_default_na=False)


def test_order_count_and_cells_are_kept_whatever_the_columns_order(
    predict: Callable[..., pd.DataFrame], rows: pd.DataFrame
) -> None:
    plain = predict(rows)
    assert (plain["used_modalities"] == "image+table").all()
    shuffled = rows.assign(note="007", extra=range(len(rows)))[
        ["extra", "bark", "species", "note", "photo", "age", "id", "height"]
    ]
    shuffled = shuffled.drop(columns="species").iloc[::-1]
    result = predict(shuffled)
    assert list(result["id"]) == list(rows["id"])[::-1]
    assert (result["note"] == "007").all()
    np.testing.assert_allclose(result[PROBABILITIES][::-1], plain[PROBABILITIES], atol=1e-6)


def test_rows_fall_back_to_what_they_have(
    predict: Callable[..., pd.DataFrame], rows: pd.DataFrame, trained: Path
) -> None:
    plain = predict(rows)
    holes = rows.copy()
    holes.loc[0, "photo"] = "gone.png"
    holes.loc[1, "photo"] = ""
    holes.loc[2, TABLE] = ""
    holes.loc[3, ["photo", *TABLE]] = ""
    result = predict(holes)
    assert list(result["used_modalities"][:5]) == ["table", "table", "image", "none", "image+table"]
    np.testing.assert_allclose(result[PROBABILITIES][4:], plain[PROBABILITIES][4:], atol=1e-6)
    counts = np.array(json.loads((trained / run_folder.DATA).read_text())["class_counts"])
    np.testing.assert_allclose(result.loc[3, PROBABILITIES].astype(float), counts / counts.sum())
    table_only = predict(rows, images=False)
    assert (table_only["used_modalities"] == "table").all()
    np.testing.assert_allclose(
        result.loc[:1, PROBABILITIES].astype(float),
        table_only.loc[:1, PROBABILITIES].astype(float),
        atol=1e-6,
    )


def test_a_new_category_and_one_single_row_are_no_problem(
    predict: Callable[..., pd.DataFrame], rows: pd.DataFrame
) -> None:
    result = predict(rows[:1].assign(bark="never seen"))
    assert list(result["used_modalities"]) == ["image+table"]


def test_evaluation_of_the_run_gives_the_numbers_of_its_summary(
    trained: Path, tmp_path: Path, run_command: Run
) -> None:
    out, image = tmp_path / "scores.json", tmp_path / "confusion.png"
    answer = run_command("evaluate", "--run", trained, "--out", out, "--picture", image)
    assert answer.code == 0, answer.err
    summary = json.loads((trained / run_folder.SUMMARY).read_text())
    found = json.loads(out.read_text())
    assert found["accuracy"] == summary["test"]["accuracy"]
    assert found["nll"]["fused"] == pytest.approx(summary["test"]["nll"]["fused"], rel=1e-5)
    assert image.stat().st_size > 2000


def test_evaluation_of_another_table_scores_the_rows_with_a_known_label(
    trees: Path, trained: Path, tmp_path: Path, rows: pd.DataFrame, run_command: Run
) -> None:
    rows.loc[0, "species"] = "palm"
    rows.loc[1, "species"] = ""
    rows.to_csv(tmp_path / "more.csv", index=False)
    images = trees.parent / "images"
    answer = run_command(
        "evaluate",
        "--run",
        trained,
        "--csv",
        tmp_path / "more.csv",
        "--images",
        images,
        "--out",
        tmp_path / "s.json",
    )
    assert answer.code == 0, answer.err
    assert json.loads((tmp_path / "s.json").read_text())["rows"]["fused"] == len(rows) - 2


def test_compare_tabulates_methods_on_one_split(
    trees: Path, tmp_path: Path, run_command: Run
) -> None:
    answer = run_command(
        "compare",
        "--methods",
        "gaal,table",
        *flags(trees, tmp_path / "both"),
        "--train.seeds",
        2,
        "--train.epochs",
        1,
    )
    assert answer.code == 0, answer.err
    found = pd.read_csv(tmp_path / "both" / "comparison.csv")
    assert set(zip(found["method"], found["modality"], strict=True)) == {
        ("gaal", "fused"),
        ("gaal", "image"),
        ("gaal", "table"),
        ("table", "fused"),
        ("table", "table"),
    }
    splits = {
        json.loads(p.read_text())["split"]
        for p in (tmp_path / "both").glob("*/seed-*/summary.json")
    }
    assert len(splits) == 1
    assert (tmp_path / "both" / "comparison.png").stat().st_size > 2000


def test_a_table_of_images_alone_is_predicted_from_them(
    trees: Path, trained: Path, tmp_path: Path, rows: pd.DataFrame, run_command: Run
) -> None:
    csv, images = tmp_path / "new.csv", trees.parent / "images"
    rows[["photo"]].to_csv(csv, index=False)
    answer = run_command(
        "predict", "--run", trained, "--csv", csv, "--images", images, "--out", tmp_path / "p.csv"
    )
    assert answer.code == 0, answer.err
    assert (
        answer.err
        == f'warning: {csv} has none of the table columns the model was trained on ("height",'
        ' "age", "bark"): predicting from the images alone\n'
    )
    assert set(pd.read_csv(tmp_path / "p.csv")["used_modalities"]) == {"image"}
    rows[["photo", "age"]].to_csv(csv, index=False)
    answer = run_command(
        "predict", "--run", trained, "--csv", csv, "--images", images, "--out", tmp_path / "q.csv"
    )
    assert answer.code == 0, answer.err
    assert (
        answer.err
        == f'warning: {csv} lacks columns the model was trained on: "height", "bark"; they count as'
        " missing in every row\n"
    )
    assert set(pd.read_csv(tmp_path / "q.csv")["used_modalities"]) == {"image+table"}


def test_unknown_levels_and_labels_are_named(
    trees: Path, trained: Path, tmp_path: Path, rows: pd.DataFrame, run_command: Run
) -> None:
    rows.loc[:11, "bark"], rows.loc[:2, "species"], rows.loc[3, "species"] = "mauve", "palm", ""
    rows.to_csv(tmp_path / "new.csv", index=False)
    answer = run_command(
        "evaluate",
        "--run",
        trained,
        "--csv",
        tmp_path / "new.csv",
        "--images",
        trees.parent / "images",
    )
    assert answer.code == 0, answer.err
    assert answer.err.splitlines() == [
        (
            'warning: column "bark": 12 of 72 values (17 %) were never seen in training (first:'
            ' "mauve")'
        ),
        (
            'warning: target column "species": 3 of 72 rows have a class that the model does not'
            ' know and are not scored: "palm" (3)'
        ),
        'warning: target column "species": 1 of 72 rows have no label and are not scored',
    ]


def test_without_a_test_part_there_are_validation_scores(
    trees: Path, tmp_path: Path, rows: pd.DataFrame, run_command: Run
) -> None:
    run = tmp_path / "run"
    answer = run_command(
        "train", *flags(trees, run), "--data.test-fraction", 0, "--train.epochs", 1
    )
    assert answer.code == 0, answer.err
    summary = json.loads((run / run_folder.SUMMARY).read_text())
    assert summary["val"]["rows"]["fused"] == 7
    assert summary["test"]["rows"] == {"image": 0, "table": 0, "fused": 0}
    assert set(summary["test"]["accuracy"].values()) == {None}
    accuracy = summary["val"]["accuracy"]
    assert "there is no test part: these are the rows that chose the epoch\n" in answer.out
    words = (
        f"fused {accuracy['fused']:.3f}  image {accuracy['image']:.3f}  table"
        f" {accuracy['table']:.3f}  (7 rows)"
    )
    assert f"validation accuracy  {words}\n" in answer.out
    answer = run_command("evaluate", "--run", run)
    assert (answer.code, answer.err.splitlines()[-1]) == (
        2, "error: --split: the run has no test part; name another one, or give a table with --csv"
    )  # fmt: skip
    assert run_command("evaluate", "--run", run, "--split", "val").code == 0
    assert (
        run_command(
            "evaluate", "--run", run, "--csv", trees, "--images", trees.parent / "images"
        ).code
        == 0
    )


def test_compare_leaves_out_methods_of_a_modality_that_is_not_there(
    trees: Path, tmp_path: Path, run_command: Run
) -> None:
    """Images of two columns are called after them, and the method ``image`` trains on ``image``."""
    rows = pd.read_csv(trees)
    rows.assign(back=rows["photo"][::-1].to_numpy()).to_csv(tmp_path / "two.csv", index=False)
    two = flags(trees, tmp_path / "all")
    two[two.index("--data.csv") + 1] = str(tmp_path / "two.csv")
    two[two.index("--data.image-column") + 1] = "photo,back"
    answer = run_command("compare", *two, "--train.max-steps", 2)
    assert answer.code == 0, answer.err
    assert "left out, as no modality has that name: image\n" in answer.out
    found = pd.read_csv(tmp_path / "all" / "comparison.csv")
    assert set(found["method"]) == {"gaal", "alternating", "concat", "table"}
    assert set(found["modality"]) == {"fused", "photo", "back", "table"}
    answer = run_command("compare", "--methods", "image", *two[:-1], tmp_path / "one")
    assert answer.code == 2
    assert "--method.name must be one of photo, back, table, got image" in answer.err


def test_compare_and_seeds_without_a_test_part_use_the_validation_part(
    trees: Path, tmp_path: Path, run_command: Run
) -> None:
    answer = run_command(
        "compare",
        "--methods",
        "gaal,table",
        *flags(trees, tmp_path / "both"),
        "--data.test-fraction",
        0,
        "--train.epochs",
        1,
        "--train.seeds",
        2,
    )
    assert answer.code == 0, answer.err
    assert "there is no test part: the accuracies are those of the validation rows" in answer.out
    assert "\nvalidation accuracy " in answer.out
    found = pd.read_csv(tmp_path / "both" / "comparison.csv").set_index(["method", "modality"])[
        "accuracy"
    ]
    summary = json.loads((tmp_path / "both" / "table" / run_folder.SUMMARY).read_text())
    assert found["table", "table"] == pytest.approx(summary["val"]["accuracy"]["table"])
    assert summary["test"]["accuracy"] == {"table": None, "fused": None}
