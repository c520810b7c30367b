"""A table and its images: reading, checking, splitting, and batches for training and prediction.

What is named here is imported at its first use: it needs torch, pandas and scikit-learn, for which
`--help` is not to wait.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaal_fast.data.dataset import Batch, FusionDataset, ImageModality, Modality, TableModality
    from gaal_fast.data.images.decode import ImageError, decode
    from gaal_fast.data.images.find import resolve_images
    from gaal_fast.data.images.folder import ImageFolder
    from gaal_fast.data.images.store import ImageStore
    from gaal_fast.data.issues import DataIssue, issues_frame, write_issues
    from gaal_fast.data.loader import EpochSampler, dead_readers_as_user_errors, make_loader
    from gaal_fast.data.source import (
        FusionData,
        PredictionData,
        data_fingerprint,
        load_data,
        load_for_prediction,
    )
    from gaal_fast.data.split import Split, make_split, read_split
    from gaal_fast.data.tables.preprocess import TablePreprocessor
    from gaal_fast.data.tables.read import read_table
    from gaal_fast.data.tables.schema import TableSchema, infer_schema

_PLACES = {
    **dict.fromkeys(
        ("Batch", "FusionDataset", "ImageModality", "Modality", "TableModality"), "dataset"
    ),
    **dict.fromkeys(("resolve_images",), "images.find"),
    **dict.fromkeys(("ImageFolder",), "images.folder"),
    **dict.fromkeys(("ImageStore",), "images.store"),
    **dict.fromkeys(("ImageError", "decode"), "images.decode"),
    **dict.fromkeys(("DataIssue", "issues_frame", "write_issues"), "issues"),
    **dict.fromkeys(
        ("FusionData", "PredictionData", "data_fingerprint", "load_data", "load_for_prediction"),
        "source",
    ),
    **dict.fromkeys(("EpochSampler", "dead_readers_as_user_errors", "make_loader"), "loader"),
    **dict.fromkeys(("TablePreprocessor",), "tables.preprocess"),
    **dict.fromkeys(("TableSchema", "infer_schema"), "tables.schema"),
    **dict.fromkeys(("Split", "make_split", "read_split"), "split"),
    **dict.fromkeys(("read_table",), "tables.read"),
}

__all__ = [
    "Batch",
    "DataIssue",
    "EpochSampler",
    "FusionData",
    "FusionDataset",
    "ImageError",
    "ImageFolder",
    "ImageModality",
    "ImageStore",
    "Modality",
    "PredictionData",
    "Split",
    "TableModality",
    "TablePreprocessor",
    "TableSchema",
    "data_fingerprint",
    "dead_readers_as_user_errors",
    "decode",
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
