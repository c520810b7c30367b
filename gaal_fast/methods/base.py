"""What a method is: a model, and what it does to that model's parameters with one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

from torch import Tensor, nn

from gaal_fast.config import MethodConfig, ModelConfig
from gaal_fast.data.batch import Batch, InputSpec
from gaal_fast.tasks import Task
from gaal_fast.tasks.base import Reduce

# Batch normalization has no variance to divide by on a single row.
SMALLEST_BATCH = 2


class Update(Protocol):
    """Moves parameters: the only way in which a method may.

    Attributes:
        reduce: averages tensors over the ranks, in place; None on a single rank. A method that
            compares gradients before they are in ``.grad`` has to call it on them first.
    """

    reduce: Reduce | None

    def __call__(
        self,
        part: str,
        loss: Tensor | Callable[[], Mapping[str, Tensor]],
        *,
        repair: Callable[[], Mapping[str, Tensor]] | None = None,
        **scalars: Tensor,
    ) -> None:
        """Clear the gradients, fill them, repair them, and let the optimizer step.

        Args:
            part: whose update this is, such as a modality or ``"fused"``.
            loss: the loss to go back from; or a function that fills ``.grad`` itself and returns
                the ``"loss"``, with any further scalars to be recorded.
            repair: changes ``.grad`` in place before the step and returns scalars to be recorded.
                The gradients are then those of all ranks, and true ones where a loss is scaled.
            scalars: further 0-d tensors to be recorded. Nothing waits for the device.
        """
        ...


@dataclass(frozen=True)
class Phase:
    """A part of a training, with an optimizer and a schedule of its own.

    Attributes:
        name: what logs call it.
        step: uses one batch.
        trains: the modules that the optimizer holds.
        epochs: how many; None for ``train.epochs`` at most, with early stopping.
        views: augmented views of each row in a batch.
        selects: whether the epoch with the best validation score is kept, and gone on from in the
            next phase; else the last one is.
    """

    name: str
    step: Callable[[Batch, Update], None]
    trains: Sequence[nn.Module]
    epochs: int | None = None
    views: int = 1
    selects: bool = True


class Method(nn.Module):
    """A model and how it is trained: one file a method, under ``@method(name)``.

    What has to be kept to go on bit for bit (teachers, prototypes, cached features) is a module, a
    buffer or a :class:`~gaal_fast.methods.memory.Memory`: it is all in the one ``state_dict``.

    Args:
        options: the method section, an ``Options`` of this class.
        task: what is predicted.
        inputs: kind and shape of the modalities that ``takes`` names, in their order.
        model: the model section.

    Attributes:
        name: of the registry, what ``--method.name`` says.
        paper: where the method comes from.
        Options: its keys of ``--method``, a :class:`gaal_fast.config.MethodConfig`.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    Options: ClassVar[type[MethodConfig]] = MethodConfig

    def __init__(
        self, options: MethodConfig, task: Task, inputs: Mapping[str, InputSpec], model: ModelConfig
    ) -> None:
        super().__init__()
        options.check_modalities(list(inputs))
        self.task, self.inputs = task, dict(inputs)

    @classmethod
    def takes(cls, options: MethodConfig, available: Sequence[str]) -> list[str]:
        """The modalities that are trained on, of those that the data has; all by default.

        Raises:
            UserError: ``options`` ask for one that is not there.
        """
        return list(available)

    @property
    def modalities(self) -> list[str]:
        """The modalities that are trained on, in order."""
        return list(self.inputs)

    def phases(self) -> list[Phase]:
        """The parts of the training, in order."""
        return [Phase("train", self.step, [self])]

    def start_epoch(self, phase: Phase, epoch: int, rows: Iterable[Batch]) -> None:
        """Prepare an epoch with a pass over the whole training set.

        Args:
            phase: the phase under way.
            epoch: of the phase, from 0.
            rows: batches of all training rows in the table's order, not augmented, on the model's
                device; they may be iterated over more than once.
        """

    def step(self, batch: Batch, update: Update) -> None:
        """Use one batch of the phase that ``phases`` returns by default."""
        raise NotImplementedError(f"{type(self).__name__} has neither a step nor phases of its own")

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Outputs ``[n_m, outputs]`` of the modalities that some row has, and ``"fused"``
        ``[B, outputs]``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward")


M = TypeVar("M", bound=type[Method])
_REGISTERED: dict[tuple[str, str], type[Method]] = {}


def method(name: str, *, paper: str = "") -> Callable[[M], M]:
    """Register a class under a name that ``--method.name`` takes.

    The command line reads the name and the class's ``Options`` from the file's text, before the
    file is run: both have to be written out there.

    Args:
        name: letters, digits and hyphens.
        paper: where the method comes from, such as ``"arXiv 2604.01579"``.
    """

    def register(cls: M) -> M:
        cls.name, cls.paper = name, paper
        _REGISTERED[cls.__module__, name] = cls
        return cls

    return register


def registered(module: str, name: str) -> type[Method]:
    """The class that a module has registered under ``name`` as it was run."""
    return _REGISTERED[module, name]
