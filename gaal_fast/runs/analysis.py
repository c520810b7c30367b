"""What the analysis of a finished run leaves in its folder, one topic a file.

``engine.analysis`` writes these files and ``runs.report`` reads them; neither knows the other.
"""

from __future__ import annotations

FACTS = "analysis.json"  # task, main score, part that was analyzed, sizes
SCORES = "scores.csv"
PER_CLASS = "per_class.csv"
CONFUSION = "confusion.csv"
RESIDUALS = "residuals.csv"
CALIBRATION = "calibration.json"  # the temperatures, which ``predict`` reads
CALIBRATION_SCORES = "calibration.csv"
RELIABILITY = "reliability.csv"
COVERAGE = "interval_coverage.csv"
MISSING = "missing_modality.csv"
CONTRIBUTION = "modality_contribution.csv"
IMPORTANCE = "column_importance.csv"
CONFLICT_EPOCHS = "conflict_by_epoch.csv"
HARD_ROWS = "hard_rows.csv"
MISTAKES = "mistakes.json"
ALERTS = "alerts.csv"
OUTCOMES = "outcomes.csv"  # of each row of the part: right or not, or the absolute error
DIFFERENCES = "differences.csv"  # of a comparison: each method against the first
REPORT = "report.html"

# Level of an alert: something to look at, or something to know.
WARNING, NOTE = "warning", "note"
COLUMNS: dict[str, tuple[str, ...]] = {
    SCORES: ("part", "modality", "score", "value", "low", "high", "rows"),
    PER_CLASS: ("modality", "class", "precision", "recall", "f1", "support"),
    CONFUSION: ("true", "predicted", "rows"),
    RESIDUALS: ("low", "high", "rows", "prediction", "target", "mae"),
    CALIBRATION_SCORES: (
        "modality", "temperature", "ece_before", "ece_after", "nll_before", "nll_after", "rows",
    ),
    RELIABILITY: ("modality", "stage", "low", "high", "rows", "confidence", "accuracy"),
    COVERAGE: ("modality", "stage", "nominal", "covered", "width", "rows"),
    MISSING: ("modality", "fraction", "score", "value", "rows"),
    CONTRIBUTION: ("modality", "alone", "drop", "low", "high", "shapley"),
    IMPORTANCE: ("modality", "column", "drop", "std", "loss_increase", "repeats", "rows"),
    CONFLICT_EPOCHS: (
        "epoch", "modality", "steps", "cosine", "conflicting", "projected", "v", "correction",
    ),
    HARD_ROWS: ("first", "second", "share", "overlap", "rows"),
    ALERTS: ("level", "topic", "message"),
    DIFFERENCES: ("method", "score", "difference", "low", "high", "std", "seeds", "rows"),
}  # fmt: skip
