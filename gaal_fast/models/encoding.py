"""The encoders of a model's modalities, all of one width."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gaal_fast.config import ModelConfig
from gaal_fast.data.batch import InputSpec
from gaal_fast.models.encoders import TableEncoder, build_image_encoder
from gaal_fast.models.networks import image_width

# The key of the encoder that several image modalities share.
SHARED = "images"


class Encoders(nn.ModuleDict):
    """Encoders by modality: ``encoders("image", images)`` gives features ``[n, width]``.

    Args:
        encoders: by modality. One module may stand under several names; it is then one encoder.
        width: features of each, d.

    Attributes:
        autocast: number format that a forward pass computes in, which the engine sets; None for
            that of the weights. Features are handed on in float32, in which heads compute.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], width: int) -> None:
        super().__init__()
        self.width = width
        self.autocast: torch.dtype | None = None
        self._keys: dict[str, str] = {}
        for name, encoder in encoders.items():
            shared = sum(other is encoder for other in encoders.values()) > 1
            self._keys[name] = SHARED if shared else _key(name)
            self[self._keys[name]] = encoder

    def of(self, name: str) -> nn.Module:
        """The encoder of a modality."""
        return self[self._keys[name]]

    def forward(self, name: str, values: Tensor) -> Tensor:
        """Features ``[n, width]`` of a modality's inputs ``[n, ...]``."""
        encoder = self.of(name)
        if self.autocast is None:
            features: Tensor = encoder(values)
            return features
        with torch.autocast(values.device.type, dtype=self.autocast):
            features = encoder(values)
        return features.float()


def build_encoders(inputs: Mapping[str, InputSpec], config: ModelConfig) -> Encoders:
    """Encoders with freshly initialized weights, in the order of ``inputs``.

    All end in the width ``config.width``, or in the image encoder's own; so does a table that is
    trained alone, for its run to compare with one that has images.

    Args:
        inputs: kind and shape by modality.
        config: the model section.

    Raises:
        UserError: An unknown encoder, or weights that do not fit it.
    """
    width = config.width or image_width(config.image)
    encoders: dict[str, nn.Module] = {}
    shared: nn.Module | None = None
    for name, spec in inputs.items():
        if spec.kind != "image":
            encoders[name] = TableEncoder(spec.features, width, config.hidden)
            continue
        if shared is None or not config.share_images:
            shared, _ = build_image_encoder(
                config.image, width=width, weights=config.weights, freeze=config.freeze
            )
        encoders[name] = shared
    return Encoders(encoders, width)


def _key(name: str) -> str:
    """``name`` as a key of a module dictionary: without a dot, and none of its own attributes."""
    key = re.sub(r"[^\w-]", lambda found: f"%{ord(found[0]):x}", name)
    return f"%{key}" if key == SHARED or hasattr(nn.ModuleDict, key) else key
