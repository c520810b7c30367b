"""The report of one run, from the files of its folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gaal_fast.runs import analysis as files
from gaal_fast.runs.folder import CEILINGS, DATA, ENVIRONMENT, SUMMARY, RunFolder
from gaal_fast.runs.naming import FUSED
from gaal_fast.runs.report import charts
from gaal_fast.runs.report.learning import conflict, curves
from gaal_fast.runs.report.page import (
    PLAIN,
    Cell,
    Figure,
    Number,
    Page,
    Range,
    Section,
    Source,
    Table,
    Words,
    ceilings_of,
    shown,
)
from gaal_fast.runs.report.quality import (
    calibration,
    confusion,
    examples,
    importance,
    lacking,
    per_class,
    residuals,
)
from gaal_fast.runs.summary import PART_WORDS, SCORE_WORDS, fused_first, main_score, scored_part

_WORDS = {**SCORE_WORDS, "macro_f1": "macro F1", "nll": "NLL (nats)", "mae": "MAE", "loss": "loss"}
_IN_UNITS = ("mae", "rmse")  # of the target
_MAKERS: Sequence[Callable[[RunFolder], Section | None]] = (
    per_class,
    confusion,
    residuals,
    curves,
    conflict,
    calibration,
    lacking,
    importance,
    examples,
)


def run_page(folder: RunFolder) -> Page:
    """The page of a finished run; what an earlier version did not write is left out.

    Raises:
        UserError: Where the run has not finished, or a file is damaged.
    """
    summary = folder.read_json(SUMMARY)
    part, score = scored_part(summary), main_score(summary)
    scores = Source.of(folder, files.SCORES)
    values = _values(folder, summary, part, score, scores)
    ceilings = ceilings_of(folder, part)
    sections = [section for make in _MAKERS if (section := make(folder)) is not None]
    return Page(
        title=folder.path.absolute().name,
        about=_about(folder, summary),
        verdict=_verdict(summary, part, score, values, ceilings),
        first=_first(summary, part, score, scores, values, ceilings),
        alerts=_alerts(folder),
        sections=sections,
        facts=_facts(folder, summary),
    )


def _values(
    folder: RunFolder, summary: Mapping[str, Any], part: str, score: str, scores: Source | None
) -> dict[str, Range]:
    """The main score of the fused prediction and of each modality."""
    found = {}
    for name in fused_first(summary[part][score]):
        value = summary[part][score][name]
        row = None if scores is None else next(
            scores.rows(part=part, modality=name, score=score), None
        )  # fmt: skip
        if row is not None and scores is not None:
            range_ = scores.range(row, "value")
            if range_ is not None:
                found[name] = range_
        elif value is not None:
            key = f"{part}.{score}.{name}"
            found[name] = Range(Number(value, shown(value, ".3f"), SUMMARY, None, key))
    return found


def _about(folder: RunFolder, summary: Mapping[str, Any]) -> str:
    words = [f"method {summary['method']}", f"seed {summary['seed']}"]
    if folder.file(files.FACTS).is_file():
        facts = folder.read_json(files.FACTS)
        rows = facts["rows"]
        words.insert(0, f"{facts['task']} of “{facts['target']}”")
        words.append(
            f"{rows['train']} training, {rows['val']} validation, {rows['test']} test rows"
        )
    words.append(f"epoch {summary['best_epoch']} of {summary['epochs']} is the best")
    return " · ".join(words)


def _verdict(
    summary: Mapping[str, Any],
    part: str,
    score: str,
    values: Mapping[str, Range],
    ceilings: Mapping[str, Range],
) -> Words:
    """One sentence: the fused score, the better modality alone, and the best ceiling."""
    fused = values.get(FUSED)
    if fused is None:
        return ["No row with a known target was scored."]
    rows = Number(
        summary[part]["rows"][FUSED],
        f"{summary[part]['rows'][FUSED]:.0f}",
        SUMMARY,
        None,
        f"{part}.rows.{FUSED}",
    )
    name = SCORE_WORDS[score]
    words: list[str | Number] = ["On ", rows, f" {PART_WORDS[part]} rows "]  # type: ignore[index]
    words += [f"the fused prediction has {_article(name)} of ", fused.value]
    if fused.low is not None and fused.high is not None:
        words += [" (95\N{NO-BREAK SPACE}% interval ", fused.low, " to ", fused.high, ")"]
    alone = {name: found for name, found in values.items() if name != FUSED}
    if len(alone) > 1:
        best = max(alone, key=lambda name: alone[name].value.value)
        ahead = fused.value.value >= alone[best].value.value
        link = "; the best modality alone, " if ahead else ", less than "
        words += [link, f"{best}, has " if ahead else f"{best} alone with ", alone[best].value]
    if ceilings:
        best = max(ceilings, key=lambda name: ceilings[name].value.value)
        better = ceilings[best].value.value > fused.value.value
        words += [f"; of the simple models {best} reaches {'more, ' if better else ''}"]
        words += [ceilings[best].value]
    return [*words, "."]


def _article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiouR" else f"a {name}"


def _first(
    summary: Mapping[str, Any],
    part: str,
    score: str,
    scores: Source | None,
    values: Mapping[str, Range],
    ceilings: Mapping[str, Range],
) -> Section:
    everything = {**values, **ceilings}
    names = [name for name in summary[part] if name != "rows"]
    head = ["", *(_WORDS.get(name, name) for name in names)]
    rows: list[list[Cell]] = []
    for modality in fused_first(summary[part][score]):
        cells = [
            _score_cell(summary, part, name, modality, scores, values if name == score else {})
            for name in names
        ]
        rows.append([modality, *cells])
    rows += [
        [name, *(found if column == score else None for column in names)]
        for name, found in ceilings.items()
    ]
    title = f"{PART_WORDS[part]} {SCORE_WORDS[score]}"  # type: ignore[index]
    dots = [(name, found.value.value, *found.ends) for name, found in everything.items()]
    figures = []
    if dots:
        shades = {**charts.colors(values), **dict.fromkeys(ceilings, "#777777")}
        words = "; ".join(f"{name} {found.value.text}" for name, found in everything.items())
        alt = f"{title} with 95 % intervals: {words}"
        svg = charts.intervals(alt, dots, title, hollow=list(ceilings), shades=shades)
        figures.append(
            Figure(svg, "Simple models on the same rows are hollow." if ceilings else "")
        )
    lead = "" if scores is None else "In brackets: 95 % bootstrap intervals over the rows."
    sources = [SUMMARY, *([] if scores is None else [files.SCORES])]
    sources += [CEILINGS] if ceilings else []
    caption = f"Scores on the {PART_WORDS[part]} rows"  # type: ignore[index]
    table = Table(head, rows, caption)
    return Section("scores", "Scores", [lead] if lead else (), figures, [table], files=sources)


def _score_cell(
    summary: Mapping[str, Any],
    part: str,
    score: str,
    modality: str,
    scores: Source | None,
    known: Mapping[str, Range],
) -> Cell:
    if modality in known:
        return known[modality]
    form = PLAIN if score in _IN_UNITS else ".3f"
    if scores is not None:
        for row in scores.rows(part=part, modality=modality, score=score):
            return scores.range(row, "value", form)
    value = summary[part][score].get(modality)
    key = f"{part}.{score}.{modality}"
    return None if value is None else Number(value, shown(value, form), SUMMARY, None, key)


def _alerts(folder: RunFolder) -> list[tuple[str, str]] | None:
    if folder.file(files.ALERTS).is_file():
        source = Source.of(folder, files.ALERTS)
        rows = [] if source is None else source.frame.to_dict("records")
        return [(str(row["level"]), str(row["message"])) for row in rows]
    if not folder.file(DATA).is_file():
        return None
    warnings = folder.read_json(DATA).get("warnings") or []
    return [(files.WARNING, str(text)) for text in warnings]


def _facts(folder: RunFolder, summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    return list(_fact_pairs(folder, summary))


def _fact_pairs(folder: RunFolder, summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield (
        "training",
        f"{summary['epochs']} epochs, {summary['steps']} steps, {summary['seconds']} s",
    )
    yield "split", str(summary["split"])
    if folder.file(ENVIRONMENT).is_file():
        found = folder.read_json(ENVIRONMENT)
        yield "gaal_fast", str(found.get("gaal_fast"))
        packages = found.get("packages", {})
        yield (
            "versions",
            ", ".join(
                f"{name} {version}"
                for name, version in {"python": found.get("python"), **packages}.items()
                if version and name in ("python", "torch", "numpy", "scikit-learn")
            ),
        )
        yield "machine", str(found.get("gpu") or found.get("cpu"))
    if folder.file(files.FACTS).is_file():
        interval = folder.read_json(files.FACTS)["interval"]
        yield (
            "intervals",
            f"{interval['percent']} %, {interval['method']}, {interval['draws']} draws",
        )
