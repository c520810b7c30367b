"""Reader processes that fail, die, stall or have no shared memory: a line, or the same batches, and
never a wait without end.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from multiprocessing import get_start_method

import numpy as np
import pytest
import torch

from gaal_fast.data import loader
from gaal_fast.data.dataset import FusionDataset, Loaded
from gaal_fast.data.loader import make_loader
from gaal_fast.errors import UserError

ROWS, SIDE = 12, 64

pytestmark = pytest.mark.skipif(
    get_start_method() != "fork", reason="the modalities here are sent by forking"
)


class Noise:
    """Images made up from the row number, so large that a batch is more than a pipe holds;
    ``trouble`` happens at row 7.
    """

    name = "image"

    def __init__(self, trouble: object = None) -> None:
        self.present = np.ones(ROWS, dtype=bool)
        self.trouble = trouble

    def load(self, rows: np.ndarray, epochs: np.ndarray, views: int = 1) -> Loaded:
        if (
            self.trouble is not None
            and 7 in rows
            and torch.utils.data.get_worker_info() is not None
        ):
            self.trouble()
        values = torch.from_numpy(
            np.stack([np.full((3, SIDE, SIDE), row, dtype=np.float32) for row in rows])
        )
        return Loaded(values, torch.arange(len(rows)), [])

    def is_slow(self) -> bool:
        return True


def dataset(trouble: object = None) -> FusionDataset:
    return FusionDataset(np.arange(ROWS), np.arange(ROWS), [Noise(trouble)])


def read(trouble: object = None, workers: int = 2) -> list[torch.Tensor]:
    return [
        batch.views["image"].values for batch in make_loader(dataset(trouble), 4, workers=workers)
    ]


def fail() -> None:
    raise ValueError("the seventh row")


def refuse() -> None:
    raise UserError("photo.png: no such file")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def sleep() -> None:
    time.sleep(600)


def message(trouble: object) -> str:
    with pytest.raises(UserError) as caught:
        read(trouble)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_error_in_a_reader_is_its_last_line() -> None:
    assert message(fail) == (
        "--data.workers: a reader process failed: ValueError: the seventh row. "
        "With 0, rows are read without such processes"
    )


def test_a_user_error_in_a_reader_is_the_same_as_without_one() -> None:
    assert message(refuse) == "photo.png: no such file"


def test_a_reader_that_is_killed_is_named() -> None:
    found = message(die)
    assert found.startswith("--data.workers: a reader process was killed (DataLoader worker (pid")
    assert found.endswith(
        "). Is there too little memory? With 0, rows are read without such processes"
    )


@pytest.mark.parametrize("trouble", [sleep, stop])
def test_a_reader_that_does_nothing_is_given_up_and_ended(
    monkeypatch: pytest.MonkeyPatch, trouble: object
) -> None:
    monkeypatch.setattr(loader, "_POLL_SECONDS", 0.2)
    monkeypatch.setattr(loader, "STALL_SECONDS", 2.0)
    started = time.monotonic()
    assert message(trouble).startswith(
        "--data.workers: a reader process has stalled: no batch for "
    )
    assert time.monotonic() - started < 20


def test_a_reader_that_is_slow_but_works_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            sum(range(1000))

    monkeypatch.setattr(loader, "_POLL_SECONDS", 0.2)
    monkeypatch.setattr(loader, "STALL_SECONDS", 1.0)
    assert len(read(work, workers=1)) == 3


def test_the_longest_wait_has_an_end_where_the_system_does_not_tell_processor_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loader, "_processor_ticks", lambda _: None)
    monkeypatch.setattr(loader, "_POLL_SECONDS", 0.2)
    monkeypatch.setattr(loader, "LONGEST_WAIT_SECONDS", 1.0)
    assert "a reader process has stalled" in message(sleep)


def test_without_room_in_shared_memory_the_batches_are_the_same() -> None:
    """No file, and so no block of shared memory, may be as large as a batch."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    expected = read(workers=0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, former[1]))
    try:
        found = read(workers=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert [len(batch) for batch in found] == [4, 4, 4]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
        one += 1  # as writable as any other


def test_where_no_process_can_be_started_rows_are_read_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(self: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.multiprocessing.Process.start", refused, raising=False)
    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", refused)
    assert all(torch.equal(a, b) for a, b in zip(read(workers=2), read(workers=0), strict=True))
    assert "cannot be started here: [Errno 28] No space left on device" in caplog.text


def test_torchs_word_of_a_dead_reader_at_any_moment_is_a_line() -> None:
    words = r"^--data\.workers: a reader process was killed \(DataLoader worker \(pid 3\) is"
    with pytest.raises(UserError, match=words), loader.dead_readers_as_user_errors():
        raise RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed. ")
    with pytest.raises(RuntimeError, match="shapes"), loader.dead_readers_as_user_errors():
        raise RuntimeError("shapes do not fit")
