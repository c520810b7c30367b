"""What is predicted: the loss, the uncertainty, the fusion and the scores of it."""

from __future__ import annotations

from gaal_fast.tasks.base import FUSED, Guide, Predictions, Scores, Task
from gaal_fast.tasks.classification import Classification
from gaal_fast.tasks.regression import Regression

__all__ = ["FUSED", "Classification", "Guide", "Predictions", "Regression", "Scores", "Task"]
