"""One reading of a part of the data, with all that its analysis asks the model for.

Subsets of the modalities and shuffled columns are predicted batch by batch beside the whole rows,
so that every image is read and encoded once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from gaal_fast.data import DataIssue, FusionData, TableSide
from gaal_fast.data.batch import Batch, View
from gaal_fast.data.dataset import FusionDataset, TableModality
from gaal_fast.engine.evaluation import predict_batches
from gaal_fast.methods import Method
from gaal_fast.models import Encoders
from gaal_fast.runs.summary import PARTS, RunSummary
from gaal_fast.tasks import FUSED, Predictions

# Subsets grow as 2^M: with more modalities only each alone and all but one are looked at.
MOST_WITH_ALL_SUBSETS = 4
# Evaluations of a table encoder on a batch; columns beyond are left out.
MOST_SHUFFLES = 300
MOST_REPEATS = 5
# Rows that columns are shuffled on, and the outputs of all shuffles in memory at once.
MOST_ROWS, FEWEST_ROWS, MOST_OUTPUTS = 2000, 100, 20_000_000

Names = tuple[str, ...]
Column = tuple[str, str]  # modality, column of its table


@dataclass
class PartPass:
    """The predictions of a part of the data.

    Attributes:
        rows: int64 ``[N]``, row numbers of the table.
        predictions: Of the rows as they are.
        only: Fused outputs float64 ``[N, outputs]`` where the model is given these modalities
            alone; a row that has none of them gets the task's prior.
        sample: int64 ``[n]``, the positions that ``shuffled`` is about: all, or some by chance.
        shuffled: Fused outputs ``[n, outputs]``, one a repeat, with the values of one column
            exchanged among the rows.
    """

    rows: np.ndarray
    predictions: Predictions
    only: dict[Names, np.ndarray] = field(default_factory=dict)
    sample: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    shuffled: dict[Column, list[np.ndarray]] = field(default_factory=dict)


# Takes the readings of ``val`` and ``test`` with the best weights, the summary, and the cells that
# could not be used.
Analyze = Callable[[Mapping[str, PartPass], RunSummary, Iterable[DataIssue]], None]


def subsets(modalities: Sequence[str]) -> list[Names]:
    """The subsets to look at, without the empty and the whole one, in a fixed order."""
    count = len(modalities)
    sizes = range(1, count) if count <= MOST_WITH_ALL_SUBSETS else sorted({1, count - 1})
    return [names for size in sizes for names in combinations(modalities, size)]


def feature_columns(data: FusionData) -> dict[str, list[str]]:
    """For each table by name, the column that each of its features is made of."""
    return {
        name: side.preprocessor.feature_columns
        for name, side in data.modalities.items()
        if isinstance(side, TableSide) and side.usable
    }


def read_parts(
    method: Method,
    data: FusionData,
    in_order: Callable[[FusionDataset], DataLoader[Batch]],
    *,
    device: torch.device,
    analyzed: bool,
) -> dict[str, PartPass]:
    """Read the validation rows and the test rows once.

    Args:
        method: What predicts.
        data: What was trained on.
        in_order: Makes the batches of some rows.
        device: Where to compute.
        analyzed: Whether to predict from subsets of the modalities too and, of the test rows (the
            validation rows where there are none), with shuffled columns.
    """
    found: dict[str, PartPass] = {}
    for part in PARTS:
        rows: FusionDataset = getattr(data, part)
        if analyzed:
            scored = part == "test" or not len(data.test)
            columns = feature_columns(data) if scored else None
            found[part] = examine(method, rows, in_order(rows), device=device, columns=columns)
        else:
            found[part] = PartPass(
                rows.rows, predict_batches(method, in_order(rows), device=device)
            )
    return found


def examine(
    method: Method,
    dataset: FusionDataset,
    loader: DataLoader[Batch],
    *,
    device: torch.device,
    columns: Mapping[str, Sequence[str]] | None = None,
) -> PartPass:
    """Predict a part of the data once, with subsets of its modalities and shuffled columns.

    Args:
        method: What predicts.
        dataset: The part.
        loader: Its batches, in order.
        device: Where to compute.
        columns: For a table by name, the column that each of its features is made of; None for no
            shuffling.

    Returns:
        Predictions with the bits of ``predict`` alone, and the others.
    """
    wanted = subsets(method.modalities)
    parts: dict[Names, list[np.ndarray]] = {names: [] for names in wanted}
    shuffles = _shuffles(dataset.only(method.modalities), columns or {})
    moved: dict[Column, list[list[np.ndarray]]] = {
        shuffle.column: [[] for _ in shuffle.orders] for shuffle in shuffles
    }
    sample = _sample(len(dataset), shuffles, method.task.outputs)
    chosen = np.isin(np.arange(len(dataset)), sample)
    seen = 0
    with _features_once(method) as forget:

        def also(batch: Batch) -> None:
            nonlocal seen
            for names in wanted:
                parts[names].append(_fused(method, _limited(batch, names)))
            kept = _taken(batch, chosen[seen : seen + len(batch)])
            seen += len(batch)
            for shuffle in shuffles if len(kept) else ():
                for repeat, order in enumerate(shuffle.orders):
                    changed = shuffle.applied(kept, order)
                    moved[shuffle.column][repeat].append(_fused(method, changed))
            forget()

        predictions = predict_batches(method, loader, device=device, also=also)
    empty = np.zeros((0, method.task.outputs))
    return PartPass(
        dataset.rows,
        predictions,
        {names: np.concatenate(found or [empty]) for names, found in parts.items()},
        sample,
        {
            column: [np.concatenate(found or [empty]) for found in repeats]
            for column, repeats in moved.items()
        },
    )


def _fused(method: Method, batch: Batch) -> np.ndarray:
    """Float64 ``[B, outputs]``; the prior for a row without a modality, as in ``predict``."""
    output = method(batch)[FUSED].double().cpu().numpy()
    seen = [view.rows.cpu().numpy() for view in batch.views.values()]
    output[np.setdiff1d(np.arange(len(batch)), np.concatenate(seen))] = method.task.prior()
    return output


def _limited(batch: Batch, names: Sequence[str]) -> Batch:
    """The same rows, in which the other modalities are missing."""
    views = {
        name: view if name in names else View(view.values[:0], view.rows[:0])
        for name, view in batch.views.items()
    }
    return Batch(batch.target, batch.index, views)


def _taken(batch: Batch, kept: np.ndarray) -> Batch:
    """Some rows (bool ``[B]``) of a batch; the same batch for all of them."""
    if kept.all():
        return batch
    numbers = torch.from_numpy(np.cumsum(kept) - 1)
    views = {}
    for name, view in batch.views.items():
        mine = torch.from_numpy(kept)[view.rows.cpu()]
        rows = numbers[view.rows.cpu()[mine]].to(view.rows.device)
        views[name] = View(view.values[mine.to(view.values.device)], rows)
    rows = torch.from_numpy(np.flatnonzero(kept)).to(batch.index.device)
    return Batch(batch.target[rows], batch.index[rows], views)


def _sample(rows: int, shuffles: Sequence[_Shuffle], outputs: int) -> np.ndarray:
    """Int64 positions, ascending: all rows where these are few, else some by a fixed seed."""
    times = sum(len(shuffle.orders) for shuffle in shuffles) * outputs
    if not times:
        return np.zeros(0, np.int64)
    most = min(MOST_ROWS, max(FEWEST_ROWS, MOST_OUTPUTS // times))
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).choice(rows, most, replace=False))


@dataclass
class _Shuffle:
    """A column whose values change places.

    Attributes:
        column: Modality and column.
        places: int64, the features that are made of it.
        features: float32 ``[N, D]`` of the whole table.
        position: int64 by row of the table: its place among the rows that have the table.
        orders: One a repeat, the row of the table that each of these takes its value from.
    """

    column: Column
    places: Tensor
    features: Tensor
    position: np.ndarray
    orders: list[np.ndarray]

    def applied(self, batch: Batch, order: np.ndarray) -> Batch:
        """The batch with the values of the column taken from other rows."""
        name, _ = self.column
        view = batch.views[name]
        own = self.position[batch.index[view.rows].cpu().numpy()]
        given = self.features[torch.from_numpy(order[own])][:, self.places]
        values = view.values.clone()
        values[:, self.places.to(values.device)] = given.to(values)
        return Batch(batch.target, batch.index, {**batch.views, name: View(values, view.rows)})


def _shuffles(dataset: FusionDataset, columns: Mapping[str, Sequence[str]]) -> list[_Shuffle]:
    names = {modality: list(dict.fromkeys(found)) for modality, found in columns.items()}
    count = sum(len(found) for found in names.values())
    repeats = min(MOST_REPEATS, max(1, MOST_SHUFFLES // max(count, 1)))
    found: list[_Shuffle] = []
    for modality in dataset.modalities:
        if not isinstance(modality, TableModality):
            continue
        rows = dataset.rows[modality.present[dataset.rows]]
        position = np.zeros(len(modality.present), dtype=np.int64)
        position[rows] = np.arange(len(rows))
        rng = np.random.default_rng(0)
        orders = [rng.permutation(rows) for _ in range(repeats)]
        of_feature = np.array(columns.get(modality.name, ()), dtype=object)
        for column in names.get(modality.name, ()):
            places = torch.from_numpy(np.flatnonzero(of_feature == column))
            name = (modality.name, column)
            found.append(_Shuffle(name, places, modality.features, position, orders))
    return found[:MOST_SHUFFLES]


@contextmanager
def _features_once(method: Method) -> Iterator[Callable[[], None]]:
    """Encode each input once for as long as it is the same tensor; yields what forgets all of them.

    A method without ``Encoders`` encodes as often as it is asked.
    """
    encoders = getattr(method, "encoders", None)
    if not isinstance(encoders, Encoders):
        yield lambda: None
        return
    encode = encoders.forward
    known: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}

    def once(name: str, values: Tensor) -> Tensor:
        key = (name, id(values))  # the tensor is kept, so that its id stays its own
        if key not in known:
            known[key] = (values, encode(name, values))
        return known[key][1]

    encoders.forward = once  # type: ignore[method-assign]
    try:
        yield known.clear
    finally:
        del encoders.forward
