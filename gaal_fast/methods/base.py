"""What a method is: a model, and what it does to that model's parameters with one batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor
from torch.optim import Optimizer

from gaal_fast.models import FusionModel

# Batch normalisation has no variance to divide by on a single row.
SMALLEST_BATCH = 2


class TrainingBatch(Protocol):
    """The part of ``gaal_fast.data.Batch`` that a method reads."""

    target: Tensor  # [B] int64
    inputs: Mapping[str, Tensor]  # modality -> [n_m, ...], the rows that have it
    rows: Mapping[str, Tensor]  # modality -> [n_m] int64, where in the batch they stand


@dataclass(frozen=True)
class HalfStep:
    """What one update did. Scalars stay on the device, so that reading them is the caller's choice.

    ``cosine`` is S(g, g_p) of equation (2) before the repair and ``v`` the weight of equation (5);
    both are None without a guide.
    """

    modality: str
    loss: Tensor
    cosine: Tensor | None = None
    v: Tensor | None = None


class Method(ABC):
    """A way of training ``model``."""

    def __init__(self, model: FusionModel) -> None:
        self.model = model

    @abstractmethod
    def training_step(self, batch: TrainingBatch, optimizer: Optimizer) -> list[HalfStep]:
        """Use one batch: compute gradients, let ``optimizer`` step, and report each update."""

    def state_dict(self) -> dict[str, Any]:
        """What besides the model must be kept to go on bit for bit."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027  not every method keeps something
        """Take back what ``state_dict`` gave."""
