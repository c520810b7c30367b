"""What ``summary.json`` holds, over one seed or several, and its words for the screen."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NotRequired, TypedDict, final

from gaal_fast.files import write_text
from gaal_fast.runs.naming import FUSED

# Score, then ``fused`` or a modality; None where no row was counted.
Scores = dict[str, dict[str, float | None]]
Part = Literal["val", "test"]
PARTS: tuple[Part, ...] = ("val", "test")
PART_WORDS: dict[Part, str] = {"test": "test", "val": "validation"}
SCORE_WORDS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "r2": "R²",
    "rmse": "RMSE",
}


@final
class Ceiling(TypedDict):
    """A cheap baseline on the same split.

    Attributes:
        inputs: A modality, or several: ``image+table``.
        learner: ``logistic``, ``ridge``, ``trees`` or ``product``.
        features: What it was fitted on.
        chosen: What the validation rows chose: strength of regularization, rounds of boosting.
        train_rows: How many training rows it was fitted on.
        val: The main score of the validation rows; None where there are none.
        test: The same of the test rows.
    """

    inputs: str
    learner: str
    features: str
    chosen: str
    train_rows: int
    val: float | None
    test: float | None


# By name, in the order in which they are shown.
Ceilings = dict[str, Ceiling]


@final
class RunSummary(TypedDict):
    """One seed."""

    method: str
    seed: int
    epochs: int
    steps: int
    best_epoch: int
    seconds: float
    split: str
    val: Scores
    test: Scores
    ceilings: NotRequired[Ceilings]


@final
class SeedsSummary(TypedDict):
    """Several seeds: means, sample standard deviations, and the main score of each."""

    method: str
    seeds: list[int]
    val: Scores
    test: Scores
    std: dict[Part, Scores]
    runs: list[dict[str, object]]
    ceilings: NotRequired[Ceilings]


Summary = RunSummary | SeedsSummary


def over_seeds(summaries: Sequence[RunSummary]) -> SeedsSummary:
    """Means, and sample standard deviations under ``std``, of several runs' scores.

    Args:
        summaries: Two runs or more of one method, in the order of their seeds.
    """

    def gather(part: Part, function: Callable[[list[float]], float]) -> Scores:
        scores = summaries[0][part]
        values = {s: {m: [run[part][s][m] for run in summaries] for m in scores[s]} for s in scores}
        return {s: {m: _of(found, function) for m, found in values[s].items()} for s in values}

    return {
        "method": summaries[0]["method"],
        "seeds": [run["seed"] for run in summaries],
        "val": gather("val", statistics.fmean),
        "test": gather("test", statistics.fmean),
        "std": {part: gather(part, statistics.stdev) for part in PARTS},
        "runs": [
            {"seed": run["seed"], **{part: run[part][main_score(run)] for part in PARTS}}
            for run in summaries
        ],
    }


def _of(values: Sequence[float | None], function: Callable[[list[float]], float]) -> float | None:
    known = [value for value in values if value is not None]
    return function(known) if len(known) == len(values) else None


def scored_part(summary: Summary) -> Part:
    """``test``, or ``val`` where the data has no test part."""
    return "test" if summary["test"]["rows"][FUSED] else "val"


def main_score(summary: Summary) -> str:
    """The score that comparisons go by."""
    return "r2" if "r2" in summary["test"] else "accuracy"


def fused_first(names: Iterable[str]) -> list[str]:
    """Names in the order of the screen: ``fused``, then the modalities as they come."""
    return sorted(names, key=lambda name: name != FUSED)


def score_words(scores: Mapping[str, float | None]) -> str:
    """``fused 0.953  image 0.812  table 0.840``, fused first."""
    return "  ".join(
        f"{name} {'-' if (value := scores[name]) is None else format(value, '.3f')}"
        for name in fused_first(scores)
    )


def result_words(summary: Summary, *, uneven: bool = False) -> str:
    """The main scores on the test rows, with sample standard deviations over several seeds.

    Without a test part they are those of the validation rows.

    Args:
        summary: Of a finished run, or of several seeds.
        uneven: Whether to show balanced accuracies too.
    """
    part = scored_part(summary)
    lines = (
        ["there is no test part: these are the rows that chose the epoch"] if part == "val" else []
    )
    scores = ["r2", "rmse"] if main_score(summary) == "r2" else ["accuracy"]
    scores += ["balanced_accuracy"] if uneven else []
    for score in scores:
        words = f"{PART_WORDS[part]} {SCORE_WORDS[score]}"
        lines.append(words + _score_line(summary, part, score))
    return "\n".join(lines)


def _score_line(summary: Summary, part: Part, score: str) -> str:
    found, rows = summary[part][score], summary[part]["rows"][FUSED]
    if "seeds" not in summary:
        return f"  {score_words(found)}  ({rows:.0f} rows)"
    std = summary["std"][part][score]
    words = [
        f"{name} {value:.3f} ± {std[name]:.3f}"
        for name in fused_first(found)
        if (value := found[name]) is not None
    ]
    return f" over {len(summary['seeds'])} seeds  {'  '.join(words)}"


def write_scores(path: Path, scores: Scores) -> None:
    """Write scores as JSON, with the names that ``summary.json`` has."""
    write_text(path, json.dumps(scores, indent=2) + "\n")
