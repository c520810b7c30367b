"""The order in which rows are trained on, and the processes that read them."""

import contextlib
import logging
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler, get_worker_info

from gaal_fast.data.batch import Batch
from gaal_fast.data.dataset import FusionDataset
from gaal_fast.data.images.store import available_cpus
from gaal_fast.errors import UserError

# Apart from the warnings that `load_data` returns: what is said here comes later, and commands
# print it as it comes.
logger = logging.getLogger("gaal_fast.data.loader")

_MAX_WORKERS = 8
_SMALL_DATASET = 256
# A reader process is stalled if it uses no processor for so long while its batch is waited for, or
# after so long in any case.
STALL_SECONDS, LONGEST_WAIT_SECONDS = 60.0, 1800.0
_POLL_SECONDS = 5.0
_SOME_TICKS = 5  # more than an idle process uses to look whether its parent is alive
# What torch says, in the trainer's process and at any moment, of a reader process that ended.
_DEAD_READER = re.compile(r"DataLoader worker|Pin memory thread exited")


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, position) keys for training on a `FusionDataset` of `size` rows.

    The order is a function of (seed, epoch) alone. `set_epoch(epoch, start_batch)` leaves out the
    first batches of an epoch, so that a run stopped within it goes on exactly where it was. A last
    batch of a single row is left out: batch normalization cannot train on it.
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
    """A loader of `Batch`es: those of `sampler`, or all rows in order, `batch_size` at a time. What
    it yields does not depend on `workers`, and reading from it leaves torch's random state alone.

    workers: processes that read ahead. None: as many as there are processors (at most 8) if there
    are more than a few rows and their images must be decoded for each batch, or augmented by the
    slow preset on four processors or more; else none.
    """
    if (batch_size is None) == (sampler is None):
        raise ValueError("give either batch_size or sampler")
    workers = auto_workers(dataset) if workers is None else workers
    order = (
        {"batch_sampler": sampler}
        if sampler is not None
        else {"batch_size": batch_size, "shuffle": False}
    )
    return _Loader(
        dataset,
        **order,
        num_workers=workers,
        collate_fn=_for_the_trainer,  # type: ignore[arg-type]  # the data set makes whole batches
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        timeout=_POLL_SECONDS if workers else 0,
        worker_init_fn=_leave_ctrl_c_to_the_trainer,
        # Without a generator of its own a loader draws from the global one, which would shift every
        # later random number.
        generator=torch.Generator(),
    )


def auto_workers(dataset: FusionDataset) -> int:
    """The number of processes `make_loader` uses if none is given."""
    slow = len(dataset) >= _SMALL_DATASET and any(
        modality.is_slow() for modality in dataset.modalities
    )
    return min(_MAX_WORKERS, available_cpus()) if slow else 0


def _leave_ctrl_c_to_the_trainer(_worker: int) -> None:
    """A terminal sends Ctrl-C to every process; a reader that obeyed it would break the batch that
    the trainer wants to finish.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def dead_readers_as_user_errors() -> Iterator[None]:
    """Turn torch's word of a reader process that was killed, which can come at any moment, into a
    `UserError`.
    """
    try:
        yield
    except RuntimeError as error:
        if not _DEAD_READER.search(str(error)):
            raise
        raise _reader_error(error) from error


class _Loader(DataLoader[Batch]):
    """A loader whose reader processes may die, stall or not start without a traceback or a wait
    that never ends.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        batches = self._start()
        if not self.num_workers:
            yield from batches
            return
        try:
            while (batch := self._next(batches)) is not None:
                yield batch
        except Exception as error:
            _kill(batches)
            stalled = isinstance(error, UserError) and error.key is not None
            raise error if stalled else _reader_error(error) from error

    def _start(self) -> Iterator[Batch]:
        try:
            if self.num_workers:
                # Where /dev/shm is full or not there the loader fails at this too, and half made
                # complains once more at the end.
                torch.multiprocessing.Queue()
            return super().__iter__()
        except OSError as error:
            logger.warning(
                "reading without processes of its own, which cannot be started here: %s", error
            )
            self.num_workers, self.timeout = 0, 0
            return super().__iter__()

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        """The next batch, None after the last. Raises UserError if it never comes."""
        started = moved = time.monotonic()
        used = 0
        while True:
            try:
                return next(batches, None)
            except RuntimeError as error:
                if "DataLoader timed out" not in str(error):
                    raise
            now, ticks = (
                time.monotonic(),
                _processor_ticks([w.pid for w in getattr(batches, "_workers", [])]),
            )
            if ticks is not None and ticks - used >= _SOME_TICKS:
                used, moved = ticks, now
            if now - started > LONGEST_WAIT_SECONDS or (
                ticks is not None and now - moved > STALL_SECONDS
            ):
                raise _refused(
                    f"a reader process has stalled: no batch for {now - started:.0f} seconds. Does"
                    " a drive not answer?"
                )


def _processor_ticks(processes: Sequence[int]) -> int | None:
    """Processor time that the processes have used, in hundredths of a second; None where the system
    does not say.
    """
    try:
        texts = [Path(f"/proc/{process}/stat").read_text() for process in processes]
        return sum(int(ticks) for text in texts for ticks in text.rpartition(")")[2].split()[11:13])
    except (OSError, ValueError):
        return None


def _kill(batches: Iterator[Batch]) -> None:
    """End the reader processes, those that are stopped too, which the loader would wait for at the
    end.
    """
    for worker in getattr(batches, "_workers", []):
        with contextlib.suppress(RuntimeError):  # torch reports the death that is caused here
            worker.kill()
            worker.join(_POLL_SECONDS)


def _reader_error(error: Exception) -> UserError:
    """One line on what a reader process, or the way to it, broke with."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    if lines[0].startswith("Caught "):  # and a whole traceback, whose last line is the error
        name = f"{UserError.__module__}.{UserError.__name__}: "
        if lines[-1].startswith(name):
            return UserError(lines[-1].removeprefix(name))
        return _refused(f"a reader process failed: {lines[-1]}.")
    if _DEAD_READER.search(lines[0]):
        return _refused(
            f"a reader process was killed ({lines[0].rstrip('.')}). Is there too little memory?"
        )
    return _refused(
        f"reading from a process of its own failed: {type(error).__name__}: {lines[0]}."
    )


def _refused(problem: str) -> UserError:
    return UserError(
        f": {problem} With 0, rows are read without such processes", key="data.workers"
    )


def _for_the_trainer(batch: Batch) -> Batch:
    """A batch as it is; from a reader process, with its tensors in shared memory where there is
    room.
    """
    return batch if get_worker_info() is None else batch.map(_sent)


def _sent(tensor: torch.Tensor) -> Any:
    # Moved here and not when the batch is sent: a thread does that, whose errors nobody sees, and
    # the trainer waits for ever.
    try:
        return tensor.share_memory_() if tensor.numel() else tensor
    except (RuntimeError, OSError):
        return _ByValue(tensor.numpy())


class _ByValue:
    """A tensor that is sent through a pipe, and arrives as a tensor: slower than shared memory, of
    which a container has little.
    """

    def __init__(self, array: np.ndarray):
        self.array = array

    def __reduce__(self) -> tuple[Callable[[np.ndarray], torch.Tensor], tuple[np.ndarray]]:
        return torch.from_numpy, (self.array,)
