"""``python -m gaal_fast.predict``: a trained run and a new table to a table with predictions."""

from __future__ import annotations

import gzip
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

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
from gaal_fast.files import replacing

if TYPE_CHECKING:
    import pandas as pd

USED = "used_modalities"
SUFFIXES = (".csv", ".tsv", ".parquet", ".csv.gz", ".tsv.gz")


@command(flags=INFERENCE_FLAGS)
def main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="python -m gaal_fast.predict",
        description=(
            "Predict every row of a table, from its image and its cells, or from whichever of the"
            " two it has."
        ),
        epilog=(
            "example: python -m gaal_fast.predict --run runs/cars-gaal --csv new.csv --images"
            " photos --out preds.csv"
        ),
    )
    parser.add_argument(
        "--run", type=Path, required=True, metavar="DIR", help="run folder of a training"
    )
    parser.add_argument(
        "--csv",
        type=Path,
        required=True,
        metavar="FILE",
        help="table with the columns of the training, in any order",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="folder of the images; none: the folder of the table",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help=f"new file for the predictions: {', '.join(SUFFIXES)}",
    )
    add_inference_flags(parser)
    add_table_flags(parser)
    arguments = parser.parse(argv)
    table = table_settings(arguments)
    check_new_file("--out", arguments.out)
    suffix(arguments.out)
    arguments.workers = worker_count(arguments.workers)
    return predict(arguments, table)


def predict(arguments: Namespace, table: Mapping[str, str | None]) -> int:
    """Read, predict and write what the command line says; table: how the text of its table is read."""
    device = pick_device(arguments.device)
    from gaal_fast.engine.inference import TrainedRun

    run = TrainedRun.load(arguments.run, device=device)
    run.warn_if_unfinished(warn)
    data = run.read(arguments.csv, arguments.images, **table)
    for message in data.warnings:
        warn(message)
    predictions = run.predict(data, workers=arguments.workers)
    used = predictions.used_modalities()
    write(data.frame, run.task.columns(predictions), used, arguments.out)

    unusable = {(issue.row, issue.column): issue for issue in (*data.issues, *predictions.issues)}
    for issue in list(unusable.values())[:5]:
        warn(f"row {issue.row + 1}, column {issue.column}: {issue.reason}")
    if len(unusable) > 5:
        warn(f"{len(unusable) - 5} more rows have such a problem")
    print(
        f"{len(used)} rows predicted: "
        + ", ".join(f"{count} from {name}" for name, count in Counter(used).most_common())
    )
    print(f"written to {arguments.out}")
    return 0


def suffix(out: Path) -> str:
    """The kind of file that ``out`` names. Raises ``UserError`` for one that cannot be written."""
    for known in reversed(SUFFIXES):
        if out.name.lower().endswith(known):
            return known
    raise UserError(f"--out: {out} must end in one of {', '.join(SUFFIXES)}")


def write(frame: pd.DataFrame, columns: pd.DataFrame, used: Sequence[str], out: Path) -> None:
    """The input's columns in their order, then those of the predictions, and what each row was
    predicted from.
    """
    import pandas as pd

    table = columns.assign(**{USED: list(used)})
    replaced = [name for name in frame.columns if name in table.columns]
    if replaced:
        warn(
            f"column {replaced[0]} of the input is left out: the predictions have one of that name"
        )
    result = pd.concat([frame.drop(columns=replaced).reset_index(drop=True), table], axis=1)
    with replacing(out) as stream:
        _write_table(result, stream, suffix(out), out)


def _write_table(table: pd.DataFrame, stream: BinaryIO, kind: str, out: Path) -> None:
    if kind == ".parquet":
        try:
            table.to_parquet(stream, index=False)
        except OSError:
            raise
        except (ValueError, TypeError) as error:  # a column of cells of several types
            raise UserError(f"--out: {out} cannot be Parquet: {error}; write .csv") from error
        return
    text = table.to_csv(index=False, sep="\t" if kind.startswith(".tsv") else ",").encode("utf-8")
    # Without a time of its own, the same predictions are the same bytes.
    stream.write(gzip.compress(text, mtime=0) if kind.endswith(".gz") else text)


if __name__ == "__main__":
    sys.exit(main())
