"""Joint learning: one loss on the fused logits, one update of everything (equation (1))."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from gaal_fast.methods.base import SMALLEST_BATCH, HalfStep, Method, TrainingBatch
from gaal_fast.models import FusionModel


class JointLearning(Method):
    """Cross-entropy of the multimodal logits, and a single step of all encoders and the classifier."""

    def __init__(self, model: FusionModel, *, class_weights: Tensor | None = None) -> None:
        super().__init__(model)
        self.class_weights = class_weights

    def training_step(self, batch: TrainingBatch, optimizer: Optimizer) -> list[HalfStep]:
        usable = {m: len(batch.rows[m]) >= SMALLEST_BATCH for m in self.model.modalities}
        if not any(usable.values()):
            return []
        rows = {m: batch.rows[m] if usable[m] else batch.rows[m][:0] for m in usable}
        logits = self.model.predict_logits(batch.inputs, rows, len(batch.target))["fused"]
        target = batch.target
        if not any(len(rows[m]) == len(target) for m in usable):
            # Only rows with something to go by count; the loss of the others would train the bias
            # alone.
            seen = torch.cat([rows[m] for m in usable]).unique()
            logits, target = logits[seen], target[seen]
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(logits, target, weight=self.class_weights)
        loss.backward()
        optimizer.step()
        return [HalfStep("fused", loss.detach())]
