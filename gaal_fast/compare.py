"""``python -m gaal_fast.compare``: several methods on one split, with the same seeds, encoders and
budget.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from gaal_fast.config import Config, MethodConfig, Parser, add_config_flags, resolve, to_yaml
from gaal_fast.config.command import INTERRUPTED, command, pick_device
from gaal_fast.errors import AlreadyFinished, Interrupted, UserError, nearest
from gaal_fast.runs import folder as run_folder
from gaal_fast.runs.folder import RunFolder
from gaal_fast.train import (
    check_paths,
    load,
    resumed_config,
    run_seeds,
    scored_part,
    tidy_after_errors,
    with_demo,
)

METHODS = get_args(MethodConfig.model_fields["name"].annotation)
PARTS = {"test": "test", "val": "validation"}
COMPARISON, FIGURE = "comparison.csv", "comparison.png"
COLUMNS = ("method", "modality", "accuracy", "std", "seeds")


@command()
def main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="python -m gaal_fast.compare",
        description=(
            "Train several methods on one split and tabulate their test accuracy. Takes the flags"
            " of train but method.name."
        ),
        epilog="example: python -m gaal_fast.compare --methods gaal,concat --train.seeds 5",
    )
    parser.add_argument(
        "--methods", metavar="NAMES", help=f"comma-separated (default {','.join(METHODS)})"
    )
    parser.add_argument(
        "--resume", type=Path, metavar="DIR", help="go on with the comparison in this folder"
    )
    add_config_flags(parser)
    arguments = parser.parse(argv)
    if arguments.resume:
        config = resumed_config(arguments, "compare")
        if arguments.methods is not None:
            raise UserError("--methods cannot change when a comparison is resumed")
        methods = [folder.path.name for folder in RunFolder(arguments.resume).compared()]
    else:
        config, methods = resolve(arguments), wanted_methods(arguments.methods)
    if arguments.print_config:
        print(to_yaml(config), end="")
        return 0
    if arguments.resume:
        check_paths(RunFolder(arguments.resume).located(config), resuming=True)
    else:
        check_paths(config)
    try:
        compare(config, methods, resume=arguments.resume)
    except Interrupted as stopped:
        print(
            f"interrupted and saved; {RunFolder(stopped.args[0]).how_to_go_on('compare')}",
            file=sys.stderr,
        )
        return INTERRUPTED
    return 0


def wanted_methods(text: str | None) -> list[str]:
    """The methods of a flag, all of them where it is not given."""
    if text is None:
        return list(METHODS)
    methods = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in methods:
        if name not in METHODS:
            raise UserError(f"--methods: no method {name}{nearest(name, METHODS)}")
    if not methods:
        raise UserError(f"--methods must name one or more of {', '.join(METHODS)}")
    return methods


def compare(
    config: Config, methods: Sequence[str], *, resume: Path | None = None
) -> list[dict[str, Any]]:
    """Train every method with every seed into one folder; returns the rows of its
    ``comparison.csv``.

    ``resume`` is the folder of a comparison that was stopped. Raises ``AlreadyFinished`` where
    nothing is left to do in it.
    """
    from gaal_fast.runs import figures

    config = with_demo(config)
    device = pick_device(config.train.device)
    data = load(RunFolder(resume).located(config) if resume else config, device, methods=methods)
    folder = RunFolder(
        resume or config.run.dir or run_folder.default_path(config.data.csv.stem, "compare")
    )
    if not resume:
        RunFolder.create(folder.path, config, {run_folder.COMPARISON: {"methods": list(methods)}})
    rows: list[dict[str, Any]] = []
    trained, part = 0, "test"
    with tidy_after_errors(folder, new=not resume, module="compare"):
        for name in methods:
            print(f"method {name}")
            own = config.model_copy(
                update={"method": config.method.model_copy(update={"name": name})}
            )
            own_folder = RunFolder(folder.path / name)
            if not own_folder.path.exists():
                RunFolder.create(own_folder.path, own)
            try:
                summary = run_seeds(own, data, own_folder, device=device)
                trained += 1
            except AlreadyFinished:
                summary = own_folder.read_json(run_folder.SUMMARY)
            except Interrupted:
                raise Interrupted(folder.path) from None
            part = scored_part(summary)
            rows += rows_of(name, summary)
            if trained:
                folder.write_rows(COMPARISON, rows, COLUMNS)
                figures.comparison(rows, folder.file(FIGURE), f"{PARTS[part]} accuracy")
        if (
            not trained
            and folder.file(FIGURE).exists()
            and is_complete(folder.file(COMPARISON), methods)
        ):
            raise AlreadyFinished(
                f"--resume: {folder.path} is finished: all of its {len(methods)} methods are"
            )
        folder.remove_partial()
        folder.write_config(config)
        folder.write_rows(COMPARISON, rows, COLUMNS)
        figures.comparison(rows, folder.file(FIGURE), f"{PARTS[part]} accuracy")
    if part == "val":
        print(
            "there is no test part: the accuracies are those of the validation rows, which also"
            " chose each method's epoch"
        )
    print(table(rows, f"{PARTS[part]} accuracy"))
    print(f"run folder: {folder.path}")
    return rows


def is_complete(file: Path, methods: Sequence[str]) -> bool:
    """Whether a ``comparison.csv`` has rows for every method; it grows while they are trained."""
    return file.exists() and set(methods) <= {
        line.split(",")[0] for line in file.read_text(encoding="utf-8").splitlines()
    }


def rows_of(method: str, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of ``comparison.csv`` for one method, one a modality; of the validation rows where
    there is no test part.
    """
    part = scored_part(summary)
    return [
        {
            "method": method,
            "modality": modality,
            "accuracy": value,
            "std": summary["std"][part]["accuracy"][modality] if "std" in summary else None,
            "seeds": len(summary.get("seeds", [0])),
        }
        for modality, value in summary[part]["accuracy"].items()
    ]


def table(rows: Sequence[dict[str, Any]], title: str = "test accuracy") -> str:
    """Accuracy by method and modality, with sample standard deviations over several seeds; title:
    of which rows.
    """
    cells = {(row["method"], row["modality"]): row for row in rows}
    width = max(16, len(title) + 1)
    lines = [f"{title:<{width}}{'fused':>16}{'image':>16}{'table':>16}"]
    for method in dict.fromkeys(row["method"] for row in rows):
        words = []
        for modality in ("multi", "image", "table"):
            row = cells.get((method, modality))
            if row is None or row["accuracy"] is None:
                words.append("-")
            else:
                words.append(
                    f"{row['accuracy']:.3f}"
                    + ("" if row["std"] is None else f" ± {row['std']:.3f}")
                )
        lines.append(f"{method:<{width}}" + "".join(f"{word:>16}" for word in words))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
