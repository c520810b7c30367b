"""``python -m gaal_fast.data``: what the trainer would read from a table and its images, or the
demo set written to a folder. ``prepare`` and ``export-official`` as the first word: the data sets
of the paper, from what their downloads unpack to and to what the authors' code reads.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaal_fast.config import Parser, add_config_flags, resolve, to_yaml
from gaal_fast.config.command import check_new_file, command, warn_all
from gaal_fast.errors import UserError
from gaal_fast.runs.naming import loaded
from gaal_fast.runs.resume import check_paths

if TYPE_CHECKING:
    from gaal_fast.data import FusionData


@command()
def main(argv: Sequence[str]) -> int:
    """Print how a table is read, or write the demo set or a data set of the paper."""
    if argv and argv[0] in _SUBCOMMANDS:
        return _SUBCOMMANDS[argv[0]](argv[1:])
    parser = Parser(
        prog="python -m gaal_fast.data",
        description=(
            "Report how a table and its images are read: columns, classes, split, problems."
            " Writes nothing unless told to. Data sets of the paper: see"
            " `python -m gaal_fast.data prepare --help` and"
            " `python -m gaal_fast.data export-official --help`."
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


def prepare_published(argv: Sequence[str]) -> int:
    """``prepare``: an official download to a table, images and a description."""
    from gaal_fast.published import NAMES, prepare

    parser = Parser(
        prog="python -m gaal_fast.data prepare",
        description=(
            "Turn what the official downloads of DVM-CAR, SUN Attribute or CelebA unpack to into a"
            " table with images, split as the paper's authors have it, and name every choice and"
            " deviation. A call that was killed goes on when it is repeated. Train with --preset of"
            " the same name."
        ),
        leading=("--raw", "--out"),
        example="python -m gaal_fast.data prepare dvm --raw DVM --out dvm",
    )
    parser.add_argument("name", choices=NAMES, help="which data set")
    parser.add_argument(
        "--raw",
        type=Path,
        metavar="DIR",
        required=True,
        help=(
            "what the downloads unpack to. dvm: tables_V2.0/ (with Ad_table (extra).csv) and"
            " resized_DVM/; sun: SUNAttributeDB/ and images/; celeba: list_attr_celeba.txt,"
            " list_eval_partition.txt and img_align_celeba/"
        ),
    )
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="new folder")
    parser.add_argument(
        "--ids",
        type=Path,
        metavar="DIR",
        help=(
            "dvm: the folder data of MMCL's repository, whose lists of adverts are the published"
            " split (default: divided anew by the same steps)"
        ),
    )
    parser.add_argument(
        "--votes",
        choices=("majority", "unanimous"),
        help=(
            "sun: an attribute is given by two of three annotators, or by all as the released"
            " loader would have it (default majority)"
        ),
    )
    parser.add_argument(
        "--without-complements",
        action="store_true",
        help='sun: leave out "semi-enclosed area" and "enclosed area", which nearly tell the label',
    )
    given = parser.parse(argv)
    options = {
        "ids": ("dvm", given.ids),
        "votes": ("sun", given.votes),
        "without-complements": ("sun", given.without_complements),
    }
    for flag, (owner, value) in options.items():
        if value and owner != given.name:
            raise UserError(f"is an option of {owner}, not of {given.name}", key=flag)
    found = prepare(
        given.name,
        given.raw,
        given.out,
        ids=given.ids,
        votes=given.votes or "majority",
        complements=not given.without_complements,
    )
    print("\n".join(_prepared_words(found, given.out)))
    return 0


def _prepared_words(found: Mapping[str, Any], out: Path) -> Iterator[str]:
    """What was made, what it rests on, and how to train on it."""
    yield from (f"{what}: {count:,}" for what, count in found["counts"].items())
    parts = "  ".join(f"{part} {count:,}" for part, count in found["rows"].items())
    smallest, largest = found["smallest_training_class"], found["largest_training_class"]
    yield f"rows: {parts}"
    yield f"classes: {found['classes']}, with {smallest:,} to {largest:,} training rows each"
    yield from (f"{note['kind']}: {note['text']}" for note in found["notes"])
    table, images = out / found["table"], out / found["images"]
    yield f"table: {table} (sha256 {found['sha256'][found['table']]})"
    words = ["--preset", found["prepared"], "--data.csv", str(table), "--data.images", str(images)]
    yield f"train: python -m gaal_fast.train {shlex.join(words)}"


def export_published(argv: Sequence[str]) -> int:
    """``export-official``: a prepared data set as the authors' repository reads it."""
    parser = Parser(
        prog="python -m gaal_fast.data export-official",
        description=(
            "Write the files that the GAAL authors' repository reads (its data_base folder) from a"
            " table that `prepare` wrote, divided as its split column says, or as a run was."
        ),
        leading=("--csv", "--run", "--out"),
        example="python -m gaal_fast.data export-official --csv dvm/dvm.csv --out data_base",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--csv", type=Path, metavar="FILE", help="the table that prepare wrote")
    source.add_argument(
        "--run", type=Path, metavar="DIR", help="a run trained on it, whose split is taken"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="new folder")
    given = parser.parse(argv)
    table, parts = (given.csv, None) if given.run is None else _trained_on(given.run)
    if not table.is_file():
        raise UserError(f": no such file: {table}", key="csv" if given.run is None else "run")
    from gaal_fast.published import export_official

    counts, warnings = export_official(table, given.out, parts)
    warn_all(warnings)
    print("rows: " + "  ".join(f"{part} {count:,}" for part, count in counts.items()))
    print(f"written: {given.out}, the data_base of the authors' repository")
    return 0


def _trained_on(run: Path) -> tuple[Path, dict[int, str]]:
    """The table of a run, and the part of each of its rows."""
    from gaal_fast.runs.folder import SPLIT, RunFolder

    folder = RunFolder.open(run)
    while inner := folder.compared() or folder.seeds():
        folder = inner[0]  # they share one split
    config = folder.located(folder.config())
    if config.data.csv is None:
        raise UserError(f": {run} was trained on the demo set", key="run")
    from gaal_fast.data.split import read_split

    split = read_split(folder.file(SPLIT)).to_frame()
    return config.data.csv, dict(zip(split["row"].tolist(), split["part"].tolist(), strict=True))


_SUBCOMMANDS = {"prepare": prepare_published, "export-official": export_published}


if __name__ == "__main__":
    sys.exit(main())
