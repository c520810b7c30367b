"""Divides the rows into train, validation and test parts."""

import hashlib
import warnings as python_warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from gaal_fast.data.issues import some, warn
from gaal_fast.data.part_words import read_parts
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
    def from_frame(cls, frame: pd.DataFrame) -> "Split":
        """The inverse of `to_frame`. Raises ValueError if the table is no split."""
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
    """Reads split.csv back. Raises UserError if it is damaged, or is not the split with
    `expected_hash`.
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


def make_split(
    codes: np.ndarray,
    classes: Sequence[str | int],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int = 0,
    parts: Sequence[str | None] | None = None,
    parts_column: str = "",
    groups: Sequence[str | None] | None = None,
    groups_column: str = "",
    warnings: list[str] | None = None,
) -> Split:
    """A split of the rows with a label (code >= 0), the same for the same arguments.

    codes: int64 [N], the class of each row, -1 for none. Stratified: each part has the classes in
    proportion, also where a part has fewer rows than there are classes, and every class keeps a row
    to train on. A part with a fraction above 0 gets a row. parts: what each row's split column
    says, in the words of `read_parts`; without val rows, the validation part is taken from the
    training part, as `val_fraction` of it. There is no test part where the column says so, or where
    `test_fraction` is 0. groups: rows with equal group stay together, a row without a group is its
    own; stratified as far as that leaves possible. Raises UserError for a split column with another
    value or without train rows, a group in two parts of it, a class that no split leaves in the
    training part, and too few groups.
    """
    warnings = [] if warnings is None else warnings
    rows = np.flatnonzero(codes >= 0)
    group_of = _group_codes(groups, len(codes)) if groups is not None else None
    if parts is not None:
        split = _given(rows, parts, parts_column, warnings)
        if not len(split.val) and val_fraction > 0:
            train, val, _ = _divide(
                split.train, codes, group_of, groups_column, val_fraction, 0.0, seed
            )
            split = Split(train, val, split.test)
    else:
        split = Split(
            *_divide(rows, codes, group_of, groups_column, val_fraction, test_fraction, seed)
        )
    _check(split, codes, classes, groups, parts_column, groups_column)
    if not len(split.test):
        warn(
            warnings,
            "there is no test part; score the run on a table of your own with evaluate --csv",
        )
    return split


def _divide(
    rows: np.ndarray,
    codes: np.ndarray,
    group_of: np.ndarray | None,
    groups_column: str,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """train, val, test out of `rows`."""
    if group_of is not None:
        return _divide_groups(
            rows, codes[rows], group_of[rows], groups_column, val_fraction, test_fraction, seed
        )
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(rows)
    kept = shuffled[np.unique(codes[shuffled], return_index=True)[1]]
    free = np.setdiff1d(rows, kept)
    test = _take(free, codes, min(_part_size(test_fraction, len(rows)), len(free)), rng)
    free = np.setdiff1d(free, test)
    val = _take(free, codes, min(_part_size(val_fraction, len(rows)), len(free)), rng)
    return np.setdiff1d(rows, np.concatenate([val, test])), val, test


def _part_size(fraction: float, rows: int) -> int:
    return max(1, round(fraction * rows)) if fraction > 0 else 0


def _take(rows: np.ndarray, codes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of the rows, stratified."""
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
    rows: np.ndarray,
    labels: np.ndarray,
    group_of: np.ndarray,
    column: str,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n_groups = len(np.unique(group_of))
    needed = 1 + (val_fraction > 0) + (test_fraction > 0)
    most = min(_MAX_FOLDS, n_groups, int(np.bincount(labels).max()))
    if most < needed:
        raise UserError(
            f'group column "{column}": {n_groups} groups are too few to split into {needed} parts'
        )
    if needed == 1:
        return rows, rows[:0], rows[:0]

    def folds_of(fraction: float, k: int) -> int:
        return max(1, round(fraction * k)) if fraction > 0 else 0

    def error_of(k: int) -> float:
        val, test = folds_of(val_fraction, k), folds_of(test_fraction, k)
        return (
            abs(val / k - val_fraction) + abs(test / k - test_fraction)
            if val + test < k
            else np.inf
        )

    k = min(range(needed, most + 1), key=lambda k: (round(error_of(k), 9), k))
    with python_warnings.catch_warnings():
        python_warnings.simplefilter(
            "ignore", UserWarning
        )  # a class with fewer rows than folds is expected
        folder = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
        folds = [fold for _, fold in folder.split(rows, labels, group_of)]
    # Folds come out uneven when groups are; the fullest ones are for training.
    folds.sort(key=len)
    n_val, n_test = folds_of(val_fraction, k), folds_of(test_fraction, k)
    part = np.zeros(len(rows), dtype=np.int64)
    part[np.concatenate([*folds[:n_val], np.empty(0, np.int64)]).astype(np.int64)] = 1
    part[
        np.concatenate([*folds[n_val : n_val + n_test], np.empty(0, np.int64)]).astype(np.int64)
    ] = 2
    for label in np.unique(labels):
        if not (part[labels == label] == 0).any():
            # The smallest group with this class goes back to training.
            candidates, counts = np.unique(
                group_of[np.isin(group_of, group_of[labels == label])], return_counts=True
            )
            part[group_of == candidates[np.argmin(counts)]] = 0
    for wanted, number, name in ((val_fraction, 1, "validation"), (test_fraction, 2, "test")):
        if wanted > 0 and not (part == number).any():
            raise UserError(
                f'group column "{column}": no group is left for the {name} part ({n_groups} groups)'
            )
    return rows[part == 0], rows[part == 1], rows[part == 2]


def _given(
    rows: np.ndarray, parts: Sequence[str | None], column: str, warnings: list[str]
) -> Split:
    said = read_parts([parts[row] for row in rows], column, warnings)
    if None in said:
        row = rows[said.index(None)]
        value = parts[row] if parts[row] is not None else ""
        raise UserError(
            f'split column "{column}": row {row + 1} says "{value}", not train, val or test'
        )
    of_row = np.array(said, dtype=object)
    split = Split(*(rows[of_row == part] for part in PARTS))
    if not len(split.train):
        raise UserError(f'split column "{column}" has no "train" rows')
    return split


def _group_codes(groups: Sequence[str | None], rows: int) -> np.ndarray:
    codes, _ = pd.factorize(np.asarray(groups, dtype=object))
    alone = codes < 0
    return np.where(alone, codes.max(initial=-1) + 1 + np.arange(rows), codes)


def _check(
    split: Split,
    codes: np.ndarray,
    classes: Sequence[str | int],
    groups: Sequence[str | None] | None,
    parts_column: str,
    groups_column: str,
) -> None:
    absent = [classes[code] for code in np.setdiff1d(np.arange(len(classes)), codes[split.train])]
    if absent:
        by = f'split column "{parts_column}"' if parts_column else f'group column "{groups_column}"'
        hint = "; leave such rows out with --data.rare-classes drop"
        raise UserError(
            f"{by}: class {some(absent)} has no row in the training"
            f" part{hint if parts_column else ''}"
        )
    if groups is not None:
        seen: dict[str, str] = {}
        for part in PARTS:
            for group in {groups[row] for row in getattr(split, part)} - {None}:
                if seen.setdefault(group, part) != part:
                    raise UserError(
                        f'split column "{parts_column}": group "{group}" of "{groups_column}" is in'
                        f" {seen[group]} and in {part}"
                    )
