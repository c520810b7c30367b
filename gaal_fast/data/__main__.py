"""``python -m gaal_fast.data``: what the trainer would read from a table and its pictures, or the demo set written to a folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gaal_fast.cli import command, warn
from gaal_fast.config import Parser, add_config_flags, resolve
from gaal_fast.data import FusionData, load_data
from gaal_fast.data.demo import best_possible, ensure_demo
from gaal_fast.data.issues import write_issues
from gaal_fast.errors import UserError
from gaal_fast.train import check_paths, with_demo


@command
def main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="python -m gaal_fast.data",
        description="Report how a table and its pictures are read: columns, classes, split, problems. Writes nothing unless told to.",
        epilog="examples: python -m gaal_fast.data --data.csv cars.csv --data.target model\n"
        "          python -m gaal_fast.data --demo demo-folder",
    )
    parser.add_argument("--demo", type=Path, metavar="DIR", help="write the demo set into this new folder and stop")
    parser.add_argument("--issues", type=Path, metavar="FILE", help="write every problem found in single rows to this new CSV file")
    add_config_flags(parser)
    arguments = parser.parse(argv)
    if arguments.demo is not None:
        if arguments.demo.exists():
            raise UserError(f"--demo: {arguments.demo} exists and is not overwritten")
        paths, best = ensure_demo(arguments.demo), best_possible()
        print(f"demo set: {paths.csv} and {paths.images}")
        print("best possible accuracy: " + "  ".join(f"{'fused' if k == 'multi' else k} {v:.3f}" for k, v in best.items()))
        return 0
    config = resolve(arguments)
    check_paths(config)
    if arguments.issues is not None and arguments.issues.exists():
        raise UserError(f"--issues: {arguments.issues} exists and is not overwritten")
    data = load_data(with_demo(config).data)
    for message in data.warnings:
        warn(message)
    print("\n".join(report(data)))
    if arguments.issues is not None:
        print(f"{write_issues(data.issues, arguments.issues)} problems written to {arguments.issues}")
    return 0


def report(data: FusionData) -> Iterator[str]:
    """Columns with their use, classes with their counts, and the first problems."""
    yield from data.describe()
    order = np.argsort(-data.class_counts, kind="stable")
    shown = ", ".join(f"{data.classes[i]} ({data.class_counts[i]})" for i in order[:8])
    yield f"training rows by class: {shown}{' ...' if len(order) > 8 else ''}"
    for issue in data.issues[:10]:
        yield f"problem in row {issue.row}, column {issue.column}: {f'{issue.path}: ' if issue.path else ''}{issue.reason}"
    if len(data.issues) > 10:
        yield f"and {len(data.issues) - 10} more problems; --issues FILE writes them all"


if __name__ == "__main__":
    sys.exit(main())
