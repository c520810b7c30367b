"""``python -m gaal_fast.train``: a table and a folder of images to a trained classifier in a run
folder.

torch, and what needs it, is imported where it is used: a wrong flag is answered at once.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from gaal_fast.config import Config, Parser, add_config_flags, flags_alone, resolve, to_yaml
from gaal_fast.config.command import INTERRUPTED, command, pick_device, warn_all
from gaal_fast.errors import Interrupted
from gaal_fast.runs.ceilings import ceiling_words
from gaal_fast.runs.folder import RunFolder
from gaal_fast.runs.resume import check_paths, resumed_config
from gaal_fast.runs.summary import result_words


@command()
def main(argv: Sequence[str]) -> int:
    """Train as the flags say, or go on with a run."""
    arguments = _parser().parse(argv)
    folder = RunFolder.open(arguments.resume, "resume") if arguments.resume else None
    config = resumed_config(folder, flags_alone(arguments)) if folder else resolve(arguments)
    if arguments.print_config:
        print(to_yaml(config), end="")
        return 0
    check_paths(folder.located(config) if folder else config, resuming=folder is not None)
    try:
        _train(config, folder, arguments)
    except Interrupted as stopped:
        go_on = RunFolder(stopped.args[0]).how_to_go_on()
        print(f"interrupted and saved; {go_on}", file=sys.stderr)
        return INTERRUPTED
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="python -m gaal_fast.train",
        description=(
            "Train a classifier on a table and a folder of images. Without --data.csv: on the"
            " built-in demo set."
        ),
        leading=("--data.csv", "--data.images", "--data.target"),
        example=(
            "python -m gaal_fast.train --data.csv cars.csv --data.images photos --data.target model"
        ),
    )
    parser.add_argument(
        "--resume", type=Path, metavar="DIR", help="go on with the run in this folder"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check data and configuration, print the plan, write nothing",
    )
    add_config_flags(parser)
    return parser


def _train(config: Config, resumed: RunFolder | None, arguments: Namespace) -> None:
    device = pick_device(config.train.device)
    from gaal_fast.engine import experiment

    config = experiment.with_demo(config)
    if resumed is None:  # else they were decided when the run began
        config = experiment.with_images(config)
    located = resumed.located(config) if resumed else config
    data = experiment.load([located])
    warn_all(data.warnings)
    print("\n".join(experiment.plan(located, data, device)))
    if arguments.dry_run:
        print("dry run: nothing was written")
        return
    folder, summary = experiment.train(config, data, device=device, say=print, resumed=resumed)
    print(result_words(summary, uneven=experiment.is_uneven(data)))
    if "ceilings" in summary:
        print("\n".join(ceiling_words(summary["ceilings"], summary)))
    print(f"run folder: {folder.path}")


if __name__ == "__main__":
    sys.exit(main())
