"""Classification: cross-entropy, entropy, and accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score, recall_score
from torch import Tensor, nn
from torch.nn import functional as F

from gaal_fast import ops
from gaal_fast.ops import GuidedStep
from gaal_fast.ops._rule import Rule
from gaal_fast.tasks.base import FUSED, Guide, Predictions, Reduce, Scores, Task

if TYPE_CHECKING:
    import pandas as pd


class Classification(Task):
    """One of Y classes, from logits.

    Args:
        classes: the labels in the order of their codes.
        counts: ``[Y]`` training rows of each class.
        weights: ``[Y]`` float weights of the cross-entropy, or None.
    """

    selections: ClassVar = {
        "auto": "accuracy",
        "accuracy": "accuracy",
        "balanced": "balanced_accuracy",
        "loss": "-nll",
    }
    tie: ClassVar = "-nll"
    epoch_scores: ClassVar = ("accuracy", "balanced_accuracy", "nll")
    words: ClassVar = {
        "accuracy": "accuracy",
        "balanced_accuracy": "balanced accuracy",
        "macro_f1": "macro F1",
        "nll": "NLL (nats)",
        "rows": "rows",
    }
    weights: Tensor | None

    def __init__(
        self, classes: Sequence[str | int], counts: np.ndarray, weights: Tensor | None = None
    ) -> None:
        super().__init__()
        self.classes, self.outputs = tuple(classes), len(classes)
        self.counts = np.asarray(counts, dtype=np.float64)
        self.register_buffer("weights", weights, persistent=False)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy of logits ``[n, Y]``."""
        return F.cross_entropy(output, target, weight=self.weights)

    def uncertainty(self, output: Tensor) -> Tensor:
        """Entropy of the softmax, in nats (equation (6))."""
        return ops.softmax_stats(output)[0]

    def prior(self) -> np.ndarray:
        """The logarithm of the class frequencies of the training rows."""
        return np.log(np.maximum(self.counts / self.counts.sum(), 1e-12))

    def row_losses(self, output: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Cross-entropy of each row of logits."""
        return -_log_softmax(output)[np.arange(len(target)), target]

    def tempered(self, output: np.ndarray, temperature: np.ndarray | float) -> np.ndarray:
        """Logits over the temperature (Guo et al., arXiv 1706.04599)."""
        return output / temperature

    def guided_head_step(
        self,
        head: nn.Linear,
        features: Tensor,
        target: Tensor,
        guide: Guide,
        rule: Rule,
        reduce: Reduce | None = None,
    ) -> GuidedStep:
        """As :meth:`Task.guided_head_step`, on one rank by the fused operation."""
        if reduce is not None:
            return super().guided_head_step(head, features, target, guide, rule, reduce)
        return ops.guided_linear_ce(
            features.detach(),
            target,
            guide.features,
            guide.target,
            head.weight,
            head.bias,
            top_k=guide.top_k,
            class_weights=self.weights,
            **rule._asdict(),
        )

    def probabilities(self, predictions: Predictions) -> np.ndarray:
        """Equation (10): float64 ``[N, Y]``, each row adding up to one."""
        return self.readout(torch.from_numpy(predictions.outputs[FUSED])).numpy()

    def readout(self, output: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        """Probabilities ``[N, Y]`` of logits over the temperature."""
        return torch.log_softmax(output / temperature, dim=1).exp()

    @property
    def readout_columns(self) -> list[str]:
        return [f"probability_{name}" for name in self.classes]

    def columns(self, predictions: Predictions) -> pd.DataFrame:
        """``prediction``, and one probability for each class."""
        import pandas as pd

        table = pd.DataFrame(self.probabilities(predictions), columns=self.readout_columns)
        best = table.to_numpy().argmax(axis=1)
        table.insert(0, "prediction", [self.classes[place] for place in best])
        return table

    def scores(self, predictions: Predictions) -> Scores:
        """accuracy, balanced_accuracy, macro_f1, nll (mean negative log-likelihood in nats) and
        rows (how many were counted).
        """
        table: Scores = {name: {} for name in self.words}
        for name, logits in predictions.outputs.items():
            target = predictions.target_of(name)
            labelled = target >= 0
            target, logits = target[labelled], logits[labelled]
            found = _scores(logits, target) if len(target) else {}
            for score, values in table.items():
                values[name] = len(target) if score == "rows" else found.get(score)
        return table


def _scores(logits: np.ndarray, target: np.ndarray) -> dict[str, float]:
    guess, present = logits.argmax(axis=1), np.unique(target)
    # Balanced accuracy is the recall averaged over the classes that occur.
    recall = recall_score(target, guess, labels=present, average="macro", zero_division=0)
    f1 = f1_score(target, guess, labels=present, average="macro", zero_division=0)
    return {
        "accuracy": float(accuracy_score(target, guess)),
        "balanced_accuracy": float(recall),
        "macro_f1": float(f1),
        "nll": float(-_log_softmax(logits)[np.arange(len(target)), target].mean()),
    }


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    return torch.log_softmax(torch.from_numpy(logits), dim=1).numpy()
