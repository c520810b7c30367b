"""Alternating unimodal learning with a shared classifier, without surgery."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from gaal_fast.config import MethodConfig, ModelConfig, Names
from gaal_fast.data.batch import Batch, InputSpec
from gaal_fast.errors import UserError
from gaal_fast.methods.base import SMALLEST_BATCH, Update, method
from gaal_fast.methods.shared_head import SharedHead
from gaal_fast.tasks import Task


@method("alternating", paper="arXiv 2604.01579, first row of Table II")
class Alternating(SharedHead):
    """Alternating learning without surgery.

    One modality after the other updates its encoder and the shared head, on every batch. Encoders
    that do not have their turn have no gradient, so neither their parameters nor the optimizer's
    state of them move. A modality that fewer than two rows of a batch have skips its turn there,
    since batch normalization could not be computed.
    """

    class Options(MethodConfig):
        order: Names | None = Field(
            None, description="order in which the modalities take their turn; none: the data's"
        )

    def __init__(
        self, options: Options, task: Task, inputs: Mapping[str, InputSpec], model: ModelConfig
    ) -> None:
        super().__init__(options, task, inputs, model)
        self.order = options.order or self.modalities
        if sorted(self.order) != sorted(self.modalities):
            names = " and ".join(self.modalities)
            given = ",".join(self.order)
            raise UserError(f"must name {names}, once each, got {given}", key="method.order")

    def step(self, batch: Batch, update: Update) -> None:
        """A turn of every modality that the batch has."""
        for name in self.order:
            if len(batch.views[name].rows) >= SMALLEST_BATCH:
                self.turn(name, batch, update)

    def turn(self, name: str, batch: Batch, update: Update) -> None:
        """Update one encoder and the head by the modality's own loss (equation (1))."""
        features, target = self.features(name, batch)
        update(name, self.task.loss(self.head(features), target))
