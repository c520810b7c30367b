"""Looks through the image files of a data set before they are decoded: which have more than 8 bits,
which several frames.

The range of values that becomes 0 to 255 is decided here, once for all files of a kind, so that
images stay comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from gaal_fast.data.images.archive import open_file, open_image
from gaal_fast.data.images.decode import (
    DEEP_KINDS,
    ImageError,
    choose_range,
    deep_kind,
    read_values,
)
from gaal_fast.data.images.store import available_cpus
from gaal_fast.data.issues import some, warn
from gaal_fast.data.reading import ImageReading

_HEAD = 1024
_BLOCK = 256
# Files whose values are read to decide a range, and values taken of each.
_FILES, _VALUES = 256, 16384
# Share of the values beyond the range, and share of the range that values reach, at which a range
# does not suit the images.
_BEYOND, _REACH = 0.05, 1 / 15


@dataclass
class Survey:
    """What the heads of some files say.

    Attributes:
        files: Their number.
        deep: Kind to its files.
        several: Those with more than one frame.
    """

    files: int = 0
    deep: dict[str, list[str]] = field(default_factory=dict)
    several: list[str] = field(default_factory=list)


def survey(files: Sequence[str]) -> Survey:
    """Reads the first bytes of every file, and opens those whose bytes do not say enough; what
    cannot be read is skipped."""
    blocks = [files[start : start + _BLOCK] for start in range(0, len(files), _BLOCK)]
    result = Survey(len(files))
    with ThreadPoolExecutor(min(16, available_cpus())) as pool:
        for block, heads in zip(
            blocks, pool.map(lambda block: [_look(file) for file in block], blocks), strict=True
        ):
            for file, (kind, several) in zip(block, heads, strict=True):
                if kind is not None:
                    result.deep.setdefault(kind, []).append(file)
                if several:
                    result.several.append(file)
    return result


def decide_ranges(
    found: Survey, train: set[str], given: tuple[float, float] | None, warnings: list[str]
) -> ImageReading:
    """The range of each kind of deep image, from the files of the training rows.

    Args:
        found: The files.
        train: Those of the training rows; where these have none of a kind, the others decide.
        given: The range that the user gave for all kinds.
        warnings: Says where a given range does not suit the images.
    """
    if given is not None:
        if not found.deep:
            warn(warnings, "--data.image-range has no effect: no image has more than 8 bits")
        reading = ImageReading.of(dict.fromkeys(DEEP_KINDS, given), given=True)
        _warn_of_misfits(found, reading, "of --data.image-range", warnings)
        return reading
    ranges = {}
    for kind, files in found.deep.items():
        values = _sample([file for file in files if file in train] or files)
        if values.size:
            ranges[kind] = choose_range(values, kind)
    return ImageReading.of(ranges)


def extend_ranges(found: Survey, reading: ImageReading, warnings: list[str]) -> ImageReading:
    """The ranges of training for the images of a prediction; a warning says where they do not suit
    them.

    A kind that training did not have is given a range of its own from these images, which is said
    too.
    """
    _warn_of_misfits(found, reading, "of the training images", warnings)
    narrow = [f"{low:g} to {high:g}" for low, high in reading.ranges.values() if low != 0]
    if narrow and not found.deep and not reading.given and found.files:
        warn(
            warnings,
            f"the training images had more than 8 bits, of which the values {narrow[0]} were "
            "stretched; these images have 8 bits and are taken as they are",
        )
    unknown = Survey(
        deep={kind: files for kind, files in found.deep.items() if kind not in reading.ranges}
    )
    added = decide_ranges(unknown, set(), None, warnings).ranges
    for kind, (low, high) in added.items():
        warn(
            warnings,
            f"{kind} images ({len(found.deep[kind])}), which the training did not have: "
            f"values {low:g} to {high:g}, found in these images, become 0 to 255",
        )
    return ImageReading.of({**reading.ranges, **added}, given=reading.given)


def warn_of_frames(found: Survey, warnings: list[str]) -> None:
    """One line with the count of the files that have several frames."""
    if found.several:
        verb = "file has" if len(found.several) == 1 else "files have"
        warn(
            warnings,
            f"{len(found.several)} image {verb} several frames, of which the first is used "
            f"({some(found.several, 1)})",
        )


def _look(file: str) -> tuple[str | None, bool]:
    """The kind of a file if it has more than 8 bits, and whether it has several frames."""
    try:
        with open_file(file) as stream:
            head = stream.read(_HEAD)
        if head.startswith(b"\xff\xd8"):
            return None, False
        if head.startswith(b"\x89PNG") and head[24:25] != b"\x10":
            return None, b"acTL" in head
        if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
            return None, head[12:16] == b"VP8X" and len(head) > 20 and bool(head[20] & 2)
        if head.startswith(b"BM"):
            return None, False
        with open_image(file) as image:
            return deep_kind(image), image.format not in ("ICO", "ICNS", "PSD") and bool(
                getattr(image, "is_animated", False)
            )
    except Exception:  # what is wrong with a file is said when it is decoded
        return None, False


def _sample(files: Sequence[str]) -> np.ndarray:
    """float64 [n]: values of at most ``_FILES`` files, evenly spread."""
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, _FILES).astype(int))]
    with ThreadPoolExecutor(min(16, available_cpus())) as pool:
        return np.concatenate([np.empty(0), *pool.map(_some_values, chosen)])


def _some_values(file: str) -> np.ndarray:
    try:
        return read_values(file, _VALUES)[1]
    except ImageError:
        return np.empty(0)


def _warn_of_misfits(found: Survey, reading: ImageReading, whose: str, warnings: list[str]) -> None:
    for kind, files in found.deep.items():
        if kind not in reading.ranges:
            continue
        low, high = reading.ranges[kind]
        values = _sample(files)
        if not values.size:
            continue
        beyond = float(np.mean((values < low) | (values > high)))
        if beyond > _BEYOND:
            reason = (
                f"{beyond:.0%} of the values of these {kind} images lie beyond it and are cut off"
            )
        elif values.max() <= low + _REACH * (high - low):
            reason = f"these {kind} images reach {values.max():g} only and become nearly black"
        else:
            continue
        warn(warnings, f"the range {low:g} to {high:g} {whose} does not suit: {reason}")
