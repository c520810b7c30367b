"""``python -m gaal_fast.export``: a trained run as a file that is served without gaal_fast."""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from gaal_fast.config import Parser, named_plugins
from gaal_fast.config.command import check_new_file, command, warn_all
from gaal_fast.runs.exported import FORMATS, files_of, write_export
from gaal_fast.runs.folder import RunFolder

WRONG = 1


@command()
def main(argv: Sequence[str]) -> int:
    """Export the run that the flags name; exit code 1 where the result is not the run's own."""
    arguments = _parser().parse(argv)
    folder = RunFolder.open(arguments.run)
    graph, meaning = files_of(arguments.out, arguments.format, folder.path)
    if arguments.out is not None and arguments.out != graph:
        check_new_file("out", arguments.out)  # a folder
    else:
        check_new_file("out", graph)
        check_new_file("out", meaning)
    return _export(arguments, graph, meaning)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m gaal_fast.export",
        description=(
            "Write a trained run as one graph, from the uint8 image and the raw table to what"
            " predict writes, with a JSON file beside it that says how to feed it."
        ),
        leading=("--run", "--format", "--out"),
        example="python -m gaal_fast.export --run runs/cars-gaal --format onnx --out cars.onnx",
    )
    parser.add_argument(
        "--run", type=Path, required=True, metavar="DIR", help="run folder of a training"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        required=True,
        help="pt2 for torch.export.load, onnx for onnxruntime and others",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="new file ending in .pt2 or .onnx, or new folder (default: a file in the run folder)",
    )
    parser.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare the file with the run on random rows before it is kept (default yes)",
    )
    parser.add_argument(
        "--plugin", metavar="FILES", help="files of your own methods that the run was trained with"
    )
    return parser


def _export(arguments: Namespace, graph: Path, meaning: Path) -> int:
    import torch

    from gaal_fast.engine.export import Exportable, check_packages, export
    from gaal_fast.engine.export_check import LARGEST_DIFFERENCE, largest_difference, runner
    from gaal_fast.engine.inference import TrainedRun

    check_packages(arguments.format, arguments.verify)
    plugins = named_plugins(arguments.plugin)
    run = TrainedRun.load(arguments.run, device=torch.device("cpu"), plugins=plugins)
    doubts = run.doubts()
    if run.config.train.precision != "fp32":
        precision = run.config.train.precision
        doubts.append(f"the run computes in {precision}, the exported graph in float32")
    warn_all(doubts)
    exportable = Exportable.of(run)
    content = export(exportable, arguments.format)
    if arguments.verify:
        difference = largest_difference(exportable, runner(content, arguments.format))
        what = "largest difference from the run over random rows in batches of 1, 2 and 7"
        if not difference <= LARGEST_DIFFERENCE:  # nor is NaN
            print(
                f"error: {what}: {difference:.2g}, more than {LARGEST_DIFFERENCE:g}; nothing is"
                " written",
                file=sys.stderr,
            )
            return WRONG
        print(f"{what}: {difference:.2g}")
    write_export(graph, meaning, content, exportable.meaning(arguments.format))
    print(f"written to {graph} and {meaning}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
