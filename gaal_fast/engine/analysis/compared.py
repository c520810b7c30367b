"""Methods of a comparison against the first of them, in pairs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from gaal_fast.engine.analysis.bootstrap import Statistics, intervals
from gaal_fast.runs.analysis import FACTS, OUTCOMES
from gaal_fast.runs.folder import RunFolder
from gaal_fast.runs.naming import FUSED


def differences(methods: Sequence[tuple[str, RunFolder]]) -> list[dict[str, Any]]:
    """Each method's fused outcome less that of the first method, on the same rows.

    Of classes it is the difference of accuracy, of values that of the mean absolute error. The
    interval resamples rows, over which the seeds of a method are averaged; the standard deviation
    is over seeds, paired by their number.

    Args:
        methods: Names and folders, in order. Those of earlier versions hold no outcomes, and
            another number of rows or seeds cannot be paired: they are left out.
    """
    found: list[dict[str, Any]] = []
    reference: np.ndarray | None = None
    for name, folder in methods:
        outcomes = _outcomes(folder)
        if reference is None:
            if outcomes is None:
                return []
            reference = outcomes
            score = _score(folder)
            continue
        if outcomes is None or outcomes.shape != reference.shape:
            continue
        change = outcomes - reference
        rows = change.mean(axis=0)
        by_seed = change.mean(axis=1).tolist()
        paired = Statistics(rows[:, None], lambda means: {"difference": means[:, 0]})
        low, high = intervals(paired)["difference"]
        found.append(
            {
                "method": name,
                "score": score,
                "difference": float(rows.mean()),
                "low": low,
                "high": high,
                "std": statistics.stdev(by_seed) if len(by_seed) > 1 else None,
                "seeds": len(by_seed),
                "rows": len(rows),
            }
        )
    return found


def _outcomes(folder: RunFolder) -> np.ndarray | None:
    """Float64 ``[seeds, rows]``; None where a run has none."""
    found = []
    for run in folder.seeds() or [folder]:
        if not run.file(OUTCOMES).is_file():
            return None
        found.append(run.read_rows(OUTCOMES)[FUSED].to_numpy(np.float64))
    if len({len(rows) for rows in found}) != 1:
        return None
    return np.stack(found)


def _score(folder: RunFolder) -> str:
    run = (folder.seeds() or [folder])[0]
    return "accuracy" if run.read_json(FACTS)["task"] == "classification" else "mae"
