"""Turns table rows into network inputs: fitted on the training rows, saved without pickle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from gaal_fast.data.issues import some, warn
from gaal_fast.data.tables.cells import is_none
from gaal_fast.data.tables.columns import TypedTable
from gaal_fast.data.tables.dates import date_parts, informative_parts
from gaal_fast.data.tables.fitted import LARGEST_FEATURE, MISSING_LEVEL, FittedTable
from gaal_fast.data.tables.schema import TableSchema
from gaal_fast.errors import UserError
from gaal_fast.files import write_bytes, write_text

TRANSFORMER_FILE, SCHEMA_FILE = "preprocessor.skops", "schema.json"
# What skops does not trust by itself and a saved preprocessor consists of: a data type, the list of
# column names that scikit-learn 1.6 writes, and the class below. Anything else in the file is
# refused.
_TRUSTED_TYPES = frozenset(
    {
        "numpy.dtype",
        "sklearn.compose._column_transformer._RemainderColsList",
        "gaal_fast.data.tables.preprocess.LevelEncoder",
    }
)


class LevelEncoder(OneHotEncoder):
    """``OneHotEncoder`` that takes a data frame as one array: column by column it spends a
    millisecond on each, three times over.
    """

    def fit(self, X: pd.DataFrame, y: None = None) -> LevelEncoder:
        """Learn the levels of text columns ``[N, C]``."""
        super().fit(X.to_numpy(dtype=object))
        return self

    def transform(self, X: pd.DataFrame) -> np.ndarray:
        """Float64 ``[N, levels]``, one column a level."""
        return super().transform(X.to_numpy(dtype=object))


@dataclass(frozen=True)
class TableArrays:
    """The inputs of N rows.

    Attributes:
        features: float32 [N, D], finite.
        present: bool [N], False where every feature cell of the row is missing.
    """

    features: np.ndarray
    present: np.ndarray

    @classmethod
    def empty(cls, rows: int, width: int = 0) -> TableArrays:
        """No value in any row."""
        return cls(np.zeros((rows, width), dtype=np.float32), np.zeros(rows, dtype=bool))


class TablePreprocessor:
    """Typed columns to the features of a network.

    Numbers and dates: median for a missing cell, an indicator for columns that had one in training,
    then zero mean and unit variance. Dates also give what comes round in them (weekday, time of
    year, time of day), as far as the training rows span it. Categories: one column per level,
    "missing" being a level; levels with fewer than ``min_category_count`` training rows share
    the level "infrequent", which a level first seen at prediction gets too (no level at all if
    there is none).
    """

    def __init__(self, schema: TableSchema, transformer: ColumnTransformer | None = None):
        self.schema = schema
        self._transformer = transformer

    def fit(
        self,
        table: TypedTable | pd.DataFrame,
        rows: np.ndarray,
        min_category_count: int = 1,
        *,
        others: bool = False,
    ) -> TablePreprocessor:
        """Learns medians, scales and levels from the given rows (the training part) alone.

        A table of images without a feature column leaves nothing to learn, and ``transform`` gives
        no feature.

        Args:
            table: All rows; a plain table is read as ``TypedTable.read`` does.
            rows: int64, the rows to learn from.
            min_category_count: Levels with fewer rows share one column.
            others: Whether there are other inputs than the table and images.

        Returns:
            Itself.

        Raises:
            UserError: There is neither a feature column nor an image column, nor anything else.
        """
        schema = self.schema
        if not schema.features:
            if schema.image_column is None and not others:
                raise UserError(schema.without_features())
            self._transformer = ColumnTransformer([])
            return self
        typed = _inputs(self._typed(table).take(rows))
        parts = [
            part
            for name in schema.dates
            for part in informative_parts(typed[name].to_numpy(), name)
        ]
        quantities = list(schema.numeric + schema.dates)
        levels = LevelEncoder(
            handle_unknown="infrequent_if_exist",
            min_frequency=min_category_count if min_category_count > 1 else None,
            sparse_output=False,
        )
        impute = SimpleImputer(strategy="median", keep_empty_features=True)
        scale = Pipeline([("impute", impute), ("scale", StandardScaler())])
        indicator = MissingIndicator(features="missing-only", error_on_new=False)
        steps = [
            ("numbers", scale, quantities + parts),
            ("missing", indicator, quantities),
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
        missing", "color=red", "color=infrequent".
        """
        return [name for name, _ in self._named_features()]

    @property
    def feature_columns(self) -> list[str]:
        """The column of the table that each of the D features is made of."""
        return [column for _, column in self._named_features()]

    def _named_features(self) -> list[tuple[str, str]]:
        """Name and column of each feature, in order."""
        if not self.schema.features:
            return []
        fitted = self._fitted.named_transformers_
        quantities = list(self.schema.numeric + self.schema.dates)
        names = [
            (name, name if name in quantities else self._date_of(name))
            for name in self._fitted.feature_names_in_
            if name not in self.schema.categorical
        ]
        if "missing" in fitted:
            lacking = [quantities[i] for i in fitted["missing"].features_]
            names += [(f"{name} is missing", name) for name in lacking]
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
                names += [(f"{column}={level}", column) for level in levels if level not in folded]
                names += [(f"{column}=infrequent", column)] if folded else []
        return names

    def _date_of(self, part: str) -> str:
        """The date column that a part of a date, such as "sold: weekday (sin)", comes from."""
        return max((name for name in self.schema.dates if part.startswith(f"{name}: ")), key=len)

    def transform(
        self,
        table: TypedTable | pd.DataFrame,
        source: object = "the table",
        warnings: list[str] | None = None,
    ) -> TableArrays:
        """Features of every row of a table.

        Args:
            table: A plain table is read as ``TypedTable.read`` does: its columns may be in any
                order, with others among them, and an absent one counts as missing in every row.
            source: The table, for messages.
            warnings: Gets the columns that say nothing: levels that were never seen in training,
                or no value at all.

        Raises:
            UserError: A plain table has none of the columns, or a numeric column no number.
        """
        if not self.schema.features:
            rows = table.rows if isinstance(table, TypedTable) else len(table)
            return TableArrays.empty(rows)
        table = self._typed(table, source, warnings)
        typed = _inputs(table)
        if warnings is not None:
            self._warn_of_levels(table, warnings)
        features = np.asarray(
            self._fitted.transform(typed[self._fitted.feature_names_in_]), dtype=np.float64
        )
        return TableArrays(
            np.clip(features, -LARGEST_FEATURE, LARGEST_FEATURE).astype(np.float32), table.present
        )

    def fitted(self) -> FittedTable:
        """What was learned, as plain numbers."""
        steps = self._fitted.named_transformers_ if self.schema.features else {}
        return FittedTable.of(self.schema, steps)

    def save(self, folder: Path, name: str = "") -> None:
        """Writes the fitted transformer (skops) and the schema (JSON).

        Args:
            folder: Is made if need be.
            name: Of a further table, which tells its files from those of the main one.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        import skops.io  # takes seconds to import, and only runs that are saved or loaded need it

        transformer, schema = _files(Path(folder), name)
        write_bytes(transformer, skops.io.dumps(self._fitted))
        write_text(schema, self.schema.to_json())

    @classmethod
    def load(cls, folder: Path, name: str = "") -> TablePreprocessor:
        """Reads what ``save`` wrote under this name.

        Raises:
            UserError: A file is absent, damaged, or holds a type that ``save`` never writes.
        """
        import skops.io

        path, schema_path = _files(Path(folder), name)
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
        self,
        table: TypedTable | pd.DataFrame,
        source: object = "the table",
        warnings: list[str] | None = None,
    ) -> TypedTable:
        if isinstance(table, TypedTable):
            return table
        return TypedTable.read(table, self.schema, source=source, warnings=warnings)

    def _warn_of_levels(self, table: TypedTable, warnings: list[str]) -> None:
        """Names the columns whose values say nothing to the model: levels never seen in training,
        or no value at all.
        """
        encoder = self._fitted.named_transformers_.get("levels")
        known = () if encoder is None else encoder.categories_
        for name, levels in zip(self.schema.categorical, known, strict=True):
            values = pd.Series(table.levels[name], dtype=object).dropna()
            new = values[~values.isin(set(levels))]
            if len(new):
                warn(
                    warnings,
                    f'column "{name}": {len(new)} of {len(values)} values'
                    f" ({100 * len(new) / len(values):.0f} %) were never seen in training (first:"
                    f' "{new.iloc[0]}")',
                )
        if table.empty and table.rows > 1:
            warn(
                warnings,
                f"columns without a single value, which count as missing: {some(table.empty)}",
            )


def _files(folder: Path, name: str) -> tuple[Path, Path]:
    """``preprocessor.skops`` and ``schema.json``, with the name of a further table in them."""
    paths = (folder / TRANSFORMER_FILE, folder / SCHEMA_FILE)
    if not name:
        return paths
    transformer, schema = (path.with_name(f"{path.stem}-{name}{path.suffix}") for path in paths)
    return transformer, schema


def _inputs(table: TypedTable) -> pd.DataFrame:
    """The columns that the transformer takes: numbers, dates with all their parts, and levels, of
    which "missing" is one.
    """
    columns: dict[str, np.ndarray] = {}
    for name in table.schema.numeric + table.schema.dates:
        columns[name] = table.numbers[name]
        if name in table.schema.dates:
            columns |= date_parts(columns[name], name)
    for name, texts in table.levels.items():
        columns[name] = np.where(is_none(texts), MISSING_LEVEL, texts)
    return pd.DataFrame(columns, index=range(table.rows))
