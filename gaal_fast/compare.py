"""``python -m gaal_fast.compare``: several methods on one split, with the same seeds, encoders and budget."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, get_args

from gaal_fast import run_folder
from gaal_fast.cli import INTERRUPTED, command, pick_device, warn
from gaal_fast.config import Config, MethodConfig, Parser, add_config_flags, nearest, resolve, to_yaml
from gaal_fast.data import load_data
from gaal_fast.errors import UserError
from gaal_fast.run_folder import RunFolder
from gaal_fast.train import check_modalities, check_paths, clean_up_on_error, describe, run_seeds, scored_part, with_demo
from gaal_fast.training import Interrupted, plots

METHODS = get_args(MethodConfig.model_fields["name"].annotation)
PARTS = {"test": "test", "val": "validation"}
COMPARISON, PICTURE = "comparison.csv", "comparison.png"
COLUMNS = ("method", "modality", "accuracy", "std", "seeds")


@command
def main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="python -m gaal_fast.compare",
        description="Train several methods on one split and tabulate their test accuracy. Takes the flags of train but method.name.",
        epilog="example: python -m gaal_fast.compare --methods gaal,concat --train.seeds 5",
    )
    parser.add_argument("--methods", default=",".join(METHODS), metavar="NAMES", help=f"comma-separated (default {','.join(METHODS)})")
    add_config_flags(parser)
    arguments = parser.parse(argv)
    methods = [name.strip() for name in arguments.methods.split(",") if name.strip()]
    for name in methods:
        if name not in METHODS:
            raise UserError(f"--methods: no method {name}{nearest(name, METHODS)}")
    config = resolve(arguments)
    if arguments.print_config:
        print(to_yaml(config), end="")
        return 0
    check_paths(config)
    try:
        compare(config, methods)
    except Interrupted as stopped:
        print(f"interrupted; what has been trained lies in {stopped}", file=sys.stderr)
        return INTERRUPTED
    return 0


def compare(config: Config, methods: Sequence[str]) -> list[dict[str, Any]]:
    """Train every method with every seed into one folder; returns the rows of its ``comparison.csv``."""
    config = with_demo(config)
    device = pick_device(config.train.device)
    data = load_data(config.data, progress=config.train.progress)
    for name in methods:
        check_modalities(config.model_copy(update={"method": config.method.model_copy(update={"name": name})}), data)
    for message in data.warnings:
        warn(message)
    print(describe(config, data, device))
    folder = RunFolder.create(config.run.dir or run_folder.default_path(config.data.csv.stem, "compare"))
    rows: list[dict[str, Any]] = []
    part = "test"
    with clean_up_on_error(folder):
        folder.write_config(config)
        for name in methods:
            print(f"method {name}")
            own = config.model_copy(update={"method": config.method.model_copy(update={"name": name})})
            summary = run_seeds(own, data, RunFolder.create(folder.path / name), device=device)
            part = scored_part(summary)
            rows += [
                {
                    "method": name,
                    "modality": modality,
                    "accuracy": value,
                    "std": summary["std"][part]["accuracy"][modality] if "std" in summary else None,
                    "seeds": config.train.seeds,
                }
                for modality, value in summary[part]["accuracy"].items()
            ]
            folder.write_rows(COMPARISON, rows, COLUMNS)
            plots.comparison(rows, folder.file(PICTURE), f"{PARTS[part]} accuracy")
    if part == "val":
        print("there is no test part: the accuracies are those of the validation rows, which also chose each method's epoch")
    print(table(rows, f"{PARTS[part]} accuracy"))
    print(f"run folder: {folder.path}")
    return rows


def table(rows: Sequence[dict[str, Any]], title: str = "test accuracy") -> str:
    """Accuracy by method and modality, with sample standard deviations over several seeds; title: of which rows."""
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
                words.append(f"{row['accuracy']:.3f}" + ("" if row["std"] is None else f" ± {row['std']:.3f}"))
        lines.append(f"{method:<{width}}" + "".join(f"{word:>16}" for word in words))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
