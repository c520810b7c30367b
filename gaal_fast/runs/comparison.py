"""The results of several methods side by side: ``comparison.csv`` and its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gaal_fast.runs.summary import (
    PART_WORDS,
    SCORE_WORDS,
    Summary,
    fused_first,
    main_score,
    scored_part,
)


@dataclass(frozen=True)
class Row:
    """One modality of one method.

    Attributes:
        method: Its name.
        modality: ``fused``, or the modality's name.
        value: The score; the mean over seeds; None where no row was counted.
        std: Sample standard deviation over seeds; None for a single one.
        seeds: How many.
    """

    method: str
    modality: str
    value: float | None
    std: float | None
    seeds: int


def columns(score: str) -> tuple[str, ...]:
    """The columns of ``comparison.csv``; that of the values is called by their score."""
    return ("method", "modality", score, "std", "seeds")


def as_cells(row: Row, score: str) -> Mapping[str, str | float | None]:
    """A row as ``comparison.csv`` holds it."""
    values = (row.method, row.modality, row.value, row.std, row.seeds)
    return dict(zip(columns(score), values, strict=True))


def rows_of(method: str, summary: Summary) -> list[Row]:
    """One row a modality; of the validation rows where there is no test part."""
    part, score = scored_part(summary), main_score(summary)
    values = summary[part][score]
    if "seeds" not in summary:
        return [Row(method, name, value, None, 1) for name, value in values.items()]
    std, seeds = summary["std"][part][score], len(summary["seeds"])
    return [Row(method, name, value, std[name], seeds) for name, value in values.items()]


def title(summary: Summary) -> str:
    """What the values are: ``test accuracy``."""
    return f"{PART_WORDS[scored_part(summary)]} {SCORE_WORDS[main_score(summary)]}"


def table(rows: Sequence[Row], title: str = "test accuracy") -> str:
    """A score by method and modality, with sample standard deviations over several seeds.

    Args:
        rows: In the order of the methods.
        title: What the numbers are, for the corner.
    """
    cells = {(row.method, row.modality): row for row in rows}
    names = fused_first(dict.fromkeys(row.modality for row in rows))
    width = max(16, len(title) + 1, *(len(row.method) + 1 for row in rows))
    lines = [f"{title:<{width}}" + "".join(f"{name:>16}" for name in names)]
    for method in dict.fromkeys(row.method for row in rows):
        words = [_cell(cells.get((method, name))) for name in names]
        lines.append(f"{method:<{width}}" + "".join(f"{word:>16}" for word in words))
    return "\n".join(lines)


def _cell(row: Row | None) -> str:
    if row is None or row.value is None:
        return "-"
    return f"{row.value:.3f}" + ("" if row.std is None else f" ± {row.std:.3f}")
