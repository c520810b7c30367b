"""Encoders u = phi(x): images and tables to feature vectors of one width (paper, section III-B)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gaal_fast.models.networks import image_width, plain_network, preprocessing_of
from gaal_fast.models.preprocessing import FROM_SCRATCH, ImagePreprocessing, normalize
from gaal_fast.models.pretrained import Weights, load_pretrained


class ImageEncoder(nn.Module):
    """An image encoder with the normalization of its images and a linear layer to another width.

    Input ``[B, 3, H, W]`` uint8 pixels, which are normalized here, on their device; or floating
    values that are normalized already. Output ``[B, d]``.

    Mean and deviation are buffers, so a trained model has those it was trained with, whatever a
    later release of a library says. A state of before they were has ImageNet's.

    Args:
        network: float images to features.
        preprocessing: its mean and deviation are used.
        projection: to the width wanted; None where the network has it.
        pretrained: whether the network starts from pretrained weights.
        frozen: whether it keeps them: no gradient, no graph, and batch normalization by the
            statistics it came with. The projection is trained all the same.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        preprocessing: ImagePreprocessing = FROM_SCRATCH,
        projection: nn.Linear | None = None,
        *,
        pretrained: bool = False,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.projection = network, projection
        self.pretrained, self.frozen = pretrained, frozen
        self.register_buffer("mean", torch.tensor(preprocessing.mean))
        self.register_buffer("std", torch.tensor(preprocessing.std))
        self.network.requires_grad_(not frozen)
        self.register_load_state_dict_pre_hook(_name_former_tensors)

    def train(self, mode: bool = True) -> ImageEncoder:
        """Set the mode of what is trained; a frozen network stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        values = images if images.is_floating_point() else normalize(images, self.mean, self.std)
        features = self._frozen_features(values) if self.frozen else self.network(values)
        return features if self.projection is None else self.projection(features)

    @torch.no_grad()
    def _frozen_features(self, values: Tensor) -> Tensor:
        return self.network(values)


def _name_former_tensors(
    encoder: ImageEncoder, state: dict[str, Any], prefix: str, *_: object
) -> None:
    """Give the tensors of a state of before there was a mean in it the names of today."""
    if f"{prefix}mean" in state:
        return
    places = {"": "network."}
    if encoder.projection is not None:
        places = {"0.": "network.", "1.": "projection."}
    for name in [name for name in state if name.startswith(prefix)]:
        for former, now in places.items():
            if name.startswith(prefix + former):
                state[prefix + now + name.removeprefix(prefix + former)] = state.pop(name)
                break
    for key in ("mean", "std"):
        state[prefix + key] = torch.tensor(getattr(FROM_SCRATCH, key))


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


def build_image_encoder(
    name: str, *, width: int | None = None, weights: Weights | None = None, freeze: bool = False
) -> tuple[ImageEncoder, int]:
    """The image encoder called ``name`` and its number of features.

    Args:
        name: ``small``, ``resnet18``, ``resnet50``, ``efficientnet-lite0`` to ``2`` or
            ``timm:NAME`` (when timm is installed).
        width: features wanted; a linear layer is added where the network has another number.
        weights: a file with pretrained weights (``.safetensors``, or a state dict of torch, which
            is loaded without running code), or ``"imagenet"`` for those of the library.
        freeze: whether the pretrained network is not trained.

    Raises:
        UserError: unknown name, timm missing, or weights that are not there or do not fit.
    """
    features = image_width(name)
    if name == "small":
        features = width or features
    network, projection = plain_network(name, width), None
    if weights is not None:
        load_pretrained(network, name, weights)
    if width is not None and width != features:
        projection, features = nn.Linear(features, width), width
    pretrained = weights is not None
    preprocessing = preprocessing_of(name, pretrained=pretrained)
    encoder = ImageEncoder(
        network, preprocessing, projection, pretrained=pretrained, frozen=freeze and pretrained
    )
    return encoder, features
