"""Small models and batches for the tests of methods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gaal_fast.config import ModelConfig
from gaal_fast.data.batch import Batch, InputSpec, View
from gaal_fast.engine.update import OptimizerUpdate
from gaal_fast.methods import Method
from gaal_fast.methods.build import find_method
from gaal_fast.tasks import Classification, Task

CLASSES, WIDTH, ROWS = 7, 12, 20
SIZES = {"image": 9, "table": 5, "sound": 4}
MODEL = ModelConfig(image="small", width=WIDTH)


def classification(weights: Tensor | None = None) -> Classification:
    return Classification(range(CLASSES), np.ones(CLASSES), weights)


def make_batch(
    seed: int,
    names: Sequence[str] = ("image", "table"),
    size: int = ROWS,
    dtype: torch.dtype = torch.float64,
) -> Batch:
    """Rows with every modality, each a table that carries a trace of the class."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(CLASSES, (size,), generator=generator)
    views = {
        n: View(
            torch.randn(size, SIZES[n], generator=generator).to(dtype) + target[:, None] / 3,
            torch.arange(size),
        )
        for n in names
    }
    return Batch(target, torch.arange(size), views)


def with_rows(batch: Batch, name: str, rows: Tensor) -> Batch:
    """The batch with a modality that only some of its rows have."""
    view = View(batch.views[name].values[rows], rows)
    return Batch(batch.target, batch.index, {**batch.views, name: view})


def build(
    name: str,
    names: Sequence[str] = ("image", "table"),
    *,
    task: Task | None = None,
    seed: int = 1,
    model: ModelConfig = MODEL,
    **options: Any,
) -> Method:
    """A built-in method on tables of the sizes above, in float64."""
    torch.manual_seed(seed)
    kind = find_method(name)
    given = kind.Options.model_validate({"name": name, **options})
    inputs = {n: InputSpec("table", (SIZES[n],)) for n in kind.takes(given, names)}
    return kind(given, task or classification(), inputs, model).double()


class Steps(OptimizerUpdate):
    """The real update, which keeps what is recorded: ``steps[0].loss``."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer, self._keep)
        self.parts: list[str] = []
        self.found: list[dict[str, Tensor]] = []

    def _keep(self, part: str, scalars: Mapping[str, Tensor]) -> None:
        self.parts.append(part)
        self.found.append(dict(scalars))

    def clear(self) -> None:
        self.parts.clear()
        self.found.clear()


class Passes:
    """Logs every forward pass of the encoders: which one, its output, and whether a gradient was
    recorded.
    """

    def __init__(self, method: Method) -> None:
        self.forwards: list[tuple[str, np.ndarray, bool]] = []
        self.backwards: Counter[str] = Counter()
        for name, encoder in encoders(method).items():
            encoder.register_forward_hook(lambda _m, _i, out, name=name: self._forward(name, out))

    def _forward(self, name: str, output: Tensor) -> None:
        self.forwards.append((name, output.detach().numpy().copy(), output.requires_grad))
        if output.requires_grad:
            output.register_hook(lambda _g, name=name: self.backwards.update([name]))


def encoders(method: Method) -> dict[str, nn.Module]:
    return {name: method.encoders.of(name) for name in method.modalities}
