"""From a configuration to data that can be trained on or predicted."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.utils.class_weight import compute_class_weight

from gaal_fast.data.dataset import FusionDataset, ImageModality, Modality, TableModality
from gaal_fast.data.images.augment import Preset
from gaal_fast.data.images.find import TABLE_ALONE, resolve_images
from gaal_fast.data.images.folder import ImageFolder
from gaal_fast.data.images.names import image_names
from gaal_fast.data.images.range import decide_ranges, extend_ranges, survey, warn_of_frames
from gaal_fast.data.images.store import CacheMode, ImageStore
from gaal_fast.data.issues import DataIssue, some, warn
from gaal_fast.data.part_words import read_parts
from gaal_fast.data.reading import ImageReading, Reading, TableReading
from gaal_fast.data.shared import warn_of_shared_ids, warn_of_shared_images
from gaal_fast.data.split import PARTS, Split, make_split
from gaal_fast.data.tables.cells import to_texts
from gaal_fast.data.tables.leakage import LEAK_ROWS, leaking_columns
from gaal_fast.data.tables.number_cells import PLAIN
from gaal_fast.data.tables.numbers import NumberColumns, NumberOptions
from gaal_fast.data.tables.preprocess import TableArrays, TablePreprocessor, read_levels
from gaal_fast.data.tables.read import TableOptions, find_column, open_table, require_column
from gaal_fast.data.tables.schema import TableSchema, infer_schema, read_numbers, warn_of_numbers
from gaal_fast.data.targets import (
    NO_LABEL,
    NO_LABEL_REASON,
    Target,
    encode_labels,
    keep_trained,
    read_target,
)
from gaal_fast.errors import UserError, carried_by_errors

# What the rows, their features and their parts depend on; how images are augmented, cached or
# weighed is not among it.
_FINGERPRINT_FIELDS = (
    *("target", "image_column", "numeric", "categorical", "drop", "split_column", "group_column"),
    *(
        "val_fraction",
        "test_fraction",
        "split_seed",
        "image_size",
        "image_range",
        "min_category_count",
    ),
    *("rare_classes", "date_order"),
    *("encoding", "delimiter", "decimal", "thousands", "missing_values"),
)


@dataclass
class FusionData:
    """A data set ready for training.

    frame: the table as read. reading: how its files were read. target: int64 [N], class codes
    (positions in `classes`), -1 = no label (such a row is in no part). table: features of every
    row. images: the images, None without an image column. class_weights: float32 [C], N_train /
    (C * training rows of the class) for "balanced", or None. seed: of the augmentation.
    fingerprint: sha256 of the table and of the settings that decide rows, features and parts.
    train, val, test: the parts of the split; only train is augmented. issues: cells that cannot be
    used; warnings: lines for the user, in order.
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
        """Any rows of the table; images as they are unless `augment` says otherwise."""
        return FusionDataset(
            rows, self.target, _modalities(self.images, self.table, augment, self.seed)
        )

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
        lines = [
            f"rows: {len(self.frame)} ({sizes}; split {self.split.hash[:12]})",
            *self.reading.describe(),
            *self.schema.describe(),
        ]
        width = self.table_width or "0 (only --method.name image can be trained)"
        lines.append(f"table features: {width}")
        for name, present in self.dataset(np.arange(len(self.frame))).present().items():
            if not present.all() and (name != "table" or self.table_width):
                lines.append(f"rows without {name}: {int((~present).sum())}")
        return lines


@dataclass
class PredictionData:
    """A table to predict: every row, in its order. target: int64 [N], codes of known labels, -1
    where there is none.
    """

    frame: pd.DataFrame
    schema: TableSchema
    target: np.ndarray
    dataset: FusionDataset
    issues: list[DataIssue] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def classes(self) -> list[str | int]:
        return list(self.schema.classes)


def load_data(
    config: Any,
    *,
    seed: int = 0,
    decode: bool = True,
    progress: bool = True,
    reading: Reading | None = None,
) -> FusionData:
    """Reads what a data configuration describes. Writes nothing, but for the image cache if that
    is on disk.

    config: an object with the fields of `gaal_fast.config.DataConfig`. seed: of the augmentation.
    decode=False leaves the image cache empty, and broken images undiscovered until they are
    read. progress: show a bar while decoding. reading: what a former training on these data
    decided, to be applied again. A table without a feature column is read if it has images.
    Raises UserError for anything wrong with the files or their contents, with the warnings that
    were found before it.
    """
    warnings: list[str] = []
    with carried_by_errors(warnings):
        return _load_data(
            config, warnings, seed=seed, decode=decode, progress=progress, reading=reading
        )


def _load_data(
    config: Any,
    warnings: list[str],
    *,
    seed: int,
    decode: bool,
    progress: bool,
    reading: Reading | None,
) -> FusionData:
    written, text = open_table(
        config.csv, warnings, TableOptions(config.encoding, config.delimiter)
    )
    options = NumberOptions(config.decimal, config.thousands, tuple(config.missing_values))
    frame = without_values(written, options.missing_values)
    numbers = NumberColumns(frame, options, delimiter=text.delimiter)
    folder = ImageFolder(
        config.images
        if config.images is not None
        else Path(config.csv).expanduser().absolute().parent
    )
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
        date_order=config.date_order,
        source=config.csv,
        warnings=warnings,
        numbers=numbers,
    )
    if schema.image_column is None and config.images is not None:
        raise UserError(
            f"{config.csv}: no column names the images in {config.images}; give --data.image-column"
        )
    target = read_target(frame[schema.target], schema.target, config.rare_classes, warnings)
    parts = None if schema.split_column is None else to_texts(frame[schema.split_column])
    if parts is not None and config.rare_classes == "drop":
        target = keep_trained(
            target, schema.target, read_parts(parts, schema.split_column, []), warnings
        )
    schema = replace(schema, classes=target.classes)
    issues = list(target.issues)
    unlabelled = sum(issue.reason == NO_LABEL_REASON for issue in issues)
    if unlabelled:
        warn(
            warnings,
            f'{unlabelled} rows have no value in the target column "{schema.target}" and are'
            " left out",
        )
    paths, missing = _image_paths(frame, schema.image_column, folder, warnings)
    issues += missing
    split = make_split(
        target.codes,
        target.classes,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        seed=config.split_seed,
        parts=parts,
        parts_column=schema.split_column or "",
        groups=None if schema.group_column is None else to_texts(frame[schema.group_column]),
        groups_column=schema.group_column or "",
        warnings=warnings,
    )
    if not len(split.val):
        raise UserError(
            f"{config.csv}: {len(split.train)} training rows of {len(target.classes)} classes leave"
            " none for validation"
        )
    if paths is not None:
        warn_of_shared_images(paths, schema.image_column, split, warnings)
    warn_of_shared_ids(frame, schema, split, warnings)
    frame = with_numbers(frame, {name: name for name in schema.numeric}, numbers)
    _warn_of_leaks(frame, schema, target, split, warnings)
    preprocessor = TablePreprocessor(schema).fit(frame, split.train, config.min_category_count)
    table = preprocessor.transform(frame, config.csv)
    images = None
    image_reading = ImageReading() if reading is None else reading.images
    if paths is not None:
        if decode:
            image_reading = _read_heads(paths, split.train, config.image_range, reading, warnings)
        images = ImageStore(
            paths,
            config.image_size,
            schema.image_column,
            config.cache,
            config.cache_dir,
            image_reading.ranges,
        )
        if decode:
            images.fill(progress)
        issues += images.issues()
        _check_images(images, bool(schema.features), warnings)
    issues += _rows_with_nothing(target, table, images)
    return FusionData(
        frame=written,
        schema=schema,
        reading=Reading(_table_reading(text, schema, numbers, options), image_reading),
        preprocessor=preprocessor,
        split=split,
        target=target.codes,
        table=table,
        images=images,
        class_weights=_class_weights(
            config.class_weights, target.codes[split.train], len(target.classes)
        ),
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
    modalities: Collection[str] = ("image", "table"),
    cache: CacheMode = "none",
    cache_dir: Path | None = None,
    progress: bool = True,
    encoding: str | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    thousands: str | None = None,
) -> PredictionData:
    """Reads a table for a trained model, whose preprocessor and schema were saved in `run_folder`.

    The table's columns may be in any order, with others among them; those that are absent count as
    missing in every row, with a warning. A row without an image, or without any table value, has
    that modality missing. images: the folder of the images; None: those named by an absolute path
    or beside the table. labels: also read the target column, for evaluation. modalities: what the
    model takes; the files and columns of another are not read. cache: as in training; each image
    is used once per pass, so nothing is kept unless asked for. encoding, delimiter, decimal,
    thousands: of the table's text, None to find out; it may be written otherwise than the training
    table, which settles what it leaves open. Raises UserError: neither table columns nor images
    to predict from, a text in a numeric column, not one image found for a model that takes
    nothing else.
    """
    warnings: list[str] = []
    with carried_by_errors(warnings):
        return _load_for_prediction(
            csv, Path(run_folder), warnings, images=images, image_size=image_size, labels=labels, modalities=modalities,
            cache=cache, cache_dir=cache_dir, progress=progress, encoding=encoding, delimiter=delimiter, decimal=decimal,
            thousands=thousands,
        )  # fmt: skip


def _load_for_prediction(
    csv: Path | str,
    run_folder: Path,
    warnings: list[str],
    *,
    images: Path | str | None,
    image_size: int,
    labels: bool,
    modalities: Collection[str],
    cache: CacheMode,
    cache_dir: Path | None,
    progress: bool,
    encoding: str | None,
    delimiter: str | None,
    decimal: str | None,
    thousands: str | None,
) -> PredictionData:
    preprocessor = TablePreprocessor.load(run_folder)
    reading = Reading.load(run_folder)
    schema = preprocessor.schema
    written, text = open_table(
        csv, warnings, TableOptions(encoding, delimiter, reading.table), expected=schema.features
    )
    frame = without_values(written, reading.table.missing_values)
    table = TableArrays.empty(len(frame), preprocessor.n_features)
    if "table" in modalities and schema.features:
        options = NumberOptions(decimal, thousands, reading.table.missing_values)
        table = _prediction_table(
            preprocessor, frame, csv, text, reading.table, options, "image" in modalities, warnings
        )
    target = Target(schema.classes, np.full(len(frame), NO_LABEL))
    if labels:
        column = require_column(frame.columns, schema.target, csv)
        target = encode_labels(frame[column], schema.target, schema.classes, warnings)
    issues = list(target.issues)
    store = None
    if schema.image_column is not None and "image" in modalities:
        # A table of empty cells is used too: its rows have nothing, as they would in a longer
        # table.
        columns = [find_column(frame.columns, name) for name in schema.features]
        usable = "table" in modalities and any(column is not None for column in columns)
        paths, missing = _prediction_paths(frame, schema, csv, images, usable, warnings)
        image_reading = _read_heads(paths, None, None, reading, warnings)
        store = ImageStore(
            paths, image_size, schema.image_column, cache, cache_dir, image_reading.ranges
        )
        store.fill(progress)
        issues += missing + store.issues()
    elif images is not None:
        warn(warnings, "the model was trained without images: the folder of images is not used")
    dataset = FusionDataset(np.arange(len(frame)), target.codes, _modalities(store, table))
    return PredictionData(written, schema, target.codes, dataset, sorted(set(issues)), warnings)


def _prediction_table(
    preprocessor: TablePreprocessor,
    frame: pd.DataFrame,
    source: object,
    text: TableReading,
    trained: TableReading,
    options: NumberOptions,
    takes_images: bool,
    warnings: list[str],
) -> TableArrays:
    """The features to predict from; none, with a warning, for a table that only names images."""
    schema, absent = preprocessor.schema, preprocessor.absent(frame)
    names_images = (
        schema.image_column is not None
        and find_column(frame.columns, schema.image_column) is not None
    )
    if len(absent) < len(schema.features) or not (takes_images and names_images):
        preprocessor.select(
            frame, source
        )  # before its numbers are looked at: a table of another data set is told as such
        frame = _trained_numbers(frame, schema, trained, options, text.delimiter, warnings)
        return preprocessor.transform(frame, source, warnings)
    columns = f"{source} has none of the table columns the model was trained on ({some(absent)})"
    warn(warnings, f"{columns}: predicting from the images alone")
    return TableArrays.empty(len(frame), preprocessor.n_features)


def data_fingerprint(config: Any) -> str:
    """sha256 (hex) of the table file's bytes and of the settings that decide rows, features and
    parts.
    """
    settings = {name: getattr(config, name) for name in _FINGERPRINT_FIELDS}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    with open(Path(config.csv).expanduser(), "rb") as file:
        for block in iter(lambda: file.read(2**20), b""):
            digest.update(block)
    return digest.hexdigest()


def without_values(frame: pd.DataFrame, missing_values: tuple[str, ...]) -> pd.DataFrame:
    """The table with the cells that are declared to hold no value emptied; a number among them is
    emptied however it is written in typed columns.
    """
    if not missing_values:
        return frame
    texts = set(missing_values)
    columns = {}
    for name in frame.columns:
        series = frame[name]
        cells = series.to_numpy(dtype=object)
        empty = np.array([str(cell).strip() in texts for cell in cells], dtype=bool)
        columns[name] = series.astype(object).where(~empty, None) if empty.any() else series
    return pd.DataFrame(columns)


def with_numbers(
    frame: pd.DataFrame, names: Mapping[str, str], numbers: NumberColumns
) -> pd.DataFrame:
    """The table with these columns as float64 in place of texts, so that each is read once; NaN
    where there is no number.
    """
    columns = {
        name: (
            numbers.numbers(name).values
            if name in names and not pd.api.types.is_datetime64_any_dtype(frame[name].dtype)
            else frame[name]
        )
        for name in frame.columns
    }
    return pd.DataFrame(columns, index=frame.index)


def _table_reading(
    text: TableReading, schema: TableSchema, numbers: NumberColumns, options: NumberOptions
) -> TableReading:
    styles = [numbers.style(name) for name in schema.numeric]
    decimals = [style.decimal for style in styles if style.decimal]
    decimals = (
        decimals
        or [style.point for style in styles if style.thousands in (".", ",")]
        or [numbers.decimal]
    )
    decimal = options.decimal or max(decimals, key=decimals.count)
    marks = [style.thousands for style in styles if style.thousands not in ("", decimal)]
    thousands = (
        options.thousands
        if options.thousands is not None
        else max(marks, key=marks.count, default="")
    )
    return replace(
        text,
        decimal=decimal,
        thousands=thousands,
        missing_values=options.missing_values,
        numbers=numbers.styles(schema.numeric),
    )


def _trained_numbers(
    frame: pd.DataFrame,
    schema: TableSchema,
    trained: TableReading,
    options: NumberOptions,
    delimiter: str,
    warnings: list[str],
) -> pd.DataFrame:
    """The table to predict with its numeric columns read, in whatever form this file has them.

    A cell that is no number is missing, with a warning. Raises UserError if a column has none at
    all.
    """
    found = {find_column(frame.columns, name): name for name in schema.numeric}
    names = {column: name for column, name in found.items() if column is not None}
    styles = {column: trained.numbers.get(name, PLAIN) for column, name in names.items()}
    numbers = NumberColumns(frame, options, delimiter=delimiter, trained=styles)
    for column, name in names.items():
        found = numbers.read_truth(column) if name in schema.booleans else numbers.numbers(column)
        if found.bad.sum() > 1 and not np.isfinite(found.values).any():
            row = int(np.flatnonzero(found.bad)[0])
            detail = numbers.warning(column)
            raise UserError(
                f'column "{name}" is numeric but row {row + 1} holds "{frame[column].iloc[row]}"'
                + (f" ({detail})" if detail else ", and no other row a number")
            )
    warn_of_numbers(frame, names, numbers, warnings)
    return with_numbers(frame, names, numbers)


def _image_paths(
    frame: pd.DataFrame,
    column: str | None,
    folder: ImageFolder,
    warnings: list[str],
    *,
    empty_ok: bool = False,
) -> tuple[list[str | None] | None, list[DataIssue]]:
    if column is None:
        return None, []
    names = image_names(frame[column]).tolist()
    return resolve_images(names, folder, column, empty_ok=empty_ok, warnings=warnings)


def _prediction_paths(
    frame: pd.DataFrame,
    schema: TableSchema,
    csv: Path | str,
    images: Path | str | None,
    table_is_usable: bool,
    warnings: list[str],
) -> tuple[list[str | None], list[DataIssue]]:
    """As `_image_paths`; without any image the table alone is used, if it can be."""
    column = find_column(frame.columns, schema.image_column)
    if column is None and (images is not None or not table_is_usable):
        raise UserError(
            f'{csv} lacks the image column the model was trained on: "{schema.image_column}"'
        )
    nothing: list[str | None] = [None] * len(frame)
    if images is not None:
        folder = ImageFolder(images, "--images")
        return _image_paths(frame, column, folder, warnings, empty_ok=table_is_usable)
    if column is not None:
        # As in training: neither an absolute path nor what lies beside the table needs a folder.
        folder = ImageFolder(Path(csv).expanduser().absolute().parent, "--images")
        said: list[str] = []
        paths, missing = _image_paths(frame, column, folder, said, empty_ok=True)
        if any(path is not None for path in paths):
            warnings += said
            return paths, missing
        if not table_is_usable:
            reason = said[0].removesuffix(TABLE_ALONE) if said else "no image is named"
            raise UserError(f"--images: {reason}")
    warn(warnings, "no folder of images is given: predicting from the table alone")
    return nothing, []


def _read_heads(
    paths: Sequence[str | None],
    train: np.ndarray | None,
    given: tuple[float, float] | None,
    reading: Reading | None,
    warnings: list[str],
) -> ImageReading:
    """What is decided about the pixels: by the training rows, or before by a former training."""
    found = survey(list(dict.fromkeys(path for path in paths if path is not None)))
    warn_of_frames(found, warnings)
    if reading is not None:
        return extend_ranges(found, reading.images, warnings)
    return decide_ranges(found, {paths[row] for row in train}, given, warnings)


def _modalities(
    images: ImageStore | None, table: TableArrays, preset: Preset = "none", seed: int = 0
) -> list[Modality]:
    modalities: list[Modality] = [] if images is None else [ImageModality(images, preset, seed)]
    return [*modalities, TableModality(table.features, table.present)]


def _check_images(images: ImageStore, has_table: bool, warnings: list[str]) -> None:
    unusable = int((~images.present).sum())
    if unusable == len(images.present):
        first = images.issues()[0]
        raise UserError(
            f'no image of column "{images.column}" can be read (first: {first.path}:'
            f" {first.reason})"
        )
    if unusable:
        use = "train on their table alone" if has_table else "are not used"
        warn(warnings, f"{unusable} of {len(images.present)} rows have no usable image and {use}")


def _warn_of_leaks(
    frame: pd.DataFrame, schema: TableSchema, target: Target, split: Split, warnings: list[str]
) -> None:
    rows = np.random.default_rng(0).permutation(split.train)[:LEAK_ROWS]
    sample = frame.iloc[rows]
    columns = {
        name: read_numbers(sample[name], schema, name) for name in schema.numeric + schema.dates
    }
    for name in schema.categorical:
        codes = pd.factorize(read_levels(sample[name], schema, name))[0].astype(np.float64)
        columns[name] = np.where(codes < 0, np.nan, codes)
    for name, accuracy in leaking_columns(columns, target.codes[rows]).items():
        warn(
            warnings,
            f'column "{name}" alone predicts the target (right in {accuracy:.0%} of unseen training'
            f' rows): if it is not known beforehand, leave it out with --data.drop "{name}"',
        )


def _rows_with_nothing(
    target: Target, table: TableArrays, images: ImageStore | None
) -> list[DataIssue]:
    present = table.present if images is None else table.present | images.present
    rows = np.flatnonzero(~present & (target.codes != NO_LABEL))
    return [DataIssue(int(row), "", "", "neither an image nor a table value") for row in rows]


def _class_weights(kind: str, codes: np.ndarray, n_classes: int) -> torch.Tensor | None:
    if kind == "none":
        return None
    return torch.from_numpy(compute_class_weight(kind, classes=np.arange(n_classes), y=codes)).to(
        torch.float32
    )
