"""Random changes of training images, a pure function of (seed, epoch, row).

The operations are torchvision's (the tests compare them), written out for two reasons. Products and
sums are separate operations and means are sums of integers: a fused multiply-add, or another order
of summation, makes the last bit of torchvision's jitter and blur depend on the number of threads,
so that worker processes would see other images. And importing torchvision takes seconds.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch.nn.functional import interpolate

Preset = Literal["paper", "light", "none"]

# The recipe of the image-table literature (MMCL, TIP, GAAL): "hard eval" augmentation.
PAPER_PROBABILITY = 0.95
_JITTER, _JITTER_PROBABILITY = 0.8, 0.8
_GREY_PROBABILITY = 0.2
_BLUR_KERNEL, _BLUR_SIGMA, _BLUR_PROBABILITY = 29, (0.1, 2.0), 0.5
_CROP_SCALE, _CROP_RATIO = (0.6, 1.0), (3 / 4, 4 / 3)
_FLIP_PROBABILITY = 0.5
_BLUR_FULL_SIZE = 64
_LIGHT_SHIFT = 1 / 12


def sample_rng(seed: int, epoch: int, row: int) -> np.random.Generator:
    """The random numbers of one row in one epoch: independent of every other row, of their order
    and of the process, so that a run resumed in the middle of an epoch, or with another number of
    workers, sees the same images bit for bit.
    """
    return np.random.Generator(np.random.PCG64((seed, epoch, row)))


def augment(image: torch.Tensor, preset: Preset, rng: np.random.Generator) -> torch.Tensor:
    """One random version of a uint8 [3, S, S] image, same shape and type; the argument is not
    changed.

    "paper": with probability 0.95 color jitter (brightness, contrast, saturation 0.8; p 0.8), grey
    (p 0.2), Gaussian blur (kernel 29, sigma 0.1 to 2; p 0.5), a crop of 60 to 100 % resized back,
    and a flip (p 0.5). The kernel is that of images of 64 pixels and more; below, it shrinks with
    the size, and never exceeds it. "light": a shift by up to a twelfth of the size (edges repeated)
    and a flip. "none": the image as it is.
    """
    if preset == "none":
        return image
    if preset == "light":
        return _light(image, rng)
    if preset == "paper":
        return _paper(image, rng) if rng.random() < PAPER_PROBABILITY else image
    raise ValueError(f"preset: unknown augmentation {preset!r}")


def _light(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    size = image.shape[-1]
    reach = max(1, round(size * _LIGHT_SHIFT))
    down, right = (int(shift) for shift in rng.integers(-reach, reach + 1, 2))
    rows = torch.arange(down, down + size).clamp_(0, size - 1)
    columns = torch.arange(right, right + size).clamp_(0, size - 1)
    if rng.random() < _FLIP_PROBABILITY:
        columns = columns.flip(0)
    return image.index_select(1, rows).index_select(2, columns)


def _paper(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    size = image.shape[-1]
    if rng.random() < _JITTER_PROBABILITY:
        factors = rng.uniform(1 - _JITTER, 1 + _JITTER, 3)
        for kind in rng.permutation(3):
            image = (_brightness, _contrast, _saturation)[kind](image, float(factors[kind]))
    if rng.random() < _GREY_PROBABILITY:
        image = _grey(image).to(torch.uint8).expand_as(image)
    if rng.random() < _BLUR_PROBABILITY:
        image = gaussian_blur(image, blur_kernel(size), float(rng.uniform(*_BLUR_SIGMA)))
    image = resized_crop(image, *_crop_box(size, rng))
    return image.flip(-1) if rng.random() < _FLIP_PROBABILITY else image


def _grey(image: torch.Tensor) -> torch.Tensor:
    """float32 [1, S, S], whole numbers: the luminance of ITU-R BT.601."""
    red, green, blue = image.to(torch.float32).unbind(0)
    return (red * 0.2989 + green * 0.587 + blue * 0.114).floor_()[None]


def _blend(image: torch.Tensor, other: torch.Tensor | float, factor: float) -> torch.Tensor:
    """factor * image + (1 - factor) * other, cut to 0..255."""
    return (image.to(torch.float32) * factor + other * (1 - factor)).clamp_(0, 255).to(torch.uint8)


def _brightness(image: torch.Tensor, factor: float) -> torch.Tensor:
    return _blend(image, 0.0, factor)


def _contrast(image: torch.Tensor, factor: float) -> torch.Tensor:
    grey = _grey(image)
    return _blend(image, int(grey.to(torch.int64).sum()) / grey.numel(), factor)


def _saturation(image: torch.Tensor, factor: float) -> torch.Tensor:
    return _blend(image, _grey(image), factor)


def blur_kernel(size: int) -> int:
    """Odd width of the blur's kernel for an image of that size: 29 from 64 pixels on, in
    proportion below, at least 3.
    """
    kernel = _BLUR_KERNEL * min(size, _BLUR_FULL_SIZE) / _BLUR_FULL_SIZE
    return max(3, 2 * int(kernel / 2) + 1 if kernel < _BLUR_KERNEL else _BLUR_KERNEL)


def gaussian_blur(image: torch.Tensor, kernel: int, sigma: float) -> torch.Tensor:
    """Blurs uint8 [3, S, S] with a normalized Gaussian of ``kernel`` taps, edges reflected: one
    direction after the other.
    """
    radius = min(kernel // 2, image.shape[-1] - 1)
    taps = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(radius + 1)]
    total = taps[0] + 2 * sum(taps[1:])
    # A tap below 1e-6 cannot move a value of 8 bits.
    weights = [tap / total for tap in taps if tap / total > 1e-6]
    values = image.to(torch.float32)
    for axis in (1, 2):
        size = values.shape[axis]
        reach = len(weights) - 1
        where = torch.arange(-reach, size + reach).abs_()
        padded = values.index_select(
            axis, torch.where(where >= size, 2 * (size - 1) - where, where)
        )
        values = padded.narrow(axis, reach, size) * weights[0]
        for offset, weight in enumerate(weights[1:], start=1):
            pair = padded.narrow(axis, reach - offset, size) + padded.narrow(
                axis, reach + offset, size
            )
            values += pair * weight
    return values.round_().clamp_(0, 255).to(torch.uint8)


def resized_crop(image: torch.Tensor, top: int, left: int, height: int, width: int) -> torch.Tensor:
    """A box of uint8 [3, S, S], resized to the whole size (bilinear, antialiased)."""
    box = image[None, :, top : top + height, left : left + width]
    return interpolate(box, size=image.shape[1:], mode="bilinear", antialias=True)[0]


def _crop_box(size: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """top, left, height, width of a box with a random share of the area and a random aspect ratio
    (uniform in its logarithm).
    """
    for _ in range(10):
        area = size * size * rng.uniform(*_CROP_SCALE)
        ratio = math.exp(rng.uniform(math.log(_CROP_RATIO[0]), math.log(_CROP_RATIO[1])))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= size and 0 < height <= size:
            return (
                int(rng.integers(size - height + 1)),
                int(rng.integers(size - width + 1)),
                height,
                width,
            )
    return 0, 0, size, size
