"""Where a training stands, and what of it a checkpoint holds."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


@dataclass
class Progress:
    """Where a run stands: in which phase, in which of its epochs, and after which batch."""

    step: int = 0  # batches used
    epoch: int = 0  # epochs finished, of all phases
    phase: int = 0  # phases finished
    phase_epoch: int = 0  # epochs finished of the phase under way
    batch: int = 0  # batches used of the epoch under way
    seconds: float = 0.0  # spent in training steps
    # Of the phase under way, of the kind that ``train.select`` names, higher is better.
    best_score: float = -math.inf
    best_tie: float = -math.inf
    best_epoch: int = 0
    stopping_score: float = -math.inf  # what early stopping measures a gain against
    stale_epochs: int = 0

    def next_phase(self) -> None:
        """Begin another phase, whose scores are not to be compared with those before."""
        self.phase, self.phase_epoch, self.stale_epochs = self.phase + 1, 0, 0
        self.best_score = self.best_tie = self.stopping_score = -math.inf


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's state on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


@dataclass
class RandomState:
    """The states of torch's global generators that a training draws from."""

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def of(cls, device: torch.device) -> RandomState:
        """The states as they are."""
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), cuda)

    def restore(self, device: torch.device) -> None:
        """Go on from these states."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None and device.type == "cuda":
            torch.cuda.set_rng_state(self.cuda, device)


def optimizer_state(optimizer: Optimizer, scheduler: LRScheduler) -> dict[str, object]:
    """The state of a phase's optimizer and schedule, in plain containers."""
    kept = {name: v for name, v in scheduler.state_dict().items() if name != "lr_lambdas"}
    return {"optimizer": optimizer.state_dict(), "scheduler": kept}


@contextmanager
def interrupt_at_a_step_boundary(asked: threading.Event) -> Iterator[None]:
    """The first Ctrl-C asks for a stop after the running step, so that what is saved is whole; the
    second one is Python's own.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.getsignal(signal.SIGINT)

    def ask(_signal: int, _frame: FrameType | None) -> None:
        asked.set()
        signal.signal(signal.SIGINT, former)

    signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
