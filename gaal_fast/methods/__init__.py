"""How a batch becomes parameter updates: one class a way of training."""

from gaal_fast.methods.alternating import AlternatingLearning
from gaal_fast.methods.base import HalfStep, Method, TrainingBatch
from gaal_fast.methods.factory import build_method
from gaal_fast.methods.joint import JointLearning

__all__ = [
    "AlternatingLearning",
    "HalfStep",
    "JointLearning",
    "Method",
    "TrainingBatch",
    "build_method",
]
