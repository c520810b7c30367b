"""``python -m gaal_fast.evaluate``: score a trained run on its own split or on another labelled table."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from gaal_fast import run_folder
from gaal_fast.cli import command, pick_device, warn
from gaal_fast.config import Parser, add_table_flags, table_settings
from gaal_fast.data import load_data
from gaal_fast.data.reading import Reading
from gaal_fast.errors import UserError
from gaal_fast.inference import TrainedRun
from gaal_fast.training import Predictions, plots, scores

WORDS = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1", "nll": "NLL (nats)", "rows": "rows"}


@command
def main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="python -m gaal_fast.evaluate",
        description="Score a trained run: on a part of its own split, or on another labelled table.",
    )
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="run folder of a training")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="labelled table; none: the run's own data")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the pictures that belong to --csv")
    parser.add_argument("--split", choices=["train", "val", "test"], help="part of the run's own data (default test)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="new JSON file for the scores")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="new PNG file for the confusion matrix of the fused prediction")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N (default auto)")
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
    for flag, path in (("--out", arguments.out), ("--picture", arguments.picture)):
        if path is not None and path.exists():
            raise UserError(f"{flag}: {path} exists and is not overwritten")
        if path is not None and not path.absolute().parent.is_dir():
            raise UserError(f"{flag}: no such folder: {path.absolute().parent}")

    run = TrainedRun.load(arguments.run, device=pick_device(arguments.device))
    if arguments.csv is None:
        predictions = _on_own_data(run, arguments.split or "test")
    else:
        data = run.read(arguments.csv, arguments.images, labelled=True, **table)
        for message in data.warnings:
            warn(message)
        predictions = run.predict(data)
    found = scores(predictions)
    if not found["rows"]["multi"]:
        raise UserError(f"--csv: {arguments.csv} has no row whose label the model knows")
    print(_table(found))
    if arguments.out is not None:
        temporary = arguments.out.with_name(f".{arguments.out.name}.part")
        temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, arguments.out)
    if arguments.picture is not None:
        known = predictions.target >= 0
        guess = predictions.logits["multi"].argmax(axis=1)
        matrix = confusion_matrix(predictions.target[known], guess[known], labels=np.arange(len(run.classes)))
        plots.confusion(matrix, [str(name) for name in run.classes], arguments.picture)
    return 0


def _on_own_data(run: TrainedRun, part: str) -> Predictions:
    data = load_data(run.config.data, reading=Reading.load(run.folder.path))
    if data.fingerprint != run.folder.read_json(run_folder.DATA)["fingerprint"]:
        raise UserError(f"--run: {run.config.data.csv} is no longer what {run.folder.path} was trained on; give a table with --csv")
    rows = getattr(data.split, part)
    if not len(rows):
        raise UserError(f"--split: the run has no {part} part; name another one, or give a table with --csv")
    return run.predict_dataset(data.dataset(rows))


def _table(found: dict[str, dict[str, Any]]) -> str:
    names = sorted(found["accuracy"], key=lambda name: (name != "multi", name))
    lines = [f"{'':<20}" + "".join(f"{'fused' if name == 'multi' else name:>10}" for name in names)]
    for score, words in WORDS.items():
        cells = [found[score][name] for name in names]
        lines.append(f"{words:<20}" + "".join(f"{'-' if c is None else c if score == 'rows' else format(c, '.4f'):>10}" for c in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
