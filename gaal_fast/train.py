"""``python -m gaal_fast.train``: a table and a folder of images to a trained classifier in a run
folder.

torch, and what needs it, is imported where it is used: a wrong flag is answered at once.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaal_fast.config import Config, Parser, add_config_flags, flag_values, resolve, to_yaml
from gaal_fast.config.command import INTERRUPTED, command, os_error_words, pick_device, warn
from gaal_fast.errors import AlreadyFinished, Interrupted, UserError
from gaal_fast.runs import folder as run_folder
from gaal_fast.runs.folder import RunFolder

if TYPE_CHECKING:
    from torch import nn

    from gaal_fast.data import FusionData

# The commonest class has this many times the rows of the rarest: the console shows balanced
# accuracy too.
UNEVEN = 1.5
# What may differ when a run goes on: how long, where, and where its data lies (which must be the
# same data).
RESUMABLE = frozenset(
    f"train.{name}" for name in ("epochs", "max-steps", "patience", "device", "progress", "seeds")
) | frozenset(f"data.{name}" for name in ("csv", "images", "cache", "cache-dir", "workers"))


@command()
def main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="python -m gaal_fast.train",
        description=(
            "Train a classifier on a table and a folder of images. Without --data.csv: on the"
            " built-in demo set."
        ),
        epilog=(
            "example: python -m gaal_fast.train --data.csv cars.csv --data.images photos"
            " --data.image-column file --data.target model"
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
    arguments = parser.parse(argv)
    config = resumed_config(arguments) if arguments.resume else resolve(arguments)
    if arguments.print_config:
        print(to_yaml(config), end="")
        return 0
    if arguments.resume:
        check_paths(RunFolder(arguments.resume).located(config), resuming=True)
    else:
        check_paths(config)
    try:
        train(config, resume=arguments.resume, dry_run=arguments.dry_run)
    except Interrupted as stopped:
        print(
            f"interrupted and saved; go on with: python -m gaal_fast.train --resume {stopped}",
            file=sys.stderr,
        )
        return INTERRUPTED
    return 0


def resumed_config(arguments: Any, module: str = "train") -> Config:
    """The configuration of the run to go on with, changed by those flags that leave it the same
    run.

    ``module`` is the command that asks: a comparison goes on with ``compare`` and everything else
    with ``train``.
    """
    folder, flags = RunFolder.open(arguments.resume, "--resume"), flag_values(arguments)
    if (owner := "compare" if folder.compared() else "train") != module:
        what = "a comparison" if owner == "compare" else "no comparison"
        raise UserError(f"--resume: {folder.path} holds {what}; {folder.how_to_go_on(owner)}")
    if arguments.config or arguments.preset:
        raise UserError(
            "--resume takes its configuration from the run folder: leave out --config and --preset"
        )
    for key, value in flags.items():
        if key not in RESUMABLE:
            raise UserError(f"--{key} cannot change when a run is resumed")
        if key in ("data.csv", "data.images", "data.cache-dir") and value.lower() not in (
            "none",
            "null",
            "",
        ):
            # The paths in the run folder are about the directory that training was started in,
            # these are about this one.
            flags[key] = str(Path(value).expanduser().absolute())
    stored = folder.config()
    config = folder.build(
        [
            (str(folder.path), stored.model_dump(mode="json", by_alias=True)),
            ("the command line", flags),
        ]
    )
    if (stored.train.seeds == 1) != (config.train.seeds == 1):
        raise UserError(
            "--train.seeds cannot change between one seed and several when a run is resumed"
        )
    return config


def check_paths(config: Config, *, resuming: bool = False) -> None:
    """Refuse what needs no data to be seen as wrong, before minutes are spent on reading it."""
    if config.data.csv is not None and config.data.target is None:
        raise UserError("--data.target is needed: the column with the class label")
    for flag, path in (
        ("--data.csv", config.data.csv),
        ("--data.images", config.data.images),
        ("--model.weights", config.model.weights),
        *(("--plugin", file) for file in config.plugin),
    ):
        if path is not None and not path.exists():
            raise UserError(
                f"{flag}: no such {'folder' if flag == '--data.images' else 'file'}: {path}"
            )
    if config.run.dir is not None and not resuming and config.run.dir.exists():
        raise run_folder.exists_error(config.run.dir)
    if config.run.dir is not None and not resuming:
        parent = next(p for p in config.run.dir.absolute().parents if p.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise UserError(
                f"--run.dir: cannot create {config.run.dir}: cannot write into {parent}"
            )


def with_demo(config: Config) -> Config:
    """The same configuration with the demo set's table and images where none are given."""
    if config.data.csv is not None:
        return config
    from gaal_fast.data.demo import ensure_demo  # draws with more machinery than training needs

    demo = ensure_demo()
    data = {
        "csv": demo.csv,
        "images": demo.images,
        "image_column": demo.image_column,
        "target": demo.target,
    }
    return config.model_copy(update={"data": config.data.model_copy(update=data)})


def train(
    config: Config, *, resume: Path | None = None, dry_run: bool = False
) -> dict[str, Any] | None:
    """Load the data, train every seed and print the result; returns the summary (None for a dry
    run).
    """
    config = with_demo(config)
    located = RunFolder(resume).located(config) if resume else config
    device = pick_device(config.train.device)
    data = load([located], device)
    if dry_run:
        print("dry run: nothing was written")
        return None
    folder = RunFolder(
        resume
        or config.run.dir
        or run_folder.default_path(config.data.csv.stem, config.method.name)
    )
    if not resume:
        RunFolder.create(folder.path, config)
    with tidy_after_errors(folder, new=not resume):
        summary = run_seeds(config, data, folder, device=device)
    classes = data.target.dtype.kind != "f"
    print(result_words(summary, uneven=classes and is_uneven(data.class_counts)))
    print(f"run folder: {folder.path}")
    return summary


def load(configs: Sequence[Config], device: Any) -> FusionData:
    """The data for configurations that differ in their methods, after printing what was found;
    raises ``UserError`` where one of the methods cannot use it.
    """
    from gaal_fast.data import load_data

    config = configs[0]
    decode = any(each.method.name != "table" for each in configs)
    data = load_data(config.data, decode=decode, progress=config.train.progress)
    for message in data.warnings:
        warn(message)
    for each in configs:
        check_modalities(each, data)
    for each in configs[1:]:
        encoders(each, data)
    print(describe(config, data, device))
    return data


@contextmanager
def tidy_after_errors(folder: RunFolder, *, new: bool, module: str = "train") -> Iterator[None]:
    """Remove a new folder if bad input or a full disk shows before the first checkpoint; say how to
    go on after it.
    """
    try:
        yield
    except (UserError, OSError) as error:
        if not any(folder.path.rglob(run_folder.CHECKPOINT)):
            if new:
                shutil.rmtree(folder.path)
        elif isinstance(error, OSError):
            raise UserError(f"{os_error_words(error)}; {folder.how_to_go_on(module)}") from error
        raise


def run_seeds(
    config: Config, data: FusionData, folder: RunFolder, *, device: Any
) -> dict[str, Any]:
    """Train ``config.train.seeds`` times, going on where the folder's runs stopped, and write the
    summary over all of them.

    Raises ``AlreadyFinished`` where nothing is left to do.
    """
    if config.train.seeds == 1:
        return run_one(config, data, folder, device=device)
    summaries, trained = [], 0
    for seed in range(config.train.seed, config.train.seed + config.train.seeds):
        own = config.model_copy(
            update={"train": config.train.model_copy(update={"seed": seed, "seeds": 1})}
        )
        own_folder = RunFolder(folder.seed(seed))
        print(f"seed {seed}")
        if not own_folder.path.exists():
            RunFolder.create(own_folder.path, own)
        try:
            summaries.append(run_one(own, data, own_folder, device=device))
            trained += 1
        except AlreadyFinished:
            summaries.append(own_folder.read_json(run_folder.SUMMARY))
        except Interrupted:
            raise Interrupted(folder.path) from None
    summary = over_seeds(summaries)
    if (
        not trained
        and folder.finished
        and folder.read_json(run_folder.SUMMARY)["seeds"] == summary["seeds"]
    ):
        raise AlreadyFinished(
            f"--resume: {folder.path} is finished: all of its {len(summaries)} seeds are"
        )
    folder.remove_partial()
    folder.write_config(config)
    folder.write_json(run_folder.SUMMARY, summary)
    return summary


def run_one(config: Config, data: FusionData, folder: RunFolder, *, device: Any) -> dict[str, Any]:
    """Train one seed in ``folder``: from its checkpoint, or from the start where a run was killed
    before it had one.

    Raises ``AlreadyFinished`` where nothing is left to do.
    """
    from gaal_fast.engine import Trainer

    trainer = Trainer(folder.located(config), data, folder, device=device)
    trainer.resume()
    folder.remove_partial()
    folder.write_config(config)
    folder.write_environment({"device": str(device)})
    folder.write_data(data)
    try:
        return trainer.fit()
    except Interrupted:
        raise Interrupted(folder.path) from None


def over_seeds(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means, and sample standard deviations under ``std``, of several runs' scores."""

    def gather(part: str, function: Any) -> dict[str, dict[str, float | None]]:
        scores = summaries[0][part]
        values = {s: {m: [run[part][s][m] for run in summaries] for m in scores[s]} for s in scores}
        return {
            s: {m: None if None in found else function(found) for m, found in values[s].items()}
            for s in values
        }

    parts = ("val", "test")
    return {
        "method": summaries[0]["method"],
        "seeds": [run["seed"] for run in summaries],
        **{part: gather(part, statistics.fmean) for part in parts},
        "std": {part: gather(part, statistics.stdev) for part in parts},
        "runs": [
            {"seed": run["seed"], **{part: run[part][main_score(run)] for part in parts}}
            for run in summaries
        ],
    }


def check_modalities(config: Config, data: FusionData) -> None:
    """Refuse a method whose modalities the data does not have."""
    from gaal_fast.methods.build import modalities_of

    names = data.modality_names
    wanted = modalities_of(config, names if data.images is not None else ["image", *names])
    if data.images is None and "image" in wanted:
        raise UserError(
            f"--data.image-column: no column of {config.data.csv} names images; "
            "name it, or train on the table alone with --method.name table"
        )
    if not data.schema.features and "table" in wanted:
        raise UserError(
            f"{config.data.csv}: {data.schema.without_features()}; "
            "train on the images alone with --method.name image"
        )


def encoders(config: Config, data: FusionData) -> dict[str, int]:
    """The parameters of each encoder, or of the whole model where it has none of that name.

    The model is built without its values: shapes cost no memory and no draw of random numbers. A
    method that its options do not suit raises ``UserError``.
    """
    import torch

    from gaal_fast.engine.task import task_of
    from gaal_fast.methods import build_method
    from gaal_fast.models import Encoders

    model = config.model.model_copy(update={"weights": None})
    with torch.device("meta"):
        method = build_method(config, task_of(data, config), data.train.specs, model)
    method.task.selection(config.train.select)
    own = getattr(method, "encoders", None)
    parts: dict[str, nn.Module] = {"model": method}
    if isinstance(own, Encoders):
        parts = {f"{name} encoder": own.of(name) for name in method.modalities}
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def describe(config: Config, data: FusionData, device: Any) -> str:
    """The plan in a few lines: data, split, model, steps."""
    sizes = ", ".join(f"{n} {count / 1e6:.2f} M" for n, count in encoders(config, data).items())
    batches = -(-len(data.train) // config.train.batch_size)
    lines = [
        f"{config.data.csv}",
        *data.describe(),
        (
            f"model: {sizes} parameters; images of {config.data.image_size} px, augmentation"
            f" {config.data.augment}"
        ),
        (
            f"method: {config.method.name}, up to {config.train.epochs} epochs of {batches} batches"
            f" on {device}"
        ),
    ]
    return "\n".join(lines)


def result_words(summary: dict[str, Any], *, uneven: bool = False) -> str:
    """The test accuracies (``uneven``: balanced too), with sample standard deviations over several
    seeds.

    Without a test part they are those of the validation rows.
    """
    part = scored_part(summary)
    words = {"test": "test", "val": "validation"}[part]
    lines = (
        ["there is no test part: these are the rows that chose the epoch"] if part == "val" else []
    )
    scores = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy"}
    if main_score(summary) == "r2":
        scores, uneven = {"r2": "R²", "rmse": "RMSE"}, True
    for score, name in scores.items():
        if score == main_score(summary) or uneven:
            lines.append(f"{words} {name}{_score_words(summary, part, score)}")
    return "\n".join(lines)


def main_score(summary: dict[str, Any]) -> str:
    """The score that comparisons go by."""
    return "r2" if "r2" in summary["test"] else "accuracy"


def scored_part(summary: dict[str, Any]) -> str:
    """``test``, or ``val`` where the data has no test part."""
    return "test" if summary["test"]["rows"]["fused"] else "val"


def _score_words(summary: dict[str, Any], part: str, score: str) -> str:
    from gaal_fast.runs.recorder import score_words

    found, rows = summary[part][score], summary[part]["rows"]["fused"]
    if "std" not in summary:
        return f"  {score_words(found)}  ({rows:.0f} rows)"
    std = summary["std"][part][score]
    words = [
        f"{name} {value:.3f} ± {std[name]:.3f}"
        for name, value in found.items()
        if value is not None
    ]
    return (
        f" over {len(summary['seeds'])} seeds "
        f" {'  '.join(sorted(words, key=lambda w: not w.startswith('fused')))}"
    )


def is_uneven(class_counts: Any) -> bool:
    """Whether some class has so many more rows than another that accuracy alone says little."""
    return bool(max(class_counts) >= UNEVEN * min(class_counts))


if __name__ == "__main__":
    sys.exit(main())
