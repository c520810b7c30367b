"""Encoders for each modality."""

from __future__ import annotations

from gaal_fast.models.encoders import ImageEncoder, TableEncoder, build_image_encoder
from gaal_fast.models.encoding import Encoders, build_encoders
from gaal_fast.models.networks import SmallImageEncoder, image_width, preprocessing_of
from gaal_fast.models.preprocessing import ImagePreprocessing
from gaal_fast.models.pretrained import check_weights

__all__ = [
    "Encoders",
    "ImageEncoder",
    "ImagePreprocessing",
    "SmallImageEncoder",
    "TableEncoder",
    "build_encoders",
    "build_image_encoder",
    "check_weights",
    "image_width",
    "preprocessing_of",
]
