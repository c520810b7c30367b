"""``python -m gaal_fast.evaluate``: score a trained run on its own split or on another labelled
table.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gaal_fast.config import INFERENCE_FLAGS, Parser, add_table_flags, table_settings
from gaal_fast.config.command import (
    add_inference_flags,
    check_new_file,
    command,
    pick_device,
    warn,
    worker_count,
)
from gaal_fast.errors import UserError
from gaal_fast.files import write_text
from gaal_fast.runs import folder as run_folder

if TYPE_CHECKING:
    from gaal_fast.engine.inference import TrainedRun
    from gaal_fast.tasks import Predictions, Scores


@command(flags=INFERENCE_FLAGS)
def main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="python -m gaal_fast.evaluate",
        description=(
            "Score a trained run: on a part of its own split, or on another labelled table."
        ),
    )
    parser.add_argument(
        "--run", type=Path, required=True, metavar="DIR", help="run folder of a training"
    )
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="labelled table; none: the run's own data"
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of the images that belong to --csv"
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
    add_inference_flags(parser)
    add_table_flags(parser)
    arguments = parser.parse(argv)
    table = table_settings(arguments)
    if arguments.csv is None and arguments.images is not None:
        raise UserError("--images goes with --csv")
    said = [f"--{name}" for name, value in table.items() if value is not None]
    if arguments.csv is None and said:
        raise UserError(f"{said[0]} goes with --csv")
    if arguments.csv is not None and arguments.split is not None:
        raise UserError("--split is about the run's own data: leave out --csv or --split")
    check_new_file("--out", arguments.out)
    check_new_file("--picture", arguments.picture)
    if arguments.picture is not None:
        check_image_format(arguments.picture)
        if arguments.out is not None and arguments.out.absolute() == arguments.picture.absolute():
            raise UserError(f"--out and --picture name the same file: {arguments.out}")
    arguments.workers = worker_count(arguments.workers)
    return evaluate(arguments, table)


def check_image_format(path: Path) -> None:
    """Refuse a file that matplotlib cannot draw, before any work is done."""
    from gaal_fast.runs.figures import formats

    if path.suffix[1:].lower() not in formats():
        raise UserError(
            f"--picture: {path} must end in .png, or another of"
            f" {', '.join(f'.{name}' for name in formats())}"
        )


def evaluate(arguments: Namespace, table: Mapping[str, str | None]) -> int:
    """Read, predict, score and write what the command line says; table: how the text of its table
    is read.
    """
    device = pick_device(arguments.device)
    from gaal_fast.engine.inference import TrainedRun
    from gaal_fast.runs.naming import renamed, stored
    from gaal_fast.tasks import FUSED, Classification

    run = TrainedRun.load(arguments.run, device=device)
    run.warn_if_unfinished(warn)
    if arguments.picture is not None and not isinstance(run.task, Classification):
        raise UserError("--picture: a confusion matrix is about classes, this run predicts values")
    if arguments.csv is None:
        predictions = _on_own_data(run, arguments.split or "test", arguments.workers)
    else:
        data = run.read(arguments.csv, arguments.images, labelled=True, **table)
        for message in data.warnings:
            warn(message)
        predictions = run.predict(data, workers=arguments.workers)
    found = run.task.scores(predictions)
    if not found["rows"][FUSED]:
        raise UserError(f"--csv: {arguments.csv} has no row whose label the model knows")
    print(_table(found, run.task.words))
    if arguments.out is not None:
        write_text(arguments.out, json.dumps(renamed(found, stored), indent=2) + "\n")
    if arguments.picture is not None and isinstance(run.task, Classification):
        draw_confusion(predictions, run.task.classes, arguments.picture)
    return 0


def draw_confusion(predictions: Predictions, classes: Sequence[str | int], picture: Path) -> None:
    """The confusion matrix of the fused prediction, as an image file."""
    import numpy as np
    from sklearn.metrics import confusion_matrix

    from gaal_fast.runs import figures
    from gaal_fast.tasks import FUSED

    known = predictions.target >= 0
    guess = predictions.outputs[FUSED].argmax(axis=1)
    places = np.arange(len(classes))
    matrix = confusion_matrix(predictions.target[known], guess[known], labels=places)
    figures.confusion(matrix, [str(name) for name in classes], picture)


def _on_own_data(run: TrainedRun, part: str, workers: int | None) -> Predictions:
    from gaal_fast.data import load_data
    from gaal_fast.data.reading import Reading

    config, folder = run.folder.located(run.config).data, run.folder
    if not Path(config.csv).expanduser().exists():
        raise UserError(
            f"--run: {config.csv}, which {folder.path} was trained on, is not there; give a table"
            " with --csv"
        )
    data = load_data(config, progress=run.config.train.progress, reading=Reading.load(folder.path))
    if data.fingerprint != folder.read_json(run_folder.DATA)["fingerprint"]:
        raise UserError(
            f"--run: {config.csv} is no longer what {folder.path} was trained on; give a table with"
            " --csv"
        )
    rows = getattr(data.split, part)
    if not len(rows):
        raise UserError(
            f"--split: the run has no {part} part; name another one, or give a table with --csv"
        )
    return run.predict_dataset(data.dataset(rows), workers=workers)


def _table(found: Scores, words: Mapping[str, str]) -> str:
    names = sorted(found["rows"], key=lambda name: name != "fused")
    lines = [f"{'':<20}" + "".join(f"{name:>10}" for name in names)]
    for score, title in words.items():
        cells = [found[score][name] for name in names]
        lines.append(
            f"{title:<20}"
            + "".join(
                f"{'-' if c is None else c if score == 'rows' else format(c, '.4f'):>10}"
                for c in cells
            )
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
