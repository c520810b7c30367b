"""A method of the user's own: a teacher first, then a model that follows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from pydantic import Field
from torch.nn import functional as F

from gaal_fast.config import MethodConfig, ModelConfig
from gaal_fast.data.batch import Batch, InputSpec
from gaal_fast.methods import Phase, SharedHead, Update, method
from gaal_fast.tasks import FUSED, Task


@method("toy", paper="nowhere")
class Toy(SharedHead):
    """Distillation of a fused teacher."""

    class Options(MethodConfig):
        weight: float = Field(0.5, ge=0, description="weight of the distance to the teacher")
        lessons: int = Field(1, ge=1, description="epochs of the teacher")

    def __init__(
        self, options: Options, task: Task, inputs: Mapping[str, InputSpec], model: ModelConfig
    ) -> None:
        super().__init__(options, task, inputs, model)
        self.weight, self.lessons = options.weight, options.lessons
        self.teacher = SharedHead(options, task, inputs, model)
        self.register_buffer("rows_seen", torch.zeros(()))

    def phases(self) -> list[Phase]:
        return [
            Phase("teacher", self.teach, [self.teacher], epochs=self.lessons, selects=False),
            Phase("student", self.step, [self.encoders, self.head], views=1),
        ]

    def start_epoch(self, phase: Phase, epoch: int, rows: Iterable[Batch]) -> None:
        for batch in rows:
            self.rows_seen += len(batch)

    def teach(self, batch: Batch, update: Update) -> None:
        update("teacher", self.task.loss(self.teacher(batch)[FUSED], batch.target))

    def step(self, batch: Batch, update: Update) -> None:
        self.teacher.eval()
        with torch.no_grad():
            word = self.teacher(batch)[FUSED]
        output = self(batch)[FUSED]
        distance = F.mse_loss(output, word)
        loss = self.task.loss(output, batch.target) + self.weight * distance
        update(FUSED, loss, distance=distance.detach())
