"""The labels: what the classes are and which class each row has."""

import re
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from gaal_fast.data.cells import to_texts
from gaal_fast.data.issues import DataIssue, some
from gaal_fast.errors import UserError

NO_LABEL = -1


@dataclass(frozen=True)
class Target:
    """classes: the labels, naturally sorted (2 before 10; whole numbers are ints). codes: int64 [N], the position of each
    row's label in `classes`, -1 where there is none. issues: the rows without a usable label."""

    classes: tuple[str | int, ...]
    codes: np.ndarray
    issues: list[DataIssue] = field(default_factory=list)


def read_target(series: pd.Series, name: str) -> Target:
    """Finds the classes of a training table. Raises UserError: fewer than two classes, or a class with a single row."""
    labels = to_texts(series)
    distinct = {label for label in labels if label is not None}
    if not distinct:
        raise UserError(f'target column "{name}" has no values')
    if all(re.fullmatch(r"-?(?:0|[1-9]\d*)", label) for label in distinct):
        classes: list[str | int] = sorted(int(label) for label in distinct)
    else:
        classes = sorted(distinct, key=_natural)
    if len(classes) == 1:
        raise UserError(f'target column "{name}" has one class only: "{classes[0]}"')
    target = encode_labels(series, name, tuple(classes))
    counts = np.bincount(target.codes[target.codes >= 0], minlength=len(classes))
    single = [classes[code] for code in np.flatnonzero(counts == 1)]
    if single:
        row = int(np.flatnonzero(target.codes == classes.index(single[0]))[0])
        hint = f"; {len(classes)} different numbers look like a quantity, not classes" if _continuous(distinct, counts) else ""
        what = f"class {some(single)} has one row (row {row + 1})" if len(single) == 1 else f"classes {some(single)} have one row each"
        raise UserError(f'target column "{name}": {what}; every class needs at least two{hint}')
    return target


def encode_labels(series: pd.Series, name: str, classes: tuple[str | int, ...]) -> Target:
    """Codes of a table's labels in the order of `classes`; a missing or an unknown label gets -1 and an issue."""
    labels = to_texts(series)
    code_of = {str(label): code for code, label in enumerate(classes)}
    codes = np.fromiter((code_of.get(label, NO_LABEL) for label in labels), np.int64, len(labels))
    issues = [
        DataIssue(int(row), name, "", "no label: row left out" if labels[row] is None else f'unknown class "{labels[row]}"')
        for row in np.flatnonzero(codes == NO_LABEL)
    ]
    return Target(tuple(classes), codes, issues)


def _natural(label: str) -> tuple:
    """Sorts "img2" before "img10", numbers by value, and never compares a number with a text."""
    try:
        return (0, float(label), label)
    except ValueError:
        parts = re.split(r"(\d+)", label)
        key = tuple((0, int(part), "") if part.isdigit() and part.isascii() else (1, 0, part.casefold()) for part in parts if part)
        return (1, key, label)


def _continuous(labels: set[str], counts: np.ndarray) -> bool:
    try:
        [float(label) for label in labels]
    except ValueError:
        return False
    return len(labels) > 20 and (counts == 1).mean() > 0.5
