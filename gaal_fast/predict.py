"""``python -m gaal_fast.predict``: a trained run and a new table to a table with predictions."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from gaal_fast.cli import command, pick_device, warn
from gaal_fast.config import Parser, add_table_flags, table_settings
from gaal_fast.errors import UserError
from gaal_fast.inference import TrainedRun

PREDICTION, USED = "prediction", "used_modalities"


@command
def main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="python -m gaal_fast.predict",
        description="Predict every row of a table, from its picture and its cells, or from whichever of the two it has.",
        epilog="example: python -m gaal_fast.predict --run runs/cars-gaal --csv new.csv --images photos --out preds.csv",
    )
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="run folder of a training")
    parser.add_argument("--csv", type=Path, required=True, metavar="FILE", help="table with the columns of the training, in any order")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the pictures; none: the folder of the table")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="new CSV file for the predictions")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N (default auto)")
    add_table_flags(parser)
    arguments = parser.parse(argv)
    table = table_settings(arguments)
    if arguments.out.exists():
        raise UserError(f"--out: {arguments.out} exists and is not overwritten")
    if not arguments.out.absolute().parent.is_dir():
        raise UserError(f"--out: no such folder: {arguments.out.absolute().parent}")

    run = TrainedRun.load(arguments.run, device=pick_device(arguments.device))
    data = run.read(arguments.csv, arguments.images, **table)
    for message in data.warnings:
        warn(message)
    predictions = run.predict(data)
    used = predictions.used_modalities()
    write(data.frame, predictions.probabilities, run.classes, used, arguments.out)

    unusable = {(issue.row, issue.column): issue for issue in (*data.issues, *predictions.issues)}
    for issue in list(unusable.values())[:5]:
        warn(f"row {issue.row + 1}, column {issue.column}: {issue.reason}")
    if len(unusable) > 5:
        warn(f"{len(unusable) - 5} more rows have such a problem")
    print(f"{len(used)} rows predicted: " + ", ".join(f"{count} from {name}" for name, count in Counter(used).most_common()))
    print(f"written to {arguments.out}")
    return 0


def write(frame: pd.DataFrame, probabilities: object, classes: Sequence[object], used: Sequence[str], out: Path) -> None:
    """The input's columns in their order, then the prediction, one probability for each class, and what each row was predicted from."""
    table = pd.DataFrame(probabilities, columns=[f"probability_{name}" for name in classes])
    table.insert(0, PREDICTION, [classes[best] for best in table.to_numpy().argmax(axis=1)])
    table[USED] = list(used)
    replaced = [name for name in frame.columns if name in table.columns]
    if replaced:
        warn(f"column {replaced[0]} of the input is left out: the predictions have one of that name")
    result = pd.concat([frame.drop(columns=replaced).reset_index(drop=True), table], axis=1)
    temporary = out.with_name(f".{out.name}.part")
    result.to_csv(temporary, index=False)
    os.replace(temporary, out)


if __name__ == "__main__":
    sys.exit(main())
