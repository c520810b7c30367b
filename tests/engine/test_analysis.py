"""The analysis of a finished run against direct recomputations."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score, log_loss, r2_score, recall_score

from gaal_fast.config import Config, build
from gaal_fast.data import make_loader
from gaal_fast.data.batch import Batch, View
from gaal_fast.engine import TrainedRun, experiment, predict_batches
from gaal_fast.engine.analysis import bootstrap, calibration, modalities, passes
from gaal_fast.engine.analysis.measures import ClassMeasures, ValueMeasures
from gaal_fast.engine.analysis.passes import PartPass, examine, feature_columns, subsets
from gaal_fast.runs import analysis as files
from gaal_fast.runs.folder import RunFolder
from gaal_fast.tasks import Classification, Predictions, Regression
from tests.commands.conftest import flags, write_data

CPU = torch.device("cpu")


def configured(csv: Path, run: Path, **more: object) -> Config:
    given = flags(csv, run)
    layer = {
        key.removeprefix("--"): value for key, value in zip(given[::2], given[1::2], strict=True)
    }
    return build([("test", layer | {"train.epochs": 2} | more)])


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows enough for a temperature, some of them without an image."""
    csv = write_data(tmp_path_factory.mktemp("trees"), rows=210)
    frame = pd.read_csv(csv)
    frame.loc[frame.index % 9 == 0, "photo"] = None
    frame.to_csv(csv, index=False)
    return csv


@pytest.fixture(scope="module")
def run(csv: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    config = configured(csv, tmp_path_factory.mktemp("runs") / "run", **{"data.val-fraction": 0.2})
    data = experiment.load([config])
    folder, _ = experiment.train(config, data, device=CPU, say=print)
    return folder


def three_classes(rows: int = 200, seed: int = 0) -> tuple[Classification, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 3, rows)
    logits = rng.normal(0, 1, (rows, 3)) + 2 * np.eye(3)[target]
    return Classification(("a", "b", "c"), np.ones(3)), logits, target


def test_scores_of_classes_are_scikit_learns() -> None:
    task, logits, target = three_classes()
    found = ClassMeasures(task).scores(logits, target)
    guess, sure = logits.argmax(axis=1), torch.softmax(torch.from_numpy(logits), 1).numpy()
    assert found["accuracy"] == pytest.approx((guess == target).mean(), rel=1e-12)
    assert found["balanced_accuracy"] == pytest.approx(recall_score(target, guess, average="macro"))
    assert found["macro_f1"] == pytest.approx(f1_score(target, guess, average="macro"))
    assert found["nll"] == pytest.approx(log_loss(target, sure))


def test_scores_of_values_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(5e4, 1e4, (100, 1))
    task = Regression().fit(target)
    output = np.concatenate([(target - 5e4) / 1e4 + rng.normal(0, 0.3, (100, 1)), -target / 1e5], 1)
    found = ValueMeasures(task).scores(output, target)
    assert found["r2"] == pytest.approx(r2_score(target, task.values(output)), rel=1e-9)
    loss = task.loss(torch.from_numpy(output), torch.from_numpy(target)).item()
    assert found["loss"] == pytest.approx(loss, rel=1e-9)


def test_intervals_are_those_of_a_plain_bootstrap() -> None:
    task, logits, target = three_classes()
    measures = ClassMeasures(task)
    found = bootstrap.intervals(measures.statistics(logits, target))
    rng = np.random.default_rng(5)
    plain: dict[str, list[float]] = {}
    for _ in range(1000):
        rows = rng.integers(0, len(target), len(target))
        for name, value in measures.scores(logits[rows], target[rows]).items():
            plain.setdefault(name, []).append(value)
    for name, values in plain.items():
        # Two estimates of a quantile from 1000 draws each: within a few of their standard errors.
        width = np.std(values)
        assert found[name] == pytest.approx(
            tuple(np.percentile(values, [2.5, 97.5])), abs=width / 2
        )
    assert found == bootstrap.intervals(measures.statistics(logits, target))


def test_a_difference_in_pairs_is_narrower_than_that_of_independent_rows() -> None:
    task, logits, target = three_classes()
    measures = ClassMeasures(task)
    changed = logits.copy()
    changed[:4] = -logits[:4]
    first, second = measures.statistics(logits, target), measures.statistics(changed, target)
    low, high = bootstrap.paired_interval(first, second, "accuracy")
    own_low, own_high = bootstrap.intervals(first)["accuracy"]
    assert high - low < (own_high - own_low) / 2
    gap = first.of_all_rows()["accuracy"] - second.of_all_rows()["accuracy"]
    assert low <= gap <= high


def test_the_temperature_is_the_best_of_a_fine_grid_and_changes_no_prediction() -> None:
    task, logits, target = three_classes(500)
    found = calibration.fit(task, 5 * logits, target)
    grid = np.exp(np.linspace(np.log(0.1), np.log(10), 2001))
    losses = [task.row_losses(task.tempered(5 * logits, t), target).mean() for t in grid]
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=5e-3)
    assert found > 2
    tempered = task.tempered(5 * logits, found)
    assert (tempered.argmax(axis=1) == logits.argmax(axis=1)).all()
    assert calibration.fit(task, logits[:19], target[:19]) == 1.0, "too few rows"


def test_a_variance_is_scaled_to_the_errors_that_were_made() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(0, 1, (2000, 1))
    task = Regression().fit(target)
    error = rng.normal(0, 0.5, target.shape)
    mean = (target - task.mean.numpy()) / task.std.numpy() + error
    output = np.concatenate([mean, np.zeros_like(mean)], axis=1)
    found = calibration.fit(task, output, target)
    assert found == pytest.approx(float(np.square(error).mean()), rel=1e-3)
    assert (task.tempered(output, found)[:, 0] == output[:, 0]).all()


def test_rows_take_the_temperature_of_what_they_were_predicted_from() -> None:
    task, logits, _ = three_classes(4)
    rows = {"image": np.array([0, 1]), "table": np.array([1, 2])}
    outputs = {"image": logits[[0, 1]], "table": logits[[1, 2]], "fused": logits}
    predictions = Predictions(outputs, rows, np.zeros(4, np.int64))
    found = calibration.calibrated(
        task, predictions, {"image+table": 2.0, "image": 4.0, "table": 8.0}
    )
    assert (found.outputs["fused"] == logits / np.array([[4.0], [2.0], [8.0], [1.0]])).all()
    assert (predictions.outputs["fused"] == logits).all(), "what was given stays"


def test_the_calibration_error_is_the_weighted_gap_of_the_bins() -> None:
    task = Classification(("a", "b"), np.ones(2))
    confident, unsure = [0.0, np.log(0.1 / 0.9)], [0.0, np.log(0.4 / 0.6)]
    logits = np.array([confident] * 6 + [unsure] * 4)
    target = np.array([0] * 3 + [1] * 3 + [0] * 4)  # 50 % right at 0.9, all right at 0.6
    view = calibration.View("fused", "image", logits, target)
    bins, scores = calibration.reliability(view, task, None)
    assert scores["ece_before"] == pytest.approx(0.6 * 0.4 + 0.4 * 0.4)
    assert sum(row["rows"] for row in bins) == 10
    assert "ece_after" not in scores


def additive_pass(rows: int = 60) -> tuple[PartPass, ClassMeasures]:
    """Two classes; image and table each know a part, and logits add up."""
    rng = np.random.default_rng(1)
    task = Classification(("a", "b"), np.array([3.0, 2.0]))
    target = rng.integers(0, 2, rows)
    parts = {
        name: rng.normal(0, 1, (rows, 2)) + strength * np.eye(2)[target]
        for name, strength in (("image", 2.0), ("table", 1.0))
    }
    whole = parts["image"] + parts["table"]
    everything = np.arange(rows)
    predictions = Predictions(
        {**parts, "fused": whole}, {"image": everything, "table": everything}, target
    )
    only = {("image",): parts["image"], ("table",): parts["table"]}
    return PartPass(everything, predictions, only), ClassMeasures(task)


def test_shapley_values_share_the_gain_over_the_prior() -> None:
    part, measures = additive_pass()
    found = {row["modality"]: row for row in modalities.contribution(part, measures, "accuracy")}
    target = part.predictions.target
    value = {
        names: float((output.argmax(axis=1) == target).mean())
        for names, output in {
            **part.only,
            ("image", "table"): part.predictions.outputs["fused"],
            (): np.tile(measures.task.prior(), (len(target), 1)),
        }.items()
    }
    gain = value["image", "table"] - value[()]
    assert found["image"]["shapley"] + found["table"]["shapley"] == pytest.approx(gain)
    by_hand = (value["image",] - value[()] + value["image", "table"] - value["table",]) / 2
    assert found["image"]["shapley"] == pytest.approx(by_hand)
    assert found["image"]["drop"] == pytest.approx(value["image", "table"] - value["table",])


def test_a_score_with_no_row_missing_is_the_score_and_with_all_missing_that_of_the_rest() -> None:
    part, measures = additive_pass()
    found = modalities.missing(part, measures, "accuracy")
    value = {(row["modality"], row["fraction"]): row["value"] for row in found}
    target = part.predictions.target
    whole = (part.predictions.outputs["fused"].argmax(axis=1) == target).mean()
    assert value["image", 0.0] == value["table", 0.0] == pytest.approx(whole)
    rest = (part.only["table",].argmax(axis=1) == target).mean()
    assert value["image", 1.0] == pytest.approx(rest)
    assert {fraction for _, fraction in value} == {0.0, 0.25, 0.5, 0.75, 1.0}


def test_subsets_stay_few_with_many_modalities() -> None:
    assert subsets(["a", "b"]) == [("a",), ("b",)]
    assert len(subsets("abcd")) == 14
    assert len(subsets("abcdef")) == 12
    assert subsets(["a"]) == []


def test_one_reading_gives_what_single_readings_give(csv: Path, run: RunFolder) -> None:
    trained = TrainedRun.load(run.path, device=CPU)
    data = experiment.load([run.located(run.config())])
    loader = make_loader(data.test, 16)
    method, columns = trained.method, feature_columns(data)
    found = examine(method, data.test, loader, device=CPU, columns=columns)
    for name, output in predict_batches(method, loader, device=CPU).outputs.items():
        assert np.array_equal(found.predictions.outputs[name], output), name

    def fused(change: Callable[[Batch], tuple[str, View]]) -> np.ndarray:
        changed = [
            replace(batch, views={**batch.views, **dict([change(batch)])}) for batch in loader
        ]
        return predict_batches(method, changed, device=CPU).outputs["fused"]

    def without_image(batch: Batch) -> tuple[str, View]:
        return "image", View(batch.views["image"].values[:0], batch.views["image"].rows[:0])

    assert np.array_equal(found.only["table",], fused(without_image))
    assert {name for _, name in found.shuffled} == set(data.schema.features)
    # One column shuffled moves all of its features and no other.
    features, own = data.main_table.arrays.features, columns["table"]
    order = dict(
        zip(data.test.rows, np.random.default_rng(0).permutation(data.test.rows), strict=True)
    )
    places = [place for place, column in enumerate(own) if column == "bark"]
    assert len(places) > 2

    def other_bark(batch: Batch) -> tuple[str, View]:
        values, rows = batch.views["table"]
        values = values.clone()
        given = features[[order[row] for row in batch.index[rows].tolist()]]
        values[:, places] = torch.from_numpy(given[:, places])
        return "table", View(values, rows)

    assert np.array_equal(found.shuffled["table", "bark"][0], fused(other_bark))


def test_columns_are_shuffled_on_a_sample_where_rows_are_many(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = TrainedRun.load(run.path, device=CPU)
    data = experiment.load([run.located(run.config())])

    def shuffled() -> PartPass:
        loader = make_loader(data.test, 16)
        columns = feature_columns(data)
        return examine(trained.method, data.test, loader, device=CPU, columns=columns)

    whole = shuffled()
    assert (whole.sample == np.arange(len(data.test))).all()
    monkeypatch.setattr(passes, "MOST_ROWS", 9)
    some = shuffled()
    assert len(some.sample) == 9 and (np.diff(some.sample) > 0).all()
    for column, outputs in some.shuffled.items():
        for mine, all_rows in zip(outputs, whole.shuffled[column], strict=True):
            assert np.allclose(mine, all_rows[some.sample], rtol=1e-4, atol=1e-5), column
    measures = ClassMeasures(trained.task)  # type: ignore[arg-type]
    assert {row["rows"] for row in modalities.importance(some, measures, "accuracy")} == {9}


def test_every_topic_is_a_file_and_agrees_with_the_summary(run: RunFolder) -> None:
    summary = run.read_json("summary.json")
    scores = pd.read_csv(run.file(files.SCORES))
    for row in scores.to_dict("records"):
        assert row["value"] == summary[row["part"]][row["score"]][row["modality"]]
        assert row["low"] <= row["value"] <= row["high"]
    confusion = pd.read_csv(run.file(files.CONFUSION))
    right = confusion[confusion["true"] == confusion["predicted"]]["rows"].sum()
    assert right / confusion["rows"].sum() == pytest.approx(summary["test"]["accuracy"]["fused"])
    outcomes = pd.read_csv(run.file(files.OUTCOMES))
    assert outcomes["fused"].mean() == pytest.approx(summary["test"]["accuracy"]["fused"])
    assert outcomes["image"].mean() == pytest.approx(summary["test"]["accuracy"]["image"])
    assert outcomes["image"].isna().any(), "rows without an image have no outcome of it"
    per_class = pd.read_csv(run.file(files.PER_CLASS))
    fused = per_class[per_class["modality"] == "fused"]
    assert fused["f1"].mean() == pytest.approx(summary["test"]["macro_f1"]["fused"])
    epochs = pd.read_csv(run.file(files.CONFLICT_EPOCHS))
    steps = pd.read_csv(run.file("steps.csv"))
    mine = steps[(steps["epoch"] == 2) & (steps["modality"] == "table")]
    row = epochs[(epochs["epoch"] == 2) & (epochs["modality"] == "table")].iloc[0]
    assert row["cosine"] == pytest.approx(mine["cosine"].mean())
    # Where the rule is equation (5) with a relative epsilon, the correction is epsilon less cos.
    expected = np.where(mine["v"] != 0, 0.3 - mine["cosine"], 0).mean()
    assert row["correction"] == pytest.approx(expected, abs=1e-5)
    wrong = json.loads(run.file(files.MISTAKES).read_text())["rows"]
    assert len(wrong) == min(12, int(confusion["rows"].sum() - right))
    assert all(row["true"] != row["predicted"] for row in wrong)
    assert [row["confidence"] for row in wrong] == sorted(
        (row["confidence"] for row in wrong), reverse=True
    )
    told = pd.read_csv(run.file(files.ALERTS))["message"].str.cat(sep="\n")
    assert "small differences are noise" in told and "photo" in told and "id" in told


def test_predict_uses_the_temperatures_and_changes_no_label(run: RunFolder, csv: Path) -> None:
    trained = TrainedRun.load(run.path, device=CPU)
    data = trained.read(csv, csv.parent / "images")
    table = trained.answer(data).table
    raw = trained.predict(data)
    kept = json.loads(run.file(files.CALIBRATION).read_text())
    assert kept["fitted_on"] == "val" and set(kept["temperature"]) == {
        "image+table", "image", "table",
    }  # fmt: skip
    assert all(value != 1.0 for value in kept["temperature"].values())
    each = np.array([kept["temperature"][used] for used in raw.used_modalities()])
    expected = torch.softmax(torch.from_numpy(raw.outputs["fused"] / each[:, None]), 1).numpy()
    columns = [f"probability_{name}" for name in trained.task.classes]
    assert np.allclose(table[columns].to_numpy(), expected, rtol=1e-12, atol=0)
    labels = [trained.task.classes[place] for place in raw.outputs["fused"].argmax(axis=1)]
    assert table["prediction"].tolist() == labels


def test_without_calibration_probabilities_are_the_models_own(csv: Path, tmp_path: Path) -> None:
    more = {"train.calibrate": "off", "run.examples": 0, "train.epochs": 1, "method.name": "concat"}
    config = configured(csv, tmp_path / "run", **more)
    folder, _ = experiment.train(config, experiment.load([config]), device=CPU, say=print)
    assert not folder.file(files.CALIBRATION).exists()
    assert json.loads(folder.file(files.MISTAKES).read_text())["rows"] == []
    scores = pd.read_csv(folder.file(files.CALIBRATION_SCORES))
    assert scores["ece_after"].isna().all() and scores["ece_before"].notna().all()
    assert not folder.file(files.CONFLICT_EPOCHS).exists(), "no surgery, no conflict"
    trained = TrainedRun.load(folder.path, device=CPU)
    data = trained.read(csv, csv.parent / "images")
    raw = trained.predict(data)
    expected = trained.task.columns(raw)
    found = trained.answer(data).table
    assert np.array_equal(found[list(expected)].to_numpy(), expected.to_numpy())


def test_the_same_run_has_the_same_files(csv: Path, run: RunFolder, tmp_path: Path) -> None:
    config = configured(csv, tmp_path / "run", **{"data.val-fraction": 0.2})
    again, _ = experiment.train(config, experiment.load([config]), device=CPU, say=print)
    for name in (*files.COLUMNS, files.CALIBRATION, files.MISTAKES, files.OUTCOMES, files.FACTS):
        if run.file(name).exists():
            assert again.file(name).read_bytes() == run.file(name).read_bytes(), name
