"""``python -m gaal_fast.evaluate``: score a trained run on its own split or on another labelled
table.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gaal_fast.config import (
    INFERENCE_FLAGS,
    Parser,
    TableSettings,
    add_table_flags,
    named_plugins,
    table_settings,
)
from gaal_fast.config.command import (
    add_inference_flags,
    check_new_file,
    command,
    pick_device,
    warn_all,
    worker_count,
)
from gaal_fast.errors import UserError
from gaal_fast.runs.naming import FUSED
from gaal_fast.runs.summary import Scores, fused_first, write_scores

if TYPE_CHECKING:
    from gaal_fast.engine import TrainedRun
    from gaal_fast.tasks import Predictions


@command(flags=INFERENCE_FLAGS)
def main(argv: Sequence[str]) -> int:
    """Score the run that the flags name."""
    arguments = _parser().parse(argv)
    table = table_settings(arguments)
    if arguments.report is not None:
        _report(arguments, table)
        return 0
    _check(arguments, table)
    _evaluate(arguments, table, worker_count(arguments.workers))
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="python -m gaal_fast.evaluate",
        description=(
            "Score a trained run: on a part of its own split, or on another labelled table."
        ),
        leading=("--run", "--csv", "--out"),
        example="python -m gaal_fast.evaluate --run runs/cars-gaal --picture confusion.png",
    )
    parser.add_argument(
        "--run", type=Path, required=True, metavar="DIR", help="run folder of a training"
    )
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="labelled table; none: the run's own data"
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="folder (or .zip or .tar) of the images that belong to --csv",
    )
    parser.add_argument(
        "--split",
        choices=["train", "val", "test"],
        help="part of the run's own data (default test)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="new JSON file for the scores")
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="FILE",
        help="new PNG file for the confusion matrix of the fused prediction",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="new HTML file for the report of the run, made from the files of its folder; alone"
        " with --run",
    )
    add_inference_flags(parser)
    add_table_flags(parser)
    return parser


def _report(arguments: Namespace, table: TableSettings) -> None:
    """Make the report of a run again, which needs neither its data nor its weights."""
    given = {
        name: getattr(arguments, name) for name in ("csv", "images", "split", "out", "picture")
    }
    for name, value in {**given, **table}.items():
        if value:
            raise UserError("does not go with --report, which needs --run alone", key=name)
    check_new_file("report", arguments.report)
    from gaal_fast.runs.folder import RunFolder
    from gaal_fast.runs.report import write

    write(RunFolder.open(arguments.run), arguments.report)
    print(f"written to {arguments.report}")


def _check(arguments: Namespace, table: TableSettings) -> None:
    """Refuse flags that do not go together and files that cannot be written, before any work is
    done.
    """
    own_data = arguments.csv is None
    needing = ["images"] if arguments.images is not None else []
    needing += [f"data.{name}" for name, value in table.items() if value]
    if own_data and needing:
        raise UserError("goes with --csv", key=needing[0])
    if not own_data and arguments.split is not None:
        raise UserError("is about the run's own data: leave out --csv or --split", key="split")
    check_new_file("out", arguments.out)
    check_new_file("picture", arguments.picture)
    if arguments.picture is None:
        return
    _check_image_format(arguments.picture)
    if arguments.out is not None and arguments.out.absolute() == arguments.picture.absolute():
        raise UserError(f"--out and --picture name the same file: {arguments.out}")


def _check_image_format(path: Path) -> None:
    from gaal_fast.runs.figures import formats

    if path.suffix[1:].lower() not in formats():
        others = ", ".join(f".{name}" for name in formats())
        raise UserError(f": {path} must end in .png, or another of {others}", key="picture")


def _evaluate(arguments: Namespace, table: TableSettings, workers: int | None) -> None:
    device = pick_device(arguments.device)
    from gaal_fast.engine import TrainedRun, confusion_counts
    from gaal_fast.runs.figures import confusion
    from gaal_fast.tasks import Classification

    run = TrainedRun.load(arguments.run, device=device, plugins=named_plugins(arguments.plugin))
    warn_all(run.doubts())
    if arguments.picture is not None and not isinstance(run.task, Classification):
        message = ": a confusion matrix is about classes, this run predicts values"
        raise UserError(message, key="picture")
    predictions = _predictions(run, arguments, table, workers)
    found = run.task.scores(predictions)
    if not found["rows"][FUSED]:
        raise UserError(f": {arguments.csv} has no row whose label the model knows", key="csv")
    print(score_table(found, run.task.words))
    if arguments.out is not None:
        write_scores(arguments.out, found)
    if arguments.picture is not None and isinstance(run.task, Classification):
        names = [str(name) for name in run.task.classes]
        confusion(confusion_counts(predictions, len(names)), names, arguments.picture)


def _predictions(
    run: TrainedRun, arguments: Namespace, table: TableSettings, workers: int | None
) -> Predictions:
    if arguments.csv is None:
        return run.predict_part(arguments.split or "test", workers=workers)
    data = run.read(arguments.csv, arguments.images, labelled=True, **table)
    warn_all(data.warnings)
    return run.predict(data, workers=workers)


def score_table(found: Scores, words: Mapping[str, str]) -> str:
    """Scores by line, modalities by column; words: what each score is called."""
    names = fused_first(found["rows"])
    lines = [f"{'':<20}" + "".join(f"{name:>10}" for name in names)]
    for score, title in words.items():
        cells = [_cell(score, found[score][name]) for name in names]
        lines.append(f"{title:<20}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)


def _cell(score: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if score == "rows" else f"{value:.4f}"


if __name__ == "__main__":
    sys.exit(main())
