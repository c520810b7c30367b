"""Time of whole training steps: ours against the authors' released step, on synthetic batches.

``python -m bench.step`` trains ResNet-50 and the paper's table network for a few steps with every
variant in turn, on the CPU with a small batch, on a GPU with 256 images. Prints and writes
medians, images per second, where the time goes, and how far the parameters are from those of the
released step after one update: ``step-DEVICE.csv`` and ``step-DEVICE.png``.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench import figures, machine, report
from bench.report import Row
from bench.timing import Timing, in_one_line, undisturbed, wait_for_other_threads
from gaal_fast import ops
from gaal_fast.config import ModelConfig
from gaal_fast.data.batch import Batch, InputSpec, View
from gaal_fast.engine.precision import set_precision
from gaal_fast.engine.update import OptimizerUpdate
from gaal_fast.methods import Gaal
from gaal_fast.tasks import Classification
from tests.reference.released import ReleasedStep

RESULTS = Path(__file__).parent / "results"
ORDER = ("image", "table")
TABLE_COLUMNS = 63  # of the preprocessed DVM table
WIDTH = 2048  # features of the paper's encoders
ADAM = {"lr": 1e-3, "weight_decay": 1e-4}

MakeOptimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer]

PHASES = tuple(figures.PHASES)
COLUMNS = (
    "variant",
    "image",
    "pixels",
    "batch",
    "classes",
    "status",
    "step_ms",
    "step_ms_p20",
    "step_ms_p80",
    "step_ms_min",
    "measurements",
    "images_per_s",
    "times_released",
    *(f"{phase} ms" for phase in PHASES),
    "surgery_share",
    "peak_mb",
    "backend",
    "float64_difference",
    "float32_difference",
    "float32_rounding",
    *machine.FACTS,
)


@dataclass(frozen=True)
class Options:
    device: torch.device
    image: str
    pixels: int
    batch: int
    classes: int
    seconds: float  # for the timed steps
    # seconds after which no further variant is prepared (a compiled encoder takes a minute)
    preparation: float
    compile: bool


def to_channels_last(batch: Batch) -> Batch:
    """The batch with the channels of its images innermost."""
    values, rows = batch.views["image"]
    last = values.contiguous(memory_format=torch.channels_last)
    return Batch(batch.target, batch.index, {**batch.views, "image": View(last, rows)})


def make_batch(options: Options, seed: int, dtype: torch.dtype = torch.float32) -> Batch:
    """Random images and tables that carry a trace of the class, so that gradients are not pure
    noise.
    """
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(options.classes, (options.batch,), generator=generator)
    shift = (target / options.classes - 0.5)[:, None]
    pixels = (
        torch.randn(options.batch, 3, options.pixels, options.pixels, generator=generator)
        + shift[:, :, None, None]
    )
    table = torch.randn(options.batch, TABLE_COLUMNS, generator=generator) + shift
    rows = torch.arange(options.batch, device=options.device)
    views = {
        "image": View(pixels.to(options.device, dtype), rows),
        "table": View(table.to(options.device, dtype), rows),
    }
    return Batch(target.to(options.device), rows, views)


def make_model(options: Options, guide: str = "fresh") -> Gaal:
    """The paper's networks, always with the same initial weights, trained with the released code's
    rule and fractions.
    """
    torch.manual_seed(0)
    inputs = {
        "image": InputSpec("image", (3, options.pixels, options.pixels)),
        "table": InputSpec("table", (TABLE_COLUMNS,)),
    }
    return Gaal(
        Gaal.Options.model_validate({"rule": "official", "guide": guide}),
        Classification(range(options.classes), np.ones(options.classes)),
        inputs,
        ModelConfig(image=options.image, hidden=WIDTH),
    )


class Step:
    """Ours; the scalars of the last batch's updates stay in ``reports``."""

    def __init__(self, method: Gaal, optimizer: torch.optim.Optimizer) -> None:
        self.method = method
        self.reports: list[Mapping[str, Tensor]] = []
        self.update = OptimizerUpdate(optimizer, lambda _part, found: self.reports.append(found))

    def __call__(self, batch: Batch) -> list[Mapping[str, Tensor]]:
        self.reports = []
        self.method.step(batch, self.update)
        return self.reports


# -- variants
# --------------------------------------------------------------------------------------------------


@dataclass
class Trainer:
    """One way of training its own copy of the model; ``step(batch)`` is what is timed."""

    name: str
    step: Callable[[Batch], Any]
    model: Gaal
    optimizer: torch.optim.Optimizer
    released: ReleasedStep | None = None
    channels_last: bool = False
    opaque: bool = False  # one CUDA graph, whose parts cannot be timed
    samples: list[float] = field(default_factory=list)


def adam(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """The authors' optimizer."""
    return torch.optim.Adam(parameters, **ADAM)


def released(
    options: Options, *, isolate: bool = False, optimizer: MakeOptimizer = adam
) -> Trainer:
    """The authors' step as released."""
    model = make_model(options).to(options.device).train()
    optimizer = optimizer(model.parameters())
    step = ReleasedStep(
        *(model.encoders.of(name) for name in ORDER), model.head, optimizer, isolate=isolate
    )
    return Trainer(
        "released",
        lambda b: step(*(b.views[name].values for name in ORDER), b.target),
        model,
        optimizer,
        step,
    )


def ours(
    options: Options, *, guide: str = "fresh", name: str = "ours", optimizer: MakeOptimizer = adam
) -> Trainer:
    """Ours in plain fp32, the released step's optimizer and settings."""
    model = make_model(options, guide).to(options.device).train()
    optimizer = optimizer(model.parameters())
    return Trainer(name, Step(model, optimizer), model, optimizer)


def fast(options: Options, *, guide: str, compile: bool, graph: bool, name: str) -> Trainer:
    """Ours with bfloat16 encoders, channels-last images and a fused optimizer; compiled encoders
    and one CUDA graph if asked.
    """
    model = make_model(options, guide).to(options.device, memory_format=torch.channels_last).train()
    set_precision(model, "bf16")
    if compile:
        for encoder in model.encoders.values():
            encoder.compile(dynamic=False)
    optimizer = torch.optim.Adam(model.parameters(), **ADAM, fused=True, capturable=graph)
    plain = Step(model, optimizer)
    step = GraphedStep(plain) if graph else plain
    return Trainer(name, step, model, optimizer, channels_last=True, opaque=graph)


def released_fast(options: Options, *, compile: bool) -> Trainer:
    """The released step with the same settings, to tell what they bring from what we bring."""
    model = make_model(options).to(options.device, memory_format=torch.channels_last).train()
    if compile:
        for encoder in model.encoders.values():
            encoder.compile(dynamic=False)
    optimizer = torch.optim.Adam(model.parameters(), **ADAM, fused=True)
    image, table = (Bfloat16(model.encoders.of(name)) for name in ORDER)
    step = ReleasedStep(image, table, model.head, optimizer, isolate=False)
    name = "released, bf16" + ", compiled" * compile
    return Trainer(
        name,
        lambda b: step(*(b.views[name].values for name in ORDER), b.target),
        model,
        optimizer,
        step,
        channels_last=True,
    )


class Bfloat16(nn.Module):
    """An encoder under autocast that hands its features on in float32."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
            features = self.encoder(inputs)
        return features.float()


class GraphedStep:
    """A whole training step in one CUDA graph, which has buffers of its own for the batch."""

    def __init__(self, step: Callable[[Batch], Any], warm_up: int = 3) -> None:
        self.step, self.warm_up = step, warm_up
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch) -> Any:
        if self.graph is None:
            self._capture(batch)
        self.batch.target.copy_(batch.target)
        for name, view in batch.views.items():
            self.batch.views[name].values.copy_(view.values)
        self.graph.replay()
        return self.reports

    def _capture(self, batch: Batch) -> None:
        self.batch = batch.map(torch.clone)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(
            side
        ):  # the optimizer's state and the libraries' workspaces come into being here
            for _ in range(self.warm_up):
                self.step(self.batch)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.reports = self.step(self.batch)


def makers(options: Options) -> dict[str, Callable[[], Trainer]]:
    """Every variant by name, the released step first."""
    found: dict[str, Callable[[], Trainer]] = {
        "released": lambda: released(options),
        "ours": lambda: ours(options),
        "ours, cached guide": lambda: ours(options, guide="cached", name="ours, cached guide"),
    }
    if options.device.type != "cuda":
        return found

    def add(name: str, **settings: Any) -> None:
        found[name] = lambda: fast(options, name=name, **settings)

    add("ours, bf16", guide="fresh", compile=False, graph=False)
    add("ours, bf16, graph", guide="fresh", compile=False, graph=True)
    found["released, bf16"] = lambda: released_fast(options, compile=False)
    if options.compile:
        add("ours, bf16, compiled", guide="fresh", compile=True, graph=False)
        add("ours, bf16, compiled, graph", guide="fresh", compile=True, graph=True)
        found["released, bf16, compiled"] = lambda: released_fast(options, compile=True)
    # No graph here: the guide of the first turn is a tensor of the step before, which a graph would
    # not see change.
    add(
        "ours, cached guide, bf16" + ", compiled" * options.compile,
        guide="cached",
        compile=options.compile,
        graph=False,
    )
    return found


# -- where the time goes
# --------------------------------------------------------------------------------------------------


class Phases:
    """Time spent in wrapped functions by phase, each without what it spends in another one.

    The host waits for the device at every border.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._open = ["rest"]
        self._since = time.perf_counter()

    def _charge(self) -> None:
        machine.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def wrap(
        self, function: Callable[..., Any], name: Callable[[], str] | str
    ) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name if isinstance(name, str) else name()):
                return function(*args, **kwargs)

        return timed


@contextmanager
def _patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    former = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, former)


def breakdown(
    trainer: Trainer, batches: Sequence[Batch], device: torch.device, steps: int = 3
) -> dict[str, float]:
    """Milliseconds of a step by phase. Waiting at the borders makes the sum a little more than an
    undisturbed step.

    The released step records a graph in all its forward passes; entropies, selection, quadratic
    program and copies are its surgery, while the gradient of its head is part of its backward
    passes.
    """
    phases = Phases(device)

    def forward() -> str:
        return "forward" if torch.is_grad_enabled() else "guide forward"

    wrapped: list[tuple[Any, str, Callable[[], str] | str]] = [
        (torch.Tensor, "backward", "backward"),
        (trainer.optimizer, "step", "optimizer"),
        (trainer.optimizer, "zero_grad", "optimizer"),
    ]
    if trainer.released is None:
        wrapped += [
            (trainer.model.encoders, "forward", forward),
            (ops, "guided_linear_ce", "head and surgery"),
        ]
    else:
        wrapped += [(trainer.released, name, forward) for name in ORDER]
        wrapped += [
            (trainer.released, name, "head and surgery")
            for name in ("_guiding_gradient", "_update")
        ]
    with ExitStack() as stack:
        for owner, name, phase in wrapped:
            stack.enter_context(_patched(owner, name, phases.wrap(getattr(owner, name), phase)))
        with phases.phase("rest"):
            for number in range(steps):
                trainer.step(batches[number % len(batches)])
    return {name: 1e3 * seconds / steps for name, seconds in phases.seconds.items()}


# -- equality
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Equality:
    """How far one step is from the released one (strictly isolated), both from the same weights.

    ``double`` is the largest difference of a parameter or buffer after one step in float64, with
    the authors' optimizer. In float32 Adam turns the sign of a gradient that is nothing but
    rounding into a whole step, so there plain gradient descent takes the steps: ``single`` is the
    norm of the difference of the two updates relative to the update, and ``rounding`` is what
    float32 itself makes, the difference of the released step's own updates in float32 and float64.
    """

    double: float
    single: float
    rounding: float

    @property
    def good(self) -> bool:
        return self.double < 1e-8 and self.single <= self.rounding

    def __str__(self) -> str:
        return (
            f"after one step: largest difference to the released step {self.double:.1e} in float64;"
            f" updates differ by {self.single:.1e} in float32, whose own rounding is"
            f" {self.rounding:.1e}"
        )


def equality(options: Options) -> Equality:
    """One step of both on one small batch."""
    small = replace(options, batch=min(options.batch, 4))

    def descent(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.01)

    def state(model: nn.Module) -> Tensor:
        return torch.cat(
            [
                t.detach().double().flatten()
                for t in model.state_dict().values()
                if t.is_floating_point()
            ]
        )

    def update(
        make: Callable[..., Trainer], dtype: torch.dtype, optimizer: MakeOptimizer
    ) -> Tensor:
        """What one step adds to all parameters and buffers, one after the other."""
        trainer = make(small, optimizer=optimizer)
        trainer.model.to(dtype)
        before = state(trainer.model)
        trainer.step(make_batch(small, seed=0, dtype=dtype))
        return state(trainer.model) - before

    theirs = partial(released, isolate=True)
    double = (update(ours, torch.float64, adam) - update(theirs, torch.float64, adam)).abs().max()
    mine, other, truth = (
        update(*which, descent)
        for which in ((ours, torch.float32), (theirs, torch.float32), (theirs, torch.float64))
    )
    return Equality(
        float(double),
        float((mine - other).norm() / truth.norm()),
        float((other - truth).norm() / truth.norm()),
    )


# -- all of it
# --------------------------------------------------------------------------------------------------


def time_steps(
    trainers: Sequence[Trainer],
    batches: Sequence[Batch],
    options: Options,
    least: int = 3,
    most: int = 50,
) -> None:
    """Steps of all in turn, in an order drawn anew each round; on a GPU three steps between two
    waits.
    """
    draw = random.Random(0)
    together = 3 if options.device.type == "cuda" else 1
    last_batches = [to_channels_last(batch) for batch in batches]
    began, rounds = time.perf_counter(), 0
    with undisturbed():
        while rounds < least or (rounds < most and time.perf_counter() - began < options.seconds):
            for trainer in draw.sample(trainers, len(trainers)):
                mine = last_batches if trainer.channels_last else batches
                wait_for_other_threads(options.device)  # the released step computes with NumPy
                machine.synchronize(options.device)
                started = time.perf_counter()
                for number in range(together):
                    trainer.step(mine[(rounds + number) % len(mine)])
                machine.synchronize(options.device)
                trainer.samples.append((time.perf_counter() - started) / together)
            rounds += 1


def run(options: Options) -> tuple[list[Row], Equality]:
    """Rows by variant, the released step first, and the comparison of parameters."""
    equal = equality(options)
    batches = [make_batch(options, seed) for seed in range(3)]
    trainers: list[Trainer] = []
    failed: dict[str, str] = {}
    began = time.perf_counter()
    for name, make in makers(options).items():
        if time.perf_counter() - began > options.preparation:
            failed[name] = "not run: preparation took too long (--preparation)"
            continue
        try:
            trainer = make()
            for batch in batches[:2]:
                trainer.step(to_channels_last(batch) if trainer.channels_last else batch)
            machine.synchronize(options.device)
        except (
            Exception
        ) as error:  # one variant that breaks must not take the others' numbers along
            failed[name] = f"failed: {in_one_line(error)}"
        else:
            trainers.append(trainer)
    time_steps(trainers, batches, options)
    facts = machine.facts(options.device)
    common = {
        "image": options.image,
        "pixels": options.pixels,
        "batch": options.batch,
        "classes": options.classes,
    } | facts
    baseline = (
        Timing.of(trainers[0].samples).median
        if trainers and trainers[0].name == "released"
        else None
    )
    rows = []
    for trainer in trainers:
        mine = [to_channels_last(batch) for batch in batches] if trainer.channels_last else batches
        rows.append(common | _row(trainer, mine, options, baseline))
    for row in rows:
        if row["variant"] == "ours":
            row |= {
                "float64_difference": equal.double,
                "float32_difference": equal.single,
                "float32_rounding": equal.rounding,
            }
    return (
        rows + [common | {"variant": name, "status": reason} for name, reason in failed.items()],
        equal,
    )


def _row(
    trainer: Trainer, batches: Sequence[Batch], options: Options, baseline: float | None
) -> Row:
    timing = Timing.of(trainer.samples)
    row: Row = {
        "variant": trainer.name,
        "status": "ok",
        "step_ms": timing.median / 1e3,
        "step_ms_p20": timing.p20 / 1e3,
        "step_ms_p80": timing.p80 / 1e3,
        "step_ms_min": timing.least / 1e3,
        "measurements": timing.count,
        "images_per_s": options.batch / timing.median * 1e6,
        "times_released": baseline / timing.median if baseline else None,
    }
    if trainer.released is None:
        head = trainer.model.head.weight
        row["backend"] = ops.selected_backend("guided_linear_ce", head, head, head)
    if not trainer.opaque:
        parts = breakdown(trainer, batches, options.device)
        row |= {f"{phase} ms": value for phase, value in parts.items()}
        row["surgery_share"] = parts["head and surgery"] / sum(parts.values())
    if options.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        trainer.step(batches[0])
        row["peak_mb"] = (torch.cuda.max_memory_allocated() - before) / 1e6
    return row


def table(rows: Sequence[Row]) -> str:
    shown = (
        "step_ms",
        "step_ms_p20",
        "step_ms_p80",
        "images_per_s",
        "times_released",
        *(f"{p} ms" for p in PHASES),
        "surgery_share",
    )
    lines = [[row["variant"], *(row.get(name) for name in shown)] for row in rows]
    notes = [f"{row['variant']}: {row['status']}" for row in rows if row["status"] != "ok"]
    return "\n".join([report.table(["variant", *shown], lines), *notes])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--image", default="resnet50", help="image encoder: resnet50, resnet18, small or timm:NAME"
    )
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--classes", type=int, default=286)
    parser.add_argument("--batch", type=int, help="default 256 on a GPU, 16 on the CPU")
    parser.add_argument("--seconds", type=float, help="for the timed steps (default 90; GPU 30)")
    parser.add_argument(
        "--preparation",
        type=float,
        default=math.inf,
        help="seconds after which no further variant is prepared",
    )
    parser.add_argument("--device", help="cpu or cuda (default: the GPU if there is one)")
    parser.add_argument("--threads", type=int, help="threads of torch on the CPU")
    parser.add_argument(
        "--no-compile", action="store_true", help="leave out compiled encoders (GPU)"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = machine.pick_device(arguments.device)
    gpu = device.type == "cuda"
    options = Options(
        device=device,
        image=arguments.image,
        pixels=arguments.pixels,
        batch=arguments.batch or (256 if gpu else 16),
        classes=arguments.classes,
        seconds=arguments.seconds if arguments.seconds is not None else 30 if gpu else 90,
        preparation=arguments.preparation,
        compile=not arguments.no_compile,
    )
    rows, equal = run(options)
    name = f"step-{machine.label(device)}"
    report.write_csv(arguments.out / f"{name}.csv", rows, COLUMNS)
    figures.step(rows, arguments.out / f"{name}.png")
    print(
        f"{report.facts_line(machine.facts(device))}\n\n{table(rows)}\n\n{equal}\nwrote"
        f" {arguments.out / name}.csv and .png"
    )
    return 0 if equal.good and not any(row["status"].startswith("failed") for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
