"""What must hold on a GPU beside speed: launches, synchronisation, CUDA graphs, streams, memory and
indices past 2^31.

``python -m bench.gpu_checks`` checks every backend that is built and writes ``checks.csv``;
``--results DIR`` adds the verdicts that follow from the files ``ops-*.csv`` and ``step-*.csv``
there. Without a GPU it only says that it checked nothing.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench import machine, report
from bench.problems import RULE, Problem, Shape
from bench.timing import in_one_line
from bench.variants import ours as our_variant
from gaal_fast import ops

COLUMNS = (
    "check",
    "backend",
    "shape",
    "value",
    "unit",
    "target",
    "verdict",
    "note",
    *machine.FACTS,
)

# The shapes of the method's own data sets: everything below is bound by launches, not by bytes.
SMALL = tuple(Shape.parse(s) for s in ("256x286x2048", "256x717x2048", "64x286x512", "256x2x2048"))
LARGE = Shape.parse("64x100000x512")  # a second gradient of the head would be 205 MB
MOST_LAUNCHES = 3
MANY_ROWS, MANY_ELEMENTS = 21_500, 2**31 + 64  # rows of 100,000 logits; 4.3 GB of bfloat16 each


@dataclass(frozen=True)
class Check:
    """One finding; ``good`` is None where there is nothing to judge."""

    check: str
    backend: str = ""
    shape: str = ""
    value: float | str = ""
    unit: str = ""
    target: str = ""
    good: bool | None = None
    note: str = ""

    def row(self) -> report.Row:
        verdict = {True: "pass", False: "FAIL", None: "not judged"}[self.good]
        return {name: value for name, value in asdict(self).items() if name != "good"} | {
            "verdict": verdict
        }


def at_most(check: str, value: float, limit: float, unit: str, **where: str) -> Check:
    return Check(
        check, value=value, unit=unit, target=f"<= {limit:g}", good=value <= limit, **where
    )


def at_least(check: str, value: float, limit: float, unit: str, **where: str) -> Check:
    return Check(
        check, value=value, unit=unit, target=f">= {limit:g}", good=value >= limit, **where
    )


# -- measured here
# --------------------------------------------------------------------------------------------------


def live(device: torch.device) -> Iterator[Check]:
    """Every check on every backend; one that breaks is a failed check."""
    backends = [
        name
        for name in ("native", "triton")
        if ops.availability()[name][f"cuda:{device.index or 0}"] is None
    ]
    for name in ("native", "triton"):
        if name not in backends:
            reason = ops.availability()[name][f"cuda:{device.index or 0}"]
            yield Check("available", backend=name, good=False, note=str(reason))
    checks: list[tuple[str, Callable[..., Iterable[Check]]]] = [
        ("launches", launches),
        ("no synchronisation", no_synchronisation),
        ("CUDA graph on new data", graph_on_new_data),
        ("two streams at once", two_streams),
        ("peak memory", peak_memory),
        ("past 2^31 elements", past_two_billion),
    ]
    for backend in backends:
        for name, check in checks:
            yield from _guarded(
                name, backend, lambda check=check, backend=backend: check(device, backend)
            )
    yield from _guarded(
        "training step without synchronisation",
        "auto",
        lambda: training_step_without_synchronisation(device),
    )


def _guarded(name: str, backend: str, check: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    try:
        yield from check()
    except Exception as error:  # a check that breaks must not hide the others
        yield Check(name, backend=backend, good=False, note=in_one_line(error))
    finally:
        torch.cuda.empty_cache()


def _step(
    device: torch.device, backend: str, shape: Shape
) -> tuple[Problem, Callable[[dict], Any]]:
    problem = Problem("guided_linear_ce", shape, torch.float32, device)
    run = our_variant(problem, backend).run

    def call(inputs: dict) -> Any:
        with ops.backend(backend):
            return run(inputs)

    return problem, call


def _flat(step: Any) -> list[torch.Tensor]:
    return [
        step.loss,
        step.grad_features,
        step.grad_weight,
        step.grad_bias,
        *step.projection,
        step.index,
    ]


def launches(device: torch.device, backend: str) -> Iterator[Check]:
    """Kernels, copies and fills that one head step starts, counted by the profiler."""
    for shape in SMALL:
        problem, call = _step(device, backend, shape)
        inputs = problem.inputs(0)
        for _ in range(3):
            call(inputs)
        torch.cuda.synchronize()
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        ) as profile:
            call(inputs)
            torch.cuda.synchronize()
        names = [
            event.name
            for event in profile.events()
            if event.device_type == torch.autograd.DeviceType.CUDA
        ]
        if not names:
            yield Check(
                "launches", backend, str(shape), good=None, note="the profiler saw no kernel"
            )
            continue
        note = "; ".join(name[:60] for name in names)
        found = at_most(
            "launches",
            float(len(names)),
            MOST_LAUNCHES,
            "launches",
            backend=backend,
            shape=str(shape),
        )
        yield Check(**(asdict(found) | {"note": note}))


def no_synchronisation(device: torch.device, backend: str) -> Iterator[Check]:
    """torch's own guard raises at every call that waits for the device."""
    problem, call = _step(device, backend, SMALL[0])
    inputs = problem.inputs(0)
    call(inputs)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call(inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    yield Check("no synchronisation", backend, str(SMALL[0]), good=True)


def graph_on_new_data(device: torch.device, backend: str, replays: int = 3) -> Iterator[Check]:
    """A captured head step, replayed on data it has not seen, gives the bits of the eager one."""
    for shape in SMALL:
        problem, call = _step(device, backend, shape)
        static = problem.inputs(0)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            call(static)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = _flat(call(static))
        equal = True
        for seed in range(1, replays + 1):
            fresh = problem.inputs(seed)
            for name, tensor in fresh.items():
                static[name].copy_(tensor)
            graph.replay()
            expected = _flat(call(fresh))
            equal &= all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))
        yield Check(
            "CUDA graph on new data",
            backend,
            str(shape),
            value=float(replays),
            unit="replays",
            target="bitwise equal",
            good=equal,
        )


def two_streams(device: torch.device, backend: str, rounds: int = 30) -> Iterator[Check]:
    """Head steps on two streams at once give the bits they give alone: no workspace is shared."""
    problem, call = _step(device, backend, SMALL[0])
    sets = [problem.inputs(seed) for seed in range(2)]
    alone = [[t.clone() for t in _flat(call(inputs))] for inputs in sets]
    streams = [torch.cuda.Stream() for _ in sets]
    torch.cuda.synchronize()
    found: list[list[list[torch.Tensor]]] = [[], []]
    for _ in range(rounds):
        for number, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                found[number].append(_flat(call(sets[number])))
    torch.cuda.synchronize()
    equal = all(
        torch.equal(a, b)
        for number in range(2)
        for step in found[number]
        for a, b in zip(step, alone[number], strict=True)
    )
    yield Check(
        "two streams at once",
        backend,
        str(SMALL[0]),
        float(rounds),
        "steps each",
        "bitwise equal",
        equal,
    )


def peak_memory(device: torch.device, backend: str) -> Iterator[Check]:
    """Where few rows meet many classes, the guiding gradient is never formed: less than two
    gradients of the head at the peak.
    """
    problem, call = _step(device, backend, LARGE)
    inputs = problem.inputs(0)
    call(inputs)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call(inputs)
    torch.cuda.synchronize()
    gradient = 4 * LARGE.classes * LARGE.width
    peak = (torch.cuda.max_memory_allocated() - before) / gradient
    yield Check("peak memory", backend, str(LARGE), peak, "gradients of the head", "< 2", peak < 2)


def past_two_billion(device: torch.device, backend: str) -> Iterator[Check]:
    """Statistics of the last rows of a matrix, and the last elements of a gradient, beyond what 32
    bits can count.
    """
    rows, classes = MANY_ROWS, 100_000
    logits = torch.empty(rows, classes, dtype=torch.bfloat16, device=device)
    logits[:-64].zero_()
    logits[-64:] = torch.randn(64, classes, device=device)
    with ops.backend(backend):
        whole = ops.softmax_stats(logits)
        part = ops.softmax_stats(logits[-64:].clone())
    with ops.backend("torch"):
        expected = ops.softmax_stats(logits[-64:].clone())
    same = all(
        torch.allclose(a[-64:], b, rtol=1e-5) and torch.allclose(b, c, rtol=1e-4)
        for a, b, c in zip(whole[:2], part[:2], expected[:2], strict=True)
    )
    yield Check(
        "past 2^31 elements",
        backend,
        f"softmax_stats {rows}x{classes}",
        float(rows * classes),
        "logits",
        "last rows right",
        same,
    )
    del logits, whole
    size = MANY_ELEMENTS
    grad = torch.full((size,), -0.5, dtype=torch.bfloat16, device=device)
    guide = torch.full((size,), 0.5, dtype=torch.bfloat16, device=device)
    with ops.backend(backend):
        projection = ops.project_([grad], [guide], **RULE)
    v = float(projection.v)
    moved = torch.tensor(-0.5 + v * 0.5).bfloat16()
    good = abs(v - 1) < 1e-3 and all(
        torch.equal(t.cpu(), moved.expand(64)) for t in (grad[:64], grad[-64:])
    )
    yield Check(
        "past 2^31 elements",
        backend,
        f"project_ {size}",
        v,
        "v",
        "1, and the last elements moved",
        good,
    )


def training_step_without_synchronisation(device: torch.device) -> Iterator[Check]:
    """A whole step of the method under torch's guard against waiting for the device."""
    from bench.step import Options, make_batch, ours

    options = Options(
        device=device,
        image="resnet18",
        pixels=64,
        batch=32,
        classes=286,
        seconds=0.0,
        preparation=0.0,
        compile=False,
    )
    trainer, batch = ours(options), make_batch(options, 0)
    for _ in range(2):
        trainer.step(batch)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    yield Check("training step without synchronisation", "auto", "resnet18, batch 32", good=True)


# -- read off the benchmarks' files
# --------------------------------------------------------------------------------------------------


def derived(folder: Path) -> Iterator[Check]:
    """The figures that the benchmarks measured against what is wanted of them."""
    for path in sorted(folder.glob("ops-*.csv")):
        yield from _from_ops(_read(path))
    for path in sorted(folder.glob("step-*.csv")):
        yield from _from_step(_read(path))


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def _from_ops(rows: Sequence[dict[str, str]]) -> Iterator[Check]:
    cases: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for row in rows:
        if row["status"].startswith("ok") and row["dtype"] == "float32" and row["cuda"]:
            cases.setdefault((row["op"], row["shape"]), {})[row["variant"]] = row
    for by_name in cases.values():
        for backend in ("native", "triton"):
            if f"ours {backend}" in by_name:
                yield from _judged(by_name[f"ours {backend}"], by_name, backend)


def _judged(
    mine: dict[str, str], by_name: dict[str, dict[str, str]], backend: str
) -> Iterator[Check]:
    """What is wanted of one backend at one shape; ``by_name`` holds everything that was timed
    there.
    """
    op, classes = mine["op"], int(mine["Y"])
    where = {"backend": backend, "shape": f"{op} {mine['shape']}"}

    def faster(
        than: str, other: dict[str, str] | None, metric: str, target: float | None
    ) -> Iterator[Check]:
        if not other or not other[metric] or not mine[metric]:
            return
        check, value = (
            f"faster than {than} ({metric.removesuffix('_us')})",
            float(other[metric]) / float(mine[metric]),
        )
        yield (
            Check(check, value=value, unit="times", **where)
            if target is None
            else at_least(check, value, target, "times", **where)
        )

    if op == "guided_linear_ce" and int(mine["B"]) <= 256 and classes <= 717:
        yield at_most("host time", float(mine["host_us"]), 25, "us", **where)
        if mine["device_hot_us"]:
            yield at_most(
                "device time under a graph", float(mine["device_hot_us"]), 10, "us", **where
            )
        graphs = [row for name, row in by_name.items() if name.startswith("compile graphs")]
        quickest = min(graphs, key=lambda row: float(row["call_us"]), default=None)
        yield from faster("eager", by_name.get("eager"), "call_us", 8)
        yield from faster("reduce-overhead", quickest, "call_us", 3)
        yield from faster("reduce-overhead", quickest, "device_hot_us", None)
        yield from faster("the released code's way", by_name.get("released"), "call_us", None)
    if op == "softmax_stats" and classes >= 10_000:
        device = "device_cold_us" if mine["device_cold_us"] else "device_hot_us"
        yield at_least(
            "fraction of copy bandwidth", float(mine["fraction_of_copy"]), 0.85, "", **where
        )
        yield from faster("eager", by_name.get("eager"), device, 10)
        yield from faster("compile", by_name.get("compile"), device, 1.8)
    if op == "guided_linear_ce" and classes >= 10_000:
        microseconds = float(mine["device_cold_us"] or mine["device_hot_us"] or mine["call_us"])
        yield at_most(
            "over the roofline", microseconds / float(mine["roofline_us"]), 1.3, "times", **where
        )


def _from_step(rows: Sequence[dict[str, str]]) -> Iterator[Check]:
    by_name = {row["variant"]: row for row in rows if row["status"] == "ok" and row["cuda"]}
    if "released" not in by_name:
        return
    shape = f"{rows[0]['image']} {rows[0]['pixels']} px, batch {rows[0]['batch']}"
    fast = [row for name, row in by_name.items() if name.startswith("ours, bf16")]
    if "ours" in by_name:
        yield at_least(
            "ours in float32 over the released step",
            float(by_name["ours"]["times_released"]),
            1.4,
            "times",
            shape=shape,
        )
    if fast:
        best = max(fast, key=lambda row: float(row["times_released"]))
        yield at_least(
            "ours at its fastest over the released step",
            float(best["times_released"]),
            4,
            "times",
            shape=shape,
            backend=best["variant"],
        )
    shares = [row for row in fast if row["surgery_share"]]
    if shares:
        quickest = min(shares, key=lambda row: float(row["step_ms"]))
        yield at_most(
            "share of surgery and selection",
            float(quickest["surgery_share"]),
            0.01,
            "",
            shape=shape,
            backend=quickest["variant"],
        )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu_checks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="also judge ops-*.csv and step-*.csv in this folder",
    )
    parser.add_argument("--no-live", action="store_true", help="only judge those files")
    parser.add_argument("--append", action="store_true", help="keep what is in checks.csv already")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", default=Path(__file__).parent / "results" / "gpu"
    )
    arguments = parser.parse_args(argv)
    device = machine.pick_device(None)
    found: list[Check] = []
    if not arguments.no_live:
        found += (
            live(device)
            if device.type == "cuda"
            else [Check("everything live", note="no GPU that torch can use")]
        )
    if arguments.results:
        found += derived(arguments.results)
    facts = machine.facts(device)
    rows = [check.row() | facts for check in found]
    if arguments.append and (arguments.out / "checks.csv").is_file():
        rows = [*_read(arguments.out / "checks.csv"), *rows]
    report.write_csv(arguments.out / "checks.csv", rows, COLUMNS)
    print(report.table(COLUMNS[:7], [[row[name] for name in COLUMNS[:7]] for row in rows], left=3))
    for row in rows:
        if row["verdict"] != "pass" and row["note"]:
            print(f"{row['check']} {row['backend']} {row['shape']}: {row['note']}")
    verdicts = [row["verdict"] for row in rows]
    print("\n" + ", ".join(f"{verdicts.count(v)} {v}" for v in ("pass", "FAIL", "not judged")))
    return 1 if "FAIL" in verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
