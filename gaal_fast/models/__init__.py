"""Encoders for each modality and the classifiers that join them."""

from gaal_fast.models.encoders import SmallImageEncoder, TableEncoder, build_image_encoder
from gaal_fast.models.fusion import ConcatModel, FusionModel, SharedHeadModel

__all__ = [
    "ConcatModel",
    "FusionModel",
    "SharedHeadModel",
    "SmallImageEncoder",
    "TableEncoder",
    "build_image_encoder",
]
