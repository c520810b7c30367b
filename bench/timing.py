"""Timing of several implementations against one another: call by call in turn, with rotating
inputs, medians and quantiles.

On the CPU every call is timed by itself. On a GPU there are three times: what the host spends on a
call (``host_us``), what a call costs in a loop that waits for the device only at its end
(``call_us``), and what the device spends (``device_hot_us`` with inputs that stay in its L2 cache,
``device_cold_us`` with inputs that rotate through three times the cache). Device times come from
replays of one CUDA graph that holds a call for every set of inputs; the replay is queued behind a
kernel that keeps the device busy meanwhile, so that no launch gap is timed.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.variants import Variant

_BUSY_CYCLES = (
    400_000  # what keeps a GPU busy while one graph or one call is queued behind it: about 0.2 ms
)
LOOP = 24  # calls between two waits for the device
# NumPy's products may run on threads of its own, which spin on after a call and take a core from
# whatever comes next: for a quarter of a second where this was measured.
_SPIN_SECONDS = 0.5


@dataclass(frozen=True)
class Timing:
    """Microseconds: median, 20th and 80th percentile, and least of so many measurements."""

    median: float
    p20: float
    p80: float
    least: float
    count: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        ordered = sorted(1e6 * s for s in seconds)
        last = len(ordered) - 1
        return cls(
            statistics.median(ordered),
            ordered[round(0.2 * last)],
            ordered[round(0.8 * last)],
            ordered[0],
            len(ordered),
        )


@dataclass
class Measured:
    """All times of one variant by metric, and the last thing it returned with the number of its set
    of inputs.
    """

    times: dict[str, Timing] = field(default_factory=dict)
    returned: Any = None
    last_set: int = 0
    failure: str | None = None


class Pool:
    """Sets of inputs that calls take in turn, and how to undo what an op did to one in place.

    ``once`` says that a set may be used only once before it is restored: an op in place would have
    less to do the second time.
    """

    def __init__(self, sets: Sequence[Any], restore: Callable[[Any], None], *, once: bool) -> None:
        self.sets, self._restore, self.once = sets, restore, once

    def __len__(self) -> int:
        return len(self.sets)

    def restore(self, number: int | None = None) -> None:
        if self.once:
            for one in self.sets if number is None else [self.sets[number]]:
                self._restore(one)

    def first(self, count: int) -> Pool:
        return Pool(self.sets[:count], self._restore, once=self.once)


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection inside."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def wait_for_other_threads(device: torch.device) -> None:
    """Let the threads of a library that is not torch's fall asleep, so that it slows down nobody
    but itself.
    """
    if device.type == "cpu":
        time.sleep(_SPIN_SECONDS)


def time_on_cpu(
    variants: Sequence[Variant], pool: Pool, *, seconds: float, least: int = 5, most: int = 200
) -> dict[str, Measured]:
    """Every call by itself: all variants on one set of inputs, then all on the next, for about
    ``seconds`` but ``least`` rounds at least.

    The order is drawn anew in each round: what a call leaves in the caches must not always meet the
    same one. Then those that are timed apart, one by one, for a quarter as long: threads that go on
    spinning, or several times the traffic of any competitor, would be counted against the others.
    """
    found = {v.name: Measured() for v in variants}
    together = [v for v in variants if not v.apart]
    for group, share in ((together, 1.0), *(([v], 0.25) for v in variants if v.apart)):
        if group:
            wait_for_other_threads(torch.device("cpu"))
            _in_turn(group, pool, found, share * seconds, least, most)
    return found


def _in_turn(
    variants: Sequence[Variant],
    pool: Pool,
    found: Mapping[str, Measured],
    seconds: float,
    least: int,
    most: int,
) -> None:
    draw = random.Random(0)
    samples: dict[str, list[float]] = {v.name: [] for v in variants}
    started = time.perf_counter()
    rounds, last = 0, False
    with undisturbed():
        while not last:
            enough = rounds + 1 >= most or (
                rounds + 1 >= least and time.perf_counter() - started > seconds
            )
            number = rounds % len(pool)
            last = (
                enough and number == len(pool) - 1
            )  # never on the set that was judged before: a stale result must show
            for variant in draw.sample(variants, len(variants)):
                pool.restore(number)
                inputs = pool.sets[number]
                with variant.context():
                    begin = time.perf_counter()
                    returned = variant.run(inputs)
                    samples[variant.name].append(time.perf_counter() - begin)
                if last:
                    _keep(found[variant.name], variant, pool, number, returned)
                del returned
            rounds += 1
    for name, seconds_each in samples.items():
        found[name].times["call_us"] = Timing.of(seconds_each)


def time_on_gpu(
    variants: Sequence[Variant],
    pool: Pool,
    *,
    hot_sets: int,
    cold: bool,
    seconds: float,
    least: int = 5,
    most: int = 40,
) -> dict[str, Measured]:
    """All times of the module's docstring.

    ``cold`` says that the whole pool is larger than the cache; its first ``hot_sets`` fit into it
    together.
    """
    found = {v.name: Measured() for v in variants}
    with undisturbed():
        _host_and_loop(variants, pool, found, seconds / 2, least, most)
        for metric, sets in (
            ("device_hot_us", hot_sets),
            ("device_cold_us", len(pool) if cold else 0),
        ):
            if sets:
                _device(variants, pool.first(sets), found, metric, seconds / 4, least, most)
    return found


def _host_and_loop(
    variants: Sequence[Variant],
    pool: Pool,
    found: Mapping[str, Measured],
    seconds: float,
    least: int,
    most: int,
) -> None:
    draw = random.Random(0)
    host: dict[str, list[float]] = {v.name: [] for v in variants}
    loop: dict[str, list[float]] = {v.name: [] for v in variants}
    for variant in variants:
        _settle(variant, pool)
    calls = {v.name: _calls_in_a_loop(v, pool) for v in variants}
    started, rounds, last = time.perf_counter(), 0, False
    while not last:
        last = rounds + 1 >= most or (
            rounds + 1 >= least and time.perf_counter() - started > seconds
        )
        for variant in draw.sample(variants, len(variants)):
            pool.restore()
            with variant.context():
                torch.cuda.synchronize()
                begin = previous = time.perf_counter()
                for call in range(calls[variant.name]):
                    returned = variant.run(pool.sets[call % len(pool)])
                    now = time.perf_counter()
                    host[variant.name].append(now - previous)
                    previous = now
                torch.cuda.synchronize()
                loop[variant.name].append((time.perf_counter() - begin) / calls[variant.name])
            if last:
                _keep(
                    found[variant.name],
                    variant,
                    pool,
                    (calls[variant.name] - 1) % len(pool),
                    returned,
                )
            del returned
        rounds += 1
    for variant in variants:
        if not variant.synchronizes:
            found[variant.name].times["host_us"] = Timing.of(host[variant.name])
        found[variant.name].times["call_us"] = Timing.of(loop[variant.name])


def _calls_in_a_loop(variant: Variant, pool: Pool) -> int:
    """As many as take a fiftieth of a second, 3 at least and ``LOOP`` at most, so that the wait at
    the end weighs little.
    """
    pool.restore()
    with variant.context():
        torch.cuda.synchronize()
        begin = time.perf_counter()
        variant.run(pool.sets[0])
        torch.cuda.synchronize()
    calls = max(3, min(LOOP, int(0.02 / (time.perf_counter() - begin))))
    return min(calls, len(pool)) if pool.once else calls


def _settle(variant: Variant, pool: Pool) -> None:
    """Let PyTorch's own CUDA graphs be recorded: it makes one for every set of inputs, after two
    calls.
    """
    if variant.graphable or variant.synchronizes:
        return
    with variant.context():
        for inputs in pool.first(LOOP).sets * 3:
            variant.run(inputs)
    torch.cuda.synchronize()


def _keep(measured: Measured, variant: Variant, pool: Pool, number: int, returned: Any) -> None:
    """Copy the results of a call, which the next one may overwrite, to judge them later."""
    if variant.kind != "floor":
        measured.returned, measured.last_set = (
            cloned(variant.results(pool.sets[number], returned)),
            number,
        )


def _device(
    variants: Sequence[Variant],
    pool: Pool,
    found: Mapping[str, Measured],
    metric: str,
    seconds: float,
    least: int,
    most: int,
) -> None:
    draw = random.Random(0)
    launches: dict[str, tuple[Callable[[], Any], int]] = {}
    for variant in variants:
        measured = found[variant.name]
        if variant.synchronizes:
            continue
        try:
            launches[variant.name] = _launch(variant, pool)
        except (
            Exception
        ) as error:  # whatever a capture may raise must not take the other variants' times along
            measured.failure = f"{metric}: {in_one_line(error)}"
    samples: dict[str, list[float]] = {name: [] for name in launches}
    named = {v.name: v for v in variants}
    started, rounds = time.perf_counter(), 0
    while launches and (
        rounds < least or (rounds < most and time.perf_counter() - started < seconds)
    ):
        for name, (launch, calls) in draw.sample(list(launches.items()), len(launches)):
            pool.restore()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            torch.cuda._sleep(_BUSY_CYCLES * (1 if named[name].graphable else calls))
            with named[name].context():
                begin.record()
                returned = launch()
                end.record()
            end.synchronize()
            samples[name].append(begin.elapsed_time(end) / 1e3 / calls)
            if rounds == 0:
                _keep(found[name], named[name], pool, calls - 1, returned)
        rounds += 1
    for name, seconds_each in samples.items():
        found[name].times[metric] = Timing.of(seconds_each)


def _launch(variant: Variant, pool: Pool) -> tuple[Callable[[], Any], int]:
    """Something that queues one call for every set of the pool and returns what the last one gave,
    and the number of calls.
    """
    with variant.context():
        if not variant.graphable:
            some = pool.first(LOOP)

            def loop() -> Any:
                for inputs in some.sets:
                    returned = variant.run(inputs)
                return returned

            return loop, len(some)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for inputs in pool.sets:
                variant.run(inputs)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = [variant.run(inputs) for inputs in pool.sets]

    def replay() -> Any:
        graph.replay()
        return kept[-1]

    return replay, len(pool)


def cloned(named: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A copy of every tensor."""
    return {name: tensor.clone() for name, tensor in named.items()}


def in_one_line(error: BaseException) -> str:
    """Kind and first line of an error, for a table."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:200]
