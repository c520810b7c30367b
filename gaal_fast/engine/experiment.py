"""Training as a library: data for methods, seeds into run folders, and what to say of it.

Everything is returned or handed to ``say``; the commands print.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from gaal_fast.config import Config
from gaal_fast.config.command import os_error_words
from gaal_fast.data import DataIssue, FusionData, load_data
from gaal_fast.engine.analysis import analyze
from gaal_fast.engine.analysis.passes import PartPass
from gaal_fast.engine.ceilings import write_ceilings
from gaal_fast.engine.task import task_of
from gaal_fast.engine.trainer import Trainer
from gaal_fast.errors import AlreadyFinished, Interrupted, UserError, carried_by_errors
from gaal_fast.methods import build_method
from gaal_fast.methods.build import modalities_of
from gaal_fast.models import Encoders, check_weights, preprocessing_of
from gaal_fast.runs.analysis import REPORT
from gaal_fast.runs.folder import CHECKPOINT, SUMMARY, RunFolder
from gaal_fast.runs.paths import default_path
from gaal_fast.runs.summary import RunSummary, Summary, over_seeds

logger = logging.getLogger("gaal_fast.engine")

# The commonest class has this many times the rows of the rarest: the console shows balanced
# accuracy too.
UNEVEN = 1.5

Say = Callable[[str], None]


def with_demo(config: Config) -> Config:
    """The same configuration with the demo set's table and images where none are given."""
    if config.data.csv is not None:
        return config
    from gaal_fast.demo import ensure_demo  # draws with more machinery than training needs

    demo = ensure_demo()
    data = {
        "csv": demo.csv,
        "images": demo.images,
        "image_column": demo.image_column,
        "target": demo.target,
    }
    return config.model_copy(update={"data": config.data.model_copy(update=data)})


def with_images(config: Config) -> Config:
    """The same configuration with the size and the resampling of images as the image encoder and
    its weights have them, where they are left open.

    Raises:
        UserError: For an encoder that is unknown, or weights that are not there or do not fit,
            before any image is read.
    """
    model, data = config.model, config.data
    expected = preprocessing_of(model.image, pretrained=model.weights is not None)
    if model.weights is not None and config.method.name != "table":
        check_weights(model.image, model.weights, model.width)
    decided = {
        "image_size": data.image_size or expected.size,
        "image_resampling": data.image_resampling or expected.resampling,
    }
    return config.model_copy(update={"data": data.model_copy(update=decided)})


def load(configs: Sequence[Config], *, every: bool = True) -> FusionData:
    """The data of configurations that differ in their methods only, with its warnings.

    Args:
        configs: One for each method, with paths that hold from the working directory. Images are
            decoded only where a method needs them.
        every: Whether each of them has to suit the data; else those of ``suited`` have to.

    Returns:
        Data that the methods can use.

    Raises:
        UserError: For data that is wrong or that one of the methods cannot use. It carries the
            warnings found before.
    """
    decode = any(config.method.name != "table" for config in configs)
    data = load_data(configs[0].data, decode=decode, progress=configs[0].train.progress)
    with carried_by_errors(data.warnings):
        for config in configs if every else suited(configs, data):
            check_modalities(config, data)
            encoders(config, data)
    return data


def suited(configs: Sequence[Config], data: FusionData) -> list[Config]:
    """The configurations whose methods take modalities by names that the data has: ``image`` alone
    cannot be trained where the images are called ``front`` and ``kitchen``.
    """

    def suits(config: Config) -> bool:
        try:
            _wanted(config, data)
        except UserError:
            return False
        return True

    return [config for config in configs if suits(config)]


def _wanted(config: Config, data: FusionData) -> list[str]:
    """The modalities that a method takes, of those of the data and the images that it may lack."""
    names = data.modality_names
    imageless = data.images is None and not data.embeddings
    return modalities_of(config, ["image", *names] if imageless else names)


def check_modalities(config: Config, data: FusionData) -> None:
    """Refuse a method whose modalities the data does not have."""
    wanted = _wanted(config, data)
    if data.images is None and "image" in wanted:
        raise UserError(
            f": no column of {config.data.csv} names images; "
            "name it, or train on the table alone with --method.name table",
            key="data.image-column",
        )
    if not data.schema.features and "table" in wanted:
        raise UserError(
            f"{config.data.csv}: {data.schema.without_features()}; "
            "train on the images alone with --method.name image"
        )


def plan(config: Config, data: FusionData, device: torch.device) -> list[str]:
    """What would be trained, in a few lines: data, split, model, steps."""
    sizes = ", ".join(f"{n} {count / 1e6:.2f} M" for n, count in encoders(config, data).items())
    batches = -(-len(data.train) // config.train.batch_size)
    model, weights = f"{sizes} parameters", config.model.weights
    trained = modalities_of(config, data.modality_names)
    if weights is not None and any(data.train.specs[name].kind == "image" for name in trained):
        how = "frozen" if config.model.freeze else "pretrained"
        model += f", {how} image encoder from {weights}"
    return [
        f"{config.data.csv}",
        *data.describe(),
        f"model: {model}; images of {config.data.resize[0]} px, augmentation {config.data.augment}",
        f"method: {config.method.name}, up to {config.train.epochs} epochs of {batches} batches"
        f" on {device}",
    ]


def encoders(config: Config, data: FusionData) -> dict[str, int]:
    """The parameters of each encoder, or of the whole model where it has none of that name.

    The model is built without its values: shapes cost no memory and no draw of random numbers.

    Raises:
        UserError: For a method that its options do not suit.
    """
    model = config.model.model_copy(update={"weights": None, "freeze": False})
    with torch.device("meta"):
        method = build_method(config, task_of(data, config), data.train.specs, model)
    method.task.selection(config.train.select)
    own = getattr(method, "encoders", None)
    parts: dict[str, nn.Module] = {"model": method}
    if isinstance(own, Encoders):
        parts = {f"{name} encoder": own.of(name) for name in method.modalities}
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def train(
    config: Config,
    data: FusionData,
    *,
    device: torch.device,
    say: Say,
    resumed: RunFolder | None = None,
) -> tuple[RunFolder, Summary]:
    """Train every seed into a new run folder, or go on in one.

    Args:
        config: The configuration, as the run folder is to keep it.
        data: What ``load`` gave for it.
        device: Where to compute.
        say: Told which of several seeds begins.
        resumed: The folder to go on in.

    Returns:
        The folder and what its ``summary.json`` holds.

    Raises:
        AlreadyFinished: Where nothing is left to do.
        Interrupted: With the folder, on Ctrl-C, after everything was saved.
        UserError: For input that is bad. A new folder without a checkpoint is removed.
    """
    folder = resumed or RunFolder.create(new_path(config, config.method.name), config)
    with tidy_after_errors(folder, new=resumed is None):
        return folder, run_seeds(config, data, folder, device=device, say=say)


def new_path(config: Config, what: str) -> Path:
    """Where a new run folder goes: what ``run.dir`` names, else called after the table and what is
    done with it.
    """
    if config.data.csv is None:
        raise ValueError("config: has no table; with_demo gives it the demo set's")
    return config.run.dir or default_path(config.data.csv.stem, what)


@contextmanager
def tidy_after_errors(folder: RunFolder, *, new: bool, module: str = "train") -> Iterator[None]:
    """Remove the new folder if input errors or a full disk surface before the first checkpoint; say
    how to go on after it.
    """
    try:
        yield
    except (UserError, OSError) as error:
        if not any(folder.path.rglob(CHECKPOINT)):
            if new:
                shutil.rmtree(folder.path)
        elif isinstance(error, OSError):
            raise UserError(f"{os_error_words(error)}; {folder.how_to_go_on(module)}") from error
        raise


def run_seeds(
    config: Config,
    data: FusionData,
    folder: RunFolder,
    *,
    device: torch.device,
    say: Say,
    own_ceilings: bool = True,
) -> Summary:
    """Train ``config.train.seeds`` times, going on where the folder's runs stopped, and write the
    summary over all of them, with the ceilings of the data where ``config.train.ceilings`` wants
    them and nobody else gives them (``own_ceilings``).

    Raises:
        AlreadyFinished: Where nothing is left to do.
        Interrupted: With the folder, on Ctrl-C.
    """
    ceilings = config.train.ceilings and own_ceilings
    if config.train.seeds == 1:
        try:
            single = run_one(config, data, folder, device=device)
        except AlreadyFinished:
            single = folder.read_json(SUMMARY)
            if not ceilings or "ceilings" in single:  # else killed before they were fitted
                raise
        if ceilings:
            single["ceilings"] = write_ceilings([config], data, folder, device=device, say=say)
            folder.write_json(SUMMARY, single)
        write_report(folder)
        return single
    summaries: list[RunSummary] = []
    trained = 0
    for seed in range(config.train.seed, config.train.seed + config.train.seeds):
        own = config.model_copy(
            update={"train": config.train.model_copy(update={"seed": seed, "seeds": 1})}
        )
        own_folder = RunFolder(folder.seed(seed))
        say(f"seed {seed}")
        if not own_folder.path.exists():
            RunFolder.create(own_folder.path, own)
        try:
            summaries.append(run_one(own, data, own_folder, device=device))
            write_report(own_folder)
            trained += 1
        except AlreadyFinished:
            summaries.append(own_folder.read_json(SUMMARY))
        except Interrupted:
            raise Interrupted(folder.path) from None
    summary = over_seeds(summaries)
    if not trained and folder.finished and folder.read_json(SUMMARY)["seeds"] == summary["seeds"]:
        raise AlreadyFinished(
            f": {folder.path} is finished: all of its {len(summaries)} seeds are", key="resume"
        )
    if ceilings:
        summary["ceilings"] = write_ceilings([config], data, folder, device=device, say=say)
    folder.remove_partial()
    folder.write_config(config)
    folder.write_json(SUMMARY, summary)
    write_report(folder)
    return summary


def run_one(
    config: Config, data: FusionData, folder: RunFolder, *, device: torch.device
) -> RunSummary:
    """Train one seed in ``folder``: from its checkpoint, or from the start where a run was killed
    before it had one.

    Raises:
        AlreadyFinished: Where nothing is left to do.
        Interrupted: With the folder, on Ctrl-C.
    """

    def finish(
        passes: Mapping[str, PartPass], summary: RunSummary, issues: Iterable[DataIssue]
    ) -> None:
        analyze(
            folder,
            trainer.method.task,
            data,
            passes,
            summary,
            issues,
            calibrate=config.train.calibrate,
            examples=config.run.examples,
        )

    trainer = Trainer(folder.located(config), data, folder, device=device, analyze=finish)
    trainer.resume()
    folder.remove_partial()
    folder.write_config(config)
    folder.write_environment({"device": str(device)})
    folder.write_data(data)
    try:
        return trainer.fit()
    except Interrupted:
        raise Interrupted(folder.path) from None


def write_report(folder: RunFolder) -> None:
    """Write ``report.html``; a report that cannot be written is a warning, as everything that it
    shows is in the folder already.
    """
    from gaal_fast.runs.report import write

    try:
        write(folder, folder.file(REPORT))
    except (OSError, UserError) as error:
        reason = os_error_words(error) if isinstance(error, OSError) else str(error)
        logger.warning("no %s for %s: %s", REPORT, folder.path, reason)


def is_uneven(data: FusionData) -> bool:
    """Whether some class has so many more training rows than another that accuracy alone says
    little. Never so for a target of numbers.
    """
    if data.target.dtype.kind == "f":
        return False
    counts = data.class_counts
    return bool(counts.max() >= UNEVEN * counts.min())
