"""The ceilings of a data set beside the trained models: ``ceilings.csv`` and their words.

A ceiling is the score of a cheap baseline on the rows of the same split.
"""

from __future__ import annotations

import math

from gaal_fast.runs.comparison import Row
from gaal_fast.runs.naming import FUSED
from gaal_fast.runs.summary import (
    PART_WORDS,
    SCORE_WORDS,
    Ceiling,
    Ceilings,
    Part,
    Summary,
    main_score,
    scored_part,
)

PRODUCT = "product"
# Two scores of the same rows further apart than this many standard errors differ by more than
# noise.
SIGMAS = 1.96

COLUMNS = ("name", *Ceiling.__annotations__)


def as_rows(ceilings: Ceilings) -> list[dict[str, object]]:
    """The rows of ``ceilings.csv``."""
    return [{"name": name, **ceiling} for name, ceiling in ceilings.items()]


def compared(ceilings: Ceilings, part: Part) -> list[Row]:
    """The ceilings as rows of the table of a comparison, one method for each learner."""
    return [
        Row(f"ceiling: {c['learner']}", FUSED if _joint(c) else c["inputs"], c[part], None, 1)
        for c in ceilings.values()
    ]


def ceiling_words(ceilings: Ceilings, summary: Summary) -> list[str]:
    """The line of ceilings beside the fused score, and what to make of it where one is higher.

    Of several learners on the same inputs the line shows the one that is best on the validation
    rows.
    """
    part, score = scored_part(summary), main_score(summary)
    values, rows = summary[part][score], summary[part]["rows"][FUSED]
    fused = values[FUSED]
    words = _line(ceilings, part)
    if fused is None or not rows:
        return [words]
    above = _above(ceilings, part, fused)
    if above is None:
        return [f"{words} | fused {fused:.3f}"]
    value, who = above
    model = "fused" if len(values) > 2 else "trained"
    what = f"{PART_WORDS[part]} {SCORE_WORDS[score]} {value:.3f} against {fused:.3f}"
    noise = _noise(value, fused, int(rows)) if score == "accuracy" else ""
    return [
        f"{words} | fused {fused:.3f}",
        f"{who} does better than the {model} model: {what}{noise}",
    ]


def _joint(ceiling: Ceiling) -> bool:
    return "+" in ceiling["inputs"]


def _words(ceiling: Ceiling) -> str:
    """What a ceiling is about, in the line."""
    if ceiling["learner"] == PRODUCT:
        return PRODUCT
    if not _joint(ceiling):
        return ceiling["inputs"]
    return "both" if ceiling["inputs"].count("+") == 1 else "all"


def _line(ceilings: Ceilings, part: Part) -> str:
    best: dict[tuple[str, bool], tuple[float, Ceiling]] = {}
    for ceiling in ceilings.values():
        if (value := ceiling[part]) is None:
            continue
        key = (ceiling["inputs"], ceiling["learner"] == PRODUCT)
        if key not in best or _validation(ceiling) > _validation(best[key][1]):
            best[key] = (value, ceiling)
    words = [f"{_words(c)} {value:.3f}{_how(c)}" for value, c in best.values()]
    return f"ceilings: {', '.join(words) or 'none could be fitted'}"


def _validation(ceiling: Ceiling) -> float:
    return -math.inf if ceiling["val"] is None else ceiling["val"]


def _how(ceiling: Ceiling) -> str:
    features = ceiling["features"].split(",")[0]
    if ceiling["learner"] == PRODUCT:
        return ""
    if _joint(ceiling) or features == "table":
        return f" ({ceiling['learner']})"
    return f" ({ceiling['learner']} on {features})"


def _above(ceilings: Ceilings, part: Part, fused: float) -> tuple[float, str] | None:
    """The best ceiling above the fused score, in words: of one modality, else of several."""
    above = [(v, c) for c in ceilings.values() if (v := c[part]) is not None and v > fused]
    alone = [(value, c) for value, c in above if not _joint(c)]
    if not above:
        return None
    value, best = max(alone or above, key=lambda found: found[0])
    if alone:
        return value, f"the {best['inputs']} alone ({best['learner']})"
    if best["learner"] == PRODUCT:
        return value, "the product of one linear model per modality"
    return value, f"{best['learner']} on {_words(best)}"


def _noise(one: float, other: float, rows: int) -> str:
    """Whether two accuracies on that many rows differ by more than they scatter. Their errors are
    taken for independent, which is the careful side: both are of the same rows.
    """
    spread = SIGMAS * math.sqrt((one * (1 - one) + other * (1 - other)) / rows)
    verdict = "more than" if one - other > spread else "within"
    return f", {verdict} the noise of {rows} rows (±{spread:.3f})"
