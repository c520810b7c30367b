"""The labels: what the classes are and which class each row has."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd

from gaal_fast.data.issues import DataIssue, some, warn
from gaal_fast.data.tables.cells import is_none, to_texts
from gaal_fast.data.tables.truth import truth_of
from gaal_fast.errors import UserError

NO_LABEL = -1
NO_LABEL_REASON = "no label: row left out"
RareClasses = Literal["error", "drop", "train"]
# In a feature these words mean "missing". Somebody who writes one as a label means a class: a grade
# "None", a country "NA".
_CLASS_WORDS = frozenset({"None", "NONE", "none", "NA", "N/A", "n/a", "nan", "NaN", "null", "NULL"})
# Where all other labels are numbers, these are what programs write for a number that is not there.
_NO_NUMBER = frozenset({"nan", "NaN", "null", "NULL"})


@dataclass(frozen=True)
class Target:
    """The classes of a table's rows.

    Attributes:
        classes: The labels, naturally sorted (2 before 10; whole numbers are ints).
        codes: int64 [N], the position of each row's label in ``classes``, -1 where there is none.
        issues: The rows without a usable label.
    """

    classes: tuple[str | int, ...]
    codes: np.ndarray
    issues: list[DataIssue] = field(default_factory=list)


def read_target(
    series: pd.Series, name: str, rare: RareClasses = "error", warnings: list[str] | None = None
) -> Target:
    """Finds the classes of a training table.

    Args:
        series: The target column.
        name: What it is called in messages.
        rare: What becomes of a class with a single row, which cannot be divided. ``drop`` leaves
            the row out, ``train`` keeps it for training only.
        warnings: Gets what was decided about words such as "None", spellings and rare classes.

    Raises:
        UserError: Fewer than two classes, or, with ``error``, a class with a single row.
    """
    warnings = [] if warnings is None else warnings
    labels = _one_spelling(_labels(series, name, warnings), name, warnings)
    counts = Counter(label for label in labels if label is not None)
    if not counts:
        raise UserError(f'target column "{name}" has no values')
    single = sorted((label for label, count in counts.items() if count == 1), key=_natural)
    if single and len(counts) > 1 and rare == "error":
        raise _rare_error(labels, name, single, counts)
    if single and rare == "drop":
        warn(
            warnings,
            f'target column "{name}": {len(single)} rows are left out, of classes with a single'
            f" row: {some(single)} (--data.rare-classes drop)",
        )
    elif single:
        warn(
            warnings,
            f'target column "{name}": classes with a single row are trained on but never scored:'
            f" {some(single)} (--data.rare-classes train)",
        )
    distinct = set(counts) - (set(single) if rare == "drop" else set())
    if len(distinct) < 2:
        what = f'one class only: "{next(iter(distinct))}"' if distinct else "no class with two rows"
        raise UserError(f'target column "{name}" has {what}')
    if all(re.fullmatch(r"-?(?:0|[1-9]\d*)", label) for label in distinct):
        target = _encode(labels, name, tuple(sorted(int(label) for label in distinct)))
    else:
        ordered = sorted(distinct, key=_natural)
        target = _encode(labels, name, tuple(ordered))
    dropped = {row for row in np.flatnonzero(target.codes == NO_LABEL) if labels[row] is not None}
    issues = [
        replace(i, reason="class with a single row: left out") if i.row in dropped else i
        for i in target.issues
    ]
    return replace(target, issues=issues)


def keep_trained(
    target: Target, name: str, parts: Sequence[str | None], warnings: list[str]
) -> Target:
    """The target without the classes that have no training row.

    Args:
        target: Of all rows.
        name: Of its column, for messages.
        parts: train, val or test of each row.
        warnings: Counts the rows that are left out.
    """
    training = np.array([part == "train" for part in parts], dtype=bool)
    kept = np.unique(target.codes[training & (target.codes != NO_LABEL)])
    gone = np.setdiff1d(np.unique(target.codes[target.codes != NO_LABEL]), kept)
    if not len(gone):
        return target
    rows = np.flatnonzero(np.isin(target.codes, gone))
    classes = [target.classes[code] for code in gone]
    warn(
        warnings,
        f'target column "{name}": {len(rows)} rows are left out, of classes without a training row:'
        f" {some(classes)} (--data.rare-classes drop)",
    )
    place = np.full(len(target.classes) + 1, NO_LABEL)  # the last place is that of NO_LABEL
    place[kept] = np.arange(len(kept))
    issues = [
        DataIssue(int(row), name, "", "class without a training row: left out") for row in rows
    ]
    return Target(
        tuple(target.classes[code] for code in kept),
        place[target.codes],
        sorted([*target.issues, *issues]),
    )


def encode_labels(
    series: pd.Series, name: str, classes: tuple[str | int, ...], warnings: list[str] | None = None
) -> Target:
    """Codes of a table's labels; a missing or an unknown label gets -1 and an issue.

    Words such as "None" are labels where the model has a class of that name.

    Args:
        series: The target column.
        name: What it is called in messages.
        classes: Of the model.
        warnings: Counts and names unknown labels.
    """
    known = {str(label) for label in classes}
    labels = np.where(is_none(to_texts(series)), _words(series, known), to_texts(series))
    spelling = {truth_of(label): label for label in known}
    if known == set(spelling.values()) and None not in spelling:
        labels = np.array(
            [label if label in known else spelling.get(truth_of(label), label) for label in labels],
            dtype=object,
        )
    target = _encode(labels, name, classes)
    if warnings is not None:
        _warn_of_unscored(labels, target, name, warnings)
    return target


def _encode(labels: np.ndarray, name: str, classes: tuple[str | int, ...]) -> Target:
    code_of = {str(label): code for code, label in enumerate(classes)}
    codes = np.fromiter((code_of.get(label, NO_LABEL) for label in labels), np.int64, len(labels))
    issues = [
        DataIssue(
            int(row),
            name,
            "",
            NO_LABEL_REASON if labels[row] is None else f'unknown class "{labels[row]}"',
        )
        for row in np.flatnonzero(codes == NO_LABEL)
    ]
    return Target(tuple(classes), codes, issues)


def _words(series: pd.Series, wanted: set[str] | frozenset[str]) -> np.ndarray:
    """object [N]: the cells that are written as one of the ``wanted`` words that a feature would
    read as missing, else None.
    """
    cells = (cell.strip() if isinstance(cell, str) else None for cell in series)
    return np.array(
        [cell if cell in _CLASS_WORDS and cell in wanted else None for cell in cells], dtype=object
    )


def _labels(series: pd.Series, name: str, warnings: list[str]) -> np.ndarray:
    """object [N] of str, None where there is no label; says which words were taken for classes, or
    not.
    """
    texts = to_texts(series)
    words = _words(series, _CLASS_WORDS)
    found = Counter(word for word in words if word is not None)
    others = {text for text in texts if text is not None}
    numbers = bool(others) and all(_is_number(text) for text in others)
    missing = [word for word in found if numbers and word in _NO_NUMBER]
    classes = [word for word in found if word not in missing]
    if missing:
        warn(
            warnings,
            f'target column "{name}": {some(missing)} among numbers means no label; those rows are'
            " left out",
        )
    if classes:
        counted = ", ".join(f'"{word}" ({found[word]} rows)' for word in classes)
        warn(
            warnings,
            f'target column "{name}": {counted} is read as a class; leave a cell empty where there'
            " is no label",
        )
    return np.array(
        [word if word in classes else text for text, word in zip(texts, words, strict=True)],
        dtype=object,
    )


def _one_spelling(labels: np.ndarray, name: str, warnings: list[str]) -> np.ndarray:
    """Where all labels are truth values, the commonest spelling of each stands for all of its
    spellings.
    """
    counts = Counter(label for label in labels if label is not None)
    truths = {label: truth_of(label) for label in counts}
    if len(counts) <= 2 or None in truths.values() or min(map(len, counts)) == 1:
        return labels
    best = {truths[label]: label for label, _ in reversed(counts.most_common())}
    spelled = [
        f'"{label}" as "{best[truth]}"' for label, truth in truths.items() if best[truth] != label
    ]
    warn(warnings, f'target column "{name}": {", ".join(spelled)} (spellings of one truth value)')
    return np.array(
        [None if label is None else best[truths[label]] for label in labels], dtype=object
    )


def _rare_error(
    labels: np.ndarray, name: str, single: list[str], counts: Counter[str]
) -> UserError:
    row = int(np.flatnonzero(labels == single[0])[0])
    quantity = _continuous(counts)
    what = (
        f"class {some(single)} has one row (row {row + 1})"
        if len(single) == 1
        else f"classes {some(single)} have one row each"
    )
    hint = (
        f"{len(counts)} different numbers look like a quantity, not classes"
        if quantity
        else (
            "leave such rows out with --data.rare-classes drop, or keep them for training only with"
            " --data.rare-classes train"
        )
    )
    return UserError(f'target column "{name}": {what}; every class needs at least two; {hint}')


def _warn_of_unscored(labels: np.ndarray, target: Target, name: str, warnings: list[str]) -> None:
    unknown = Counter(
        labels[row] for row in np.flatnonzero(target.codes == NO_LABEL) if labels[row] is not None
    )
    if unknown:
        shown = ", ".join(f'"{label}" ({count})' for label, count in unknown.most_common(5))
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        warn(
            warnings,
            f'target column "{name}": {sum(unknown.values())} of {len(labels)} rows have a class'
            f" that the model does not know and are not scored: {shown}{more}",
        )
    empty = int(is_none(labels).sum())
    if empty:
        warn(
            warnings,
            f'target column "{name}": {empty} of {len(labels)} rows have no label and are not'
            " scored",
        )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _natural(label: str) -> tuple:
    """Sorts "img2" before "img10", numbers by value, and never compares a number with a text."""
    if _is_number(label):
        return (0, float(label), label)
    parts = re.split(r"(\d+)", label)
    key = tuple(
        (0, int(part), "") if part.isdigit() and part.isascii() else (1, 0, part.casefold())
        for part in parts
        if part
    )
    return (1, key, label)


def _continuous(counts: Counter[str]) -> bool:
    singles = sum(count == 1 for count in counts.values())
    return all(map(_is_number, counts)) and len(counts) > 20 and singles > 0.5 * len(counts)
