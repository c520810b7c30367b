"""The model of the paper: encoders of one width under one shared linear head."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from gaal_fast.config import MethodConfig, ModelConfig
from gaal_fast.data.batch import Batch, InputSpec
from gaal_fast.methods.base import Method
from gaal_fast.models import build_encoders
from gaal_fast.tasks import FUSED, Task


class SharedHead(Method):
    """Encoders phi^m of one width d under one shared linear classifier psi (paper, section III-B).

    The fused output is that of the task: for classes the mean of the logits (equation (10)).
    """

    def __init__(
        self, options: MethodConfig, task: Task, inputs: Mapping[str, InputSpec], model: ModelConfig
    ) -> None:
        super().__init__(options, task, inputs, model)
        self.encoders = build_encoders(inputs, model)
        self.head = nn.Linear(self.encoders.width, task.outputs)

    def features(self, name: str, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features ``[n, d]`` of the rows that have a modality, and their targets."""
        view = batch.views[name]
        return self.encoders(name, view.values), batch.target[view.rows]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        outputs = {
            name: self.head(self.features(name, batch)[0])
            for name in self.modalities
            if len(batch.views[name].rows)
        }
        return {**outputs, FUSED: self.task.fuse(outputs, batch)}
