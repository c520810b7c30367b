"""``python -m gaal_fast.compare``: several methods on one split, with the same seeds, encoders and
budget.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gaal_fast.config import (
    Config,
    Parser,
    add_config_flags,
    known_methods,
    plugins_of,
    resolve,
    to_yaml,
)
from gaal_fast.config.command import INTERRUPTED, command, pick_device
from gaal_fast.errors import AlreadyFinished, Interrupted, UserError, nearest
from gaal_fast.runs import folder as run_folder
from gaal_fast.runs.folder import RunFolder
from gaal_fast.train import (
    check_paths,
    load,
    main_score,
    resumed_config,
    run_seeds,
    scored_part,
    tidy_after_errors,
    with_demo,
)

PARTS = {"test": "test", "val": "validation"}
COMPARISON, FIGURE = "comparison.csv", "comparison.png"
SCORE_WORDS = {"accuracy": "accuracy", "r2": "R²"}


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
        "--methods", metavar="NAMES", help=f"comma-separated (default {','.join(all_methods())})"
    )
    parser.add_argument(
        "--resume", type=Path, metavar="DIR", help="go on with the comparison in this folder"
    )
    add_config_flags(parser)
    arguments = parser.parse(argv)
    if arguments.resume:
        if arguments.methods is not None:
            raise UserError("--methods cannot change when a comparison is resumed")
        configs = resumed_configs(arguments)
    else:
        methods = wanted_methods(arguments.methods, plugins_of(arguments))
        configs = [resolve(arguments, name, methods) for name in methods]
    if arguments.print_config:
        print(to_yaml(configs[0]), end="")
        return 0
    if arguments.resume:
        check_paths(RunFolder(arguments.resume).located(configs[0]), resuming=True)
    else:
        check_paths(configs[0])
    try:
        compare(configs, resume=arguments.resume)
    except Interrupted as stopped:
        print(
            f"interrupted and saved; {RunFolder(stopped.args[0]).how_to_go_on('compare')}",
            file=sys.stderr,
        )
        return INTERRUPTED
    return 0


def all_methods(plugins: Sequence[Path] = ()) -> list[str]:
    """The methods that need nothing to be said about them."""
    return [name for name, entry in known_methods(plugins).items() if entry.needs_nothing]


def wanted_methods(text: str | None, plugins: Sequence[Path] = ()) -> list[str]:
    """The methods of a flag, all of them where it is not given."""
    if text is None:
        return all_methods(plugins)
    known = list(known_methods(plugins))
    methods = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in methods:
        if name not in known:
            raise UserError(f"--methods: no method {name}{nearest(name, known)}")
    if not methods:
        raise UserError(f"--methods must name one or more of {', '.join(known)}")
    return methods


def resumed_configs(arguments: Namespace) -> list[Config]:
    """The configurations of the methods of a comparison that goes on."""
    config, folder = resumed_config(arguments, "compare"), RunFolder(arguments.resume)
    values = config.model_dump(mode="json", by_alias=True, exclude={"method"})
    contents = folder.read_json(run_folder.COMPARISON)
    options = contents.get("options", {})
    layers = [{"method": options.get(name, {"name": name})} for name in contents["methods"]]
    origin = str(folder.path)
    return [folder.build([(origin, values), (origin, layer)]) for layer in layers]


def compare(configs: Sequence[Config], *, resume: Path | None = None) -> list[dict[str, Any]]:
    """Train every method with every seed into one folder; returns the rows of its
    ``comparison.csv``.

    Args:
        configs: one for each method, which differ in nothing else.
        resume: the folder of a comparison that was stopped.

    Raises:
        AlreadyFinished: Nothing is left to do.
    """
    from gaal_fast.runs import figures

    configs = [with_demo(config) for config in configs]
    config, methods = configs[0], [each.method.name for each in configs]
    device = pick_device(config.train.device)
    data = load([RunFolder(resume).located(c) if resume else c for c in configs], device)
    folder = RunFolder(
        resume or config.run.dir or run_folder.default_path(config.data.csv.stem, "compare")
    )
    if not resume:
        options = {c.method.name: c.method.model_dump(mode="json", by_alias=True) for c in configs}
        contents = {"methods": methods, "options": options}
        RunFolder.create(folder.path, config, {run_folder.COMPARISON: contents})
    rows: list[dict[str, Any]] = []
    trained, part, score = 0, "test", "accuracy"
    with tidy_after_errors(folder, new=not resume, module="compare"):
        for own in configs:
            name = own.method.name
            print(f"method {name}")
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
            part, score = scored_part(summary), main_score(summary)
            rows += rows_of(name, summary)
            if trained:
                folder.write_rows(COMPARISON, rows, columns(score))
                figures.comparison(rows, folder.file(FIGURE), title_of(part, score), score)
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
        folder.write_rows(COMPARISON, rows, columns(score))
        figures.comparison(rows, folder.file(FIGURE), title_of(part, score), score)
    if part == "val":
        print(
            "there is no test part: the accuracies are those of the validation rows, which also"
            " chose each method's epoch"
        )
    print(table(rows, title_of(part, score), score))
    print(f"run folder: {folder.path}")
    return rows


def columns(score: str) -> tuple[str, ...]:
    """The columns of ``comparison.csv``."""
    return ("method", "modality", score, "std", "seeds")


def title_of(part: str, score: str) -> str:
    """What the numbers of a comparison are."""
    return f"{PARTS[part]} {SCORE_WORDS[score]}"


def is_complete(file: Path, methods: Sequence[str]) -> bool:
    """Whether a ``comparison.csv`` has rows for every method; it grows while they are trained."""
    return file.exists() and set(methods) <= {
        line.split(",")[0] for line in file.read_text(encoding="utf-8").splitlines()
    }


def rows_of(method: str, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of ``comparison.csv`` for one method, one a modality; of the validation rows where
    there is no test part.
    """
    part, score = scored_part(summary), main_score(summary)
    return [
        {
            "method": method,
            "modality": modality,
            score: value,
            "std": summary["std"][part][score][modality] if "std" in summary else None,
            "seeds": len(summary.get("seeds", [0])),
        }
        for modality, value in summary[part][score].items()
    ]


def table(
    rows: Sequence[dict[str, Any]], title: str = "test accuracy", score: str = "accuracy"
) -> str:
    """A score by method and modality, with sample standard deviations over several seeds; title:
    of which rows.
    """
    cells = {(row["method"], row["modality"]): row for row in rows}
    modalities = sorted(dict.fromkeys(row["modality"] for row in rows), key=lambda n: n != "fused")
    width = max(16, len(title) + 1)
    lines = [f"{title:<{width}}" + "".join(f"{name:>16}" for name in modalities)]
    for method in dict.fromkeys(row["method"] for row in rows):
        words = []
        for modality in modalities:
            row = cells.get((method, modality))
            if row is None or row[score] is None:
                words.append("-")
            else:
                words.append(
                    f"{row[score]:.3f}" + ("" if row["std"] is None else f" ± {row['std']:.3f}")
                )
        lines.append(f"{method:<{width}}" + "".join(f"{word:>16}" for word in words))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
