"""Pictures of the results, drawn from the same rows as the CSV files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.problems import MEMORY_BOUND, OPS
from bench.report import Row

# Told apart by colour-blind readers too.
COLOURS = {"eager": "#0072b2", "compile": "#d55e00", "released": "#777777", "ours": "#009e73"}
PHASES = {
    "forward": "#0072b2",
    "guide forward": "#56b4e9",
    "backward": "#e69f00",
    "head and surgery": "#009e73",
    "optimiser": "#cc79a7",
    "rest": "#bbbbbb",
}


def _figure(width: float, height: float) -> Any:
    # matplotlib costs half a second to import, which a run that only prints should not pay.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def ops(rows: Sequence[Row], path: Path) -> None:
    """Speed-up by shape for every op, and the fraction of copy bandwidth that the memory-bound ones reach."""
    from bench.ops import best_of_ours, cases

    by_op: dict[str, dict[str, list[Row]]] = {}
    for (op, shape), group in cases(rows).items():
        if best_of_ours(group):
            by_op.setdefault(op, {})[shape] = group
    if not by_op:
        return
    shown = [op for op in OPS if op in by_op]
    longest = max(len(by_op[op]) for op in shown)
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    figure = _figure(5.2 * columns, lines * (1.4 + 0.21 * longest) + 3.6)
    grid = figure.add_gridspec(lines + 1, columns, height_ratios=[1.4 + 0.21 * longest] * lines + [3.6])
    for place, op in enumerate(shown):
        axes = figure.add_subplot(grid[place // columns, place % columns])
        _speedups(axes, op, by_op[op])
    facts = next(row for row in rows if row.get("device"))
    memory_bound = [op for op in shown if op in MEMORY_BOUND]
    for place, op in enumerate(memory_bound):
        _bandwidth(figure.add_subplot(grid[lines, place]), op, by_op[op])
    figure.suptitle(
        f"{facts['device']}, {facts['threads']} threads, torch {facts['torch']}, {facts['dtype']}, {facts['commit']}, {facts['date']}",
        fontsize=9,
    )
    _save(figure, path)


def _speedups(axes: Any, op: str, groups: dict[str, list[Row]]) -> None:
    from bench.ops import best_of_ours

    shapes = list(groups)
    label = "device" if any((best_of_ours(g) or {}).get("device_vs_eager") for g in groups.values()) else "call"
    for against, marker in (("eager", "o"), ("compile", "s"), ("released", "D")):
        points = []
        for position, shape in enumerate(shapes):
            mine = best_of_ours(groups[shape])
            if against == "released":  # it waits for the device, so it has a time per call only
                other = next((r for r in groups[shape] if r["variant"] == "released" and r.get("call_us")), None)
                ratio = other["call_us"] / mine["call_us"] if other else None
            else:
                ratio = mine.get(f"{label}_vs_{against}")
            if ratio:
                points.append((ratio, position))
        if points:
            name = {"eager": "eager torch", "compile": "torch.compile", "released": "released code's way"}[against]
            axes.plot(*zip(*points, strict=True), marker, color=COLOURS[against], label=name, markersize=5, alpha=0.85)
    axes.axvline(1, color="#333333", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_yticks(range(len(shapes)), shapes, fontsize=7)
    axes.set_ylim(len(shapes) - 0.5, -0.5)
    axes.set_title(f"{op}: times faster ({label} time)", fontsize=9)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7, loc="upper right", framealpha=0.7)


def _bandwidth(axes: Any, op: str, groups: dict[str, list[Row]]) -> None:
    from bench.ops import best_of_ours

    for name in ("eager", "compile", "ours"):
        points = []
        for group in groups.values():
            row = best_of_ours(group) if name == "ours" else next((r for r in group if r["variant"] == name), None)
            if row and row.get("fraction_of_copy"):
                points.append((row["bytes"] / 1e6, row["fraction_of_copy"]))
        if points:
            axes.plot(*zip(*sorted(points), strict=True), "o-", color=COLOURS[name], label=name, markersize=4, linewidth=0.8)
    axes.axhline(1, color="#333333", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("compulsory traffic (MB)")
    axes.set_ylabel("fraction of measured copy bandwidth")
    axes.set_title(op, fontsize=9)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7)


def step(rows: Sequence[Row], path: Path) -> None:
    """Where the time of a training step goes, one bar a variant."""
    shown = [row for row in rows if row.get("step_ms")]
    if not shown:
        return
    figure = _figure(9.5, 1.6 + 0.55 * len(shown))
    axes = figure.subplots()
    for position, row in enumerate(shown):
        left = 0.0
        for phase, colour in PHASES.items():
            width = row.get(f"{phase} ms") or 0.0
            axes.barh(position, width, left=left, color=colour, height=0.7, label=phase if position == 0 else None)
            left += width
        if not left:  # a graph of the whole step has no parts
            axes.barh(position, row["step_ms"], color="#dddddd", height=0.7)
        text = f" {row['images_per_s']:.3g} images/s, {row['times_released']:.2f}x"
        axes.text(max(left, row["step_ms"]), position, text, va="center", fontsize=8)
    axes.set_yticks(range(len(shown)), [row["variant"] for row in shown], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.25)
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds per batch (both modalities updated)")
    first = shown[0]
    axes.set_title(
        f"{first['image']} + MLP, {first['pixels']} px, batch {first['batch']}, {first['classes']} classes; {first['device']}", fontsize=9
    )
    figure.legend(*axes.get_legend_handles_labels(), fontsize=8, ncols=len(PHASES), loc="outside lower center", frameon=False)
    _save(figure, path)
