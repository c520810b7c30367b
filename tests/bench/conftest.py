"""A stand-in for the CUDA runtime, so that the code that times and checks GPUs is executed where
there is none.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch


class Event:
    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return 1e3 * (end.at - self.at)


class Stream:
    def wait_stream(self, other: Stream) -> None:
        pass


class Graph:
    """Does nothing when replayed: the captured calls were made once, and their results stay."""

    def replay(self) -> None:
        pass


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def scope(_: Any) -> Iterator[None]:
        yield

    replaced = {
        "Event": Event,
        "Stream": Stream,
        "CUDAGraph": Graph,
        "current_stream": Stream,
        "stream": scope,
        "graph": scope,
        "synchronize": lambda *_: None,
        "_sleep": lambda _: None,
        "empty_cache": lambda: None,
        "memory_allocated": lambda: 0,
        "max_memory_allocated": lambda: 1000,
        "reset_peak_memory_stats": lambda: None,
        "set_sync_debug_mode": lambda _: None,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
