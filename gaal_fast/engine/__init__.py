"""The loop around a method: epochs, evaluation, checkpoints, logs and images.

What is named here is imported at its first use: it needs torch, for which ``--help`` does not wait.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaal_fast.engine.evaluation import predict_batches
    from gaal_fast.engine.inference import TrainedRun, confusion_counts
    from gaal_fast.engine.trainer import Trainer

_PLACES = {
    "TrainedRun": "inference",
    "Trainer": "trainer",
    "confusion_counts": "inference",
    "predict_batches": "evaluation",
}

__all__ = ["TrainedRun", "Trainer", "confusion_counts", "predict_batches"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value
