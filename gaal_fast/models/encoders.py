"""Encoders u = phi(x): images and tables to feature vectors of one width (paper, section III-B)."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from gaal_fast.errors import UserError, nearest

# The image encoders of our own and of torchvision with the number of features they end in.
WIDTHS = {"small": 128, "resnet18": 512, "resnet50": 2048}
TIMM = "timm:"
_KEY = "model.image"


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


class TableEncoder(nn.Module):
    """Multilayer perceptron of the paper: Linear, batch norm, ReLU, Linear, with Kaiming-normal
    weights and zero biases.

    Input ``[B, in_features]`` float, output ``[B, width]``; no activation at the output.
    """

    def __init__(self, in_features: int, width: int = 2048, hidden: int | None = None) -> None:
        super().__init__()
        self.width = width
        hidden = hidden or width
        self.layers = nn.Sequential(
            nn.Linear(in_features, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, width),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, table: Tensor) -> Tensor:
        return self.layers(table)


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


def build_image_encoder(
    name: str, *, width: int | None = None, weights: Path | None = None
) -> tuple[nn.Module, int]:
    """The image encoder called ``name`` and its number of features.

    Args:
        name: ``small``, ``resnet18``, ``resnet50`` or ``timm:NAME`` (when timm is installed).
        width: features wanted; a linear layer is added where the network has another number.
        weights: file with pretrained weights (``.safetensors``, or a ``.pth`` state dict, which is
            loaded without running code).

    Raises:
        UserError: unknown name, timm missing, or weights that do not fit.
    """
    features = image_width(name)
    if name == "small":
        features = width or features
        encoder: nn.Module = SmallImageEncoder(features)
    elif name.startswith(TIMM):
        encoder = _timm_encoder(name.removeprefix(TIMM))
    else:
        # Imported here: torchvision costs a second that predicting from a table should not pay.
        import torchvision.models

        encoder = getattr(torchvision.models, name)(weights=None)
        encoder.fc = nn.Identity()
    if weights is not None:
        _load_pretrained(encoder, weights)
    if width is not None and width != features:
        encoder, features = nn.Sequential(encoder, nn.Linear(features, width)), width
    return encoder, features


def _timm_encoder(name: str) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise UserError(
            f"timm:{name} needs timm: pip install 'gaal-fast[timm]'", key=_KEY
        ) from None
    if not timm.is_model(name):
        near = nearest(name, timm.list_models())
        raise UserError(f": timm has no model {name}{near}", key=_KEY)
    encoder: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
    return encoder


@lru_cache
def _timm_width(name: str) -> int:
    with torch.device("meta"), torch.no_grad():
        encoder = _timm_encoder(name).eval()
        configured = getattr(encoder, "default_cfg", {})
        size = configured.get("input_size", (3, 224, 224))
        return int(encoder(torch.zeros(1, *size)).shape[1])


def _load_pretrained(encoder: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise UserError(f"--model.weights: no such file: {path}")
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (
        SafetensorError,
        RuntimeError,
        OSError,
        ValueError,
        EOFError,
        ImportError,
        AttributeError,
    ) as error:
        raise UserError(
            f"--model.weights: cannot read {path}: {str(error).splitlines()[0]}"
        ) from None
    except (
        Exception
    ) as error:  # pickle's own errors have no common base that weights_only does not wrap
        raise UserError(
            f"--model.weights: {path} is not a plain state dict ({type(error).__name__})"
        ) from None
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise UserError(f"--model.weights: {path} holds no state dict")
    own = encoder.state_dict()
    fitting = {
        name: value
        for name, value in state.items()
        if name in own and value.shape == own[name].shape
    }
    absent = [
        name for name in own if name not in fitting and not name.endswith("num_batches_tracked")
    ]
    if absent:
        raise UserError(
            f"--model.weights: {path} does not fit the encoder: {absent[0]} is missing or of"
            " another shape"
        )
    encoder.load_state_dict(fitting, strict=False)
