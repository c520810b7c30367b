"""From a configuration to data that can be trained on or predicted."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.utils.class_weight import compute_class_weight

from gaal_fast.data.augment import Preset
from gaal_fast.data.cells import to_texts
from gaal_fast.data.dataset import FusionDataset, ImageModality, Modality, TableModality
from gaal_fast.data.image_files import ImageFolder, resolve_images
from gaal_fast.data.image_store import CacheMode, ImageStore
from gaal_fast.data.issues import DataIssue, warn
from gaal_fast.data.leakage import LEAK_ROWS, leaking_columns
from gaal_fast.data.preprocess import TableArrays, TablePreprocessor
from gaal_fast.data.reading import Reading
from gaal_fast.data.schema import TableSchema, infer_schema, read_numbers
from gaal_fast.data.split import PARTS, Split, make_split
from gaal_fast.data.table import find_column, read_table, require_column
from gaal_fast.data.target import NO_LABEL, Target, encode_labels, read_target
from gaal_fast.errors import UserError, carried_by_errors

# What the rows, their features and their parts depend on; how pictures are augmented, cached or weighed is not among it.
_FINGERPRINT_FIELDS = (
    *("target", "image_column", "numeric", "categorical", "drop", "split_column", "group_column"),
    *("val_fraction", "test_fraction", "split_seed", "image_size", "min_category_count"),
)


@dataclass
class FusionData:
    """A data set ready for training.

    frame: the table as read. reading: how its files were read. target: int64 [N], class codes (positions in `classes`), -1 = no
    label (such a row is in no part). table: features of every row. images: the pictures, None without a picture column.
    class_weights: float32 [C], N_train / (C * training rows of the class) for "balanced", or None.
    seed: of the augmentation. fingerprint: sha256 of the table and of the settings that decide rows, features and parts.
    train, val, test: the parts of the split; only train is augmented.
    issues: cells that cannot be used; warnings: lines for the user, in order.
    """

    frame: pd.DataFrame
    schema: TableSchema
    reading: Reading
    preprocessor: TablePreprocessor
    split: Split
    target: np.ndarray
    table: TableArrays
    images: ImageStore | None
    class_weights: torch.Tensor | None
    augment: Preset
    seed: int
    fingerprint: str
    issues: list[DataIssue] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.train = self.dataset(self.split.train, augment=self.augment)
        self.val = self.dataset(self.split.val)
        self.test = self.dataset(self.split.test)

    def dataset(self, rows: np.ndarray, augment: Preset = "none") -> FusionDataset:
        """Any rows of the table; pictures as they are unless `augment` says otherwise."""
        return FusionDataset(rows, self.target, _modalities(self.images, self.table, augment, self.seed))

    @property
    def classes(self) -> list[str | int]:
        """The labels; a class code is a position in this list."""
        return list(self.schema.classes)

    @property
    def modality_names(self) -> list[str]:
        return self.train.modality_names

    @property
    def table_width(self) -> int:
        """D, the number of table features."""
        return self.table.features.shape[1]

    @property
    def class_counts(self) -> np.ndarray:
        """int64 [C], training rows of each class; at least one."""
        return np.bincount(self.target[self.split.train], minlength=len(self.schema.classes))

    def describe(self) -> list[str]:
        """What was loaded, one line each, for the console."""
        sizes = ", ".join(f"{len(getattr(self.split, part))} {part}" for part in PARTS)
        lines = [f"rows: {len(self.frame)} ({sizes}; split {self.split.hash[:12]})", *self.reading.describe(), *self.schema.describe()]
        lines.append(f"table features: {self.table_width}")
        for name, present in self.dataset(np.arange(len(self.frame))).present().items():
            if not present.all():
                lines.append(f"rows without {name}: {int((~present).sum())}")
        return lines


@dataclass
class PredictionData:
    """A table to predict: every row, in its order. target: int64 [N], codes of known labels, -1 where there is none."""

    frame: pd.DataFrame
    schema: TableSchema
    target: np.ndarray
    dataset: FusionDataset
    issues: list[DataIssue] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def classes(self) -> list[str | int]:
        return list(self.schema.classes)


def load_data(config: Any, *, seed: int = 0, decode: bool = True, progress: bool = True) -> FusionData:
    """Reads what a data configuration describes. Writes nothing, but for the picture cache if that is on disk.

    config: an object with the fields of `gaal_fast.config.DataConfig`. seed: of the augmentation. decode=False leaves the
    picture cache empty, and broken pictures undiscovered until they are read. progress: show a bar while decoding.
    Raises UserError for anything wrong with the files or their contents, with the warnings that were found before it.
    """
    warnings: list[str] = []
    with carried_by_errors(warnings):
        return _load_data(config, warnings, seed=seed, decode=decode, progress=progress)


def _load_data(config: Any, warnings: list[str], *, seed: int, decode: bool, progress: bool) -> FusionData:
    frame = read_table(config.csv, warnings)
    folder = ImageFolder(config.images if config.images is not None else Path(config.csv).expanduser().absolute().parent)
    schema = infer_schema(
        frame,
        target=config.target,
        folder=folder,
        image_column=config.image_column,
        numeric=config.numeric,
        categorical=config.categorical,
        drop=config.drop,
        split_column=config.split_column,
        group_column=config.group_column,
        source=config.csv,
        warnings=warnings,
    )
    if schema.image_column is None and config.images is not None:
        raise UserError(f"{config.csv}: no column names the pictures in {config.images}; give --data.image-column")
    target = read_target(frame[schema.target], schema.target)
    schema = replace(schema, classes=target.classes)
    issues = list(target.issues)
    if issues:
        warn(warnings, f'{len(issues)} rows have no value in the target column "{schema.target}" and are left out')
    paths, missing = _picture_paths(frame, schema.image_column, folder)
    issues += missing
    split = make_split(
        target.codes,
        target.classes,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        seed=config.split_seed,
        parts=None if schema.split_column is None else to_texts(frame[schema.split_column]),
        parts_column=schema.split_column or "",
        groups=None if schema.group_column is None else to_texts(frame[schema.group_column]),
        groups_column=schema.group_column or "",
    )
    _warn_of_leaks(frame, schema, target, split, warnings)
    preprocessor = TablePreprocessor(schema).fit(frame, split.train, config.min_category_count)
    table = preprocessor.transform(frame, config.csv)
    images = None
    if paths is not None:
        images = ImageStore(paths, config.image_size, schema.image_column, config.cache, config.cache_dir)
        if decode:
            images.fill(progress)
        issues += images.issues()
        _check_pictures(images, warnings)
    issues += _rows_with_nothing(target, table, images)
    return FusionData(
        frame=frame,
        schema=schema,
        reading=Reading(),
        preprocessor=preprocessor,
        split=split,
        target=target.codes,
        table=table,
        images=images,
        class_weights=_class_weights(config.class_weights, target.codes[split.train], len(target.classes)),
        augment=config.augment,
        seed=seed,
        fingerprint=data_fingerprint(config),
        issues=sorted(set(issues)),
        warnings=warnings,
    )


def load_for_prediction(
    csv: Path | str,
    run_folder: Path | str,
    *,
    images: Path | str | None = None,
    image_size: int = 128,
    labels: bool = False,
    cache: CacheMode = "none",
    cache_dir: Path | None = None,
    progress: bool = True,
) -> PredictionData:
    """Reads a table for a trained model, whose preprocessor and schema were saved in `run_folder`.

    The table's columns may be in any order, with others among them. A row without a picture, or without any table value, has
    that modality missing; without a folder of `images`, so have all rows the picture. labels: also read the target column, for
    evaluation. cache: as in training; each picture is used once per pass, so nothing is kept unless asked for.
    Raises UserError: a column the model needs is not there, a text in a numeric column, not one picture found.
    """
    warnings: list[str] = []
    with carried_by_errors(warnings):
        return _load_for_prediction(
            csv, Path(run_folder), warnings, images=images, image_size=image_size, labels=labels, cache=cache,
            cache_dir=cache_dir, progress=progress,
        )  # fmt: skip


def _load_for_prediction(
    csv: Path | str,
    run_folder: Path,
    warnings: list[str],
    *,
    images: Path | str | None,
    image_size: int,
    labels: bool,
    cache: CacheMode,
    cache_dir: Path | None,
    progress: bool,
) -> PredictionData:
    preprocessor = TablePreprocessor.load(Path(run_folder))
    reading = Reading.load(Path(run_folder))  # noqa: F841
    schema = preprocessor.schema
    frame = read_table(csv, warnings)
    table = preprocessor.transform(frame, csv)
    target = Target(schema.classes, np.full(len(frame), NO_LABEL))
    if labels:
        target = encode_labels(frame[require_column(frame.columns, schema.target, csv)], schema.target, schema.classes)
    issues = list(target.issues)
    store = None
    if schema.image_column is not None:
        paths: list[str | None] | None = [None] * len(frame)
        if images is None:
            warn(warnings, "no folder of pictures is given: predicting from the table alone")
        else:
            column = find_column(frame.columns, schema.image_column)
            if column is None:
                raise UserError(f'{csv} lacks the picture column the model was trained on: "{schema.image_column}"')
            paths, missing = _picture_paths(frame, column, ImageFolder(images, "--images"), empty_ok=True)
            issues += missing
        store = ImageStore(paths, image_size, schema.image_column, cache, cache_dir)
        store.fill(progress)
        issues += store.issues()
    elif images is not None:
        warn(warnings, "the model was trained without pictures: the folder of pictures is not used")
    dataset = FusionDataset(np.arange(len(frame)), target.codes, _modalities(store, table))
    return PredictionData(frame, schema, target.codes, dataset, sorted(set(issues)), warnings)


def data_fingerprint(config: Any) -> str:
    """sha256 (hex) of the table file's bytes and of the settings that decide rows, features and parts."""
    settings = {name: getattr(config, name) for name in _FINGERPRINT_FIELDS}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    with open(Path(config.csv).expanduser(), "rb") as file:
        for block in iter(lambda: file.read(2**20), b""):
            digest.update(block)
    return digest.hexdigest()


def _picture_paths(
    frame: pd.DataFrame, column: str | None, folder: ImageFolder, *, empty_ok: bool = False
) -> tuple[list[str | None] | None, list[DataIssue]]:
    if column is None:
        return None, []
    return resolve_images(to_texts(frame[column]), folder, column, empty_ok=empty_ok)


def _modalities(images: ImageStore | None, table: TableArrays, preset: Preset = "none", seed: int = 0) -> list[Modality]:
    modalities: list[Modality] = [] if images is None else [ImageModality(images, preset, seed)]
    return [*modalities, TableModality(table.features, table.present)]


def _check_pictures(images: ImageStore, warnings: list[str]) -> None:
    unusable = int((~images.present).sum())
    if unusable == len(images.present):
        first = images.issues()[0]
        raise UserError(f'no picture of column "{images.column}" can be read (first: {first.path}: {first.reason})')
    if unusable:
        warn(warnings, f"{unusable} of {len(images.present)} rows have no usable picture and train on their table alone")


def _warn_of_leaks(frame: pd.DataFrame, schema: TableSchema, target: Target, split: Split, warnings: list[str]) -> None:
    rows = np.random.default_rng(0).permutation(split.train)[:LEAK_ROWS]
    sample = frame.iloc[rows]
    columns = {name: read_numbers(sample[name], schema, name) for name in schema.numeric + schema.dates}
    for name in schema.categorical:
        codes = pd.factorize(to_texts(sample[name]))[0].astype(np.float64)
        columns[name] = np.where(codes < 0, np.nan, codes)
    for name, accuracy in leaking_columns(columns, target.codes[rows]).items():
        warn(
            warnings,
            f'column "{name}" alone predicts the target (right in {accuracy:.0%} of unseen training rows): '
            f'if it is not known beforehand, leave it out with --data.drop "{name}"',
        )


def _rows_with_nothing(target: Target, table: TableArrays, images: ImageStore | None) -> list[DataIssue]:
    present = table.present if images is None else table.present | images.present
    rows = np.flatnonzero(~present & (target.codes != NO_LABEL))
    return [DataIssue(int(row), "", "", "neither a picture nor a table value") for row in rows]


def _class_weights(kind: str, codes: np.ndarray, n_classes: int) -> torch.Tensor | None:
    if kind == "none":
        return None
    return torch.from_numpy(compute_class_weight(kind, classes=np.arange(n_classes), y=codes)).to(torch.float32)
