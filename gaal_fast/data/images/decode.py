"""Decodes image files of any kind to square RGB."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from gaal_fast.data.images.archive import open_image
from gaal_fast.data.images.kinds import name_content

# EXIF orientation -> what turns the stored image upright (EXIF 2.32, tag 0x0112).
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")

# What Pillow does not give as bytes, and which therefore needs a range of values to become bytes.
DEEP_KINDS = ("16-bit", "integer", "float")
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF 6.0 tags
_MIN_IS_WHITE, _UNSIGNED, _SIGNED = 0, 1, 2
# Pillow keeps one byte of each 16-bit color sample: its raw mode names which, and the other one has
# the other byte order.
_OTHER_BYTE = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
# Tops of the usual scales, by kind: the smallest one that holds all values is taken as theirs.
_TOPS = {
    "16-bit": tuple(2.0**bits - 1 for bits in (8, 10, 12, 14, 16)),
    "integer": tuple(2.0**bits - 1 for bits in (8, 10, 12, 14, 16, 24, 31, 32)),
    "float": (1.0, *(2.0**bits - 1 for bits in (8, 10, 12, 14, 16))),
}
# Values that fill less than this share of their scale, a dozen bytes, lose what tells them apart.
_SMALLEST_SHARE = 0.05
_TAIL = 0.001

Ranges = Mapping[str, tuple[float, float]]
Resampling = Literal["bilinear", "bicubic"]


class ImageError(Exception):
    """An image that cannot be decoded; the message is the reason, one line."""


def decode(
    path: str | os.PathLike,
    size: int,
    ranges: Ranges | None = None,
    resampling: Resampling = "bilinear",
) -> torch.Tensor:
    """Decodes an image to a square without cropping (antialiased).

    Any mode Pillow reads: transparency is laid on white, EXIF rotation is undone, an animation
    gives its first frame.

    Args:
        path: The file.
        size: Side of the square, in pixels.
        ranges: Kind of ``DEEP_KINDS`` to the values that become 0 and 255 in files of more than 8
            bits; for a kind without one ``choose_range`` of the image itself is taken.
        resampling: How it is resized.

    Returns:
        uint8 [3, size, size], RGB.

    Raises:
        ImageError: A missing, damaged, truncated or absurdly large file.
    """
    try:
        with open_image(path) as image:
            # A JPEG can skip most of its inverse transform when far fewer pixels are wanted; twice
            # the size keeps it sharp.
            image.draft(None, (2 * size, 2 * size))
            kind = deep_kind(image)
            square = (
                _to_rgb(image) if kind is None else _deep_to_rgb(image, kind, ranges or {})
            ).resize((size, size), Image.Resampling[resampling.upper()])
            # Asked for once it is loaded: Pillow turns a TIFF itself while loading it, and then
            # says so by dropping the tag. On a square, turning after the resize gives the same
            # image and touches far fewer pixels.
            upright = _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
            square = square.transpose(upright) if upright is not None else square
    except Exception as error:  # damaged files raise whatever their decoder trips over
        raise ImageError(_reason(path, error)) from error
    return torch.from_numpy(np.array(square, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def deep_kind(image: Image.Image) -> str | None:
    """The kind of ``DEEP_KINDS`` of an opened, not yet loaded image; None where every sample is one
    byte."""
    # Pillow gives 16-bit CMYK and premultiplied colors by their high byte alone, which is their
    # usual scale: bytes.
    if image.mode.startswith("I;16") or _color_raw_modes(image) is not None:
        return "16-bit"
    if image.mode == "I":
        return "16-bit" if image.format in ("PNG", "PPM") else "integer"
    if image.mode == "F":
        return "float"
    return "integer" if image.mode == "L" and _tiff_tag(image, _SAMPLE_FORMAT) == _SIGNED else None


def read_values(path: str | os.PathLike, limit: int | None = None) -> tuple[str | None, np.ndarray]:
    """The kind of a file, and its finite values without alpha; no values for a file of 8 bits.

    Args:
        path: The file.
        limit: About so many values are returned where there are more, the smallest and the largest
            among them.

    Returns:
        The kind, and float64 [n].

    Raises:
        ImageError: As ``decode`` does.
    """
    try:
        with open_image(path) as image:
            kind = deep_kind(image)
            values = np.empty(0) if kind is None else _values(image)[0].ravel()
    except Exception as error:
        raise ImageError(_reason(path, error)) from error
    values = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if limit is not None and values.size > limit:
        values = np.append(values[:: values.size // limit], [values.min(), values.max()])
    return kind, values.astype(np.float64)


def choose_range(values: np.ndarray, kind: str) -> tuple[float, float]:
    """The values that become 0 and 255.

    They are those of a scale that ends at 1 or at 8, 10, 12, 14, 16 or more bits where the values
    fill a twentieth of it, else of nearly all the values themselves (one in a thousand at either
    end is cut off).

    Args:
        values: float64 [n], finite.
        kind: One of ``DEEP_KINDS``.
    """
    if not values.size:
        return 0.0, _TOPS[kind][-1]
    smallest, largest = float(values.min()), float(values.max())
    rank = int(_TAIL * values.size)
    low, high = (
        float(v)
        for v in np.partition(values, (rank, values.size - 1 - rank))[
            [rank, values.size - 1 - rank]
        ]
    )
    if smallest >= 0:
        top = next((top for top in _TOPS[kind] if largest <= top), largest)
        if high - low >= _SMALLEST_SHARE * top or high == low:
            return 0.0, top
    elif high - low >= _SMALLEST_SHARE * (largest - smallest):
        low, high = smallest, largest
    # All values alike, below zero: nothing tells them apart, but the range must not be empty.
    return (low, high) if high > low else (min(low, 0.0), max(high, 0.0))


def _reason(path: str | os.PathLike, error: Exception) -> str:
    """Why a file could not be decoded, one line."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError | IsADirectoryError):
        return f"cannot be read: {error.strerror}"
    content = name_content(path)
    if content is not None:
        return f"cannot be decoded: {content}"
    if isinstance(error, UnidentifiedImageError):
        tiff = str(path).lower().endswith((".tif", ".tiff"))
        kinds = " (of TIFF not every kind of sample is read: 64-bit floats are not)" if tiff else ""
        known = f"a kind that Pillow reads{kinds}"
        return f"cannot be decoded: not an image of {known}, or one that is cut off"
    text = " ".join(str(error).replace(str(path), "the file").split()) or type(error).__name__
    return f"cannot be decoded: {text}"[:200]


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        return _on_white(image.convert("RGBA"))
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _deep_to_rgb(image: Image.Image, kind: str, ranges: Ranges) -> Image.Image:
    values, alpha = _values(image)
    low, high = ranges.get(kind) or choose_range(
        values[np.isfinite(values)].astype(np.float64), kind
    )
    if kind == "16-bit":
        # There are fewer values than pixels: each is scaled once.
        pixels = _to_bytes(np.arange(65536), low, high)[values]
    else:
        pixels = _to_bytes(values, low, high)
    if _tiff_tag(image, _PHOTOMETRIC) == _MIN_IS_WHITE:
        pixels = 255 - pixels
    pixels = pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)
    if alpha is None:
        return Image.fromarray(pixels)
    alpha = np.rint(alpha / 257.0).astype(np.uint8)
    return _on_white(Image.fromarray(np.dstack([pixels, alpha])))


def _to_bytes(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8 of the same shape: low and what is below becomes 0, high and what is above 255."""
    # Halved, so that the width of a range of huge floats does not overflow.
    scaled = (values.astype(np.float64) / 2 - low / 2) / (high / 2 - low / 2) * 255.0
    scaled = np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _values(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """[H, W] or [H, W, 3] as stored, and alpha 0 ... 65535 [H, W] where there is some."""
    modes, alpha = _color_raw_modes(image), None
    if modes is not None:
        values = _sixteen_bit_samples(image, *modes)
        if values.shape[2] in (2, 4):
            values, alpha = values[:, :, :-1], values[:, :, -1]
        values = values[:, :, 0] if values.shape[2] == 1 else values
    else:
        values = np.asarray(image)
        if _tiff_tag(image, _BITS) == 32 and _tiff_tag(image, _SAMPLE_FORMAT) == _UNSIGNED:
            values = values.view(np.uint32)
        elif image.mode == "L":
            values = values.view(np.int8)
    transparent = image.info.get("transparency")
    if alpha is None and isinstance(transparent, int | tuple):
        same = values == np.asarray(transparent)
        alpha = np.where(same.all(axis=2) if same.ndim == 3 else same, 0.0, 65535.0)
    return values, alpha


def _color_raw_modes(image: Image.Image) -> tuple[str, str] | None:
    """Pillow's raw modes for the high and for the low byte of 16-bit color samples; None where it
    is no such image."""
    raw = _raw_mode(image)
    name, _, depth = raw.partition(";16")
    if raw == "LA;16B":
        return raw, raw
    return (
        (raw, f"{name};16{_OTHER_BYTE[depth]}")
        if name in ("RGB", "RGBA", "RGBX") and depth in _OTHER_BYTE
        else None
    )


def _sixteen_bit_samples(image: Image.Image, high: str, low: str) -> np.ndarray:
    """uint16 [H, W, C] of an image that Pillow gives by the high bytes alone: it is loaded again
    for the low ones."""
    if high == "LA;16B":
        # The four bytes of a pixel are read as if they were four channels.
        _set_raw_mode(image, "RGBA")
        four = np.asarray(image).astype(np.uint16)
        return four[:, :, 0::2] << 8 | four[:, :, 1::2]
    assert isinstance(image, ImageFile)  # which Image.open gives
    with open_image(os.fsdecode(image.filename)) as again:
        _set_raw_mode(again, low)
        low_bytes = np.asarray(again).astype(np.uint16)
    return np.asarray(image).astype(np.uint16) << 8 | low_bytes


def _raw_mode(image: Image.Image) -> str:
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    arguments = tiles[0][3]
    raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return raw if isinstance(raw, str) else ""


def _set_raw_mode(image: Image.Image, raw: str) -> None:
    assert isinstance(image, ImageFile)
    image.tile = [
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw)
        for tile in image.tile
    ]


def _tiff_tag(image: Image.Image, tag: int) -> int | None:
    """The value of a TIFF tag, that of the first sample where each has its own; None for other
    formats."""
    value = image.tag_v2.get(tag) if isinstance(image, TiffImageFile) else None
    first = value[0] if isinstance(value, tuple) and value else value
    return first if isinstance(first, int) else None
