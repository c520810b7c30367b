"""How the training went: curves by modality, and the conflict of their gradients."""

from __future__ import annotations

from gaal_fast.runs import analysis as files
from gaal_fast.runs.folder import METRICS, RunFolder
from gaal_fast.runs.report import charts
from gaal_fast.runs.report.page import Cell, Figure, Section, Source, Table
from gaal_fast.runs.summary import SCORE_WORDS

_EPOCHS = 60  # of a table; the file has all of them


def curves(folder: RunFolder) -> Section | None:
    """Training loss and validation score by epoch."""
    source = Source.of(folder, METRICS)
    if source is None:
        return None
    score = "r2" if any(name.startswith("val.r2.") for name in source.frame) else "accuracy"
    found = Section("curves", "Learning curves", files=[METRICS])
    for prefix, words in (
        ("train.loss.", "training loss"),
        (f"val.{score}.", f"validation {SCORE_WORDS[score]}"),
    ):
        series = by_epoch(source, prefix)
        if series:
            ends = "; ".join(
                f"{name} ends at {values[-1]:.3f}" for name, (_, values) in series.items()
            )
            svg = charts.lines(f"{words} by epoch: {ends}", series, "epoch", words, whole=True)
            found.figures.append(Figure(svg, f"{words[0].upper()}{words[1:]} by epoch"))
    return found if found.figures else None


def by_epoch(source: Source, prefix: str) -> dict[str, charts.Line]:
    """The columns of metrics.csv that begin with ``prefix``, by what comes after it."""
    found: dict[str, charts.Line] = {}
    for column in source.frame:
        if str(column).startswith(prefix):
            known = source.frame[["epoch", column]].dropna()
            if len(known):
                values = (known["epoch"].tolist(), known[column].tolist())
                found[str(column).removeprefix(prefix)] = values
    return found


_CONFLICT = (
    ("cosine", "cos(g, g_p)", "Cosine of the head's gradient g and the guide's g_p, before repair"),
    ("projected", "share repaired", "Share of the updates whose gradient was repaired"),
    ("correction", "‖v g_p‖ / ‖g‖", "Size of the correction as a multiple of the gradient"),
)


def conflict(folder: RunFolder) -> Section | None:
    """How the gradients met, by epoch and active modality, and which rows were hard to both."""
    source = Source.of(folder, files.CONFLICT_EPOCHS)
    hard = Source.of(folder, files.HARD_ROWS)
    if source is None and hard is None:
        return None
    found = Section("conflict", "Conflict of the modalities")
    if source is not None:
        found.lead = [
            "In each modality's turn the gradient of the shared classifier is compared with that of"
            " the modality which guides it. Below 0 the two are in conflict."
        ]
        found.figures = _conflict_figures(source)
        found.tables.append(_conflict_table(source))
    if hard is not None:
        found.tables.append(_hard_table(hard))
    names = [files.CONFLICT_EPOCHS] if source is not None else []
    found.files = [*names, *([files.HARD_ROWS] if hard is not None else [])]
    return found


def _conflict_figures(source: Source) -> list[Figure]:
    figures = []
    for column, title, caption in _CONFLICT:
        series = {}
        for name, mine in source.frame.groupby("modality", sort=False):
            known = mine[["epoch", column]].dropna()
            if len(known):
                series[str(name)] = (known["epoch"].tolist(), known[column].tolist())
        if series:
            limits = (-0.03, 1.03) if column == "projected" else None
            means = "; ".join(
                f"{name} {sum(values) / len(values):.3f} on average"
                for name, (_, values) in series.items()
            )
            svg = charts.lines(
                f"{caption}, by epoch and active modality: {means}",
                series,
                "epoch",
                title,
                limits=limits,
                zero=column == "cosine",
                whole=True,
            )
            figures.append(Figure(svg, caption))
    return figures


def _conflict_table(source: Source) -> Table:
    rows: list[list[Cell]] = []
    for row in range(len(source.frame))[: 2 * _EPOCHS]:
        rows.append(
            [
                source.number(row, "epoch", ".0f"),
                str(source.cell(row, "modality")),
                source.number(row, "cosine", "+.3f"),
                source.number(row, "conflicting", ".0%"),
                source.number(row, "projected", ".0%"),
                source.number(row, "correction"),
            ]
        )
    head = ["epoch", "turn of", "cos(g, g_p)", "in conflict", "repaired", "size of correction"]
    return Table(head, rows, "Means over the updates of an epoch")


def _hard_table(source: Source) -> Table:
    rows: list[list[Cell]] = [
        [
            f"{source.cell(row, 'first')} and {source.cell(row, 'second')}",
            source.number(row, "share", ".0%"),
            source.number(row, "overlap", ".0%"),
        ]
        for row in range(len(source.frame))
    ]
    head = ["modalities", "most uncertain rows", "in common"]
    caption = (
        "Overlap of the rows that are hard to two modalities, with the best weights; by chance it"
        " would be as large as their share"
    )
    return Table(head, rows, caption)
