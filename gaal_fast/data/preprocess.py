"""Turns table rows into network inputs: fitted on the training rows, saved without pickle."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from gaal_fast.data.cells import to_texts
from gaal_fast.data.issues import some
from gaal_fast.data.schema import TableSchema, read_numbers
from gaal_fast.data.table import find_column
from gaal_fast.errors import UserError
from gaal_fast.files import write_bytes, write_text

TRANSFORMER_FILE, SCHEMA_FILE = "preprocessor.skops", "schema.json"
# What skops does not trust by itself and a saved preprocessor consists of: a data type, and the list of column names that
# scikit-learn 1.6 writes. Anything else in the file is refused.
_TRUSTED_TYPES = frozenset({"numpy.dtype", "sklearn.compose._column_transformer._RemainderColsList"})
_MISSING_LEVEL = "(missing)"
# Standard deviations; a value seen at prediction only may be any number of them away and must still fit float32.
_LARGEST_FEATURE = 1e6


@dataclass(frozen=True)
class TableArrays:
    """features: float32 [N, D], finite. present: bool [N], False where every feature cell of the row is missing."""

    features: np.ndarray
    present: np.ndarray


class TablePreprocessor:
    """Numbers and dates: median for a missing cell, an indicator for columns that had one in training, then zero mean and unit
    variance. Categories: one column per level, "missing" being a level; levels with fewer than `min_category_count` training
    rows share the level "infrequent", which a level first seen at prediction gets too (no level at all if there is none).
    """

    def __init__(self, schema: TableSchema, transformer: ColumnTransformer | None = None):
        self.schema = schema
        self._transformer = transformer

    def fit(self, frame: pd.DataFrame, rows: np.ndarray, min_category_count: int = 1) -> "TablePreprocessor":
        """Learns medians, scales and levels from the given rows (the training part) alone. Raises UserError if the schema has
        no feature column."""
        schema = self.schema
        if not schema.features:
            dropped = [f'"{name}" {reason}' for name, reason in schema.dropped.items()]
            why = f" ({'; '.join(dropped[:3])}{'; ...' if len(dropped) > 3 else ''})" if dropped else ""
            raise UserError(f"the table has no usable column besides the target{why}")
        quantities = list(schema.numeric + schema.dates)
        levels = OneHotEncoder(
            handle_unknown="infrequent_if_exist",
            min_frequency=min_category_count if min_category_count > 1 else None,
            sparse_output=False,
        )
        impute = SimpleImputer(strategy="median", keep_empty_features=True)
        steps = [
            ("numbers", Pipeline([("impute", impute), ("scale", StandardScaler())]), quantities),
            ("missing", MissingIndicator(features="missing-only", error_on_new=False), quantities),
            ("levels", levels, list(schema.categorical)),
        ]
        typed = self._typed(frame.iloc[rows])[0]
        self._transformer = ColumnTransformer([step for step in steps if step[2]], sparse_threshold=0.0).fit(typed)
        return self

    @property
    def n_features(self) -> int:
        """D, the width of the network's input."""
        return len(self.feature_names)

    @property
    def feature_names(self) -> list[str]:
        """A name for each of the D features: "width", "width is missing", "colour=red", "colour=infrequent"."""
        fitted = self._fitted.named_transformers_
        names = list(self.schema.numeric + self.schema.dates)
        if "missing" in fitted:
            names += [f"{names[i]} is missing" for i in fitted["missing"].features_]
        if "levels" in fitted:
            encoder = fitted["levels"]
            rare = encoder.infrequent_categories_ if encoder.min_frequency else [None] * len(encoder.categories_)
            for column, levels, folded in zip(self.schema.categorical, encoder.categories_, rare, strict=True):
                folded = set() if folded is None else set(folded)
                names += [f"{column}={level}" for level in levels if level not in folded]
                names += [f"{column}=infrequent"] if folded else []
        return names

    def transform(self, frame: pd.DataFrame, source: object = "the table") -> TableArrays:
        """Features of every row of `frame`, whose columns may be in any order, with others among them.

        Raises UserError for a missing column, and for a cell that is no number in a numeric column.
        """
        typed, present = self._typed(self.select(frame, source))
        features = np.asarray(self._fitted.transform(typed), dtype=np.float64)
        return TableArrays(np.clip(features, -_LARGEST_FEATURE, _LARGEST_FEATURE).astype(np.float32), present)

    def select(self, frame: pd.DataFrame, source: object = "the table") -> pd.DataFrame:
        """The feature columns of `frame` under their trained names. Raises UserError naming those that are not there."""
        found = {name: find_column(frame.columns, name) for name in self.schema.features}
        absent = [name for name, column in found.items() if column is None]
        if absent and len(absent) == len(found):
            raise UserError(f"{source} has none of the columns the model was trained on ({some(absent)}): another data set?")
        if absent:
            raise UserError(f"{source} lacks columns the model was trained on: {some(absent)}")
        return frame[list(found.values())].set_axis(list(found), axis=1)

    def save(self, folder: Path) -> None:
        """Writes the fitted transformer (skops) and the schema (JSON) into a folder, which is made if need be."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        import skops.io  # takes seconds to import, and only runs that are saved or loaded need it

        write_bytes(Path(folder) / TRANSFORMER_FILE, skops.io.dumps(self._fitted))
        write_text(Path(folder) / SCHEMA_FILE, self.schema.to_json())

    @classmethod
    def load(cls, folder: Path) -> "TablePreprocessor":
        """Reads what `save` wrote. Raises UserError if a file is absent, damaged, or holds a type that `save` never writes."""
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
                raise UserError(f"{path} holds types that a saved preprocessor does not: {some(sorted(foreign))}")
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

    def _typed(self, frame: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
        """The feature columns as float64 and level texts, and which rows have a value at all."""
        present = np.zeros(len(frame), dtype=bool)
        columns: dict[str, pd.Series] = {}
        for name in self.schema.numeric + self.schema.dates:
            values = read_numbers(frame[name], self.schema, name)
            present |= ~np.isnan(values)
            columns[name] = pd.Series(values)
        for name in self.schema.categorical:
            texts = to_texts(frame[name])
            empty = np.equal(texts, None)
            present |= ~empty
            columns[name] = pd.Series(np.where(empty, _MISSING_LEVEL, texts), dtype=object)
        return pd.DataFrame(columns), present
