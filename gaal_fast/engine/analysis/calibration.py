"""Temperature scaling (Guo et al., arXiv 1706.04599): how sure the probabilities are.

One temperature for each set of modalities that a row may be predicted from, fitted on validation
rows alone. A regression's temperature multiplies the predicted variance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from gaal_fast.engine.analysis.measures import Measures
from gaal_fast.engine.analysis.passes import PartPass
from gaal_fast.tasks import FUSED, Predictions, Regression, Task

# Fewer validation rows say too little: the temperature stays at 1.
FEWEST_ROWS = 20
# Beyond these a few validation rows, all of them right, would decide about every later row.
BOUNDS = (0.1, 10.0)
BINS = 10
LEVELS = (0.5, 0.68, 0.8, 0.9, 0.95)  # of intervals that a predicted variance gives

Rows = list[dict[str, Any]]


class View(NamedTuple):
    """Rows as they are predicted from one set of modalities.

    Attributes:
        name: ``fused`` or a modality, for tables.
        used: The modalities, joined by ``+``.
        output: Fused outputs ``[n, outputs]`` of rows with a known target.
        target: Their targets.
    """

    name: str
    used: str
    output: np.ndarray
    target: np.ndarray


def views(part: PartPass, measures: Measures) -> Iterator[View]:
    """The rows of a part that have all modalities, then the sets of some: the rows that have all of
    these, with the others withheld.
    """
    predictions = part.predictions
    known = measures.known(predictions.target)
    modalities = list(predictions.rows)
    present = {
        name: np.isin(np.arange(len(known)), rows) for name, rows in predictions.rows.items()
    }
    whole = tuple(modalities)
    for names in (whole, *part.only):
        rows = known & np.all([present[name] for name in names], axis=0)
        output = predictions.outputs[FUSED] if names == whole else part.only[names]
        name = FUSED if names == whole else "+".join(names)
        yield View(name, "+".join(names), output[rows], predictions.target[rows])


def fit(task: Task, output: np.ndarray, target: np.ndarray) -> float:
    """The temperature of least negative log-likelihood, within ``BOUNDS``; 1 for too few rows."""
    if len(target) < FEWEST_ROWS:
        return 1.0
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        tempered = task.tempered(output, math.exp(log_temperature))
        return float(task.row_losses(tempered, target).mean())

    bounds = (math.log(BOUNDS[0]), math.log(BOUNDS[1]))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return math.exp(float(found.x))


def fitted(part: PartPass, measures: Measures) -> dict[str, Any]:
    """What ``calibration.json`` holds: a temperature for each set of modalities.

    Args:
        part: The validation rows.
        measures: Of the task.
    """
    found = list(views(part, measures))
    return {
        "fitted_on": "val",
        "rows": {view.used: len(view.target) for view in found},
        "temperature": {view.used: fit(measures.task, view.output, view.target) for view in found},
    }


def calibrated(
    task: Task, predictions: Predictions, temperatures: Mapping[str, float]
) -> Predictions:
    """The predictions with fused outputs at the temperature of what each row was predicted from.

    Args:
        task: What is predicted.
        predictions: As the model gives them.
        temperatures: By modalities joined by ``+``; a set that is not among them has that of all.
    """
    used = np.array(predictions.used_modalities(), dtype=object)
    everything = temperatures.get("+".join(predictions.rows), 1.0)
    each = np.array([1.0 if n == "none" else temperatures.get(n, everything) for n in used])
    output = task.tempered(predictions.outputs[FUSED], each[:, None]) if len(used) else None
    if output is None:
        return predictions
    return replace(predictions, outputs={**predictions.outputs, FUSED: output})


def expected_calibration_error(bins: Rows, stage: str) -> float:
    """Mean distance of confidence and accuracy over the bins, weighted by rows."""
    mine = [row for row in bins if row["stage"] == stage and row["rows"]]
    rows = sum(row["rows"] for row in mine)
    return sum(row["rows"] * abs(row["confidence"] - row["accuracy"]) for row in mine) / rows


def reliability(view: View, task: Task, temperature: float | None) -> tuple[Rows, dict[str, Any]]:
    """Bins of equal width, before and after scaling, and the scores over them.

    Args:
        view: Rows of the part that is analyzed.
        task: A classification.
        temperature: None for no scaling.
    """
    bins: Rows = []
    for stage, output in _stages(view, task, temperature):
        shifted = np.exp(output - output.max(axis=1, keepdims=True))
        confidence = 1 / shifted.sum(axis=1)
        right = output.argmax(axis=1) == view.target
        place = np.minimum((confidence * BINS).astype(int), BINS - 1)
        for number in range(BINS):
            mine = place == number
            filled = bool(mine.any())
            bins.append(
                {
                    "modality": view.name,
                    "stage": stage,
                    "low": number / BINS,
                    "high": (number + 1) / BINS,
                    "rows": int(mine.sum()),
                    "confidence": float(confidence[mine].mean()) if filled else None,
                    "accuracy": float(right[mine].mean()) if filled else None,
                }
            )
    scores = _losses(view, task, temperature)
    scores["ece_before"] = expected_calibration_error(bins, "before")
    if temperature is not None:
        scores["ece_after"] = expected_calibration_error(bins, "after")
    return bins, scores


def coverage(
    view: View, task: Regression, temperature: float | None
) -> tuple[Rows, dict[str, Any]]:
    """The share of rows inside the central interval of the predicted Gaussian, by level, before and
    after scaling the variance.
    """
    from scipy.stats import norm

    found: Rows = []
    for stage, output in _stages(view, task, temperature):
        deviations = task.deviations(output)
        away = np.abs(task.values(output) - view.target) / deviations
        for level in LEVELS:
            reach = float(norm.ppf(0.5 + level / 2))
            found.append(
                {
                    "modality": view.name,
                    "stage": stage,
                    "nominal": level,
                    "covered": float((away <= reach).mean()),
                    "width": float(2 * reach * deviations.mean()),
                    "rows": len(view.target),
                }
            )
    return found, _losses(view, task, temperature)


def _stages(view: View, task: Task, temperature: float | None) -> Sequence[tuple[str, np.ndarray]]:
    before = [("before", view.output)]
    if temperature is None:
        return before
    return [*before, ("after", task.tempered(view.output, temperature))]


def _losses(view: View, task: Task, temperature: float | None) -> dict[str, Any]:
    found = {
        f"nll_{stage}": float(task.row_losses(output, view.target).mean())
        for stage, output in _stages(view, task, temperature)
    }
    return {"modality": view.name, "temperature": temperature, "rows": len(view.target), **found}
