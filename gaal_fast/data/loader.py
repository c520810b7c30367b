"""The order in which rows are trained on, and the processes that read them."""

import signal
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from gaal_fast.data.dataset import Batch, FusionDataset
from gaal_fast.data.image_store import available_cpus

_MAX_WORKERS = 8
_SMALL_DATASET = 256


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, position) keys for training on a `FusionDataset` of `size` rows.

    The order is a function of (seed, epoch) alone. `set_epoch(epoch, start_batch)` leaves out the first batches of an epoch, so
    that a run stopped within it goes on exactly where it was. A last batch of a single row is left out: batch normalisation
    cannot train on it.
    """

    def __init__(self, size: int, batch_size: int, seed: int = 0):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.epoch = self.start_batch = 0

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Chooses what the next iteration yields."""
        self.epoch, self.start_batch = epoch, start_batch

    @property
    def batches_per_epoch(self) -> int:
        single_left = self.batch_size > 1 and self.size % self.batch_size == 1
        return -(-self.size // self.batch_size) - single_left

    def __len__(self) -> int:
        """Batches that are left of the epoch, from `start_batch` on."""
        return max(0, self.batches_per_epoch - self.start_batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, first = self.epoch, self.start_batch
        order = np.random.Generator(np.random.PCG64((self.seed, epoch))).permutation(self.size)
        for batch in range(first, self.batches_per_epoch):
            positions = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [(epoch, position) for position in positions.tolist()]


def make_loader(
    dataset: FusionDataset,
    batch_size: int | None = None,
    *,
    sampler: EpochSampler | None = None,
    workers: int | None = None,
    pin_memory: bool = False,
) -> DataLoader:
    """A loader of `Batch`es: those of `sampler`, or all rows in order, `batch_size` at a time. What it yields does not depend on
    `workers`, and reading from it leaves torch's random state alone.

    workers: processes that read ahead. None: as many as there are processors (at most 8) if there are more than a few rows and
    their pictures must be decoded for each batch, or augmented by the slow preset on four processors or more; else none.
    """
    if (batch_size is None) == (sampler is None):
        raise ValueError("give either batch_size or sampler")
    workers = auto_workers(dataset) if workers is None else workers
    order = {"batch_sampler": sampler} if sampler is not None else {"batch_size": batch_size, "shuffle": False}
    return DataLoader(
        dataset,
        **order,
        num_workers=workers,
        collate_fn=_as_is,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=_leave_ctrl_c_to_the_trainer,
        # Without a generator of its own a loader draws from the global one, which would shift every later random number.
        generator=torch.Generator(),
    )


def auto_workers(dataset: FusionDataset) -> int:
    """The number of processes `make_loader` uses if none is given."""
    slow = len(dataset) >= _SMALL_DATASET and any(modality.is_slow() for modality in dataset.modalities)
    return min(_MAX_WORKERS, available_cpus()) if slow else 0


def _leave_ctrl_c_to_the_trainer(_worker: int) -> None:
    """A terminal sends Ctrl-C to every process; a reader that obeyed it would break the batch that the trainer wants to finish."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _as_is(batch: Batch) -> Batch:
    return batch
