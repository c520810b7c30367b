"""Predictions over a whole data set, and the scores read off them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score, recall_score

from gaal_fast.models import FusionModel

MULTI = "multi"


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    return torch.log_softmax(torch.from_numpy(logits), dim=1).numpy()


@dataclass
class Predictions:
    """Logits for N rows in data order.

    ``logits[m]`` is float64 ``[n_m, Y]`` for the rows ``rows[m]`` (int64 ``[n_m]``) that have
    modality m, and ``logits["multi"]`` ``[N, Y]`` for all of them.
    """

    logits: dict[str, np.ndarray]
    rows: dict[str, np.ndarray]
    target: np.ndarray
    issues: list[Any] = field(default_factory=list)

    @property
    def probabilities(self) -> np.ndarray:
        """Equation (10): float64 ``[N, Y]``, each row adding up to one."""
        return np.exp(_log_softmax(self.logits[MULTI]))

    def used_modalities(self) -> list[str]:
        """For each row the modalities it was predicted from, joined by ``+``, or ``none``."""
        names: list[list[str]] = [[] for _ in range(len(self.target))]
        for modality, rows in self.rows.items():
            for row in rows:
                names[row].append(modality)
        return ["+".join(found) or "none" for found in names]


@torch.no_grad()
def predict(
    model: FusionModel, batches: Iterable[Any], *, device: torch.device, prior: np.ndarray
) -> Predictions:
    """Run ``model`` in evaluation mode over ``batches`` (of ``gaal_fast.data.Batch``, in data
    order).

    A row with no modality at all gets ``prior``, the class frequencies ``[Y]`` of the training
    rows. The model's mode is put back.
    """
    was_training = model.training
    model.eval()
    logits: dict[str, list[torch.Tensor]] = {m: [] for m in (*model.modalities, MULTI)}
    rows: dict[str, list[torch.Tensor]] = {m: [] for m in model.modalities}
    target, issues, seen = [], [], 0
    for batch in batches:
        issues += batch.issues
        batch = batch.to(device)
        for name, values in model.predict_logits(
            batch.inputs, batch.rows, len(batch.target)
        ).items():
            logits[name].append(values.cpu())
        for name in model.modalities:
            rows[name].append(batch.rows[name].cpu() + seen)
        target.append(batch.target.cpu())
        seen += len(batch.target)
    model.train(was_training)
    classes = len(prior)
    found = {
        name: (torch.cat(parts) if parts else torch.zeros(0, classes)).double().numpy()
        for name, parts in logits.items()
    }
    places = {
        name: (torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)).numpy()
        for name, parts in rows.items()
    }
    blind = np.setdiff1d(np.arange(seen), np.concatenate(list(places.values())))
    found[MULTI][blind] = np.log(np.maximum(prior, 1e-12))
    return Predictions(
        found, places, torch.cat(target).numpy() if target else np.zeros(0, np.int64), issues
    )


def scores(predictions: Predictions) -> dict[str, dict[str, float | int | None]]:
    """``{score: {multi | modality: value}}`` for rows with a known target; a modality that no row
    has scores None.

    Scores: accuracy, balanced_accuracy, macro_f1, nll (mean negative log-likelihood in nats) and
    rows (how many were counted).
    """
    table: dict[str, dict[str, float | int | None]] = {
        name: {} for name in ("accuracy", "balanced_accuracy", "macro_f1", "nll", "rows")
    }
    for name, logits in predictions.logits.items():
        target = predictions.target if name == MULTI else predictions.target[predictions.rows[name]]
        labelled = target >= 0
        target, logits = target[labelled], logits[labelled]
        table["rows"][name] = len(target)
        if not len(target):
            for score in ("accuracy", "balanced_accuracy", "macro_f1", "nll"):
                table[score][name] = None
            continue
        guess = logits.argmax(axis=1)
        present = np.unique(target)
        table["accuracy"][name] = float(accuracy_score(target, guess))
        # Balanced accuracy is the recall averaged over the classes that occur.
        recall = recall_score(target, guess, labels=present, average="macro", zero_division=0)
        table["balanced_accuracy"][name] = float(recall)
        table["macro_f1"][name] = float(
            f1_score(target, guess, labels=present, average="macro", zero_division=0)
        )
        table["nll"][name] = float(-_log_softmax(logits)[np.arange(len(target)), target].mean())
    return table
