"""``python -m gaal_fast.compare``: several methods on one split, with the same seeds, encoders and
budget.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from gaal_fast.config import (
    Config,
    Parser,
    add_config_flags,
    flags_alone,
    known_methods,
    plugins_of,
    resolve,
    to_yaml,
)
from gaal_fast.config.command import INTERRUPTED, command, pick_device, warn_all
from gaal_fast.errors import Interrupted, UserError, nearest
from gaal_fast.runs.ceilings import compared
from gaal_fast.runs.comparison import table
from gaal_fast.runs.folder import RunFolder
from gaal_fast.runs.resume import check_paths, resumed_configs


@command()
def main(argv: Sequence[str]) -> int:
    """Train and compare the methods that the flags name."""
    arguments = _parser().parse(argv)
    folder = RunFolder.open(arguments.resume, "resume") if arguments.resume else None
    configs = _configs(arguments, folder)
    if arguments.print_config:
        print(to_yaml(configs[0]), end="")
        return 0
    check_paths(folder.located(configs[0]) if folder else configs[0], resuming=folder is not None)
    try:
        _compare(configs, folder, named=folder is not None or arguments.methods is not None)
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
        "--methods", metavar="NAMES", help=f"comma-separated (default {','.join(all_methods())})"
    )
    parser.add_argument(
        "--resume", type=Path, metavar="DIR", help="go on with the comparison in this folder"
    )
    add_config_flags(parser)
    return parser


def _configs(arguments: Namespace, resumed: RunFolder | None) -> list[Config]:
    """One configuration for each method."""
    if resumed is not None:
        if arguments.methods is not None:
            raise UserError("cannot change when a comparison is resumed", key="methods")
        return resumed_configs(resumed, flags_alone(arguments))
    methods = wanted_methods(arguments.methods, plugins_of(arguments))
    return [resolve(arguments, name, methods) for name in methods]


def all_methods(plugins: Sequence[Path] = ()) -> list[str]:
    """The methods that need nothing to be said about them."""
    return [name for name, entry in known_methods(plugins).items() if entry.needs_nothing]


def wanted_methods(text: str | None, plugins: Sequence[Path] = ()) -> list[str]:
    """The methods of a flag, all of them where it is not given.

    Raises:
        UserError: For an unknown name, and for none at all.
    """
    if text is None:
        return all_methods(plugins)
    known = list(known_methods(plugins))
    methods = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in methods:
        if name not in known:
            raise UserError(f": no method {name}{nearest(name, known)}", key="methods")
    if not methods:
        raise UserError(f"must name one or more of {', '.join(known)}", key="methods")
    return methods


def _compare(configs: Sequence[Config], resumed: RunFolder | None, *, named: bool) -> None:
    device = pick_device(configs[0].train.device)
    from gaal_fast.engine import comparison, experiment

    configs = [experiment.with_demo(config) for config in configs]
    if resumed is None:  # else images were decided upon when the comparison began
        # They differ in their methods alone, so one that has images decides, and reads the weights.
        first = next((each for each in configs if each.method.name != "table"), configs[0])
        decided = {"data": experiment.with_images(first).data}
        configs = [config.model_copy(update=decided) for config in configs]
    located = [resumed.located(each) if resumed else each for each in configs]
    data = experiment.load(located, every=named)
    warn_all(data.warnings)
    if not named:
        located = experiment.suited(located, data)
        kept = [config.method.name for config in located]
        if left := [c.method.name for c in configs if c.method.name not in kept]:
            print(f"left out, as no modality has that name: {', '.join(left)}")
        configs = [config for config in configs if config.method.name in kept]
    print("\n".join(experiment.plan(located[0], data, device)))
    found = comparison.compare(configs, data, device=device, say=print, resumed=resumed)
    if found.part == "val":
        print(
            "there is no test part: the accuracies are those of the validation rows, which also"
            " chose each method's epoch"
        )
    print(table([*found.rows, *compared(found.ceilings, found.part)], found.title))
    print(f"run folder: {found.folder.path}")


if __name__ == "__main__":
    sys.exit(main())
