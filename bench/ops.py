"""Time of every op against plain torch, ``torch.compile``, the released code's way and the floor of
what must be computed.

``python -m bench.ops`` runs the grid that fits the budgets, ``--quick`` one small shape in under a
minute, ``--shape 256x286x2048`` one shape. Results are checked against float64 before and after
they are timed. Writes ``ops-DEVICE.csv`` and ``ops-DEVICE.png``.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from bench import figures, machine, report, timing
from bench.cases import best_of_ours, cases
from bench.gate import Gate, errors
from bench.problems import MEMORY_BOUND, OPS, Problem, Shape, Truth
from bench.report import Row
from bench.timing import Measured, Pool
from bench.variants import Variant, auto_backend, variants

RESULTS = Path(__file__).parent / "results"

# Shapes of the method's own data sets first; a budget that ends early has then seen what matters
# most.
FIRST = tuple(Shape.parse(s) for s in ("256x286x2048", "256x717x2048", "256x2x2048", "64x286x512"))
LARGE = tuple(
    Shape.parse(s)
    for s in ("1024x10000x512", "256x10000x512", "64x10000x2048", "64x100000x512", "256x100000x512")
)
GRID = tuple(
    Shape(*s)
    for s in itertools.product((64, 256, 1024, 4096), (2, 286, 717, 10_000, 100_000), (512, 2048))
)
QUICK = (Shape(64, 286, 512),)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
METRICS = ("call_us", "host_us", "device_hot_us", "device_cold_us")
RATIOS = (
    "call_vs_eager",
    "call_vs_compile",
    "call_over_floor",
    "device_vs_eager",
    "device_vs_compile",
    "device_over_floor",
)
COLUMNS = (
    "op",
    "shape",
    "B",
    "Y",
    "d",
    "k",
    "dtype",
    "variant",
    "kind",
    "auto",
    "status",
    *(metric + suffix for metric in METRICS for suffix in ("", "_p20", "_p80", "_min")),
    "measurements",
    *RATIOS,
    "bytes",
    "gb_per_s",
    "copy_gb_per_s",
    "fraction_of_copy",
    "roofline_us",
    *machine.FACTS,
)

# What a call may be expected to cost, to see which cases fit: multiply-adds times two and bytes,
# each by second.
_CPU_FLOPS_A_THREAD, _CPU_BYTES = 5e10, 1e10
_GPU_FLOPS, _GPU_BYTES = 3e13, 2e12
_PASSES = 6  # of plain torch over the op's compulsory traffic


@dataclass(frozen=True)
class Options:
    device: torch.device
    dtype: torch.dtype
    seconds: float  # for everything
    case_seconds: float  # for the timing of one op at one shape
    call_seconds: float  # expected time of one call above which a case is left out
    memory: int  # bytes
    compile: bool = True
    alternatives: bool = False


def expected_seconds(problem: Problem) -> float:
    """What one call in plain torch may cost, by rule of thumb."""
    if problem.device.type == "cuda":
        return problem.flops / _GPU_FLOPS + _PASSES * problem.bytes / _GPU_BYTES
    return (
        problem.flops / (_CPU_FLOPS_A_THREAD * torch.get_num_threads())
        + _PASSES * problem.bytes / _CPU_BYTES
    )


def problems(ops: Iterable[str], shapes: Sequence[Shape], options: Options) -> list[Problem]:
    """Every op at every shape, the shapes of ``FIRST`` before those of ``LARGE`` before the others,
    cheap before dear.
    """
    found = {}
    for shape in shapes:
        for op in reversed(list(ops)):  # the whole head step first
            problem = Problem(op, shape, options.dtype, options.device)
            found.setdefault((op, problem.key), problem)

    def urgency(problem: Problem) -> tuple[int, float]:
        if problem.shape in FIRST:
            return 0, 0.0
        return (1, 0.0) if problem.shape in LARGE else (2, expected_seconds(problem))

    return sorted(found.values(), key=urgency)


def reason_to_leave_out(problem: Problem, options: Options, began: float) -> str | None:
    need = MINIMUM_SETS * problem.set_bytes + problem.working_bytes
    if need > options.memory:
        return f"needs {need / 1e9:.1f} GB, the budget is {options.memory / 1e9:.1f} GB (--memory)"
    if expected_seconds(problem) > options.call_seconds:
        return (
            f"one call takes about {expected_seconds(problem):.1f} s, the budget is"
            f" {options.call_seconds:g} s (--call-seconds)"
        )
    if time.perf_counter() - began > options.seconds:
        return "the time budget was used up (--seconds)"
    return None


# -- one op at one shape
# --------------------------------------------------------------------------------------------------

MINIMUM_SETS = 3


def make_pool(problem: Problem, options: Options) -> tuple[Pool, int, bool]:
    """Sets of inputs; how many of them stay in a GPU's cache together, and whether all of them are
    too large for it.
    """
    once = problem.op in ("project_", "surgery")
    count, hot, cold = MINIMUM_SETS, 0, False
    if problem.device.type == "cuda":
        cache, footprint = (
            machine.last_level_cache(problem.device),
            max(problem.set_bytes, problem.bytes),
        )
        affordable = max(
            MINIMUM_SETS,
            (options.memory - problem.working_bytes) // max(1, problem.set_bytes + problem.bytes),
        )
        count = min(
            timing.LOOP * 8, affordable, max(MINIMUM_SETS, math.ceil(3 * cache / footprint))
        )
        hot = min(timing.LOOP, count, cache // 2 // footprint)
        cold = count * footprint >= 3 * cache
    return (
        Pool([problem.inputs(seed) for seed in range(count)], problem.restore, once=once),
        hot,
        cold,
    )


def measure(problem: Problem, options: Options) -> list[Row]:
    """Check, time and check again; one row for every variant."""
    pool, hot, cold = make_pool(problem, options)
    auto = auto_backend(problem, pool.sets[0])
    found, missing = variants(
        problem, auto, compile=options.compile, alternatives=options.alternatives
    )
    status = {name: f"not available: {reason}" for name, reason in missing.items()}
    alive = _warm(found, pool, status)

    gate, checked = _first_check(problem, pool, alive, status)
    alive = [v for v in alive if v.name not in status]
    if problem.device.type == "cuda":
        measured = timing.time_on_gpu(
            alive, pool, hot_sets=hot, cold=cold, seconds=options.case_seconds
        )
    else:
        measured = timing.time_on_cpu(alive, pool, seconds=options.case_seconds)
    for variant in alive:
        status[variant.name] = _second_check(
            variant, measured[variant.name], gate, problem, pool, checked
        )
    return _rows(problem, options, found, missing, measured, status, auto)


def _warm(found: Sequence[Variant], pool: Pool, status: dict[str, str]) -> list[Variant]:
    """Prepare and run everything once or twice (compilation, workspaces); what fails is noted and
    left out.
    """
    alive = []
    for variant in found:
        try:
            for inputs in pool.sets:
                variant.prepare(inputs)
            with variant.context():
                for number in (0, len(pool) - 1):
                    pool.restore(number)
                    variant.run(pool.sets[number])
        except Exception as error:  # a variant that breaks must not take the others' numbers along
            status[variant.name] = f"failed: {timing.in_one_line(error)}"
        else:
            alive.append(variant)
    return alive


def _first_check(
    problem: Problem, pool: Pool, alive: Sequence[Variant], status: dict[str, str]
) -> tuple[Gate, dict[int, Truth]]:
    """Judge everything on the first set of inputs; plain torch comes first, as it sets the
    tolerance.
    """
    pool.restore()  # floors and variants in place have been there
    truth = Truth(problem, pool.sets[0])
    gate = Gate(problem, {})
    for variant in sorted(alive, key=lambda v: v.name != "eager"):
        pool.restore(0)
        with variant.context():
            returned = variant.run(pool.sets[0])
        if variant.kind == "floor":
            continue
        results = variant.results(pool.sets[0], returned)
        if variant.name == "eager":
            gate = Gate(problem, errors(truth, results))
        wrong = judge(gate, variant, truth, results)
        if wrong:
            status[variant.name] = f"WRONG before timing: {wrong}"
    return gate, {0: truth}


def _second_check(
    variant: Variant,
    measured: Measured,
    gate: Gate,
    problem: Problem,
    pool: Pool,
    checked: dict[int, Truth],
) -> str:
    """Judge what the last timed call gave."""
    if variant.kind != "floor":
        number = measured.last_set
        pool.restore(number)
        truth = checked.setdefault(number, Truth(problem, pool.sets[number]))
        wrong = judge(gate, variant, truth, measured.returned)
        if wrong:
            return f"WRONG after timing: {wrong}"
    return f"ok, but {measured.failure}" if measured.failure else "ok"


def judge(
    gate: Gate, variant: Variant, truth: Truth, results: dict[str, torch.Tensor]
) -> str | None:
    return (
        gate.partial_verdict(truth, results)
        if variant.kind == "part"
        else gate.verdict(truth, results)
    )


def _rows(
    problem: Problem,
    options: Options,
    found: Sequence[Variant],
    missing: dict[str, str],
    measured: dict[str, Measured],
    status: dict[str, str],
    auto: str,
) -> list[Row]:
    kinds = {v.name: v.kind for v in found}
    good = {name: m.times for name, m in measured.items() if status[name].startswith("ok")}
    copy = machine.copy_bandwidth(problem.device)
    rows = []
    for name in [*kinds, *missing]:
        row: Row = _case_columns(problem) | {
            "variant": name,
            "kind": kinds.get(name, ""),
            "status": status[name],
        }
        row["auto"] = auto if name == ("ours auto" if "+" in auto else f"ours {auto}") else ""
        if name in good:
            for metric, t in good[name].items():
                row |= {
                    metric: t.median,
                    f"{metric}_p20": t.p20,
                    f"{metric}_p80": t.p80,
                    f"{metric}_min": t.least,
                }
            row["measurements"] = good[name]["call_us"].count
            row |= _ratios(name, good)
            if kinds[name] != "part":
                microseconds = _device_us(good[name]) or row["call_us"]
                rate = problem.bytes / microseconds * 1e6
                row |= {
                    "bytes": problem.bytes,
                    "gb_per_s": rate / 1e9,
                    "copy_gb_per_s": copy / 1e9,
                    "fraction_of_copy": rate / copy,
                }
                row["roofline_us"] = 1e6 * max(
                    problem.bytes / copy,
                    problem.flops / machine.matmul_rate(problem.device, problem.dtype),
                )
        rows.append(row)
    return rows


def _case_columns(problem: Problem) -> Row:
    shape = problem.shape
    return {
        "op": problem.op,
        "shape": problem.key,
        "B": shape.rows,
        "Y": shape.classes,
        "d": shape.width,
        "k": shape.selected,
        "dtype": str(problem.dtype).removeprefix("torch."),
    }


def _device_us(times: dict[str, timing.Timing]) -> float | None:
    """Time on the device with cold inputs, else with hot ones."""
    found = times.get("device_cold_us") or times.get("device_hot_us")
    return found.median if found else None


def _ratios(name: str, good: dict[str, dict[str, timing.Timing]]) -> Row:
    """How often this variant fits into what plain torch, compiled torch (its fastest mode) take,
    and the floor into it.
    """
    found: Row = {}
    for label, read in (("call", lambda times: times["call_us"].median), ("device", _device_us)):
        mine = read(good[name])
        if mine is None:
            continue
        compiled = [
            t
            for t in (read(times) for other, times in good.items() if other.startswith("compile"))
            if t is not None
        ]
        eager, floor = (
            read(good[other]) if other in good else None for other in ("eager", "floor")
        )
        found |= {
            f"{label}_vs_eager": eager / mine if eager else None,
            f"{label}_vs_compile": min(compiled) / mine if compiled else None,
            f"{label}_over_floor": mine / floor if floor else None,
        }
    return found


# -- all of them
# --------------------------------------------------------------------------------------------------


def run(
    ops: Iterable[str], shapes: Sequence[Shape], options: Options, save: Callable[[list[Row]], None]
) -> list[Row]:
    """Measure what fits the budgets; a case that does not has one row that says why. ``save`` gets
    all rows after every case.
    """
    began = time.perf_counter()
    facts = machine.facts(options.device)
    rows: list[Row] = []
    with tqdm(problems(ops, shapes, options), unit="case", disable=None) as bar:
        for problem in bar:
            bar.set_postfix_str(f"{problem.op} {problem.key}")
            reason = reason_to_leave_out(problem, options, began)
            if reason is None:
                try:
                    found = measure(problem, options)
                except (torch.OutOfMemoryError, MemoryError) as error:
                    reason = timing.in_one_line(error)
            if reason is not None:
                found = [_case_columns(problem) | {"status": f"not run: {reason}"}]
            rows += [row | facts for row in found]
            save(rows)
            if options.device.type == "cuda":
                torch.cuda.empty_cache()
    return rows


def tables(rows: Sequence[Row]) -> str:
    """One table for each op: medians of a call, and how ours compares; then what was wrong, failed
    or left out.
    """
    device = any(row.get("device_hot_us") or row.get("device_cold_us") for row in rows)
    text = []
    by_case = cases(rows)
    for op in OPS:
        mine = {
            shape: group
            for (name, shape), group in by_case.items()
            if name == op and len(group) > 1
        }
        if not mine:
            continue
        names = list(
            dict.fromkeys(
                r["variant"]
                for group in mine.values()
                for r in group
                if r.get("call_us") is not None
            )
        )
        header = [op, *names, "vs eager", "vs compile", "/ floor", "of copy"]
        text.append(
            report.table(
                header, [_line(shape, group, names, "call") for shape, group in mine.items()]
            )
        )
        if device:
            header[0] = f"{op}, device"
            text.append(
                report.table(
                    header, [_line(shape, group, names, "device") for shape, group in mine.items()]
                )
            )
    notes = [
        f"{row['op']} {row['shape']} {row.get('variant', '')}: {row['status']}".replace(" :", ":")
        for row in rows
        if row["status"] != "ok" and not row["status"].startswith("not available")
    ]
    unavailable = dict.fromkeys(
        f"{row['variant']}: {row['status']}"
        for row in rows
        if row["status"].startswith("not available")
    )
    return "\n\n".join([*text, "\n".join([*unavailable, *notes, *losses(by_case)])]).strip()


def _line(shape: str, group: Sequence[Row], names: Sequence[str], label: str) -> list[Any]:
    """Times in microseconds by variant; ratios of the row that ``auto`` takes."""
    by_name = {row["variant"]: row for row in group}

    def time_of(row: Row) -> Any:
        return (
            row.get("call_us")
            if label == "call"
            else row.get("device_cold_us") or row.get("device_hot_us")
        )

    mine = best_of_ours(group) or {}
    values = [time_of(by_name[name]) if name in by_name else None for name in names]
    ratios = [mine.get(f"{label}_{ratio}") for ratio in ("vs_eager", "vs_compile", "over_floor")]
    return [
        shape,
        *values,
        *ratios,
        mine.get("fraction_of_copy") if mine.get("op") in MEMORY_BOUND else None,
    ]


def losses(by_case: dict[tuple[str, str], list[Row]], tolerance: float = 0.98) -> list[str]:
    """Where what ``auto`` takes is slower than plain or compiled torch."""
    found = []
    for (op, shape), group in by_case.items():
        mine = best_of_ours(group)
        for label, against in itertools.product(("call", "device"), ("eager", "compile")):
            ratio = mine.get(f"{label}_vs_{against}") if mine else None
            if ratio is not None and ratio < tolerance:
                found.append(
                    f"slower: {op} {shape} {mine['variant']} takes {1 / ratio:.2f} times as long as"
                    f" {against} ({label} time)"
                )
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.ops",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one small shape, under a minute")
    parser.add_argument(
        "--shape",
        action="append",
        type=Shape.parse,
        metavar="BxYxd",
        help="this shape instead of the grid; repeatable",
    )
    parser.add_argument("--op", action="append", choices=OPS, help="this op only; repeatable")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", help="cpu or cuda (default: the GPU if there is one)")
    parser.add_argument("--threads", type=int, help="threads of torch on the CPU")
    parser.add_argument(
        "--seconds",
        type=float,
        help="stop beginning new cases after this time (default 540, quick 40)",
    )
    parser.add_argument(
        "--case-seconds", type=float, help="timing of one op at one shape (default 1, quick 0.3)"
    )
    parser.add_argument(
        "--call-seconds",
        type=float,
        help="leave out cases whose one call takes longer (default 0.4, GPU 0.1)",
    )
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GB",
        help="leave out cases that need more (default: a quarter; GPU: half of the free)",
    )
    parser.add_argument(
        "--no-compile",
        action="store_true",
        help="leave torch.compile out; a case then takes a second instead of several",
    )
    parser.add_argument(
        "--alternatives",
        action="store_true",
        help="also time other ways to write the eager baseline",
    )
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = machine.pick_device(arguments.device)
    options = Options(
        device=device,
        dtype=DTYPES[arguments.dtype],
        seconds=arguments.seconds
        or (40 if arguments.quick else math.inf if arguments.shape else 540),
        case_seconds=arguments.case_seconds or (0.3 if arguments.quick else 1.0),
        call_seconds=arguments.call_seconds
        or (math.inf if arguments.shape else 0.1 if device.type == "cuda" else 0.4),
        memory=int(arguments.memory * 1e9) if arguments.memory else machine.memory(device),
        compile=not arguments.no_compile,
        alternatives=arguments.alternatives,
    )
    shapes = arguments.shape or (QUICK if arguments.quick else (*FIRST, *LARGE, *GRID))
    name = f"ops-{machine.label(device)}" + (
        "" if arguments.dtype == "float32" else f"-{arguments.dtype}"
    )
    path = arguments.out / f"{name}.csv"
    rows = run(
        arguments.op or OPS, shapes, options, lambda so_far: report.write_csv(path, so_far, COLUMNS)
    )
    figures.ops(rows, path.with_suffix(".png"))
    print(
        f"\n{report.facts_line(machine.facts(device))}\nmedian microseconds; ratios are of the"
        " backend that auto takes\n"
    )
    print(tables(rows))
    print(f"\nwrote {path} and {path.with_suffix('.png').name}")
    return 1 if any("WRONG" in row["status"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
