"""A table and its pictures: reading, checking, splitting, and batches for training and prediction."""

from gaal_fast.data.dataset import Batch, FusionDataset, ImageModality, Modality, TableModality
from gaal_fast.data.image_files import resolve_images
from gaal_fast.data.image_folder import ImageFolder
from gaal_fast.data.image_store import ImageStore
from gaal_fast.data.images import ImageError, decode
from gaal_fast.data.issues import DataIssue, issues_frame, write_issues
from gaal_fast.data.load import FusionData, PredictionData, data_fingerprint, load_data, load_for_prediction
from gaal_fast.data.loader import EpochSampler, make_loader
from gaal_fast.data.preprocess import TablePreprocessor
from gaal_fast.data.schema import TableSchema, infer_schema
from gaal_fast.data.split import Split, make_split, read_split
from gaal_fast.data.table import read_table

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
