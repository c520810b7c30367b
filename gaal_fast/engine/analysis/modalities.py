"""What each modality and each column of a table is worth, and what a lack of them costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch

from gaal_fast.engine.analysis.bootstrap import paired_interval
from gaal_fast.engine.analysis.measures import Measures
from gaal_fast.engine.analysis.passes import MOST_WITH_ALL_SUBSETS, Names, PartPass
from gaal_fast.tasks import FUSED

FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
# Of the most uncertain rows of each modality (equation 7 with other lambdas).
SHARES = (0.1, 0.25, 0.5)

Rows = list[dict[str, Any]]


def missing(part: PartPass, measures: Measures, score: str) -> Rows:
    """A score as a modality goes missing from a growing share of the rows, chosen by a fixed seed;
    rows that lack it at a share lack it at every larger one.
    """
    target = part.predictions.target
    known = measures.known(target)
    whole, modalities = part.predictions.outputs[FUSED], list(part.predictions.rows)
    found: Rows = []
    for name in modalities:
        rest = tuple(other for other in modalities if other != name)
        if rest not in part.only:
            continue
        order = np.random.default_rng(0).permutation(len(target))
        for fraction in FRACTIONS:
            output = whole.copy()
            lacking = order[: int(fraction * len(order) + 0.5)]
            output[lacking] = part.only[rest][lacking]
            value = measures.scores(output[known], target[known])[score]
            found.append(
                {
                    "modality": name,
                    "fraction": fraction,
                    "score": score,
                    "value": value,
                    "rows": int(known.sum()),
                }
            )
    return found


def contribution(part: PartPass, measures: Measures, score: str) -> Rows:
    """Of each modality: the score from it alone, the drop when it is absent with a paired bootstrap
    interval, and its Shapley value over the sets of modalities.

    A positive drop says that the modality helps. Shapley values add up to the score of all
    modalities less that of the prior; with more than four modalities there are none.
    """
    target = part.predictions.target
    known = measures.known(target)
    target = target[known]
    modalities = tuple(part.predictions.rows)
    prior = np.tile(measures.task.prior(), (len(target), 1))
    outputs = {(): prior, **{names: output[known] for names, output in part.only.items()}}
    outputs[modalities] = part.predictions.outputs[FUSED][known]
    statistics = {names: measures.statistics(output, target) for names, output in outputs.items()}
    values = {names: found.of_all_rows()[score] for names, found in statistics.items()}
    shapley = _shapley(values, modalities) if len(modalities) <= MOST_WITH_ALL_SUBSETS else {}
    found: Rows = []
    for name in modalities:
        rest = tuple(other for other in modalities if other != name)
        low, high = paired_interval(statistics[modalities], statistics[rest], score)
        found.append(
            {
                "modality": name,
                "alone": values[(name,)],
                "drop": values[modalities] - values[rest],
                "low": low,
                "high": high,
                "shapley": shapley.get(name),
            }
        )
    return found


def _shapley(values: dict[Names, float], modalities: Names) -> dict[str, float]:
    """Mean gain of adding a modality, over all orders of the modalities."""
    count = len(modalities)
    found = {}
    for name in modalities:
        others = [other for other in modalities if other != name]
        total = 0.0
        for size in range(count):
            weight = math.factorial(size) * math.factorial(count - size - 1)
            for names in combinations(others, size):
                together = tuple(other for other in modalities if other in (*names, name))
                total += weight * (values[together] - values[names])
        found[name] = total / math.factorial(count)
    return found


def importance(part: PartPass, measures: Measures, score: str) -> Rows:
    """Of each column of a table: how much the fused score drops, and the loss rises, when its
    values are exchanged among the rows (Breiman 2001); largest first.
    """
    target, whole = part.predictions.target[part.sample], part.predictions.outputs[FUSED]
    known = measures.known(target)
    if not known.any():
        return []
    base = measures.scores(whole[part.sample][known], target[known])
    found: Rows = []
    for (modality, column), outputs in part.shuffled.items():
        changed = [measures.scores(output[known], target[known]) for output in outputs]
        drops = [base[score] - scores[score] for scores in changed]
        rises = [scores[measures.loss] - base[measures.loss] for scores in changed]
        found.append(
            {
                "modality": modality,
                "column": column,
                "drop": float(np.mean(drops)),
                "std": float(np.std(drops, ddof=1)) if len(drops) > 1 else None,
                "loss_increase": float(np.mean(rises)),
                "repeats": len(drops),
                "rows": int(known.sum()),
            }
        )
    return sorted(found, key=lambda row: (-row["drop"], -row["loss_increase"]))


def hard_rows(part: PartPass, measures: Measures) -> Rows:
    """How many of the rows that are most uncertain to one modality are so to another one too, at
    the end of training. By chance it would be the share itself.
    """
    predictions = part.predictions
    uncertain = {
        name: measures.task.uncertainty(torch.from_numpy(predictions.outputs[name]))
        for name in predictions.rows
    }
    found: Rows = []
    for first, second in combinations(predictions.rows, 2):
        ours, theirs = uncertain[first], uncertain[second]
        if ours is None or theirs is None:
            continue
        both, at_first, at_second = np.intersect1d(
            predictions.rows[first], predictions.rows[second], return_indices=True
        )
        for share in SHARES:
            count = int(share * len(both))
            if count:
                top = _hardest(ours.numpy()[at_first], count)
                overlap = len(np.intersect1d(top, _hardest(theirs.numpy()[at_second], count)))
                found.append(
                    {
                        "first": first,
                        "second": second,
                        "share": share,
                        "overlap": overlap / count,
                        "rows": len(both),
                    }
                )
    return found


def _hardest(uncertainty: np.ndarray, count: int) -> np.ndarray:
    return np.argsort(-uncertainty, kind="stable")[:count]


def columns_of(tables: dict[str, Sequence[str]], rows: Rows) -> list[str]:
    """The columns of all tables, the most important ones first."""
    ranked = [row["column"] for row in rows]
    others = [name for columns in tables.values() for name in columns]
    return list(dict.fromkeys([*ranked, *others]))
