"""Encoders for each modality."""

from __future__ import annotations

from gaal_fast.models.encoders import (
    SmallImageEncoder,
    TableEncoder,
    build_image_encoder,
    image_width,
)
from gaal_fast.models.encoding import Encoders, build_encoders

__all__ = [
    "Encoders",
    "SmallImageEncoder",
    "TableEncoder",
    "build_encoders",
    "build_image_encoder",
    "image_width",
]
