"""Image encoders with fresh weights, by the names that ``--model.image`` takes."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gaal_fast.errors import UserError, nearest
from gaal_fast.models.efficientnet_lite import FEATURES, VARIANTS, EfficientNetLite
from gaal_fast.models.preprocessing import FROM_SCRATCH, ImagePreprocessing

TIMM = "timm:"
_KEY = "model.image"
_RESNETS = {"resnet18": 512, "resnet50": 2048}
# The image encoders of our own and of torchvision with the number of features they end in.
WIDTHS = {"small": 128, **_RESNETS, **dict.fromkeys(VARIANTS, FEATURES)}
NAMES = tuple(WIDTHS)
# The first recipe of torchvision, which both ResNets have and image-table papers start from.
TORCHVISION_WEIGHTS = "IMAGENET1K_V1"


class SmallImageEncoder(nn.Module):
    """Four 3x3 convolutions with batch norm and global average pooling, for images of about 32
    pixels.

    Input ``[B, 3, H, W]`` float, output ``[B, width]``. Enough for the demo set on a CPU; use a
    ResNet for photographs.
    """

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.width = width
        channels = (3, 16, 32, 64, width)
        blocks: list[nn.Module] = []
        for index, (inward, outward) in enumerate(pairwise(channels)):
            blocks += [
                nn.Conv2d(inward, outward, 3, padding=1, bias=False),
                nn.BatchNorm2d(outward),
                nn.ReLU(inplace=True),
            ]
            if index < 3:
                blocks.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def image_width(name: str) -> int:
    """The number of features that the image encoder called ``name`` ends in.

    Only an encoder of timm has to be built for it, without memory for its weights: its
    ``num_features`` is not the pooled width for every architecture.

    Raises:
        UserError: An unknown name, or timm is missing.
    """
    if name in WIDTHS:
        return WIDTHS[name]
    if name.startswith(TIMM):
        return _timm_width(name.removeprefix(TIMM))
    known = ", ".join(WIDTHS)
    raise UserError(f"must be {known} or timm:NAME, got {name}{nearest(name, [*WIDTHS])}", _KEY)


def plain_network(name: str, width: int | None = None) -> nn.Module:
    """The image encoder called ``name`` with fresh weights, float images to features.

    Args:
        name: ``small``, ``resnet18``, ``resnet50``, ``efficientnet-lite0`` to ``2`` or
            ``timm:NAME`` (when timm is installed).
        width: features of ``small``, the only one that can have any number.

    Raises:
        UserError: An unknown name, or timm is missing.
    """
    image_width(name)
    if name == "small":
        return SmallImageEncoder(width or WIDTHS[name])
    if name in VARIANTS:
        return EfficientNetLite(name)
    if name.startswith(TIMM):
        return _timm_encoder(name.removeprefix(TIMM))
    # Imported here: torchvision costs a second that predicting from a table should not pay.
    import torchvision.models

    network: nn.Module = getattr(torchvision.models, name)(weights=None)
    network.fc = nn.Identity()
    return network


def preprocessing_of(name: str, *, pretrained: bool) -> ImagePreprocessing:
    """What the image encoder called ``name`` expects of its images.

    Trained from scratch every encoder learns from what it is given, so all are given the same.

    Args:
        name: as ``plain_network`` takes it.
        pretrained: whether it starts from pretrained weights, by which it is bound.

    Raises:
        UserError: An unknown name, or timm is missing.
    """
    image_width(name)
    if not pretrained or name == "small":
        return FROM_SCRATCH
    if name in VARIANTS:
        half = (0.5, 0.5, 0.5)
        return ImagePreprocessing(half, half, VARIANTS[name][2], "bicubic")
    if name.startswith(TIMM):
        timm = _timm(name.removeprefix(TIMM))
        config = timm.get_pretrained_cfg(name.removeprefix(TIMM))
        found = timm.data.resolve_data_config(pretrained_cfg=config.to_dict() if config else {})
        return ImagePreprocessing.of_timm(found)
    from torchvision.models import get_model_weights

    weights = get_model_weights(name)[TORCHVISION_WEIGHTS]
    return ImagePreprocessing.of_torchvision(weights.transforms())


def _timm(name: str) -> Any:
    """The package timm, which has a model called ``name``."""
    try:
        import timm
    except ImportError:
        raise UserError(
            f"timm:{name} needs timm: pip install 'gaal-fast[timm]'", key=_KEY
        ) from None
    if not timm.is_model(name):
        near = nearest(name, timm.list_models())
        raise UserError(f": timm has no model {name}{near}", key=_KEY)
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # the tag after the dot, which names the weights
        raise UserError(f": timm: {error}", key=_KEY) from None
    return timm


def _timm_encoder(name: str) -> nn.Module:
    encoder: nn.Module = _timm(name).create_model(name, pretrained=False, num_classes=0)
    return encoder


@lru_cache
def _timm_width(name: str) -> int:
    with torch.device("meta"), torch.no_grad():
        encoder = _timm_encoder(name).eval()
        configured = getattr(encoder, "default_cfg", {})
        size = configured.get("input_size", (3, 224, 224))
        return int(encoder(torch.zeros(1, *size)).shape[1])
