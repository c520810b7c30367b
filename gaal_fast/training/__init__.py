"""The loop around a method: epochs, evaluation, checkpoints, logs and pictures."""

from gaal_fast.training.evaluation import Predictions, predict, scores
from gaal_fast.training.trainer import Interrupted, Trainer

__all__ = ["Interrupted", "Predictions", "Trainer", "predict", "scores"]
