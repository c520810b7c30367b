"""The task of a data set, and that of a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gaal_fast.config import Config
from gaal_fast.data import FusionData
from gaal_fast.tasks import Classification, Regression, Task


def task_of(data: FusionData, config: Config) -> Task:
    """Regression where the target has floating values, else classification."""
    if data.target.dtype.kind != "f":
        return Classification(data.classes, data.class_counts, data.class_weights)
    target = data.train.target[data.train.rows]
    return Regression(target.shape[1], config.task.loss).fit(target)


def stored_task(facts: Mapping[str, Any], classes: Sequence[str | int], config: Config) -> Task:
    """The task of a finished run; what it was fitted to is among the run's weights.

    Args:
        facts: what the run folder's ``data.json`` holds.
        classes: the labels, of a classification.
        config: the run's configuration.
    """
    if "targets" in facts:
        return Regression(int(facts["targets"]), config.task.loss)
    return Classification(classes, np.asarray(facts["class_counts"], dtype=np.float64))
