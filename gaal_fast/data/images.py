"""Decodes picture files of any kind to square RGB."""

import os

import numpy as np
import torch
from PIL import Image

# EXIF orientation -> what turns the stored picture upright (EXIF 2.32, tag 0x0112).
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


class ImageError(Exception):
    """A picture that cannot be decoded; the message is the reason, one line."""


def decode(path: str | os.PathLike, size: int) -> torch.Tensor:
    """Decodes a picture to uint8 [3, size, size] (RGB), squeezed to a square without cropping (bilinear, antialiased).

    Any mode Pillow reads: transparency is laid on white, 16-bit and wider greys are scaled to 8 bit, EXIF rotation is undone,
    an animation gives its first frame. Raises ImageError for a missing, damaged, truncated or absurdly large file.
    """
    try:
        with Image.open(path) as image:
            # A JPEG can skip most of its inverse transform when far fewer pixels are wanted; twice the size keeps it sharp.
            image.draft(None, (2 * size, 2 * size))
            upright = _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG))
            image = _to_rgb(image).resize((size, size), Image.Resampling.BILINEAR)
            # On a square, turning after the resize gives the same picture and touches far fewer pixels.
            image = image.transpose(upright) if upright is not None else image
    except FileNotFoundError:
        raise ImageError("no such file") from None
    except Exception as error:  # damaged files raise whatever their decoder trips over
        text = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"cannot be decoded: {text.replace(str(path), 'file')}"[:200]) from error
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_to_8_bit(image)).convert("RGB")
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> np.ndarray:
    """uint8 [H, W]. 16-bit files use their whole range; wider ones carry no range, so the smallest usual one that fits."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=np.inf, neginf=0.0)
    if image.mode.startswith("I;16") or image.format == "PNG":
        top = 65535.0
    else:
        ranges = (1.0, 255.0, 65535.0, 2.0**31 - 1) if image.mode == "F" else (255.0, 65535.0, 2.0**31 - 1)
        top = next((top for top in ranges if values.max(initial=0.0) <= top), max(values.max(initial=0.0), 1.0))
    return np.clip(np.rint(values / top * 255.0), 0, 255).astype(np.uint8)
