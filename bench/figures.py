"""Figures of the results, drawn from the same rows as the CSV files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cases import best_of_ours, cases
from bench.problems import MEMORY_BOUND, OPS
from bench.report import Row

# Told apart by color-blind readers too.
COLOURS = {
    "eager": "#0072b2",
    "compile": "#d55e00",
    "released": "#777777",
    "ours": "#009e73",
    "floor": "#222222",
}
PHASES = {
    "forward": "#0072b2",
    "guide forward": "#56b4e9",
    "backward": "#e69f00",
    "head and surgery": "#009e73",
    "optimizer": "#cc79a7",
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
    """Speed-up by shape for every op, and the fraction of copy bandwidth that the memory-bound ones
    reach.
    """
    by_op: dict[str, dict[str, list[Row]]] = {}
    for (op, shape), group in cases(rows).items():
        if best_of_ours(group):
            by_op.setdefault(op, {})[shape] = group
    if not by_op:
        return
    shown = [op for op in OPS if op in by_op]
    columns = min(3, len(shown))
    lines = [shown[i : i + columns] for i in range(0, len(shown), columns)]
    heights = [1.0 + 0.17 * max(len(by_op[op]) for op in line) for line in lines]
    memory_bound = [op for op in shown if op in MEMORY_BOUND]
    heights += [3.4] if memory_bound else []
    figure = _figure(5.2 * columns, sum(heights) + 1.0)
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    panels = []
    for number, line in enumerate(lines):
        for place, op in enumerate(line):
            panels.append(figure.add_subplot(grid[number, place]))
            _speedups(panels[-1], op, by_op[op])
    for place, op in enumerate(memory_bound):
        _bandwidth(figure.add_subplot(grid[len(lines), place]), op, by_op[op])
    handles = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(),
        handles.keys(),
        fontsize=8,
        ncols=len(handles),
        loc="outside upper center",
        frameon=False,
    )
    facts = next(row for row in rows if row.get("device"))
    figure.supxlabel(
        f"{facts['device']}, {facts['threads']} threads, torch {facts['torch']}, {facts['dtype']},"
        f" {facts['commit']}, {facts['date']}",
        fontsize=8,
    )
    _save(figure, path)


# What ours is compared with: the row's name for each, and how it is drawn.
_AGAINST = {
    "eager": ("eager torch", "o"),
    "compile": ("torch.compile", "s"),
    "released": ("the released code's way", "D"),
    "floor": ("the floor", "|"),
}


def _speedups(axes: Any, op: str, groups: dict[str, list[Row]]) -> None:
    """One line a shape: how many times longer each of the others takes than the backend of ours
    that ``auto`` takes.
    """
    label = (
        "device"
        if any(best_of_ours(group).get("device_vs_eager") for group in groups.values())
        else "call"
    )
    for against, (name, marker) in _AGAINST.items():
        ratios = [_ratio(best_of_ours(group), group, against, label) for group in groups.values()]
        points = [(ratio, position) for position, ratio in enumerate(ratios) if ratio]
        if points:
            style = (
                {"markersize": 8, "markeredgewidth": 1.5}
                if against == "floor"
                else {"markersize": 4.5, "alpha": 0.85}
            )
            axes.plot(
                *zip(*points, strict=True),
                marker,
                color=COLOURS[against],
                label=name,
                linestyle="",
                **style,
            )
    axes.axvline(1, color="#333333", linewidth=0.8)
    axes.set_xscale("log", base=2)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.45), max(high, 4.5))
    _plain_numbers(axes.xaxis)
    axes.set_yticks(range(len(groups)), list(groups), fontsize=6.5)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_title(f"{op}: time over ours ({label} time)", fontsize=9)
    axes.grid(alpha=0.25)


def _ratio(mine: Row, group: Sequence[Row], against: str, label: str) -> float | None:
    if against == "floor":
        over = mine.get(f"{label}_over_floor")
        return 1 / over if over else None
    if against == "released":  # it waits for the device, so it has a time per call only
        other = next((row for row in group if row["variant"] == "released"), {})
        return other["call_us"] / mine["call_us"] if other.get("call_us") else None
    return mine.get(f"{label}_vs_{against}")


def _bandwidth(axes: Any, op: str, groups: dict[str, list[Row]]) -> None:
    for name in ("eager", "compile", "ours"):
        points = []
        for group in groups.values():
            row = (
                best_of_ours(group)
                if name == "ours"
                else next((r for r in group if r["variant"] == name), None)
            )
            if row and row.get("fraction_of_copy"):
                points.append((row["bytes"] / 1e6, row["fraction_of_copy"]))
        if points:
            axes.plot(
                *zip(*sorted(points), strict=True),
                "o-",
                color=COLOURS[name],
                label=name,
                markersize=4,
                linewidth=0.8,
            )
    axes.axhline(1, color="#333333", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain_numbers(axes.xaxis)
    _plain_numbers(axes.yaxis)
    axes.set_xlabel("compulsory traffic (MB)", fontsize=8)
    axes.set_ylabel("fraction of copy bandwidth", fontsize=8)
    axes.set_title(f"{op}: against a large copy", fontsize=9)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7)


def _plain_numbers(axis: Any) -> None:
    """0.5 and 10 instead of powers; nothing at the minor ticks of a logarithmic axis."""
    axis.set_major_formatter(lambda value, _: f"{value:.3g}")
    axis.set_minor_formatter(lambda value, _: "")
    axis.set_tick_params(labelsize=8)


def step(rows: Sequence[Row], path: Path) -> None:
    """Where the time of a training step goes, one bar a variant."""
    shown = [row for row in rows if row.get("step_ms")]
    if not shown:
        return
    figure = _figure(9.5, 1.6 + 0.55 * len(shown))
    axes = figure.subplots()
    for position, row in enumerate(shown):
        left = 0.0
        for phase, color in PHASES.items():
            width = row.get(f"{phase} ms") or 0.0
            axes.barh(
                position,
                width,
                left=left,
                color=color,
                height=0.7,
                label=phase if position == 0 else None,
            )
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
        f"{first['image']} + MLP, {first['pixels']} px, batch {first['batch']}, {first['classes']}"
        f" classes; {first['device']}",
        fontsize=9,
    )
    figure.legend(
        *axes.get_legend_handles_labels(),
        fontsize=8,
        ncols=len(PHASES),
        loc="outside lower center",
        frameon=False,
    )
    _save(figure, path)
