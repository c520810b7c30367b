"""Figures of a run, drawn from its CSV files so that they can be drawn again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from gaal_fast.files import replacing
from gaal_fast.runs.comparison import Row
from gaal_fast.runs.folder import CONFLICT, CURVES, METRICS, STEPS, RunFolder
from gaal_fast.runs.naming import FUSED
from gaal_fast.runs.summary import SCORE_WORDS, fused_first

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by color-blind readers too; the fused prediction is black, modalities take the others.
COLORS = {FUSED: "#222222", "image": "#0072b2", "table": "#d55e00"}
_OTHERS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")
_GROUP_WIDTH = 0.78  # of the bars of one method, where 1 is the distance between two methods


def colors(names: Iterable[str]) -> dict[str, str]:
    """A color for every name, the same one for the same list of names."""
    names = list(dict.fromkeys(names))
    others = [name for name in names if name not in COLORS]
    return {name: COLORS.get(name) or _OTHERS[others.index(name) % len(_OTHERS)] for name in names}


def _figure(columns: int) -> tuple[Figure, Sequence[Axes]]:
    # matplotlib costs half a second to import, which no other part of a command should pay.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * columns, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def formats() -> list[str]:
    """The suffixes of image files that can be drawn, without a dot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    return sorted(FigureCanvasAgg.get_supported_filetypes())


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as stream:
        figure.savefig(stream, dpi=130, format=path.suffix[1:].lower() or "png")


def _lines(axes: Axes, frame: pd.DataFrame, prefix: str, x: str) -> None:
    columns = [column for column in frame.columns if column.startswith(prefix)]
    shades = colors(column.removeprefix(prefix) for column in columns)
    for column, (name, color) in zip(columns, shades.items(), strict=True):
        axes.plot(frame[x], frame[column], color=color, label=name, marker="o", markersize=2.5)
    axes.set_xlabel(x)
    axes.grid(alpha=0.25)
    if axes.lines:
        axes.legend(frameon=False)


def learning_curves(folder: RunFolder) -> None:
    """Training loss and validation accuracy by epoch, one line a modality. Draws nothing before the
    first epoch is over.
    """
    if not folder.file(METRICS).exists():
        return
    frame = folder.read_rows(METRICS)
    figure, (loss, accuracy) = _figure(2)
    _lines(loss, frame, "train.loss.", "epoch")
    loss.set_ylabel("training loss")
    score = "r2" if any(name.startswith("val.r2.") for name in frame) else "accuracy"
    _lines(accuracy, frame, f"val.{score}.", "epoch")
    accuracy.set_ylabel(f"validation {SCORE_WORDS[score]}")
    _save(figure, folder.file(CURVES))


def conflict(folder: RunFolder) -> None:
    """Cosine between the head's gradient and its guide by step, and the share of projected steps.
    Only for runs with surgery.
    """
    if not folder.file(STEPS).exists():
        return
    steps = folder.read_rows(STEPS)
    steps = steps[steps["v"].notna()]
    if steps.empty:
        return
    figure, (cosine, share) = _figure(2)
    shades = colors(steps["modality"])
    for name, mine in steps.groupby("modality"):
        color, label = shades[str(name)], f"{name} step"
        window = max(1, len(mine) // 30)
        cosine.plot(mine["step"], mine["cosine"], ".", color=color, alpha=0.18, markersize=3)
        smooth = mine["cosine"].rolling(window, min_periods=1).mean()
        cosine.plot(mine["step"], smooth, color=color, label=label)
        projected = (mine["v"] != 0).astype(float).rolling(window, min_periods=1).mean()
        share.plot(mine["step"], projected, color=color, label=label)
    cosine.axhline(0, color="#999999", linewidth=0.8)
    cosine.set_ylabel("cos(g, g_p) before surgery")
    share.set_ylabel("share of projected steps")
    share.set_ylim(-0.03, 1.03)
    for axes in (cosine, share):
        axes.set_xlabel("step")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    _save(figure, folder.file(CONFLICT))


def confusion(matrix: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix as the share of each true class.

    Args:
        matrix: int64 ``[Y, Y]`` counts, true class by row.
        classes: Their Y names.
        path: The file to write.
    """
    figure, (axes,) = _figure(1)
    side = min(14.0, max(4.5, 0.28 * len(classes) + 2.5))
    figure.set_size_inches(side, side * 0.85)
    shares = matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.046)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(classes) <= 40:
        axes.set_xticks(range(len(classes)), classes, rotation=60, ha="right", fontsize=8)
        axes.set_yticks(range(len(classes)), classes, fontsize=8)
    if len(classes) <= 15:
        for row, column in zip(*matrix.nonzero(), strict=True):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(
                column, row, matrix[row, column], ha="center", va="center", fontsize=7, color=color
            )
    _save(figure, path)


def comparison(rows: Sequence[Row], path: Path, title: str = "test accuracy") -> None:
    """A score by method, one bar a modality with the sample standard deviation over seeds.

    Args:
        rows: Those of ``comparison.csv``.
        path: The file to write.
        title: What the bars are, and of which rows of the data.
    """
    figure, (axes,) = _figure(1)
    methods = list(dict.fromkeys(row.method for row in rows))
    shades = colors(fused_first(dict.fromkeys(row.modality for row in rows)))
    step = _GROUP_WIDTH / max(3, len(shades))
    figure.set_size_inches(max(5.0, 1.5 * len(methods) * max(3, len(shades)) / 3 + 1), 3.8)
    for number, (modality, color) in enumerate(shades.items()):
        mine = [row for row in rows if row.modality == modality and row.value is not None]
        offset = step * (number - (len(shades) - 1) / 2)
        places = [methods.index(row.method) + offset for row in mine]
        heights, errors = [row.value or 0.0 for row in mine], [row.std or 0.0 for row in mine]
        bars = axes.bar(
            places,
            heights,
            step - 0.01,
            yerr=errors if any(errors) else None,
            capsize=2,
            color=color,
            label=modality,
        )
        axes.bar_label(bars, fmt="%.2f", fontsize=7, padding=1)
    axes.set_xticks(range(len(methods)), methods)
    axes.set_ylabel(title)
    axes.set_ylim(top=1.12)
    axes.legend(frameon=False, ncols=max(3, len(shades)), loc="upper center")
    _save(figure, path)
