"""Divides the rows into train, validation and test parts."""

from __future__ import annotations

import hashlib
import warnings as python_warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from gaal_fast.data.issues import some, warn
from gaal_fast.data.part_words import GivenParts
from gaal_fast.errors import UserError

PARTS = ("train", "val", "test")
_MAX_FOLDS = 20


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of each part, int64, ascending. A row without a label is in none."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    @cached_property
    def hash(self) -> str:
        """sha256 (hex) of the lines "row<tab>part<newline>" in the order of the rows: equal for
        equal splits only.
        """
        frame = self.to_frame()
        lines = (f"{row}\t{part}\n" for row, part in zip(frame["row"], frame["part"], strict=True))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def to_frame(self) -> pd.DataFrame:
        """Columns row and part, ordered by row, as in split.csv."""
        rows = np.concatenate([getattr(self, part) for part in PARTS])
        parts = np.repeat(PARTS, [len(getattr(self, part)) for part in PARTS])
        order = np.argsort(rows)
        return pd.DataFrame({"row": rows[order], "part": parts[order].astype(object)})

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Split:
        """The inverse of ``to_frame``.

        Raises:
            ValueError: The table is no split.
        """
        if not {"row", "part"} <= set(frame.columns):
            raise ValueError("a split has the columns row and part")
        rows = pd.to_numeric(frame["row"]).to_numpy(dtype=np.int64)
        parts = frame["part"].astype(str).to_numpy(dtype=object)
        if len(np.unique(rows)) != len(rows) or (rows < 0).any():
            raise ValueError("a row appears twice, or is negative")
        if not set(parts) <= set(PARTS):
            raise ValueError(f"unknown part {some(sorted(set(parts) - set(PARTS)))}")
        return cls(*(np.sort(rows[parts == part]) for part in PARTS))


def read_split(path: Path, expected_hash: str | None = None) -> Split:
    """Reads split.csv back.

    Raises:
        UserError: It is damaged, or is not the split with ``expected_hash``.
    """
    try:
        split = Split.from_frame(pd.read_csv(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a saved split: {' '.join(str(error).split())}") from error
    if expected_hash is not None and split.hash != expected_hash:
        raise UserError(
            f"{path} has been changed: its hash is {split.hash[:12]}, not {expected_hash[:12]}"
        )
    return split


@dataclass(frozen=True, eq=False)
class Groups:
    """The group of each row.

    Attributes:
        column: Where the groups are from, for messages.
        values: str [N], None for a row without a group, which is a group of its own.
    """

    column: str
    values: Sequence[str | None]

    @cached_property
    def codes(self) -> np.ndarray:
        """int64 [N], equal for rows that belong together."""
        codes, _ = pd.factorize(np.asarray(self.values, dtype=object))
        alone = codes < 0
        return np.where(alone, codes.max(initial=-1) + 1 + np.arange(len(codes)), codes)


@dataclass(frozen=True, eq=False)
class SplitPlan:
    """How rows are to be divided.

    Attributes:
        val_fraction: Share of the rows for validation.
        test_fraction: Share of the rows for the test; 0: no test part.
        seed: Of the random division.
        given: What a split column says; without validation rows, the validation part is taken from
            the training part, as ``val_fraction`` of it.
        groups: Rows that stay together.
    """

    val_fraction: float
    test_fraction: float
    seed: int = 0
    given: GivenParts | None = None
    groups: Groups | None = None

    def folds(self, k: int) -> tuple[int, int]:
        """Validation and test folds out of k."""
        val, test = (
            max(1, round(fraction * k)) if fraction > 0 else 0
            for fraction in (self.val_fraction, self.test_fraction)
        )
        return val, test


def make_split(
    codes: np.ndarray,
    classes: Sequence[str | int],
    plan: SplitPlan,
    warnings: list[str] | None = None,
) -> Split:
    """A split of the rows with a label (code >= 0), the same for the same arguments.

    Stratified: each part has the classes in proportion, also where a part has fewer rows than there
    are classes, and every class keeps a row to train on. A part with a fraction above 0 gets a row.
    Rows of one group stay together; then the parts are stratified as far as that leaves possible.

    Args:
        codes: int64 [N], the class of each row, -1 for none.
        classes: The labels, for messages. Empty: the codes are strata of a quantity, none of which
            needs a row to train on.
        plan: The shares of the parts, and what is given of them.
        warnings: Gets a line where there is no test part.

    Raises:
        UserError: A split column with another value or without train rows, a group in two parts of
            it, a class that no split leaves in the training part, and too few groups.
    """
    warnings = [] if warnings is None else warnings
    rows = np.flatnonzero(codes >= 0)
    if plan.given is not None:
        split = _given(rows, plan.given)
        if not len(split.val) and plan.val_fraction > 0:
            train, val, _ = _divide(split.train, codes, replace(plan, test_fraction=0.0))
            split = Split(train, val, split.test)
    else:
        split = Split(*_divide(rows, codes, plan))
    if len(classes):
        _check_classes(split, codes, classes, plan)
    if plan.given is not None and plan.groups is not None:
        _check_groups(split, plan.groups, plan.given)
    if not len(split.test):
        warn(
            warnings,
            "there is no test part; score the run on a table of your own with evaluate --csv",
        )
    return split


def _divide(
    rows: np.ndarray, codes: np.ndarray, plan: SplitPlan
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """train, val, test out of ``rows``."""
    if plan.groups is not None:
        return _divide_groups(rows, codes[rows], plan.groups.codes[rows], plan)
    rng = np.random.default_rng(plan.seed)
    shuffled = rng.permutation(rows)
    kept = shuffled[np.unique(codes[shuffled], return_index=True)[1]]
    free = np.setdiff1d(rows, kept)
    test = _take(free, codes, min(_part_size(plan.test_fraction, len(rows)), len(free)), rng)
    free = np.setdiff1d(free, test)
    val = _take(free, codes, min(_part_size(plan.val_fraction, len(rows)), len(free)), rng)
    return np.setdiff1d(rows, np.concatenate([val, test])), val, test


def _part_size(fraction: float, rows: int) -> int:
    return max(1, round(fraction * rows)) if fraction > 0 else 0


def _take(rows: np.ndarray, codes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` of the rows, stratified."""
    if count == 0 or count == len(rows):
        return rows[:count]
    labels = codes[rows]
    _, sizes = np.unique(labels, return_counts=True)
    if sizes.min() > 1 and min(count, len(rows) - count) >= len(sizes):
        state = int(rng.integers(2**31))
        return np.sort(
            train_test_split(rows, test_size=count, stratify=labels, random_state=state)[1]
        )
    # scikit-learn wants a row of every class in both parts. Where there are not enough, every
    # (len/count)-th row of the rows sorted by class, in random order within and among the classes,
    # has each class within one row of its proportion.
    order = np.lexsort((rng.random(len(rows)), rng.permutation(codes.max() + 1)[labels]))
    steps = np.floor((np.arange(count) + rng.random()) * (len(rows) / count)).astype(np.int64)
    return np.sort(rows[order[np.minimum(steps, len(rows) - 1)]])


def _divide_groups(
    rows: np.ndarray, labels: np.ndarray, group_of: np.ndarray, plan: SplitPlan
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """labels and group_of: int64 [n], of each of the rows."""
    n_groups = len(np.unique(group_of))
    needed = 1 + (plan.val_fraction > 0) + (plan.test_fraction > 0)
    most = min(_MAX_FOLDS, n_groups, int(np.bincount(labels).max()))
    column = f'group column "{plan.groups.column}"' if plan.groups else "groups"
    if most < needed:
        raise UserError(f"{column}: {n_groups} groups are too few to split into {needed} parts")
    if needed == 1:
        return rows, rows[:0], rows[:0]
    k = min(range(needed, most + 1), key=lambda k: (round(_fold_error(plan, k), 9), k))
    folds = _folds(rows, labels, group_of, k, plan.seed)
    n_val, n_test = plan.folds(k)
    part = np.zeros(len(rows), dtype=np.int64)
    for number, some_folds in ((1, folds[:n_val]), (2, folds[n_val : n_val + n_test])):
        part[np.concatenate([np.empty(0, np.int64), *some_folds])] = number
    for label in np.unique(labels):
        if not (part[labels == label] == 0).any():
            # The smallest group with this class goes back to training.
            candidates, counts = np.unique(
                group_of[np.isin(group_of, group_of[labels == label])], return_counts=True
            )
            part[group_of == candidates[np.argmin(counts)]] = 0
    wanted = ((plan.val_fraction, 1, "validation"), (plan.test_fraction, 2, "test"))
    for fraction, number, name in wanted:
        if fraction > 0 and not (part == number).any():
            raise UserError(f"{column}: no group is left for the {name} part ({n_groups} groups)")
    return rows[part == 0], rows[part == 1], rows[part == 2]


def _fold_error(plan: SplitPlan, k: int) -> float:
    """How far the shares of whole folds are from the wanted ones."""
    val, test = plan.folds(k)
    if val + test >= k:
        return np.inf
    return abs(val / k - plan.val_fraction) + abs(test / k - plan.test_fraction)


def _folds(
    rows: np.ndarray, labels: np.ndarray, group_of: np.ndarray, k: int, seed: int
) -> list[np.ndarray]:
    """k folds of positions in ``rows``, the smallest first.

    Folds come out uneven when groups are; the fullest ones are for training.
    """
    with python_warnings.catch_warnings():
        # A class with fewer rows than folds is expected.
        python_warnings.simplefilter("ignore", UserWarning)
        folder = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
        folds = [fold for _, fold in folder.split(rows, labels, group_of)]
    return sorted(folds, key=len)


def _given(rows: np.ndarray, given: GivenParts) -> Split:
    said = [given.parts[row] for row in rows]
    if None in said:
        row = rows[said.index(None)]
        raise UserError(
            f'split column "{given.column}": row {row + 1} says "{given.cells[row] or ""}", not'
            " train, val or test"
        )
    of_row = np.array(said, dtype=object)
    split = Split(*(rows[of_row == part] for part in PARTS))
    if not len(split.train):
        raise UserError(f'split column "{given.column}" has no "train" rows')
    return split


def _check_classes(
    split: Split, codes: np.ndarray, classes: Sequence[str | int], plan: SplitPlan
) -> None:
    absent = [classes[code] for code in np.setdiff1d(np.arange(len(classes)), codes[split.train])]
    if not absent:
        return
    if plan.given is not None:
        by, hint = (
            f'split column "{plan.given.column}"',
            "; leave such rows out with --data.rare-classes drop",
        )
    else:
        by, hint = f'group column "{plan.groups.column}"' if plan.groups else "split", ""
    raise UserError(f"{by}: class {some(absent)} has no row in the training part{hint}")


def _check_groups(split: Split, groups: Groups, given: GivenParts) -> None:
    seen: dict[str, str] = {}
    for part in PARTS:
        for group in {groups.values[row] for row in getattr(split, part)} - {None}:
            if seen.setdefault(group, part) != part:
                raise UserError(
                    f'split column "{given.column}": group "{group}" of "{groups.column}" is in'
                    f" {seen[group]} and in {part}"
                )
