"""The analysis of a finished run: CSV files beside its summary, which the report shows.

Everything is computed from one reading of the validation rows and one of the test rows, with the
best weights; the same run gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gaal_fast.data import DataIssue, FusionData
from gaal_fast.engine.analysis import calibration, conflict, modalities
from gaal_fast.engine.analysis.alerts import alerts
from gaal_fast.engine.analysis.bootstrap import LEVEL, draws, intervals
from gaal_fast.engine.analysis.examples import mistakes
from gaal_fast.engine.analysis.measures import Measures, measures_of
from gaal_fast.engine.analysis.passes import PartPass
from gaal_fast.runs import analysis as files
from gaal_fast.runs.folder import RunFolder
from gaal_fast.runs.summary import PARTS, RunSummary, Scores, main_score, scored_part
from gaal_fast.tasks import FUSED, Classification, Regression, Task

_RESIDUAL_BINS = 10

Rows = Sequence[Mapping[str, Any]]


def analyze(
    folder: RunFolder,
    task: Task,
    data: FusionData,
    passes: Mapping[str, PartPass],
    summary: RunSummary,
    issues: Iterable[DataIssue],
    *,
    calibrate: bool = True,
    examples: int = 12,
) -> None:
    """Write the files that ``gaal_fast.runs.analysis`` names into a run folder.

    Args:
        folder: The run, with its steps.csv.
        task: What was predicted.
        data: What was trained on.
        passes: The readings of ``val`` and ``test`` with the best weights.
        summary: What summary.json is to hold; its scores are taken as they are.
        issues: Cells that could not be used, those found in training included.
        calibrate: Whether to fit temperatures and keep them for ``predict``.
        examples: Mistakes to keep, with their cells and images.
    """
    part, score, measures = scored_part(summary), main_score(summary), measures_of(task)
    seen = passes[part]
    temperatures: dict[str, float] = {}
    if calibrate and task.has_temperature:
        fitted = calibration.fitted(passes["val"], measures)
        folder.write_json(files.CALIBRATION, fitted)
        temperatures = fitted["temperature"]
    else:
        folder.file(files.CALIBRATION).unlink(missing_ok=True)
    write = _Writer(folder)
    write(files.SCORES, _scores(passes, measures, summary))
    per_class = _per_class(seen, task) if isinstance(task, Classification) else []
    if isinstance(task, Classification):
        write(files.PER_CLASS, per_class)
        write(files.CONFUSION, _confusion(seen, task))
    elif isinstance(task, Regression):
        write(files.RESIDUALS, _residuals(seen, measures, task))
    _write_calibration(write, seen, measures, temperatures)
    contribution = []
    if seen.only:
        write(files.MISSING, modalities.missing(seen, measures, score))
        contribution = modalities.contribution(seen, measures, score)
        write(files.CONTRIBUTION, contribution)
        write(files.HARD_ROWS, modalities.hard_rows(seen, measures))
    important = modalities.importance(seen, measures, score)
    write(files.IMPORTANCE, important)
    write(files.CONFLICT_EPOCHS, conflict.by_epoch(folder))
    _write_outcomes(folder, seen, measures)
    sure = calibration.calibrated(task, seen.predictions, temperatures)
    columns = modalities.columns_of({"": data.schema.features}, important)
    wrong = mistakes(seen, sure, measures, data, columns, examples)
    folder.write_json(files.MISTAKES, {"part": part, "rows": wrong})
    found = alerts(
        data,
        issues,
        part,
        summary[part],
        score,
        contribution=contribution,
        per_class=per_class,
        calibrates=calibrate and task.has_temperature,
    )
    folder.write_rows(files.ALERTS, found, files.COLUMNS[files.ALERTS])
    folder.write_json(files.FACTS, _facts(task, data, summary, part, score))


class _Writer:
    """Writes rows under the columns of their file; none are written for no rows."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def __call__(self, name: str, rows: Rows) -> None:
        if rows:
            cells = [{key: _cell(value) for key, value in row.items()} for row in rows]
            self.folder.write_rows(name, cells, files.COLUMNS[name])
        else:
            self.folder.file(name).unlink(missing_ok=True)  # of a shorter run of the same folder


def _cell(value: Any) -> Any:
    """What a CSV cell holds; what is not a number is empty."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _known(part: PartPass, measures: Measures, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and targets of the rows that have a modality and a known target."""
    target = part.predictions.target_of(name)
    known = measures.known(target)
    return part.predictions.outputs[name][known], target[known]


def _scores(passes: Mapping[str, PartPass], measures: Measures, summary: RunSummary) -> list:
    found = []
    for part in PARTS:
        table: Scores = summary[part]
        for name in passes[part].predictions.outputs if len(passes[part].rows) else ():
            output, target = _known(passes[part], measures, name)
            if not len(target):
                continue
            bounds = intervals(measures.statistics(output, target))
            for score, values in table.items():
                if score in bounds and values.get(name) is not None:
                    found.append(
                        {
                            "part": part,
                            "modality": name,
                            "score": score,
                            "value": values[name],
                            "low": bounds[score][0],
                            "high": bounds[score][1],
                            "rows": len(target),
                        }
                    )
    return found


def _per_class(part: PartPass, task: Classification) -> list[dict[str, Any]]:
    from sklearn.metrics import precision_recall_fscore_support

    found = []
    for name, logits in part.predictions.outputs.items():
        target = part.predictions.target_of(name)
        known = target >= 0
        columns = precision_recall_fscore_support(
            target[known],
            logits[known].argmax(axis=1),
            labels=np.arange(task.outputs),
            zero_division=0,
        )
        for label, precision, recall, f1, support in zip(task.classes, *columns, strict=True):
            found.append(
                {
                    "modality": name,
                    "class": str(label),
                    "precision": float(precision),
                    "recall": float(recall),
                    "f1": float(f1),
                    "support": int(support),
                }
            )
    return found


def _confusion(part: PartPass, task: Classification) -> list[dict[str, Any]]:
    """The cells of the fused prediction's confusion matrix that are not empty."""
    target = part.predictions.target
    known = target >= 0
    guess = part.predictions.outputs[FUSED][known].argmax(axis=1)
    codes, counts = np.unique(target[known] * task.outputs + guess, return_counts=True)
    return [
        {
            "true": str(task.classes[code // task.outputs]),
            "predicted": str(task.classes[code % task.outputs]),
            "rows": count,
        }
        for code, count in zip(codes.tolist(), counts.tolist(), strict=True)
    ]


def _residuals(part: PartPass, measures: Measures, task: Regression) -> list[dict[str, Any]]:
    """Tenths of the rows by predicted value: the mean prediction beside the mean target. Of several
    targets the first.
    """
    output, target = _known(part, measures, FUSED)
    values, truth = task.values(output)[:, 0], target[:, 0]
    order = np.argsort(values, kind="stable")
    return [
        {
            "low": float(values[rows[0]]),
            "high": float(values[rows[-1]]),
            "rows": len(rows),
            "prediction": float(values[rows].mean()),
            "target": float(truth[rows].mean()),
            "mae": float(np.abs(values[rows] - truth[rows]).mean()),
        }
        for rows in np.array_split(order, min(_RESIDUAL_BINS, len(order)))
        if len(rows)
    ]


def _write_calibration(
    write: _Writer, part: PartPass, measures: Measures, temperatures: Mapping[str, float]
) -> None:
    """Reliability, or the coverage of intervals, of the whole rows and of each modality alone."""
    task = measures.task
    detail, scores = [], []
    for view in calibration.views(part, measures):
        if len(view.target) and (view.name == FUSED or "+" not in view.name):
            temperature = temperatures.get(view.used)
            if isinstance(task, Regression):
                if not task.has_temperature:
                    return
                rows, found = calibration.coverage(view, task, temperature)
            else:
                rows, found = calibration.reliability(view, task, temperature)
            detail += rows
            scores.append(found)
    write(files.COVERAGE if isinstance(task, Regression) else files.RELIABILITY, detail)
    write(files.CALIBRATION_SCORES, scores)


def _write_outcomes(folder: RunFolder, part: PartPass, measures: Measures) -> None:
    """Of each row with a known target and each prediction: right (1) or not (0), or the absolute
    error; for comparing runs in pairs.
    """
    known = measures.known(part.predictions.target)
    rows: list[dict[str, Any]] = [{"row": int(row)} for row in part.rows[known]]
    places = np.cumsum(known) - 1
    for name in part.predictions.outputs:
        output, target = _known(part, measures, name)
        mine = np.arange(len(known)) if name == FUSED else part.predictions.rows[name]
        outcome = measures.outcome(output, target)
        whole = isinstance(measures.task, Classification)
        for place, value in zip(places[mine[known[mine]]], outcome.tolist(), strict=True):
            rows[place][name] = int(value) if whole else value
    folder.write_rows(files.OUTCOMES, rows, ["row", *part.predictions.outputs])


def _facts(
    task: Task, data: FusionData, summary: RunSummary, part: str, score: str
) -> dict[str, Any]:
    rows = int(summary[part]["rows"][FUSED] or 0)  # type: ignore[literal-required]
    return {
        "task": "classification" if isinstance(task, Classification) else "regression",
        "target": data.schema.target,
        "score": score,
        "part": part,
        "rows": {name: len(getattr(data.split, name)) for name in ("train", "val", "test")},
        "classes": [str(name) for name in data.classes],
        "interval": {"percent": LEVEL, "draws": draws(rows), "method": "percentile bootstrap"},
    }
