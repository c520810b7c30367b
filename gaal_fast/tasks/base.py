"""What a task is, and what its predictions look like."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from gaal_fast.data.batch import Batch, DataIssue
from gaal_fast.errors import UserError
from gaal_fast.ops import GuidedStep
from gaal_fast.ops._rule import Rule
from gaal_fast.surgery import align_

if TYPE_CHECKING:
    import pandas as pd

# What the prediction from all modalities together is called, beside the modalities' names.
FUSED = "fused"
# ``{score: {fused | modality: value}}``; None where no row has the modality.
Scores = dict[str, dict[str, float | int | None]]
# Averages tensors over the ranks, in place.
Reduce = Callable[[Sequence[Tensor]], None]


@dataclass(frozen=True)
class Guide:
    """The modality that guides another one's step.

    Attributes:
        features: ``[P, d]``, without a gradient.
        target: ``[P]`` or ``[P, t]``.
        top_k: how many of the rows guide, most uncertain first (equation (7)).
    """

    features: Tensor
    target: Tensor
    top_k: int


@dataclass
class Predictions:
    """Outputs for N rows in data order.

    Attributes:
        outputs: float64 ``[n_m, outputs]`` by modality, for the rows that have it, and ``"fused"``
            ``[N, outputs]`` for all of them.
        rows: int64 ``[n_m]`` by modality, ascending.
        target: ``[N]`` int64, -1 where unknown; or ``[N, t]`` float64, NaN where unknown.
        issues: images that turned out to be broken.
    """

    outputs: dict[str, np.ndarray]
    rows: dict[str, np.ndarray]
    target: np.ndarray
    issues: list[DataIssue] = field(default_factory=list)

    def target_of(self, name: str) -> np.ndarray:
        """The targets of the rows that ``outputs[name]`` is about."""
        return self.target if name == FUSED else self.target[self.rows[name]]

    def used_modalities(self) -> list[str]:
        """For each row the modalities it was predicted from, joined by ``+``, or ``none``."""
        names: list[list[str]] = [[] for _ in range(len(self.target))]
        for modality, rows in self.rows.items():
            for row in rows:
                names[row].append(modality)
        return ["+".join(found) or "none" for found in names]


class Task(nn.Module, ABC):
    """What is predicted. Buffers, such as the scale of a target, belong to the model's state.

    Attributes:
        outputs: numbers that a head puts out for a row.
        selections: what ``train.select`` may name, with the score it stands for; ``"auto"`` is what
            early stopping measures by default. A score that begins with ``-`` is to be small.
        tie: the score that chooses between equally good epochs, of the same form.
        epoch_scores: the scores that metrics.csv holds for every epoch.
        words: the scores in words, in the order in which tables show them.
    """

    outputs: int
    selections: ClassVar[Mapping[str, str]]
    tie: ClassVar[str]
    epoch_scores: ClassVar[Sequence[str]]
    words: ClassVar[Mapping[str, str]]

    @property
    def score(self) -> str:
        """The score that selection, early stopping and comparisons go by."""
        return self.selections["auto"].removeprefix("-")

    @property
    def higher_is_better(self) -> bool:
        """Whether a large ``score`` is a good one."""
        return not self.selections["auto"].startswith("-")

    def selection(self, select: str) -> str:
        """The score that ``train.select`` stands for, with a ``-`` where less is better.

        Raises:
            UserError: It names nothing that this task has.
        """
        if select not in self.selections:
            known = ", ".join(self.selections)
            what = type(self).__name__.lower()
            raise UserError(f"must be one of {known} for {what}, got {select}", key="train.select")
        return self.selections[select]

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean loss, 0-d, of outputs ``[n, outputs]``."""

    @abstractmethod
    def uncertainty(self, output: Tensor) -> Tensor | None:
        """How uncertain each row is, ``[n]`` float; None where the outputs do not say."""

    @abstractmethod
    def scores(self, predictions: Predictions) -> Scores:
        """The scores of every modality and of ``"fused"``, over the rows with a known target."""

    @abstractmethod
    def columns(self, predictions: Predictions) -> pd.DataFrame:
        """What ``predict`` writes of each row."""

    @property
    @abstractmethod
    def readout_columns(self) -> list[str]:
        """The numbers among those columns, in order."""

    @abstractmethod
    def readout(self, output: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        """Those numbers, ``[N, columns]`` float. The only place that computes them, for ``predict``
        and for an exported model.

        Args:
            output: fused ``[N, outputs]``.
            temperature: how much less sure than the outputs the numbers are; one for all rows, or
                ``[N, 1]``.
        """

    @property
    def readout_unit(self) -> Tensor:
        """``[columns]`` float64, in units of which two readouts are compared."""
        return torch.ones(len(self.readout_columns), dtype=torch.float64)

    @abstractmethod
    def row_losses(self, output: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The negative log-likelihood of each row ``[n]``, unweighted, in nats; where the outputs
        give no likelihood, half the squared error.

        Args:
            output: float64 ``[n, outputs]``.
            target: ``[n]`` or ``[n, t]``, all of them known.
        """

    @property
    def has_temperature(self) -> bool:
        """Whether ``tempered`` changes how sure the outputs are."""
        return True

    @abstractmethod
    def tempered(self, output: np.ndarray, temperature: np.ndarray | float) -> np.ndarray:
        """Outputs ``[n, outputs]`` made less sure (above 1) or surer (below), with the same
        prediction.

        Args:
            output: float64 ``[n, outputs]``.
            temperature: One for all rows, or ``[n, 1]``.
        """

    @abstractmethod
    def prior(self) -> np.ndarray:
        """Float64 ``[outputs]``, the output for a row that has no modality."""

    def fuse(self, outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """The prediction of all modalities together: their mean, over those that a row has
        (equation (10)).

        Args:
            outputs: ``[n_m, outputs]`` by modality; one that no row has may be left out.
            batch: says which rows have which modality.

        Returns:
            ``[B, outputs]``, zeros for a row that has none.
        """
        if not outputs:
            return torch.zeros(len(batch), self.outputs, device=batch.target.device)
        like = next(iter(outputs.values()))
        total = like.new_zeros(len(batch), self.outputs)
        present = like.new_zeros(len(batch), 1)
        for name, values in outputs.items():
            rows = batch.views[name].rows
            total.index_add_(0, rows, values)
            present.index_add_(0, rows, torch.ones_like(values[:, :1]))
        return total / present.clamp(min=1)

    def guided_head_step(
        self,
        head: nn.Linear,
        features: Tensor,
        target: Tensor,
        guide: Guide,
        rule: Rule,
        reduce: Reduce | None = None,
    ) -> GuidedStep:
        """Equations (2) to (8) for the shared head: a modality's loss, and the gradient of the head
        after surgery against the guide's.

        Args:
            head: the shared classifier.
            features: ``[B, d]`` of the active modality.
            target: ``[B]`` or ``[B, t]``.
            guide: the guiding modality.
            rule: how the gradient is repaired.
            reduce: averages the two raw gradients over the ranks, before they are compared: v of
                equation (5) is not linear in g.

        Returns:
            Loss, gradient to the features and repaired gradient of the head. Nothing is written to
            ``.grad``.
        """
        features = features.detach().requires_grad_()
        parameters = [head.weight, head.bias]
        with torch.enable_grad():
            loss = self.loss(head(features), target)
            grad_features, *grads = torch.autograd.grad(loss, [features, *parameters])
            index = self._guiding_rows(head, guide)
            guide_loss = self.loss(head(guide.features[index]), guide.target[index])
            guides = list(torch.autograd.grad(guide_loss, parameters))
        if reduce is not None:
            reduce([*grads, *guides])
        projection = align_(grads, guides, **rule._asdict())
        return GuidedStep(loss.detach(), grad_features, grads[0], grads[1], projection, index)

    @torch.no_grad()
    def _guiding_rows(self, head: nn.Linear, guide: Guide) -> Tensor:
        """The rows of equation (7); all where the outputs do not say how uncertain they are."""
        uncertainty = self.uncertainty(head(guide.features))
        if uncertainty is None:
            return torch.arange(len(guide.target), device=guide.target.device)
        order = torch.sort(uncertainty, descending=True, stable=True).indices
        return order[: guide.top_k]
