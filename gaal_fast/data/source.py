"""From a configuration to data that can be trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.utils.class_weight import compute_class_weight

from gaal_fast.config import DataConfig
from gaal_fast.data.embeddings import fit_embeddings, open_embeddings
from gaal_fast.data.fusion import FusionData
from gaal_fast.data.images.column import (
    Paths,
    check_images,
    image_paths,
    read_heads,
    read_heads_again,
)
from gaal_fast.data.images.folder import ImageFolder
from gaal_fast.data.images.store import ImageStore
from gaal_fast.data.issues import DataIssue, warn
from gaal_fast.data.joined import JoinedTable, fit_joined, open_joined, type_joined
from gaal_fast.data.labels import Labels, read_labels
from gaal_fast.data.reading import ImageReading, Reading, TableReading
from gaal_fast.data.shared import warn_of_shared_ids, warn_of_shared_images
from gaal_fast.data.sides import TABLE, ImageSide, Side, TableSide, image_names_of, table_names_of
from gaal_fast.data.split import Groups, Split, SplitPlan, make_split
from gaal_fast.data.tables.cells import to_texts
from gaal_fast.data.tables.columns import TypedTable
from gaal_fast.data.tables.infer import infer_columns
from gaal_fast.data.tables.leakage import LEAK_ROWS, leaking_columns
from gaal_fast.data.tables.numbers import NumberOptions
from gaal_fast.data.tables.opened import OpenedTable
from gaal_fast.data.tables.preprocess import TablePreprocessor
from gaal_fast.data.tables.read import TableOptions
from gaal_fast.data.tables.roles import Roles, find_roles
from gaal_fast.errors import UserError, carried_by_errors

# What the rows, their features and their parts depend on; how images are augmented, cached or
# weighed is not among it.
_FINGERPRINT_FIELDS = (
    *("target", "image_column", "numeric", "categorical", "drop", "split_column", "group_column"),
    *("val_fraction", "test_fraction", "split_seed", "image_size", "image_range"),
    *("min_category_count", "rare_classes", "date_order"),
    *("encoding", "delimiter", "decimal", "thousands", "missing_values"),
)
# The same, of keys that came later: the fingerprint of data that do without them stays.
_LATER_FIELDS = {"key": None, "task": "auto", "image_resampling": "bilinear"}


def load_data(
    config: DataConfig,
    *,
    seed: int = 0,
    decode: bool = True,
    progress: bool = True,
    reading: Reading | None = None,
) -> FusionData:
    """Reads what a data configuration describes.

    Writes nothing, but for the image cache if that is on disk. A table without a feature column is
    read if it has images.

    Args:
        config: What to read, and how.
        seed: Of the augmentation.
        decode: False leaves the image cache empty, and broken images undiscovered until they are
            read.
        progress: Show a bar while decoding.
        reading: What a former training on these data decided, to be applied again.

    Raises:
        UserError: For anything wrong with the files or their contents, with the warnings that were
            found before it.
    """
    warnings: list[str] = []
    with carried_by_errors(warnings):
        return _Loading(config, warnings, seed, decode, progress, reading).load()


@dataclass
class _Loading:
    """One call of ``load_data``: what its steps share."""

    config: DataConfig
    warnings: list[str]
    seed: int
    decode: bool
    progress: bool
    trained: Reading | None

    def load(self) -> FusionData:
        config, warnings = self.config, self.warnings
        main, joined, roles, folder = self._open()
        numbers = main.numbers()
        table = infer_columns(main.frame, roles, config, numbers, warnings)
        if not roles.images and config.images is not None:
            raise UserError(
                f"{config.csv}: no column names the images in {config.images}; give"
                " --data.image-column"
            )
        labels = read_labels(main.frame, roles.target, roles.split, config, numbers, warnings)
        paths, missing = self._paths(main.frame, roles, folder)
        taken = [*paths, *(one.name for one in joined)]
        vectors = open_embeddings(config, main.frame, taken, warnings)
        split = self._split(main.frame, labels, roles)
        for found, column in zip(paths.values(), roles.images, strict=True):
            warn_of_shared_images(found, column, split, warnings)
        warn_of_shared_ids(main.frame, table.schema, split, warnings)
        scale = labels.scale(split.train)
        # The target is read again, by the same marks, where another table is scored.
        numeric = table.schema.numeric + (() if scale is None else (roles.target,))
        reading = main.reading(numeric, numbers)
        schema = replace(table.schema, classes=labels.classes, scale=scale)
        main_side = self._main_side(replace(table, schema=schema), reading, labels, split)
        further = self._further_sides(joined, labels, split)
        ready = fit_embeddings(vectors, split.train, config.key)
        others = "table" if schema.features else ""
        others = "other inputs" if further or ready or len(paths) > 1 else others
        images = self._images(paths, roles.images, split.train, others)
        sides: dict[str, Side] = {name: side for name, (side, _) in images.items()}
        sides |= {TABLE: main_side, **further, **ready}
        issues = [*labels.issues, *missing, *_rows_with_nothing(labels, sides)]
        return FusionData(
            frame=main.written,
            schema=schema,
            reading=Reading.of(
                reading,
                {name: found for name, (_, found) in images.items()},
                {name: side.reading for name, side in further.items()},
            ),
            split=split,
            target=labels.target,
            modalities=sides,
            target_scale=scale,
            class_weights=_class_weights(config.class_weights, labels, split),
            augment=config.augment,
            seed=self.seed,
            fingerprint=data_fingerprint(config),
            issues=sorted({*issues, *(one for side in sides.values() for one in side.issues())}),
            warnings=warnings,
            decided=labels.decided,
        )

    def _open(self) -> tuple[OpenedTable, list[JoinedTable], Roles, ImageFolder]:
        """The main table, the further ones, what the columns of the main one are for, and where
        images are.
        """
        config, warnings = self.config, self.warnings
        if config.csv is None:
            raise UserError("is needed: the table", key="data.csv")
        options = NumberOptions(config.decimal, config.thousands, tuple(config.missing_values))
        text = TableOptions(config.encoding, config.delimiter)
        main = OpenedTable.open(config.csv, text, options, warnings)
        folder = ImageFolder(config.images or config.csv.expanduser().absolute().parent)
        columns = config.image_columns(list(main.frame.columns))
        files = table_names_of(config.tables, image_names_of(columns))
        joined = open_joined(files, main.frame, config, warnings)
        further = [table.opened.frame for table in joined]
        roles = find_roles(main.frame, config, folder, config.csv, further)
        return main, joined, roles, folder

    def _paths(
        self, frame: pd.DataFrame, roles: Roles, folder: ImageFolder
    ) -> tuple[dict[str, Paths], list[DataIssue]]:
        """The image files of each image modality, and the rows without one."""
        paths: dict[str, Paths] = {}
        issues: list[DataIssue] = []
        for name, column in image_names_of(roles.images).items():
            paths[name], missing = image_paths(frame[column], column, folder, self.warnings)
            issues += missing
        return paths, issues

    def _split(self, frame: pd.DataFrame, labels: Labels, roles: Roles) -> Split:
        config = self.config
        group = (
            None
            if roles.group is None
            else Groups(roles.group, to_texts(frame[roles.group]).tolist())
        )
        plan = SplitPlan(
            config.val_fraction, config.test_fraction, config.split_seed, labels.parts, group
        )
        split = make_split(labels.codes, labels.classes, plan, self.warnings)
        if not len(split.val):
            what = f" of {len(labels.classes)} classes" if labels.classes else ""
            raise UserError(
                f"{config.csv}: {len(split.train)} training rows{what} leave none for validation"
            )
        return split

    def _main_side(
        self, table: TypedTable, reading: TableReading, labels: Labels, split: Split
    ) -> TableSide:
        _warn_of_leaks(table, labels, split, "", self.warnings)
        preprocessor = TablePreprocessor(table.schema)
        others = bool(self.config.embeddings)
        preprocessor.fit(table, split.train, self.config.min_category_count, others=others)
        return TableSide(TABLE, preprocessor.transform(table), preprocessor, reading)

    def _further_sides(
        self, joined: Sequence[JoinedTable], labels: Labels, split: Split
    ) -> dict[str, TableSide]:
        sides = {}
        for one in joined:
            typed, reading = type_joined(one, self.config, labels.column, self.warnings)
            _warn_of_leaks(typed, labels, split, f" of {one.name}", self.warnings)
            rare = self.config.min_category_count
            sides[one.name] = fit_joined(one, typed, reading, split.train, rare)
        return sides

    def _images(
        self, paths: Mapping[str, Paths], columns: Sequence[str], train: np.ndarray, others: str
    ) -> dict[str, tuple[ImageSide, ImageReading]]:
        """Modality to its images, and to what was decided about their pixels."""
        config, found = self.config, {}
        for (name, files), column in zip(paths.items(), columns, strict=True):
            trained = None if self.trained is None else self.trained.of_images(name)
            reading = trained or ImageReading()
            if self.decode and trained is None:
                reading = read_heads(files, train, config.image_range, self.warnings)
            elif self.decode:
                reading = read_heads_again(files, reading, self.warnings)
            size, resampling = config.resize
            cache = (config.cache, config.cache_dir)
            store = ImageStore(files, size, column, *cache, reading.ranges, resampling)
            if self.decode:
                store.fill(self.progress)
            check_images(store, others, self.warnings)
            found[name] = (ImageSide(name, store), reading)
        return found


def data_fingerprint(config: DataConfig) -> str:
    """sha256 (hex) of the bytes of the tables and of the settings that decide rows, features and
    parts.
    """
    size, resampling = config.resize
    config = config.model_copy(update={"image_size": size, "image_resampling": resampling})
    settings = {name: getattr(config, name) for name in _FINGERPRINT_FIELDS}
    for name, default in _LATER_FIELDS.items():
        if getattr(config, name) != default:
            settings[name] = getattr(config, name)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in (config.csv, *config.tables, *config.embeddings):
        with open(Path(str(path)).expanduser(), "rb") as file:
            for block in iter(lambda: file.read(2**20), b""):
                digest.update(block)
    return digest.hexdigest()


def _warn_of_leaks(
    table: TypedTable, labels: Labels, split: Split, where: str, warnings: list[str]
) -> None:
    rows = np.random.default_rng(0).permutation(split.train)[:LEAK_ROWS]
    sample = table.take(rows)
    columns = dict(sample.numbers)
    for name, levels in sample.levels.items():
        codes = pd.factorize(levels)[0].astype(np.float64)
        columns[name] = np.where(codes < 0, np.nan, codes)
    for name, accuracy in leaking_columns(columns, labels.codes[rows]).items():
        right = "right" if labels.values is None else "in the right tenth"
        warn(
            warnings,
            f'column "{name}"{where} alone predicts the target ({right} in {accuracy:.0%} of unseen'
            " training rows): if it is not known beforehand, leave it out with --data.drop"
            f' "{name}"',
        )


def _rows_with_nothing(labels: Labels, sides: Mapping[str, Side]) -> list[DataIssue]:
    present = np.logical_or.reduce([side.present for side in sides.values()])
    reason = "neither an image nor a table value"
    return [DataIssue(int(row), "", "", reason) for row in np.flatnonzero(~present & labels.known)]


def _class_weights(kind: str, labels: Labels, split: Split) -> torch.Tensor | None:
    if kind == "none":
        return None
    classes, codes = np.arange(len(labels.classes)), labels.codes[split.train]
    return torch.from_numpy(compute_class_weight(kind, classes=classes, y=codes)).to(torch.float32)
