"""The target of a training table, of either task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from gaal_fast.config import DataConfig
from gaal_fast.data.issues import DataIssue, warn
from gaal_fast.data.part_words import GivenParts
from gaal_fast.data.quantities import TaskName, decide_task, read_quantity
from gaal_fast.data.tables.cells import to_texts
from gaal_fast.data.tables.numbers import NumberColumns
from gaal_fast.data.tables.schema import TargetScale
from gaal_fast.data.targets import NO_LABEL, NO_LABEL_REASON, Target, keep_trained, read_target
from gaal_fast.errors import UserError


@dataclass(frozen=True, eq=False)
class Labels:
    """What each row is to be predicted as.

    Attributes:
        task: Classes or a quantity.
        column: The target column.
        codes: int64 [N], the class, or the stratum of the quantity; -1 where there is none.
        classes: The labels of the classes; empty for a quantity.
        values: float64 [N] of a quantity, NaN where there is none; None for classes.
        parts: What the split column says, None without one.
        issues: The rows without a usable label.
        decided: What was decided about the task, for the console; "" for nothing.
    """

    task: TaskName
    column: str
    codes: np.ndarray
    classes: tuple[str | int, ...]
    values: np.ndarray | None
    parts: GivenParts | None
    issues: list[DataIssue]
    decided: str

    @property
    def known(self) -> np.ndarray:
        """bool [N]: rows with a label."""
        return self.codes != NO_LABEL

    def scale(self, train: np.ndarray) -> TargetScale | None:
        """The scale of a quantity over the training rows (int64), None for classes."""
        if self.values is None:
            return None
        return TargetScale.of(self.values[train], self.column)

    @property
    def target(self) -> np.ndarray:
        """[N] int64 class codes, or the float64 values of a quantity."""
        return self.codes if self.values is None else self.values


def read_labels(
    frame: pd.DataFrame,
    column: str,
    split_column: str | None,
    config: DataConfig,
    numbers: NumberColumns,
    warnings: list[str],
) -> Labels:
    """The labels of a training table, and the parts that its split column says.

    Raises:
        UserError: The target is not of the task that is asked for, or an option of classes is given
            for a quantity.
    """
    task, decided = decide_task(frame[column], config.task, numbers)
    values: np.ndarray | None = None
    if task == "regression":
        _check_no_class_options(config, decided)
        quantity = read_quantity(frame[column], numbers, warnings)
        values = quantity.values
        target = Target((), quantity.strata, quantity.issues)
    else:
        target = read_target(frame[column], column, config.rare_classes, warnings)
    parts = None
    if split_column is not None:
        cells, rows = to_texts(frame[split_column]), np.flatnonzero(target.codes != NO_LABEL)
        parts = GivenParts.read(cells.tolist(), split_column, rows, warnings)
        if task == "classification" and config.rare_classes == "drop":
            target = keep_trained(target, column, parts.parts, warnings)
    issues = list(target.issues)
    unlabelled = sum(issue.reason == NO_LABEL_REASON for issue in issues)
    if unlabelled:
        warn(
            warnings,
            f'{unlabelled} rows have no value in the target column "{column}" and are left out',
        )
    return Labels(task, column, target.codes, target.classes, values, parts, issues, decided)


def _check_no_class_options(config: DataConfig, decided: str) -> None:
    for key, default in (("rare_classes", "error"), ("class_weights", "none")):
        if getattr(config, key) != default:
            why = f"; {decided}" if decided else ""
            raise UserError(
                f"is about classes, and the target is a quantity{why}",
                key=f"data.{key.replace('_', '-')}",
            )
