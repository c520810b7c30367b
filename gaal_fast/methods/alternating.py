"""Alternating unimodal learning with a shared classifier, and GAAL's surgery on its gradient
(Algorithm 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from gaal_fast import ops
from gaal_fast.methods.base import SMALLEST_BATCH, HalfStep, Method, TrainingBatch
from gaal_fast.models import SharedHeadModel


@dataclass(frozen=True)
class SurgeryOptions:
    """How the head's gradient is repaired.

    ``fractions`` maps a modality to the share lambda in (0, 1] of its rows that guide the others,
    most uncertain first (equation (7)); ``None`` selects every row. ``projection`` holds the
    keyword arguments of ``gaal_fast.ops.project_``. ``guide`` says where the guiding features come
    from: ``fresh`` recomputes them with the newest weights (the paper), ``cached`` takes those that
    the guiding modality had when its own turn came last, with their targets, and saves that forward
    pass.
    """

    fractions: Mapping[str, float] | None
    projection: Mapping[str, Any]
    guide: Literal["fresh", "cached"] = "fresh"


class AlternatingLearning(Method):
    """One modality after the other updates its encoder and the shared head, on every batch.

    With ``surgery`` this is GAAL: before the head moves, its gradient g is repaired with the
    gradient g_p that the modality before it in ``order`` (cyclically) has on its most uncertain
    rows. With ``surgery=None`` it is plain alternating learning, the first row of Table II; with
    one modality, unimodal learning.

    A turn costs one forward and one backward pass of the active encoder and at most one forward
    pass of the guiding one. Encoders that do not have their turn have no gradient, so neither their
    parameters nor the optimiser's state of them move. A modality that fewer than two rows of a
    batch have skips its turn there, since batch normalisation could not be computed.
    """

    def __init__(
        self,
        model: SharedHeadModel,
        *,
        order: Sequence[str],
        surgery: SurgeryOptions | None = None,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__(model)
        if sorted(order) != sorted(model.modalities):
            raise ValueError(f"order must name each of {model.modalities} once, got {list(order)}")
        self.order = list(order)
        self.surgery = surgery if len(self.order) > 1 else None
        self.class_weights = class_weights
        self._last_turn: dict[str, tuple[Tensor, Tensor]] = {}

    def training_step(self, batch: TrainingBatch, optimizer: Optimizer) -> list[HalfStep]:
        turns = [m for m in self.order if len(batch.rows[m]) >= SMALLEST_BATCH]
        return [self._turn(name, batch, optimizer) for name in turns]

    def _turn(self, name: str, batch: TrainingBatch, optimizer: Optimizer) -> HalfStep:
        model = self.model
        features, target = self._features(name, batch)
        guide = self._guide(name, batch) if self.surgery else None
        optimizer.zero_grad(set_to_none=True)
        if guide is None:
            loss = F.cross_entropy(model.head(features), target, weight=self.class_weights)
            loss.backward()
            report = HalfStep(name, loss.detach())
        else:
            report = self._guided_backward(name, features, target, *guide)
        optimizer.step()
        if self.surgery and self.surgery.guide == "cached":
            self._last_turn[name] = features.detach(), target
        return report

    def _guided_backward(
        self,
        name: str,
        features: Tensor,
        target: Tensor,
        guide: str,
        guide_features: Tensor,
        guide_target: Tensor,
    ) -> HalfStep:
        """Equations (2)-(8): leave the raw gradient in the active encoder and the repaired one in
        the head.
        """
        head, options = self.model.head, self.surgery
        step = ops.guided_linear_ce(
            features.detach(),
            target,
            guide_features,
            guide_target,
            head.weight,
            head.bias,
            top_k=self._guiding_rows(guide, len(guide_target)),
            class_weights=self.class_weights,
            **options.projection,
        )
        features.backward(step.grad_features)
        head.weight.grad, head.bias.grad = step.grad_weight, step.grad_bias
        dot, guide_norm2, grad_norm2 = (
            step.projection.dot,
            step.projection.guide_norm2,
            step.projection.grad_norm2,
        )
        return HalfStep(name, step.loss, dot / (guide_norm2 * grad_norm2).sqrt(), step.projection.v)

    def _features(self, name: str, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        return self.model.encode(name, batch.inputs[name]), batch.target[batch.rows[name]]

    def _guide(self, name: str, batch: TrainingBatch) -> tuple[str, Tensor, Tensor] | None:
        """The guiding modality with its features and targets; None where this batch has no rows of
        it.
        """
        guide = self.order[self.order.index(name) - 1]
        if self.surgery.guide == "cached" and guide in self._last_turn:
            return guide, *self._last_turn[guide]
        if len(batch.rows[guide]) < SMALLEST_BATCH:
            return None
        # Train mode on purpose: Algorithm 1 uses one and the same forward pass, and its statistics
        # move once for each.
        with torch.no_grad():
            return guide, *self._features(guide, batch)

    def _guiding_rows(self, guide: str, rows: int) -> int:
        """k = max(1, floor(lambda B)); the small term keeps 0.7 * 10 from being read as 6.999..."""
        fractions = self.surgery.fractions
        return rows if fractions is None else max(1, int(fractions[guide] * rows + 1e-9))

    def state_dict(self) -> dict[str, Any]:
        return {"last_turn": {name: list(pair) for name, pair in self._last_turn.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = self.model.head.weight.device
        self._last_turn = {
            name: (features.to(device), target.to(device))
            for name, (features, target) in state["last_turn"].items()
        }
