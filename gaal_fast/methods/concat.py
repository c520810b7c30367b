"""Joint learning on concatenated features: one loss on the fused output, one update of everything
(equation (1)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gaal_fast.config import MethodConfig, ModelConfig
from gaal_fast.data.batch import Batch, InputSpec
from gaal_fast.methods.base import SMALLEST_BATCH, Method, Update, method
from gaal_fast.models import build_encoders
from gaal_fast.tasks import FUSED, Task


@method("concat", paper="arXiv 2604.01579, CF in Table I")
class Concat(Method):
    """Joint training of all modalities, their features concatenated.

    Late fusion z = W [u^1; u^2; ...] + b. A modality alone is read off its slice of W with its
    share of the bias, so that the unimodal outputs add up to z.
    """

    def __init__(
        self, options: MethodConfig, task: Task, inputs: Mapping[str, InputSpec], model: ModelConfig
    ) -> None:
        super().__init__(options, task, inputs, model)
        self.encoders = build_encoders(inputs, model)
        self.head = nn.Linear(self.encoders.width * len(inputs), task.outputs)

    def step(self, batch: Batch, update: Update) -> None:
        """One loss on the fused output, one step of all encoders and the classifier."""
        usable = [m for m in self.modalities if len(batch.views[m].rows) >= SMALLEST_BATCH]
        if not usable:
            return
        output, target = self._outputs(batch, usable)[FUSED], batch.target
        rows = [batch.views[name].rows for name in usable]
        if all(len(some) < len(batch) for some in rows):
            # Only rows with something to go by count; the loss of the others would train the bias
            # alone.
            seen = torch.cat(rows).unique()
            output, target = output[seen], target[seen]
        update(FUSED, self.task.loss(output, target))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self._outputs(batch, [m for m in self.modalities if len(batch.views[m].rows)])

    def _outputs(self, batch: Batch, names: Sequence[str]) -> dict[str, Tensor]:
        outputs = {name: self._unimodal(name, batch) for name in names}
        fused = self.head.weight.new_zeros(len(batch), self.head.out_features)
        for name, values in outputs.items():
            fused = fused.index_add(0, batch.views[name].rows, values)
        return {**outputs, FUSED: fused}

    def _unimodal(self, name: str, batch: Batch) -> Tensor:
        features = self.encoders(name, batch.views[name].values)
        start = self.modalities.index(name) * self.encoders.width
        weight = self.head.weight[:, start : start + self.encoders.width]
        return nn.functional.linear(features, weight, self.head.bias / len(self.modalities))
