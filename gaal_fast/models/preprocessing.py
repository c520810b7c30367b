"""How an image is made ready for an encoder: pixels a side, resampling and normalization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from gaal_fast.config.sections import IMAGE_SIZE

Resampling = Literal["bilinear", "bicubic"]
Color = tuple[float, float, float]


@dataclass(frozen=True)
class ImagePreprocessing:
    """What an encoder expects of its images. The defaults are those of training from scratch.

    The images are resized to a square without cropping, whatever the library that the weights are
    from crops at its own evaluation.

    Attributes:
        mean: of each channel of RGB, in 0..1, which is subtracted (of ImageNet's training images).
        std: of each channel, which is divided by.
        size: side of the square, in pixels.
        resampling: of the resize.
    """

    mean: Color = (0.485, 0.456, 0.406)
    std: Color = (0.229, 0.224, 0.225)
    size: int = IMAGE_SIZE
    resampling: Resampling = "bilinear"

    @classmethod
    def of_torchvision(cls, transforms: Any) -> ImagePreprocessing:
        """What the ``transforms`` of torchvision's weights say."""
        return cls(
            mean=_color(transforms.mean),
            std=_color(transforms.std),
            size=int(transforms.crop_size[0]),
            resampling=_resampling(transforms.interpolation.value),
        )

    @classmethod
    def of_timm(cls, config: Mapping[str, Any]) -> ImagePreprocessing:
        """What ``timm.data.resolve_data_config`` says."""
        return cls(
            mean=_color(config["mean"]),
            std=_color(config["std"]),
            size=int(config["input_size"][-1]),
            resampling=_resampling(config["interpolation"]),
        )


FROM_SCRATCH = ImagePreprocessing()


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 ``[..., 3, H, W]`` to float32: scaled to 0..1, less the mean, over the deviation.

    Args:
        images: pixels.
        mean: ``[3]`` float32, on the device of the images.
        std: ``[3]`` float32, likewise.
    """
    scaled = images.to(torch.float32).div_(255)
    return scaled.sub_(mean.view(3, 1, 1)).div_(std.view(3, 1, 1))


def _color(values: Any) -> Color:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _resampling(name: str) -> Resampling:
    # What else a library may name (lanczos, nearest, random) is not what its accuracy hangs on.
    return "bicubic" if name == "bicubic" else "bilinear"
