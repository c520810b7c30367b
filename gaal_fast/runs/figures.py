"""Images of a run, drawn from its CSV files so that they can be drawn again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from gaal_fast.files import replacing
from gaal_fast.runs import folder as run_folder
from gaal_fast.runs.folder import RunFolder
from gaal_fast.runs.naming import loaded

COLOURS = {
    "fused": "#222222",
    "image": "#0072b2",
    "table": "#d55e00",
}  # told apart by colour-blind readers too
OTHERS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")


def _figure(columns: int) -> tuple[Any, Any]:
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


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as stream:
        figure.savefig(stream, dpi=130, format=path.suffix[1:].lower() or "png")


def _lines(axes: Any, frame: pd.DataFrame, prefix: str, x: str) -> None:
    for column in frame.columns:
        if column.startswith(prefix):
            name = loaded(column).removeprefix(prefix)
            axes.plot(
                frame[x],
                frame[column],
                color=COLOURS.get(name),
                label=name,
                marker="o",
                markersize=2.5,
            )
    axes.set_xlabel(x)
    axes.grid(alpha=0.25)
    if axes.lines:
        axes.legend(frameon=False)


def learning_curves(folder: RunFolder) -> None:
    """Training loss and validation accuracy by epoch, one line a modality. Draws nothing before the
    first epoch is over.
    """
    if not folder.file(run_folder.METRICS).exists():
        return
    frame = pd.read_csv(folder.file(run_folder.METRICS))
    figure, (loss, accuracy) = _figure(2)
    _lines(loss, frame, "train.loss.", "epoch")
    loss.set_ylabel("training loss")
    values = any(name.startswith("val.r2.") for name in frame)
    _lines(accuracy, frame, "val.r2." if values else "val.accuracy.", "epoch")
    accuracy.set_ylabel(f"validation {'R²' if values else 'accuracy'}")
    _save(figure, folder.file(run_folder.CURVES))


def conflict(folder: RunFolder) -> None:
    """Cosine between the head's gradient and its guide by step, and the share of projected steps.
    Only for runs with surgery.
    """
    if not folder.file(run_folder.STEPS).exists():
        return
    steps = pd.read_csv(folder.file(run_folder.STEPS))
    steps = steps[steps["v"].notna()]
    if steps.empty:
        return
    figure, (cosine, share) = _figure(2)
    for name, mine in steps.groupby("modality"):
        window = max(1, len(mine) // 30)
        colour = COLOURS.get(str(name))
        cosine.plot(mine["step"], mine["cosine"], ".", color=colour, alpha=0.18, markersize=3)
        cosine.plot(
            mine["step"],
            mine["cosine"].rolling(window, min_periods=1).mean(),
            color=colour,
            label=f"{name} step",
        )
        projected = (mine["v"] != 0).astype(float).rolling(window, min_periods=1).mean()
        share.plot(mine["step"], projected, color=colour, label=f"{name} step")
    cosine.axhline(0, color="#999999", linewidth=0.8)
    cosine.set_ylabel("cos(g, g_p) before surgery")
    share.set_ylabel("share of projected steps")
    share.set_ylim(-0.03, 1.03)
    for axes in (cosine, share):
        axes.set_xlabel("step")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    _save(figure, folder.file(run_folder.CONFLICT))


def confusion(matrix: Any, classes: list[str], path: Any) -> None:
    """Confusion matrix ``[Y, Y]`` of counts (true class by row), shown as the share of each true
    class.
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
            axes.text(column, row, matrix[row, column], ha="center", va="center", fontsize=7,
                      color="white" if shares[row, column] > 0.5 else "black")  # fmt: skip
    _save(figure, path)


def comparison(rows: Any, path: Any, title: str = "test accuracy", score: str = "accuracy") -> None:
    """A score by method, one bar a modality with the sample standard deviation over seeds.

    rows: those of ``comparison.csv``; title: of which rows of the data.
    """
    figure, (axes,) = _figure(1)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    modalities = sorted(dict.fromkeys(row["modality"] for row in rows), key=lambda n: n != "fused")
    figure.set_size_inches(max(5.0, 1.5 * len(methods) + 1), 3.8)
    step = 0.78 / len(modalities)
    for offset, modality in enumerate(modalities):
        mine = [row for row in rows if row["modality"] == modality and row[score] is not None]
        shift = step * (offset - (len(modalities) - 1) / 2)
        places = [methods.index(row["method"]) + shift for row in mine]
        heights, errors = [row[score] for row in mine], [row["std"] or 0 for row in mine]
        bars = axes.bar(
            places,
            heights,
            0.96 * step,
            yerr=errors if any(errors) else None,
            capsize=2,
            color=COLOURS.get(modality, OTHERS[offset % len(OTHERS)]),
            label=modality,
        )
        axes.bar_label(bars, fmt="%.2f", fontsize=7, padding=1)
    axes.set_xticks(range(len(methods)), methods)
    axes.set_ylabel(title)
    axes.set_ylim(top=1.12)
    axes.legend(frameon=False, ncols=3, loc="upper center")
    _save(figure, path)
