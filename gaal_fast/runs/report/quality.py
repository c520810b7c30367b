"""How good the predictions are: by class, in their probabilities, and with inputs taken away."""

from __future__ import annotations

import numpy as np

from gaal_fast.runs import analysis as files
from gaal_fast.runs.folder import RunFolder
from gaal_fast.runs.naming import FUSED
from gaal_fast.runs.report import charts
from gaal_fast.runs.report.page import (
    PLAIN,
    Cell,
    Example,
    Figure,
    Number,
    Section,
    Share,
    Source,
    Table,
    Words,
    shown,
)
from gaal_fast.runs.summary import SCORE_WORDS, fused_first

MOST_CLASSES = 100  # rows of a table
MATRIX_CLASSES = 15  # rows and columns of a matrix of counts
MOST_CLASSES_DRAWN = 1000  # of a matrix of shades
_PAIRS = 12  # confusions that are named
_COLUMNS = 20  # columns of a table whose importance is shown
_BEFORE, _AFTER = "before scaling", "after scaling"
_STAGES = {_BEFORE: "#999999", _AFTER: "#0072b2"}


def per_class(folder: RunFolder) -> Section | None:
    """Precision, recall and F1 of the fused prediction, the worst classes first."""
    source = Source.of(folder, files.PER_CLASS)
    if source is None:
        return None
    places = sorted(
        source.rows(modality=FUSED),
        key=lambda row: (source.cell(row, "support") == 0, source.cell(row, "f1")),
    )
    recalls = {
        (source.cell(row, "modality"), source.cell(row, "class")): row
        for row in range(len(source.frame))
    }
    others = [name for name in dict.fromkeys(source.frame["modality"]) if name != FUSED]
    rows: list[list[Cell]] = []
    for row in places[:MOST_CLASSES]:
        label = source.cell(row, "class")
        alone = [source.number(recalls[name, label], "recall", ".2f") for name in others]
        own = [source.number(row, column, ".2f") for column in ("precision", "recall", "f1")]
        rows.append([str(label), *own, *alone, source.number(row, "support", ".0f")])
    head = ["class", "precision", "recall", "F1", *(f"recall, {name}" for name in others), "rows"]
    lead = "Of the fused prediction, the lowest F1 first."
    if len(places) > MOST_CLASSES:
        lead += f" {MOST_CLASSES} of {len(places)} classes; {files.PER_CLASS} has all."
    table = Table(head, rows, "Scores by class")
    return Section("classes", "By class", [lead], tables=[table], files=[files.PER_CLASS])


def confusion(folder: RunFolder) -> Section | None:
    """The confusion matrix, and the most frequent confusions by name."""
    source = Source.of(folder, files.CONFUSION)
    if source is None:
        return None
    frame = source.frame
    facts = folder.read_json(files.FACTS) if folder.file(files.FACTS).is_file() else {}
    seen = dict.fromkeys([*frame["true"], *frame["predicted"]])
    names = [str(name) for name in facts.get("classes") or sorted(seen)]
    place = {name: number for number, name in enumerate(names)}
    at = {
        (place[true], place[guess]): row
        for row, (true, guess) in enumerate(zip(frame["true"], frame["predicted"], strict=True))
    }
    found = Section("confusion", "Confusions", files=[files.CONFUSION])
    if len(names) <= MOST_CLASSES_DRAWN:
        counts = np.zeros((len(names), len(names)), dtype=np.int64)
        for pair, row in at.items():
            counts[pair] = source.cell(row, "rows")
        if len(names) <= MATRIX_CLASSES:
            found.tables.append(_matrix(source, names, counts, at))
        else:
            alt = f"Confusion matrix of {len(names)} classes as shares of the true class"
            found.figures.append(Figure(charts.heat(alt, counts), alt))
    found.tables.append(_pairs(source, names, at))
    return found


def _matrix(
    source: Source, names: list[str], counts: np.ndarray, at: dict[tuple[int, int], int]
) -> Table:
    totals = counts.sum(axis=1)
    rows: list[list[Cell]] = []
    for true, name in enumerate(names):
        cells: list[Cell] = []
        for guess in range(len(names)):
            count = source.number(at[true, guess], "rows", ".0f") if (true, guess) in at else None
            share = counts[true, guess] / max(totals[true], 1)
            cells.append(None if count is None else Share(count, float(share)))
        rows.append([name, *cells])
    caption = "Rows by true class (down) and predicted class (across)"
    return Table(["true", *names], rows, caption, matrix=True)


def _pairs(source: Source, names: list[str], at: dict[tuple[int, int], int]) -> Table:
    wrong = [pair for pair in at if pair[0] != pair[1]]
    wrong.sort(key=lambda pair: -source.cell(at[pair], "rows"))
    rows: list[list[Cell]] = [
        [names[true], names[guess], source.number(at[true, guess], "rows", ".0f")]
        for true, guess in wrong[:_PAIRS]
    ]
    return Table(["true", "predicted", "rows"], rows, "The most frequent confusions")


def residuals(folder: RunFolder) -> Section | None:
    """Of a regression: mean prediction beside mean target, by tenths of the rows."""
    source = Source.of(folder, files.RESIDUALS)
    if source is None:
        return None
    frame = source.frame
    line = (frame["prediction"].tolist(), frame["target"].tolist())
    alt = "Mean target against mean prediction, by tenths of the rows; the dotted line is equality"
    svg = charts.lines(alt, {"rows": line}, "mean prediction", "mean target", diagonal=True)
    rows: list[list[Cell]] = [
        [
            source.number(row, "low", PLAIN),
            source.number(row, "high", PLAIN),
            source.number(row, "prediction", PLAIN),
            source.number(row, "target", PLAIN),
            source.number(row, "mae", PLAIN),
            source.number(row, "rows", ".0f"),
        ]
        for row in range(len(frame))
    ]
    head = ["predicted from", "to", "mean prediction", "mean target", "MAE", "rows"]
    table = Table(head, rows, "Residuals by predicted value")
    figures = [Figure(svg, alt)]
    return Section("residuals", "Residuals", (), figures, [table], files=[files.RESIDUALS])


def calibration(folder: RunFolder) -> Section | None:
    """Whether probabilities, or intervals of a regression, hold what they say."""
    scores = Source.of(folder, files.CALIBRATION_SCORES)
    bins = Source.of(folder, files.RELIABILITY)
    covered = Source.of(folder, files.COVERAGE)
    if scores is None:
        return None
    found = Section("calibration", "Calibration", files=[files.CALIBRATION_SCORES])
    scaled = folder.file(files.CALIBRATION).is_file()
    found.lead = [
        "The temperatures were fitted on validation rows alone; predict uses them."
        if scaled
        else "No temperature was fitted: predict gives the probabilities as they are."
    ]
    if bins is not None:
        found.files = [*found.files, files.RELIABILITY]
        svg = _reliability(bins, ("confidence", "accuracy"))
        found.figures.append(
            Figure(svg, "Accuracy by confidence of the fused prediction; dotted: as it should be")
        )
    if covered is not None:
        found.files = [*found.files, files.COVERAGE]
        svg = _reliability(covered, ("nominal", "covered"))
        caption = "Share of rows inside their interval by its level, fused; dotted: as it should be"
        found.figures.append(Figure(svg, caption))
        found.tables.append(_coverage_table(covered))
    found.tables.append(_calibration_table(scores, classes=bins is not None))
    return found


def _reliability(source: Source, columns: tuple[str, str]) -> str:
    series = {}
    for stage, name in (("before", _BEFORE), ("after", _AFTER)):
        mine = source.frame[
            (source.frame["modality"] == FUSED) & (source.frame["stage"] == stage)
        ].dropna(subset=list(columns))
        if len(mine):
            series[name] = (mine[columns[0]].tolist(), mine[columns[1]].tolist())
    return charts.lines(
        f"{columns[1]} against {columns[0]}, {' and '.join(series)}",
        series,
        columns[0],
        columns[1],
        shades=_STAGES,
        limits=(-0.03, 1.03),
        diagonal=True,
    )


def _calibration_table(source: Source, *, classes: bool) -> Table:
    columns = ["ece_before", "ece_after"] if classes else []
    columns += ["nll_before", "nll_after"]
    rows: list[list[Cell]] = [
        [
            str(source.cell(row, "modality")),
            source.number(row, "temperature"),
            *(source.number(row, column) for column in columns),
            source.number(row, "rows", ".0f"),
        ]
        for row in range(len(source.frame))
    ]
    words = {
        "ece_before": "ECE before",
        "ece_after": "ECE after",
        "nll_before": "NLL before",
        "nll_after": "NLL after",
    }
    head = ["predicted from", "temperature", *(words[column] for column in columns), "rows"]
    caption = "Before and after temperature scaling (ECE: expected calibration error)"
    return Table(head, rows, caption if classes else "Before and after scaling the variance")


def _coverage_table(source: Source) -> Table:
    rows: list[list[Cell]] = [
        [
            source.number(row, "nominal", ".0%"),
            str(source.cell(row, "stage")),
            source.number(row, "covered", ".1%"),
            source.number(row, "width", PLAIN),
        ]
        for row in source.rows(modality=FUSED)
    ]
    head = ["interval", "scaling", "rows inside", "mean width"]
    return Table(head, rows, "Intervals of the fused prediction")


def lacking(folder: RunFolder) -> Section | None:
    """The score as inputs go missing, and what each modality adds."""
    missing = Source.of(folder, files.MISSING)
    worth = Source.of(folder, files.CONTRIBUTION)
    if missing is None and worth is None:
        return None
    found = Section("modalities", "What each modality is worth")
    if missing is not None:
        score = SCORE_WORDS.get(str(missing.cell(0, "score")), str(missing.cell(0, "score")))
        series = {
            str(name): (mine["fraction"].tolist(), mine["value"].tolist())
            for name, mine in missing.frame.dropna().groupby("modality", sort=False)
        }
        ends = "; ".join(f"without any {name} {up[-1]:.3f}" for name, (_, up) in series.items())
        alt = f"Fused {score} by the share of rows that lack a modality: {ends}"
        svg = charts.lines(alt, series, "share of rows without it", f"fused {score}")
        found.figures.append(Figure(svg, f"Fused {score} as a modality goes missing from rows"))
        found.tables.append(_missing_table(missing))
        found.files = [*found.files, files.MISSING]
    if worth is not None:
        found.tables.insert(0, _worth_table(worth))
        found.files = [files.CONTRIBUTION, *found.files]
        found.lead = [
            "The drop is what is lost where the modality is absent from every row, in brackets its"
            " 95 % paired bootstrap interval. Shapley values share the score, less that of guessing"
            " by the class frequencies or the mean, among the modalities."
        ]
    return found


def _worth_table(source: Source) -> Table:
    rows: list[list[Cell]] = [
        [
            str(source.cell(row, "modality")),
            source.number(row, "alone"),
            source.range(row, "drop", "+.3f"),
            source.number(row, "shapley", "+.3f"),
        ]
        for row in range(len(source.frame))
    ]
    head = ["modality", "score from it alone", "drop without it", "Shapley value"]
    return Table(head, rows, "Contribution of the modalities to the fused score")


def _missing_table(source: Source) -> Table:
    names = fused_first(dict.fromkeys(str(name) for name in source.frame["modality"]))
    fractions = list(dict.fromkeys(source.frame["fraction"]))
    rows: list[list[Cell]] = []
    for name in names:
        at = [next(source.rows(modality=name, fraction=share), None) for share in fractions]
        rows.append([name, *(None if row is None else source.number(row, "value") for row in at)])
    head = ["missing", *(f"{share:.0%} of rows" for share in fractions)]
    return Table(head, rows, "Fused score by missing modality")


def importance(folder: RunFolder) -> Section | None:
    """Permutation importance of the tables' columns."""
    source = Source.of(folder, files.IMPORTANCE)
    if source is None:
        return None
    places = range(len(source.frame))[:_COLUMNS]
    dots, rows = [], []
    for row in places:
        name, drop = str(source.cell(row, "column")), source.number(row, "drop", "+.4f")
        spread = source.number(row, "std", ".4f")
        if drop is None:
            continue
        wide = 0.0 if spread is None else spread.value
        dots.append((name, drop.value, drop.value - wide, drop.value + wide))
        cells: list[Cell] = [name, str(source.cell(row, "modality")), drop, spread]
        rows.append([*cells, source.number(row, "loss_increase", "+.4f")])
    found = Section("columns", "What each column is worth", files=[files.IMPORTANCE])
    more = len(source.frame) - len(places)
    found.lead = [
        "Drop of the fused score, and rise of the loss, when the values of a column are exchanged"
        " among the rows. Columns that say the same share their importance."
        + (f" {more} more columns are in {files.IMPORTANCE}." if more > 0 else "")
    ]
    alt = "Drop of the fused score by column: " + "; ".join(
        f"{name} {shown(value, '+.3f')}" for name, value, *_ in dots
    )
    shades = dict.fromkeys((name for name, *_ in dots), "#d55e00")
    svg = charts.intervals(alt, dots, "drop of the fused score", shades=shades, zero=True)
    found.figures = [Figure(svg, "With the standard deviation over repeats")]
    head = ["column", "table", "drop", "std", "rise of the loss"]
    found.tables = [Table(head, rows, "Permutation importance")]
    return found


def examples(folder: RunFolder) -> Section | None:
    """The mistakes of highest confidence with their images and cells."""
    if not folder.file(files.MISTAKES).is_file():
        return None
    found = [_example(place, row) for place, row in enumerate(_kept(folder))]
    if not found:
        return None
    title = "The most confident mistakes" if "confidence" in _kept(folder)[0] else "Largest errors"
    lead = "At most 12 rows of the data are in the folder; --run.examples 0 keeps none."
    return Section("mistakes", title, [lead], examples=found, files=[files.MISTAKES])


def _kept(folder: RunFolder) -> list[dict]:
    return list(folder.read_json(files.MISTAKES)["rows"])[:12]


def _example(place: int, row: dict) -> Example:
    def number(key: str, value: float, form: str) -> Number:
        return Number(value, shown(value, form), files.MISTAKES, place, key)

    words: list[str | Number] = ["Row ", number("row", row["row"], ".0f"), ": "]
    if "confidence" in row:
        words += [f"predicted {row['predicted']}, confidence "]
        words += [number("confidence", row["confidence"], ".0%"), f"; is {row['true']}"]
        title = f"{row['true']} taken for {row['predicted']}"
    else:
        guess, truth = (", ".join(shown(v, PLAIN) for v in row[k]) for k in ("predicted", "true"))
        words += [f"predicted {guess}, is {truth}, off by ", number("error", row["error"], PLAIN)]
        title = f"{truth} taken for {guess}"
    if row.get("used"):
        words.append(f"; from {row['used']}")
    told: Words = words
    cells = [(str(name), str(text)) for name, text in row["cells"]]
    return Example(title, told, list(row["images"].items()), cells)
