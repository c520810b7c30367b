"""``python -m gaal_fast.compare``: several methods on one split, with the same seeds, encoders and
budget.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from gaal_fast.config import (
    Config,
    MethodConfig,
    Parser,
    add_config_flags,
    flags_alone,
    resolve,
    to_yaml,
)
from gaal_fast.config.command import INTERRUPTED, command, pick_device, warn_all
from gaal_fast.errors import Interrupted, UserError, nearest
from gaal_fast.runs.comparison import table
from gaal_fast.runs.folder import RunFolder
from gaal_fast.runs.resume import check_paths, resumed_config

METHODS = get_args(MethodConfig.model_fields["name"].annotation)


@command()
def main(argv: Sequence[str]) -> int:
    """Train and compare the methods that the flags name."""
    arguments = _parser().parse(argv)
    folder = RunFolder.open(arguments.resume, "resume") if arguments.resume else None
    config, methods = _settings(arguments, folder)
    if arguments.print_config:
        print(to_yaml(config), end="")
        return 0
    check_paths(folder.located(config) if folder else config, resuming=folder is not None)
    try:
        _compare(config, methods, folder)
    except Interrupted as stopped:
        go_on = RunFolder(stopped.args[0]).how_to_go_on("compare")
        print(f"interrupted and saved; {go_on}", file=sys.stderr)
        return INTERRUPTED
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="python -m gaal_fast.compare",
        description=(
            "Train several methods on one split and tabulate their test accuracy. Takes the flags"
            " of train but method.name."
        ),
        leading=("--methods", "--train.seeds", "--data.csv"),
        example="python -m gaal_fast.compare --methods gaal,concat --train.seeds 5",
    )
    parser.add_argument(
        "--methods", metavar="NAMES", help=f"comma-separated (default {','.join(METHODS)})"
    )
    parser.add_argument(
        "--resume", type=Path, metavar="DIR", help="go on with the comparison in this folder"
    )
    add_config_flags(parser)
    return parser


def _settings(arguments: Namespace, resumed: RunFolder | None) -> tuple[Config, list[str]]:
    if resumed is None:
        return resolve(arguments), wanted_methods(arguments.methods)
    config = resumed_config(resumed, flags_alone(arguments), "compare")
    if arguments.methods is not None:
        raise UserError("cannot change when a comparison is resumed", key="methods")
    return config, [folder.path.name for folder in resumed.compared()]


def wanted_methods(text: str | None) -> list[str]:
    """The methods of a flag, all of them where it is not given.

    Raises:
        UserError: For an unknown name, and for none at all.
    """
    if text is None:
        return list(METHODS)
    methods = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in methods:
        if name not in METHODS:
            raise UserError(f": no method {name}{nearest(name, METHODS)}", key="methods")
    if not methods:
        raise UserError(f"must name one or more of {', '.join(METHODS)}", key="methods")
    return methods


def _compare(config: Config, methods: Sequence[str], resumed: RunFolder | None) -> None:
    device = pick_device(config.train.device)
    from gaal_fast.engine import comparison, experiment

    config = experiment.with_demo(config)
    configs = [experiment.with_method(config, name) for name in methods]
    located = [resumed.located(each) if resumed else each for each in configs]
    data = experiment.load(located)
    warn_all(data.warnings)
    print("\n".join(experiment.plan(located[0], data, device)))
    found = comparison.compare(configs, data, device=device, say=print, resumed=resumed)
    if found.part == "val":
        print(
            "there is no test part: the accuracies are those of the validation rows, which also"
            " chose each method's epoch"
        )
    print(table(found.rows, found.title))
    print(f"run folder: {found.folder.path}")


if __name__ == "__main__":
    sys.exit(main())
