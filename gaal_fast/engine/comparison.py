"""Several methods on one split, with the same seeds, encoders and budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from gaal_fast.config import Config
from gaal_fast.data import FusionData
from gaal_fast.engine.analysis.compared import differences
from gaal_fast.engine.ceilings import write_ceilings
from gaal_fast.engine.experiment import Say, new_path, run_seeds, tidy_after_errors, write_report
from gaal_fast.errors import AlreadyFinished, Interrupted
from gaal_fast.runs import figures
from gaal_fast.runs.analysis import COLUMNS, DIFFERENCES
from gaal_fast.runs.comparison import Row, as_cells, columns, rows_of, title
from gaal_fast.runs.folder import CEILINGS, COMPARISON, SUMMARY, RunFolder
from gaal_fast.runs.summary import Ceilings, Part, Summary, main_score, scored_part

TABLE, FIGURE = "comparison.csv", "comparison.png"


@dataclass(frozen=True)
class Comparison:
    """What a comparison has found.

    Attributes:
        folder: Where it is.
        rows: Of ``comparison.csv``.
        title: What the values of the rows are: ``test accuracy``.
        score: The name of their score.
        part: The rows of the data that were scored.
        ceilings: Cheap baselines on the same split; empty where they were not wanted.
    """

    folder: RunFolder
    rows: list[Row]
    title: str
    score: str
    part: Part
    ceilings: Ceilings = field(default_factory=dict)


def compare(
    configs: Sequence[Config],
    data: FusionData,
    *,
    device: torch.device,
    say: Say,
    resumed: RunFolder | None = None,
) -> Comparison:
    """Train every method with every seed into one folder.

    Args:
        configs: One for each method, in order, which differ in its section alone.
        data: What ``experiment.load`` gave for them.
        device: Where to compute.
        say: Told which method and which of several seeds begins.
        resumed: The folder of a comparison that was stopped.

    Returns:
        The folder with the rows of its ``comparison.csv``.

    Raises:
        AlreadyFinished: Where nothing is left to do.
        Interrupted: With the folder, on Ctrl-C, after everything was saved.
        UserError: For input that is bad. A new folder without a checkpoint is removed.
    """
    methods = [config.method.name for config in configs]
    options = {c.method.name: c.method.model_dump(mode="json", by_alias=True) for c in configs}
    contents = {COMPARISON: {"methods": methods, "options": options}}
    folder = resumed or RunFolder.create(new_path(configs[0], "compare"), configs[0], contents)
    with tidy_after_errors(folder, new=resumed is None, module="compare"):
        found, trained = _run_methods(configs, data, folder, device=device, say=say)
        ceilings = configs[0].train.ceilings
        if (
            not trained
            and _is_complete(folder, methods)
            and (folder.file(CEILINGS).exists() or not ceilings)
        ):
            raise AlreadyFinished(
                f": {folder.path} is finished: all of its {len(methods)} methods are", key="resume"
            )
        folder.remove_partial()
        folder.write_config(configs[0])
        _write(found)
        if ceilings:
            own = write_ceilings(configs, data, folder, device=device, say=say)
            found = replace(found, ceilings=own)
        against = differences([(name, RunFolder(folder.path / name)) for name in methods])
        folder.write_rows(DIFFERENCES, against, COLUMNS[DIFFERENCES])
    write_report(folder)
    return found


def _run_methods(
    configs: Sequence[Config],
    data: FusionData,
    folder: RunFolder,
    *,
    device: torch.device,
    say: Say,
) -> tuple[Comparison, int]:
    """All methods one after the other, and how many of them had something left to train."""
    rows: list[Row] = []
    trained = 0
    for config in configs:
        name = config.method.name
        say(f"method {name}")
        own = RunFolder(folder.path / name)
        if not own.path.exists():
            RunFolder.create(own.path, config)
        summary: Summary
        try:
            summary = run_seeds(config, data, own, device=device, say=say, own_ceilings=False)
            trained += 1
        except AlreadyFinished:
            summary = own.read_json(SUMMARY)
        except Interrupted:
            raise Interrupted(folder.path) from None
        rows += rows_of(name, summary)
        found = Comparison(folder, rows, title(summary), main_score(summary), scored_part(summary))
        if trained:
            _write(found)
    return found, trained


def _write(found: Comparison) -> None:
    cells = [as_cells(row, found.score) for row in found.rows]
    found.folder.write_rows(TABLE, cells, columns(found.score))
    figures.comparison(found.rows, found.folder.file(FIGURE), found.title)


def _is_complete(folder: RunFolder, methods: Sequence[str]) -> bool:
    """Whether the figure is there and the table has rows for every method; it grows while they are
    trained.
    """
    if not (folder.file(TABLE).exists() and folder.file(FIGURE).exists()):
        return False
    return set(methods) <= set(folder.read_rows(TABLE)["method"])
