"""The report of several runs: the methods of a comparison, or the seeds of a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from gaal_fast.errors import UserError
from gaal_fast.runs import analysis as files
from gaal_fast.runs.comparison import columns, rows_of
from gaal_fast.runs.figures import colors
from gaal_fast.runs.folder import CEILINGS, METRICS, SUMMARY, RunFolder
from gaal_fast.runs.naming import FUSED
from gaal_fast.runs.report import charts
from gaal_fast.runs.report.learning import by_epoch
from gaal_fast.runs.report.page import (
    Cell,
    Figure,
    Link,
    Number,
    Page,
    Range,
    Section,
    SimpleModel,
    Source,
    Table,
    Words,
    ceilings_of,
    shown,
)
from gaal_fast.runs.summary import (
    PART_WORDS,
    SCORE_WORDS,
    Summary,
    fused_first,
    main_score,
    scored_part,
)

COMPARED = "comparison.csv"
_STRONG = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")


def compare_page(folder: RunFolder) -> Page:
    """The page of a comparison.

    Raises:
        UserError: Where no method has finished, or a file is damaged.
    """
    runs = [run for run in folder.compared() if run.finished]
    if not runs:
        raise UserError(f"{folder.path}: no method has finished; {folder.how_to_go_on('compare')}")
    source = Source.of(folder, COMPARED)
    if source is None:
        raise UserError(f"{folder.path} has no {COMPARED}; {folder.how_to_go_on('compare')}")
    summaries = {run.path.name: run.read_json(SUMMARY) for run in runs}
    first = next(iter(summaries.values()))
    score = main_score(first)
    cells = {
        (str(source.cell(row, "method")), str(source.cell(row, "modality"))): _compared(
            source, row, columns(score)[2]
        )
        for row in range(len(source.frame))
    }
    sections = [_differences(folder), _curves(runs), _links(runs)]
    ceilings = ceilings_of(folder, scored_part(first))
    return Page(
        title=folder.path.absolute().name,
        about=f"{len(runs)} methods on one split, {_seeds(first)} each",
        verdict=_verdict(cells, first),
        first=_methods(cells, first, COMPARED, ceilings),
        alerts=None,
        sections=[section for section in sections if section is not None],
        facts=[("split", str(_any_run(first, runs[0])["split"]))],
    )


def seeds_page(folder: RunFolder) -> Page:
    """The page of one method over several seeds."""
    summary = folder.read_json(SUMMARY)
    runs = [run for run in folder.seeds() if run.finished]
    part, score = scored_part(summary), main_score(summary)
    method = str(summary["method"])
    cells: dict[tuple[str, str], Range | None] = {}
    for row in rows_of(method, summary):
        if row.value is not None:
            key = f"{part}.{score}.{row.modality}"
            std = None
            if row.std is not None:
                std = Number(row.std, shown(row.std, ".3f"), SUMMARY, None, f"std.{key}")
            value = Number(row.value, shown(row.value, ".3f"), SUMMARY, None, key)
            cells[method, row.modality] = Range(value, std=std)
    fused = cells.get((method, FUSED))
    words: Words = ["No seed has a score."]
    if fused is not None:
        name = f"{PART_WORDS[part]} {SCORE_WORDS[score]}"
        words = [f"Over {_seeds(summary)}, {method} has a mean fused {name} of ", fused.value]
        words += [" ± ", fused.std, "."] if fused.std is not None else ["."]
    sections = [_curves(runs), _links(runs)]
    return Page(
        title=folder.path.absolute().name,
        about=f"method {method}, {_seeds(summary)} on one split",
        verdict=words,
        first=_methods(cells, summary, SUMMARY, ceilings_of(folder, part)),
        alerts=None,
        sections=[section for section in sections if section is not None],
        facts=[("split", str(runs[0].read_json(SUMMARY)["split"]))] if runs else [],
    )


def _any_run(summary: Mapping[str, Any], run: RunFolder) -> Mapping[str, Any]:
    """The summary of one seed of a method."""
    return summary if "split" in summary else run.seeds()[0].read_json(SUMMARY)


def _seeds(summary: Mapping[str, Any]) -> str:
    count = len(summary["seeds"]) if "seeds" in summary else 1
    return "1 seed" if count == 1 else f"{count} seeds"


def _compared(source: Source, row: int, score: str) -> Range | None:
    value = source.number(row, score)
    return None if value is None else Range(value, std=source.number(row, "std"))


def _verdict(cells: Mapping[tuple[str, str], Range | None], summary: Summary) -> Words:
    fused = {method: found for (method, name), found in cells.items() if name == FUSED and found}
    if not fused:
        return ["No method has a fused score."]
    ranked = sorted(fused, key=lambda name: -fused[name].value.value)
    best = fused[ranked[0]]
    name = f"{PART_WORDS[scored_part(summary)]} {SCORE_WORDS[main_score(summary)]}"
    words: list[str | Number] = [f"{ranked[0]} has the best fused {name}, ", best.value]
    if best.std is not None:
        words += [" ± ", best.std]
    if len(ranked) > 1:
        words += [f"; {ranked[1]} follows with ", fused[ranked[1]].value]
        if (spread := fused[ranked[1]].std) is not None:
            words += [" ± ", spread]
    return [*words, "."]


def _methods(
    cells: Mapping[tuple[str, str], Range | None],
    summary: Summary,
    source: str,
    ceilings: Mapping[str, SimpleModel],
) -> Section:
    methods = list(dict.fromkeys(method for method, _ in cells))
    names = fused_first(dict.fromkeys(name for _, name in cells))
    title = f"{PART_WORDS[scored_part(summary)]} {SCORE_WORDS[main_score(summary)]}"
    rows: list[list[Cell]] = [
        [method, *(cells.get((method, name)) for name in names)] for method in methods
    ]
    dots, shades = [], {}
    own = colors(names)
    for method in methods:
        for name in names:
            found = cells.get((method, name))
            if found is not None:
                label = name if len(methods) == 1 else f"{method}, {name}"
                dots.append((label, found.value.value, *found.ends))
                shades[label] = own[name]
    for name, found in ceilings.items():
        column = found.inputs if found.inputs in names else FUSED
        rows.append([name, *(found if column == each else None for each in names)])
        dots.append((name, found.value.value, *found.ends))
        shades[name] = "#777777"
    figures = []
    if dots:
        words = "; ".join(f"{label} {value:.3f}" for label, value, *_ in dots)
        alt = f"{title}: {words}"
        svg = charts.intervals(alt, dots, title, hollow=list(ceilings), shades=shades)
        figures.append(
            Figure(svg, "Simple models on the same rows are hollow." if ceilings else "")
        )
    lead = "Mean ± sample standard deviation over seeds." if "seeds" in summary else "One seed."
    table = Table(["method", *names], rows, title)
    files_read = [source, CEILINGS] if ceilings else [source]
    return Section("scores", "Scores", [lead], figures, [table], files=files_read)


def _differences(folder: RunFolder) -> Section | None:
    source = Source.of(folder, files.DIFFERENCES)
    if source is None:
        return None
    first = folder.compared()[0].path.name
    rows: list[list[Cell]] = []
    dots = []
    for row in range(len(source.frame)):
        found = source.range(row, "difference", "+.3f")
        if found is None:
            continue
        name = str(source.cell(row, "method"))
        rows.append([name, found, source.number(row, "std"), source.number(row, "rows", ".0f")])
        dots.append((name, found.value.value, *found.ends))
    score = "accuracy" if source.cell(0, "score") == "accuracy" else "mean absolute error"
    better = "Above 0 it is better." if score == "accuracy" else "Below 0 it is better."
    lead = (
        f"Fused {score} less that of {first}, on the same rows, in brackets its 95 % paired"
        f" bootstrap interval over the rows. {better} The interval says nothing of other splits."
    )
    title = f"difference to {first}"
    alt = f"Fused {score}, {title}: " + "; ".join(f"{n} {shown(v, '+.3f')}" for n, v, *_ in dots)
    shades = {name: _STRONG[place % len(_STRONG)] for place, (name, *_) in enumerate(dots)}
    figure = Figure(charts.intervals(alt, dots, title, shades=shades, zero=True), alt)
    head = ["method", title, "std over seeds", "rows"]
    table = Table(head, rows, f"Paired differences to {first}")
    name = f"Against {first}"
    return Section("differences", name, [lead], [figure], [table], files=[files.DIFFERENCES])


def _curves(runs: Sequence[RunFolder]) -> Section | None:
    """The fused validation score by epoch, the mean over the seeds that reached it."""
    series: dict[str, charts.Line] = {}
    words = ""
    for run in runs:
        by: dict[int, list[float]] = {}
        for one in run.seeds() or [run]:
            source = Source.of(one, METRICS)
            if source is None:
                continue
            score = "r2" if "val.r2.fused" in source.frame else "accuracy"
            words = f"fused validation {SCORE_WORDS[score]}"
            across, up = by_epoch(source, f"val.{score}.").get(FUSED, ((), ()))
            for epoch, value in zip(across, up, strict=True):
                by.setdefault(int(epoch), []).append(value)
        if by:
            series[run.path.name] = (sorted(by), [fmean(by[epoch]) for epoch in sorted(by)])
    if not series:
        return None
    shades = {name: _STRONG[place % len(_STRONG)] for place, name in enumerate(series)}
    alt = f"{words} by epoch, {', '.join(series)}"
    svg = charts.lines(alt, series, "epoch", words, shades=shades, whole=True)
    figure = Figure(svg, f"F{words[1:]} by epoch, the mean over seeds")
    return Section("curves", "Learning curves", (), [figure], files=[METRICS])


def _links(runs: Sequence[RunFolder]) -> Section | None:
    rows: list[list[Cell]] = []
    for run in runs:
        here: list[Cell] = [run.path.name]
        inside = [(run, run.path.name)]
        inside += [(one, f"{run.path.name}/{one.path.name}") for one in run.seeds()]
        links = [
            Link(place, f"{place}/{files.REPORT}")
            for one, place in inside
            if one.file(files.REPORT).is_file()
        ]
        if links:
            rows.extend([[*here, link] for link in links])
    if not rows:
        return None
    table = Table(["run", "its report"], rows, "The reports of the runs")
    return Section("runs", "Runs", (), tables=[table])
