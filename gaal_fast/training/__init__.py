"""The loop around a method: epochs, evaluation, checkpoints, logs and images."""

from gaal_fast.errors import Interrupted
from gaal_fast.training.evaluation import Predictions, predict, scores
from gaal_fast.training.trainer import Trainer

__all__ = ["Interrupted", "Predictions", "Trainer", "predict", "scores"]
