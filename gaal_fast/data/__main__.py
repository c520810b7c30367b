"""``python -m gaal_fast.data``: what the trainer would read from a table and its images, or the
demo set written to a folder.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gaal_fast.config import Parser, add_config_flags, resolve, to_yaml
from gaal_fast.config.command import check_new_file, command, warn_all
from gaal_fast.errors import UserError
from gaal_fast.runs.naming import loaded
from gaal_fast.runs.resume import check_paths

if TYPE_CHECKING:
    from gaal_fast.data import FusionData


@command()
def main(argv: Sequence[str]) -> int:
    """Print how a table is read, or write the demo set."""
    parser = Parser(
        prog="python -m gaal_fast.data",
        description=(
            "Report how a table and its images are read: columns, classes, split, problems."
            " Writes nothing unless told to."
        ),
        leading=("--data.csv", "--data.target", "--demo"),
        example="python -m gaal_fast.data --data.csv cars.csv --data.target model",
    )
    parser.add_argument(
        "--demo", type=Path, metavar="DIR", help="write the demo set into this new folder and stop"
    )
    parser.add_argument(
        "--issues",
        type=Path,
        metavar="FILE",
        help="write every problem found in single rows to this new CSV file",
    )
    add_config_flags(parser)
    arguments = parser.parse(argv)
    if arguments.demo is not None:
        return write_demo(arguments.demo)
    config = resolve(arguments)
    if arguments.print_config:
        print(to_yaml(config), end="")
        return 0
    check_paths(config)
    check_new_file("issues", arguments.issues)
    from gaal_fast.data import load_data, write_issues
    from gaal_fast.engine.experiment import with_demo

    data = load_data(with_demo(config).data, progress=config.train.progress)
    warn_all(data.warnings)
    print("\n".join(report(data)))
    if arguments.issues is not None:
        print(
            f"{write_issues(data.issues, arguments.issues)} problems written to {arguments.issues}"
        )
    return 0


def write_demo(folder: Path) -> int:
    """Write the demo set into a new folder."""
    if folder.exists():
        raise UserError(f": {folder} exists and is not overwritten", key="demo")
    from gaal_fast.demo import best_possible, ensure_demo

    paths, best = ensure_demo(folder), best_possible()
    print(f"demo set: {paths.csv} and {paths.images}")
    print(
        "best possible accuracy: "
        + "  ".join(f"{loaded(name)} {value:.3f}" for name, value in best.items())
    )
    return 0


def report(data: FusionData) -> Iterator[str]:
    """Columns with their use, classes with their counts or the range of a quantity, and the first
    problems.
    """
    import numpy as np

    yield from data.describe()
    if data.target_scale is not None:
        values = data.target[data.split.train]
        least, median, most = np.quantile(values, (0, 0.5, 1))
        yield f"training values: {least:g} to {most:g}, median {median:g}"
    else:
        order = np.argsort(-data.class_counts, kind="stable")
        shown = ", ".join(f"{data.classes[i]} ({data.class_counts[i]})" for i in order[:8])
        yield f"training rows by class: {shown}{' ...' if len(order) > 8 else ''}"
    for issue in data.issues[:10]:
        yield (
            f"problem in row {issue.row}, column {issue.column}:"
            f" {f'{issue.path}: ' if issue.path else ''}{issue.reason}"
        )
    if len(data.issues) > 10:
        yield f"and {len(data.issues) - 10} more problems; --issues FILE writes them all"


if __name__ == "__main__":
    sys.exit(main())
