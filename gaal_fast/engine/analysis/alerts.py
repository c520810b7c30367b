"""What a reader of the results has to know of the data and of the scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gaal_fast.data import DataIssue, FusionData
from gaal_fast.data.issues import some
from gaal_fast.engine.analysis.calibration import FEWEST_ROWS
from gaal_fast.runs.analysis import NOTE, WARNING
from gaal_fast.runs.summary import PART_WORDS, SCORE_WORDS, Part, Scores
from gaal_fast.tasks import FUSED

SMALL_PART = 200  # rows: the interval of an accuracy is then up to ±0.07 wide
_RARE = 5  # rows of a class below which its own scores say nothing

Rows = list[dict[str, str]]


def alerts(
    data: FusionData,
    issues: Iterable[DataIssue],
    part: Part,
    scores: Scores,
    score: str,
    *,
    contribution: Sequence[Mapping[str, Any]],
    per_class: Sequence[Mapping[str, Any]],
    calibrates: bool,
) -> Rows:
    """Lines about the run, the most serious ones first.

    Args:
        data: What was trained on, with the warnings of its loading.
        issues: Cells that could not be used.
        part: The part that was scored.
        scores: Its scores, as ``summary.json`` has them.
        score: The main one.
        contribution: Rows of ``modality_contribution.csv``.
        per_class: Rows of ``per_class.csv``.
        calibrates: Whether a temperature was asked for.
    """
    found = [_alert(WARNING, "data", text) for text in data.warnings]
    found += _cells(issues)
    found += _sizes(data, part, scores, calibrates)
    found += _modalities(scores, score, contribution)
    rare = [
        row["class"] for row in per_class if row["modality"] == FUSED and row["support"] < _RARE
    ]
    if rare:
        words = f"{len(rare)} of the classes have fewer than {_RARE} {PART_WORDS[part]} rows"
        found.append(_alert(NOTE, "classes", f"{words} ({some(rare)}): their own scores are noise"))
    for reason in dict.fromkeys(data.schema.dropped.values()):
        names = [name for name, why in data.schema.dropped.items() if why == reason]
        what = f"column {some(names)}" if len(names) == 1 else f"columns {some(names)}"
        found.append(_alert(NOTE, "columns", f"not used: {what}: {reason}"))
    return sorted(found, key=lambda row: row["level"] != WARNING)


def _alert(level: str, topic: str, message: str) -> dict[str, str]:
    return {"level": level, "topic": topic, "message": " ".join(message.split())}


def _cells(issues: Iterable[DataIssue]) -> Rows:
    """One line for each column with cells that could not be used."""
    by_column: dict[str, list[DataIssue]] = {}
    for issue in sorted(set(issues)):
        by_column.setdefault(issue.column, []).append(issue)
    found = []
    for column, mine in by_column.items():
        reasons = Counter(issue.reason for issue in mine)
        reason, count = reasons.most_common(1)[0]
        more = f", most often {count} times" if len(reasons) > 1 else ""
        text = (
            f'column "{column}": {len(mine)} cells cannot be used{more}: {reason} (first: row'
            f" {mine[0].row + 1}; all in data_issues.csv)"
        )
        found.append(_alert(WARNING, "data", text))
    return found


def _sizes(data: FusionData, part: Part, scores: Scores, calibrates: bool) -> Rows:
    found = []
    rows = int(scores["rows"][FUSED] or 0)
    if part == "val":
        text = (
            "there is no test part: the scores are of the rows that chose the epoch, and too high"
        )
        found.append(_alert(WARNING, "size", text))
    if rows < SMALL_PART:
        text = f"the {PART_WORDS[part]} part has {rows} rows: small differences are noise"
        found.append(_alert(WARNING, "size", text))
    if calibrates and len(data.split.val) < FEWEST_ROWS:
        text = (
            f"the validation part has {len(data.split.val)} rows, fewer than {FEWEST_ROWS}:"
            " probabilities are not calibrated"
        )
        found.append(_alert(NOTE, "calibration", text))
    return found


def _modalities(scores: Scores, score: str, contribution: Sequence[Mapping[str, Any]]) -> Rows:
    found = []
    fused = scores[score][FUSED]
    for row in contribution:
        name, alone = str(row["modality"]), scores[score].get(str(row["modality"]))
        if fused is not None and alone is not None and alone > fused:
            text = (
                f"{name} alone has the better {SCORE_WORDS[score]}: {alone:.3f}, fused {fused:.3f}"
            )
            found.append(_alert(WARNING, "modalities", text))
        if row["low"] <= 0:
            text = (
                f"{name} adds nothing that these rows show: without it {SCORE_WORDS[score]} drops"
                f" by {row['drop']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
            )
            found.append(_alert(WARNING, "modalities", text))
    return found
