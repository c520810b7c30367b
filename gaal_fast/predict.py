"""``python -m gaal_fast.predict``: a trained run and a new table to a table with predictions."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
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
    warn,
    warn_all,
    worker_count,
)
from gaal_fast.errors import UserError
from gaal_fast.runs.tables import ARRAY, SUFFIXES, check_suffix

if TYPE_CHECKING:
    import pandas as pd

TOLD = 5  # cells that cannot be used, by name


@command(flags=INFERENCE_FLAGS)
def main(argv: Sequence[str]) -> int:
    """Predict the table that the flags name."""
    arguments = _parser().parse(argv)
    table = table_settings(arguments)
    check_new_file("out", arguments.out)
    check_suffix(arguments.out)
    if arguments.embeddings_out is not None:
        check_new_file("embeddings", arguments.embeddings_out)
        check_suffix(arguments.embeddings_out, "embeddings", (ARRAY,))
        if arguments.embeddings_out.absolute() == arguments.out.absolute():
            raise UserError(f"--out and --embeddings name the same file: {arguments.out}")
    _predict(arguments, table, worker_count(arguments.workers))
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="python -m gaal_fast.predict",
        description=(
            "Predict every row of a table, from its image and its cells, or from whichever of the"
            " two it has."
        ),
        leading=("--run", "--csv", "--out"),
        example=(
            "python -m gaal_fast.predict --run runs/cars-gaal --csv new.csv --images photos"
            " --out preds.csv"
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
        help="folder of the images, or a .zip or .tar of them; none: the folder of the table",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help=f"new file for the predictions: {', '.join(SUFFIXES)}",
    )
    parser.add_argument(
        "--embeddings",
        dest="embeddings_out",
        type=Path,
        metavar="FILE",
        help=f"new file for each input's features of every row: {', '.join((*SUFFIXES, ARRAY))}",
    )
    add_inference_flags(parser)
    add_table_flags(parser)
    return parser


def _predict(arguments: Namespace, table: TableSettings, workers: int | None) -> None:
    device = pick_device(arguments.device)
    from gaal_fast.engine.inference import TrainedRun
    from gaal_fast.runs.tables import write_table

    run = TrainedRun.load(arguments.run, device=device, plugins=named_plugins(arguments.plugin))
    warn_all(run.doubts())
    data = run.read(arguments.csv, arguments.images, **table)
    warn_all(data.warnings)
    found = run.answer(data, workers=workers)
    if found.replaced:
        warn(
            f"column {found.replaced[0]} of the input is left out: the predictions have one of"
            " that name"
        )
    embeddings = run.embeddings(data, workers=workers) if arguments.embeddings_out else None
    write_table(found.table, arguments.out)
    for issue in found.issues[:TOLD]:
        warn(f"row {issue.row + 1}, column {issue.column}: {issue.reason}")
    if len(found.issues) > TOLD:
        warn(f"{len(found.issues) - TOLD} more rows have such a problem")
    counts = ", ".join(f"{count} from {name}" for name, count in Counter(found.used).most_common())
    print(f"{len(found.used)} rows predicted: {counts}")
    print(f"written to {arguments.out}")
    if embeddings is not None:
        _write_embeddings(*embeddings, arguments.embeddings_out)


def _write_embeddings(keys: pd.DataFrame, features: pd.DataFrame, out: Path) -> None:
    from gaal_fast.runs.tables import write_array, write_table

    if out.name.lower().endswith(ARRAY):
        write_array(features.to_numpy(), out)
    else:
        write_table(keys.join(features), out, "embeddings")
    print(f"{features.shape[1]} features of each row written to {out}")


if __name__ == "__main__":
    sys.exit(main())
