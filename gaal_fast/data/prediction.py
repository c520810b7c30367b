"""A table for a trained model, as data that can be predicted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from gaal_fast.data.dataset import FusionDataset
from gaal_fast.data.embeddings import embeddings_for_prediction, load_embeddings
from gaal_fast.data.fusion import dataset_of
from gaal_fast.data.images.column import Paths, paths_for_prediction, read_heads_again
from gaal_fast.data.images.decode import Resampling
from gaal_fast.data.images.store import CacheMode, ImageStore
from gaal_fast.data.issues import DataIssue, some, warn
from gaal_fast.data.joined import joined_for_prediction
from gaal_fast.data.quantities import read_quantity_again
from gaal_fast.data.reading import Reading
from gaal_fast.data.sides import (
    TABLE,
    EmbeddingSide,
    ImageSide,
    Side,
    TableSide,
    image_names_of,
    table_names_of,
)
from gaal_fast.data.tables.columns import TypedTable
from gaal_fast.data.tables.numbers import NumberOptions
from gaal_fast.data.tables.opened import OpenedTable
from gaal_fast.data.tables.preprocess import TableArrays, TablePreprocessor
from gaal_fast.data.tables.read import TableOptions, find_column, require_column
from gaal_fast.data.tables.schema import TableSchema, TargetScale
from gaal_fast.data.targets import NO_LABEL, encode_labels
from gaal_fast.errors import UserError, carried_by_errors


@dataclass
class PredictionData:
    """A table to predict: every row, in its order.

    Attributes:
        frame: The table as read.
        schema: Of the training.
        target: [N] int64 codes of known labels, -1 where there is none; or float64 values,
            NaN where there is none.
        modalities: The inputs by name, in order.
        dataset: The rows as batches are read from them.
        target_scale: Mean and standard deviation of a quantity in training; None for classes.
        issues: Cells that cannot be used.
        warnings: Lines for the user, in order.
    """

    frame: pd.DataFrame
    schema: TableSchema
    target: np.ndarray
    modalities: Mapping[str, Side]
    dataset: FusionDataset
    target_scale: TargetScale | None = None
    issues: list[DataIssue] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def classes(self) -> list[str | int]:
        """The labels; a class code is a position in this list."""
        return list(self.schema.classes)


def load_for_prediction(
    csv: Path | str,
    run_folder: Path | str,
    *,
    images: Path | str | None = None,
    tables: Sequence[Path] = (),
    embeddings: Sequence[Path] = (),
    image_size: int = 128,
    resampling: Resampling = "bilinear",
    labels: bool = False,
    modalities: Collection[str] | None = None,
    cache: CacheMode = "none",
    cache_dir: Path | None = None,
    progress: bool = True,
    encoding: str | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    thousands: str | None = None,
) -> PredictionData:
    """Reads a table for a trained model, whose preprocessors and schemas were saved in a folder.

    The table's columns may be in any order, with others among them; those that are absent count as
    missing in every row, with a warning. A row without an image, or without any table value, has
    that modality missing.

    Args:
        csv: The table.
        run_folder: The folder of the run.
        images: The folder of the images. None: those named by an absolute path or beside the table.
        tables: Further tables; each has the name of that of the training.
        embeddings: Files of ready features; likewise.
        image_size: Of the training.
        resampling: How images are resized, of the training.
        labels: Also read the target column, for evaluation.
        modalities: What the model takes; the files and columns of another are not read. None: all
            of the training.
        cache: As in training; each image is used once per pass, so nothing is kept unless asked
            for.
        cache_dir: Folder of the disk cache.
        progress: Show a bar while decoding.
        encoding: Of the table's text, which may be written otherwise than the training table.
            None: found out, as the following are.
        delimiter: The mark between its fields.
        decimal: The mark before decimals.
        thousands: The mark between thousands.

    Raises:
        UserError: Neither table columns nor images to predict from, a text in a numeric column, not
            one image found for a model that takes nothing else.
    """
    warnings: list[str] = []
    run = Path(run_folder)
    with carried_by_errors(warnings):
        preprocessor, reading = TablePreprocessor.load(run), Reading.load(run)
        trained = reading.table
        text = TableOptions(encoding, delimiter, trained)
        options = NumberOptions(decimal, thousands, trained.missing_values)
        expected = preprocessor.schema.features
        table = OpenedTable.open(csv, text, options, warnings, expected)
        takes = None if modalities is None else frozenset(modalities)
        loading = _Prediction(table, run, preprocessor, reading, takes, warnings)
        main = loading.main_side()
        target, issues = loading.target() if labels else loading.no_target()
        further = loading.further_sides(tables)
        ready = loading.embedding_sides(embeddings)
        sides: dict[str, Side] = {}
        if images is not None and not loading.image_names:
            warn(warnings, "the model was trained without images: the folder of images is not used")
        for name, side in loading.image_sides(images, bool(tables) or bool(embeddings)).items():
            ranges = read_heads_again(side.paths, reading.of_images(name), warnings).ranges
            store = ImageStore(
                side.paths, image_size, side.column, cache, cache_dir, ranges, resampling
            )
            store.fill(progress)
            issues += side.missing + store.issues()
            sides[name] = ImageSide(name, store)
        sides |= {TABLE: main, **further, **ready}
        rows = np.arange(len(table.frame))
        return PredictionData(
            frame=table.written,
            schema=preprocessor.schema,
            target=target,
            modalities=sides,
            dataset=dataset_of(rows, target, sides),
            target_scale=preprocessor.schema.scale,
            issues=sorted(set(issues)),
            warnings=warnings,
        )


class _Images(NamedTuple):
    """The image files of a column, and the rows without one."""

    column: str
    paths: Paths
    missing: list[DataIssue]


@dataclass
class _Prediction:
    """One call of ``load_for_prediction``: what its steps share.

    Attributes:
        table: The table to predict.
        run: The folder of the run.
        preprocessor: Of the main table.
        trained: How the files of the training were read.
        takes: The modalities that the model takes, None for all.
        warnings: Lines for the user.
    """

    table: OpenedTable
    run: Path
    preprocessor: TablePreprocessor
    trained: Reading
    takes: frozenset[str] | None
    warnings: list[str]

    @property
    def schema(self) -> TableSchema:
        return self.preprocessor.schema

    def _used(self, name: str) -> bool:
        return self.takes is None or name in self.takes

    @property
    def image_names(self) -> dict[str, str]:
        """Modality to image column, of those that the model takes."""
        names = image_names_of(self.schema.image_columns)
        return {name: column for name, column in names.items() if self._used(name)}

    def _column(self, name: str) -> str | None:
        return find_column(list(self.table.frame.columns), name)

    def main_side(self) -> TableSide:
        """The features to predict from; none, with a warning, where a table only names images."""
        frame, schema, source = self.table.frame, self.schema, self.table.path
        arrays = TableArrays.empty(len(frame), self.preprocessor.n_features)
        if self._used(TABLE) and schema.features:
            absent = [name for name in schema.features if self._column(name) is None]
            images = any(self._column(column) is not None for column in self.image_names.values())
            if len(absent) == len(schema.features) and images:
                columns = (
                    f"{source} has none of the table columns the model was trained on"
                    f" ({some(absent)})"
                )
                warn(self.warnings, f"{columns}: predicting from the images alone")
            else:
                arrays = self._features()
        return TableSide(TABLE, arrays, self.preprocessor, self.trained.table)

    def _features(self) -> TableArrays:
        typed = TypedTable.read(
            self.table.frame,
            self.schema,
            self.trained.table,
            self.table.options,
            delimiter=self.table.text.delimiter,
            source=self.table.path,
            warnings=self.warnings,
        )
        return self.preprocessor.transform(typed, self.table.path, self.warnings)

    def no_target(self) -> tuple[np.ndarray, list[DataIssue]]:
        """The target of a table whose labels are not asked for."""
        rows = len(self.table.frame)
        missing = np.full(rows, NO_LABEL) if self.schema.scale is None else np.full(rows, np.nan)
        return missing, []

    def target(self) -> tuple[np.ndarray, list[DataIssue]]:
        """The labels of the table, and the rows without one that the model knows."""
        frame, schema = self.table.frame, self.schema
        column = require_column(frame.columns, schema.target, self.table.path)
        if schema.scale is None:
            target = encode_labels(frame[column], schema.target, schema.classes, self.warnings)
            return target.codes, list(target.issues)
        quantity = read_quantity_again(
            frame,
            column,
            self.trained.table.numbers,
            schema.target,
            self.table.text.delimiter,
            self.warnings,
        )
        return quantity.values, quantity.issues

    def further_sides(self, files: Sequence[Path]) -> dict[str, TableSide]:
        """The further tables of the training that the model takes."""
        names = table_names_of(files, ())
        readings = {name: one for name, one in self.trained.tables.items() if self._used(name)}
        skipped = set(self.trained.tables) - set(readings)
        return joined_for_prediction(
            {name: TablePreprocessor.load(self.run, name) for name in readings},
            readings,
            {name: file for name, file in names.items() if name not in skipped},
            self.table.frame,
            self.table.path,
            self.warnings,
        )

    def embedding_sides(self, files: Sequence[Path]) -> dict[str, EmbeddingSide]:
        """The ready features of the training that the model takes."""
        trained = {k: one for k, one in load_embeddings(self.run).items() if self._used(k)}
        return embeddings_for_prediction(
            trained, files, self.table.frame, self.table.path, self.warnings
        )

    def image_sides(self, images: Path | str | None, further: bool) -> dict[str, _Images]:
        """Modality to the image files of its column.

        images: The folder that is named. further: Whether a further table or ready features are
        given.

        Raises:
            UserError: There is neither an image nor anything else to predict from.
        """
        # A table of empty cells is used too: its rows have nothing, as they would in a longer one.
        usable = further or (
            self._used(TABLE)
            and any(self._column(name) is not None for name in self.schema.features)
        )
        found = {}
        for name, column in self.image_names.items():
            own = self._column(column)
            series = None if own is None else self.table.frame[own]
            several = len(self.image_names) > 1
            paths, missing = paths_for_prediction(
                series, column, self.table.path, images, usable or several, self.warnings
            )
            paths = [None] * len(self.table.frame) if paths is None else paths
            found[name] = _Images(column, paths, missing)
        if found and not usable and not any(any(one.paths) for one in found.values()):
            raise UserError(
                f"{self.table.path}: no image is there, and nothing else to predict from"
            )
        return found
