"""Turns table rows into network inputs: fitted on the training rows, saved without pickle."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from gaal_fast.data.issues import some, warn
from gaal_fast.data.tables.cells import missing_cells, to_texts
from gaal_fast.data.tables.dates import date_parts, informative_parts
from gaal_fast.data.tables.read import find_column
from gaal_fast.data.tables.schema import TableSchema, read_dates, read_numbers
from gaal_fast.data.tables.truth import unify
from gaal_fast.errors import UserError
from gaal_fast.files import write_bytes, write_text

TRANSFORMER_FILE, SCHEMA_FILE = "preprocessor.skops", "schema.json"
# What skops does not trust by itself and a saved preprocessor consists of: a data type, and the
# list of column names that scikit-learn 1.6 writes. Anything else in the file is refused.
_TRUSTED_TYPES = frozenset(
    {"numpy.dtype", "sklearn.compose._column_transformer._RemainderColsList"}
)
_MISSING_LEVEL = "(missing)"
# Standard deviations; a value seen at prediction only may be any number of them away and must still
# fit float32.
_LARGEST_FEATURE = 1e6


@dataclass(frozen=True)
class TableArrays:
    """features: float32 [N, D], finite. present: bool [N], False where every feature cell of the
    row is missing.
    """

    features: np.ndarray
    present: np.ndarray

    @classmethod
    def empty(cls, rows: int, width: int = 0) -> "TableArrays":
        """No value in any row."""
        return cls(np.zeros((rows, width), dtype=np.float32), np.zeros(rows, dtype=bool))


class TablePreprocessor:
    """Numbers and dates: median for a missing cell, an indicator for columns that had one in
    training, then zero mean and unit variance. Dates also give what comes round in them (weekday,
    time of year, time of day), as far as the training rows span it. Categories: one column per
    level, "missing" being a level; levels with fewer than `min_category_count` training rows share
    the level "infrequent", which a level first seen at prediction gets too (no level at all if
    there is none).
    """

    def __init__(self, schema: TableSchema, transformer: ColumnTransformer | None = None):
        self.schema = schema
        self._transformer = transformer

    def fit(
        self, frame: pd.DataFrame, rows: np.ndarray, min_category_count: int = 1
    ) -> "TablePreprocessor":
        """Learns medians, scales and levels from the given rows (the training part) alone.

        A table of images without a feature column leaves nothing to learn, and ``transform`` gives
        no feature; without images too, it raises UserError.
        """
        schema = self.schema
        if not schema.features:
            if schema.image_column is None:
                raise UserError(schema.without_features())
            self._transformer = ColumnTransformer([])
            return self
        typed = self._typed(frame.iloc[rows])[0]
        parts = [
            part
            for name in schema.dates
            for part in informative_parts(typed[name].to_numpy(), name)
        ]
        quantities = list(schema.numeric + schema.dates)
        levels = OneHotEncoder(
            handle_unknown="infrequent_if_exist",
            min_frequency=min_category_count if min_category_count > 1 else None,
            sparse_output=False,
        )
        impute = SimpleImputer(strategy="median", keep_empty_features=True)
        steps = [
            (
                "numbers",
                Pipeline([("impute", impute), ("scale", StandardScaler())]),
                quantities + parts,
            ),
            ("missing", MissingIndicator(features="missing-only", error_on_new=False), quantities),
            ("levels", levels, list(schema.categorical)),
        ]
        used = quantities + parts + list(schema.categorical)
        self._transformer = ColumnTransformer(
            [step for step in steps if step[2]], sparse_threshold=0.0
        ).fit(typed[used])
        return self

    @property
    def n_features(self) -> int:
        """D, the width of the network's input."""
        return len(self.feature_names)

    @property
    def feature_names(self) -> list[str]:
        """A name for each of the D features: "width", "width is
        missing", "colour=red", "colour=infrequent".
        """
        if not self.schema.features:
            return []
        fitted = self._fitted.named_transformers_
        quantities = list(self.schema.numeric + self.schema.dates)
        names = [
            name for name in self._fitted.feature_names_in_ if name not in self.schema.categorical
        ]
        if "missing" in fitted:
            names += [f"{quantities[i]} is missing" for i in fitted["missing"].features_]
        if "levels" in fitted:
            encoder = fitted["levels"]
            rare = (
                encoder.infrequent_categories_
                if encoder.min_frequency
                else [None] * len(encoder.categories_)
            )
            for column, levels, folded in zip(
                self.schema.categorical, encoder.categories_, rare, strict=True
            ):
                folded = set() if folded is None else set(folded)
                names += [f"{column}={level}" for level in levels if level not in folded]
                names += [f"{column}=infrequent"] if folded else []
        return names

    def transform(
        self, frame: pd.DataFrame, source: object = "the table", warnings: list[str] | None = None
    ) -> TableArrays:
        """Features of every row of `frame`, whose columns may be in any order, with others among
        them.

        A column that is absent counts as missing in every row. `warnings` names it, columns without
        any value, levels that were never seen in training and cells that are no dates. Raises
        UserError for a table with none of the columns, and for a cell that is no number in a
        numeric column.
        """
        if not self.schema.features:
            return TableArrays.empty(len(frame))
        selected = self.select(frame, source, warnings)
        typed, present = self._typed(selected, warnings)
        if warnings is not None:
            present_columns = [
                name for name in self.schema.features if name not in self.absent(frame)
            ]
            self._warn_of_levels(selected[present_columns], typed, warnings)
        features = np.asarray(
            self._fitted.transform(typed[self._fitted.feature_names_in_]), dtype=np.float64
        )
        return TableArrays(
            np.clip(features, -_LARGEST_FEATURE, _LARGEST_FEATURE).astype(np.float32), present
        )

    def absent(self, frame: pd.DataFrame) -> list[str]:
        """The feature columns that `frame` does not have."""
        return [name for name in self.schema.features if find_column(frame.columns, name) is None]

    def select(
        self, frame: pd.DataFrame, source: object = "the table", warnings: list[str] | None = None
    ) -> pd.DataFrame:
        """The feature columns of `frame` under their trained names, empty where absent, which
        `warnings` names.

        Raises UserError if none is there.
        """
        absent = self.absent(frame)
        if absent and len(absent) == len(self.schema.features):
            raise UserError(
                f"{source} has none of the columns the model was trained on ({some(absent)}):"
                " another data set?"
            )
        if absent and warnings is not None:
            warn(
                warnings,
                f"{source} lacks columns the model was trained on: {some(absent)}; they count as"
                " missing in every row",
            )
        columns = {
            name: (
                pd.Series(None, index=frame.index, dtype=object)
                if name in absent
                else frame[find_column(frame.columns, name)]
            )
            for name in self.schema.features
        }
        return pd.DataFrame(columns, index=frame.index)

    def save(self, folder: Path) -> None:
        """Writes the fitted transformer (skops) and the schema (JSON) into a folder, which is made
        if need be.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        import skops.io  # takes seconds to import, and only runs that are saved or loaded need it

        write_bytes(Path(folder) / TRANSFORMER_FILE, skops.io.dumps(self._fitted))
        write_text(Path(folder) / SCHEMA_FILE, self.schema.to_json())

    @classmethod
    def load(cls, folder: Path) -> "TablePreprocessor":
        """Reads what `save` wrote. Raises UserError if a file is absent, damaged, or holds a type
        that `save` never writes.
        """
        import skops.io

        path, schema_path = Path(folder) / TRANSFORMER_FILE, Path(folder) / SCHEMA_FILE
        for file in (path, schema_path):
            if not file.is_file():
                raise UserError(f"{folder} holds no saved table preprocessor (no {file.name})")
        try:
            schema = TableSchema.from_json(schema_path.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{schema_path} is not a saved table schema") from error
        try:
            foreign = set(skops.io.get_untrusted_types(file=path)) - _TRUSTED_TYPES
            if foreign:
                raise UserError(
                    f"{path} holds types that a saved preprocessor does not:"
                    f" {some(sorted(foreign))}"
                )
            transformer = skops.io.load(path, trusted=sorted(_TRUSTED_TYPES))
        except UserError:
            raise
        except Exception as error:  # a damaged archive fails in zip, json or scikit-learn
            raise UserError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from error
        if not isinstance(transformer, ColumnTransformer):
            raise UserError(f"{path} is not a saved table preprocessor")
        return cls(schema, transformer)

    @property
    def _fitted(self) -> ColumnTransformer:
        if self._transformer is None:
            raise RuntimeError("the preprocessor has not been fitted")
        return self._transformer

    def _typed(
        self, frame: pd.DataFrame, warnings: list[str] | None = None
    ) -> tuple[pd.DataFrame, np.ndarray]:
        """The feature columns, dates with all their parts, as float64 and level texts; and which
        rows have a value at all.
        """
        present = np.zeros(len(frame), dtype=bool)
        columns: dict[str, np.ndarray | pd.Series] = {}
        for name in self.schema.numeric:
            columns[name] = read_numbers(frame[name], self.schema, name)
            present |= ~np.isnan(columns[name])
        for name in self.schema.dates:
            columns[name] = read_dates(frame[name], self.schema, name, warnings)
            present |= ~np.isnan(columns[name])
            columns |= date_parts(columns[name], name)
        for name in self.schema.categorical:
            texts = read_levels(frame[name], self.schema, name)
            empty = np.equal(texts, None)
            present |= ~empty
            columns[name] = np.where(empty, _MISSING_LEVEL, texts)
        return pd.DataFrame(columns), present

    def _warn_of_levels(
        self, frame: pd.DataFrame, typed: pd.DataFrame, warnings: list[str]
    ) -> None:
        """Names the columns whose values say nothing to the model: levels never seen in training,
        or no value at all.
        """
        encoder = self._fitted.named_transformers_.get("levels")
        levels = (
            {}
            if encoder is None
            else dict(zip(self.schema.categorical, encoder.categories_, strict=True))
        )
        for name in [name for name in levels if name in frame.columns]:
            values = typed[name][typed[name] != _MISSING_LEVEL]
            new = values[~values.isin(set(levels[name]))]
            if len(new):
                warn(
                    warnings,
                    f'column "{name}": {len(new)} of {len(values)} values'
                    f" ({100 * len(new) / len(values):.0f} %) were never seen in training (first:"
                    f' "{new.iloc[0]}")',
                )
        empty = [name for name in frame.columns if missing_cells(frame[name]).all()]
        if empty and len(frame) > 1:
            warn(warnings, f"columns without a single value, which count as missing: {some(empty)}")


def read_levels(series: pd.Series, schema: TableSchema, name: str) -> np.ndarray:
    """object [N] of str, None where missing: the levels of a categorical column, every spelling of
    true and false as one.
    """
    texts = to_texts(series)
    return unify(texts) if name in schema.booleans else texts
