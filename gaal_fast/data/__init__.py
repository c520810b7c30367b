"""A table and its images: reading, checking, splitting, and batches for training and prediction.

What is named here is imported at its first use: it needs torch, pandas and scikit-learn, for which
``--help`` is not to wait.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaal_fast.data.dataset import Batch, FusionDataset, ImageModality, Modality, TableModality
    from gaal_fast.data.fusion import FusionData
    from gaal_fast.data.images.decode import ImageError, decode
    from gaal_fast.data.images.find import resolve_images
    from gaal_fast.data.images.folder import ImageFolder
    from gaal_fast.data.images.store import ImageStore
    from gaal_fast.data.issues import DataIssue, issues_frame, write_issues
    from gaal_fast.data.loader import EpochSampler, dead_readers_as_user_errors, make_loader
    from gaal_fast.data.prediction import PredictionData, load_for_prediction
    from gaal_fast.data.reading import Reading
    from gaal_fast.data.sides import ImageSide, TableSide
    from gaal_fast.data.source import data_fingerprint, load_data
    from gaal_fast.data.split import Split, SplitPlan, make_split, read_split
    from gaal_fast.data.tables.columns import TypedTable
    from gaal_fast.data.tables.infer import infer_columns, infer_schema
    from gaal_fast.data.tables.preprocess import TablePreprocessor
    from gaal_fast.data.tables.read import read_table
    from gaal_fast.data.tables.schema import TableSchema, TargetScale

_NAMES = {
    "dataset": ("Batch", "FusionDataset", "ImageModality", "Modality", "TableModality"),
    "images.find": ("resolve_images",),
    "images.folder": ("ImageFolder",),
    "images.store": ("ImageStore",),
    "images.decode": ("ImageError", "decode"),
    "issues": ("DataIssue", "issues_frame", "write_issues"),
    "loader": ("EpochSampler", "dead_readers_as_user_errors", "make_loader"),
    "prediction": ("PredictionData", "load_for_prediction"),
    "reading": ("Reading",),
    "sides": ("ImageSide", "TableSide"),
    "fusion": ("FusionData",),
    "source": ("data_fingerprint", "load_data"),
    "split": ("Split", "SplitPlan", "make_split", "read_split"),
    "tables.columns": ("TypedTable",),
    "tables.infer": ("infer_columns", "infer_schema"),
    "tables.preprocess": ("TablePreprocessor",),
    "tables.read": ("read_table",),
    "tables.schema": ("TableSchema", "TargetScale"),
}
_PLACES = {name: place for place, names in _NAMES.items() for name in names}

__all__ = [
    "Batch",
    "DataIssue",
    "EpochSampler",
    "FusionData",
    "FusionDataset",
    "ImageError",
    "ImageFolder",
    "ImageModality",
    "ImageSide",
    "ImageStore",
    "Modality",
    "PredictionData",
    "Reading",
    "Split",
    "SplitPlan",
    "TableModality",
    "TablePreprocessor",
    "TableSchema",
    "TableSide",
    "TargetScale",
    "TypedTable",
    "data_fingerprint",
    "dead_readers_as_user_errors",
    "decode",
    "infer_columns",
    "infer_schema",
    "issues_frame",
    "load_data",
    "load_for_prediction",
    "make_loader",
    "make_split",
    "read_split",
    "read_table",
    "resolve_images",
    "write_issues",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value
