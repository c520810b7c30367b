"""What the cells of an image column say: file names as they are written, other readings of them,
and what is no file name."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote

import numpy as np
import pandas as pd

from gaal_fast.data.tables.cells import MISSING_TOKENS
from gaal_fast.errors import UserError

# Pillow does not read these; they are found all the same, so that the user is told what they are.
UNREAD_SUFFIXES = frozenset({".heic", ".heif", ".dcm", ".jxl"})
IMAGE_SUFFIXES = UNREAD_SUFFIXES.union(
    (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".bmp", ".dib", ".gif"),
    (".tif", ".tiff", ".webp", ".avif", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico"),
)
NO_NAME = "no image named"
WEB_ADDRESS = "a web address: images are not downloaded; save them in a folder and name the files"
IMAGE_DATA = "image data, not a file name: save the images as files and name those"
SEVERAL = (
    "several images in one cell: one image per row is read; give each its own row, or keep one name"
)

_URL = re.compile(r"\s*(?!file:)(?:www\.(?=[^/]*/)|[A-Za-z][A-Za-z0-9+.-]{1,9}://)")
_ABSOLUTE = re.compile(r"(?:[A-Za-z]:)?[\\/]|~[\\/]")
_SEPARATORS = re.compile(r"[;|&+:\n]|,\s*|\s+(?=\S+$)|['\"]\s+['\"]")
_BRACKETS = " \t\r\n'\"[](){}"
_AROUND = " \t\r\n\xa0\ufeff\u200b"
_WHOLE = re.compile(r"([+-]?\d+)\.0+$")


def has_image_suffix(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def looks_like_image_name(text: str) -> bool:
    """Whether a text ends as the name of an image does: in a cell with a list of them and in a web
    address too."""
    if has_image_suffix(text):
        return True
    return has_image_suffix(text.strip(_BRACKETS)) or (
        _URL.match(text) is not None and has_image_suffix(re.split("[?#]", text)[0])
    )


def image_names(series: pd.Series) -> np.ndarray:
    """The names in the cells of a column.

    Returns:
        object [N] of str, None where there is none: texts as written, "007" and "1.0" among them,
        whole numbers without a point.

    Raises:
        UserError: The cells hold the bytes of images.
    """
    cells = series.to_numpy(dtype=object)
    names = np.empty(len(cells), dtype=object)
    names[:] = [cell if type(cell) is str else _name(cell, series.name) for cell in cells]
    return names


def _name(cell: object, column: object) -> str | None:
    if isinstance(cell, str):
        return str(cell)
    if isinstance(cell, bytes | bytearray | dict):
        raise UserError(f'column "{column}" holds {IMAGE_DATA}')
    if isinstance(cell, list | tuple | np.ndarray):
        return json.dumps([str(item) for item in cell], ensure_ascii=False) if len(cell) else None
    if pd.isna(cell):
        return None
    return (
        str(int(cell))
        if isinstance(cell, float | np.floating) and float(cell).is_integer()
        else str(cell)
    )


def is_missing(name: str | None) -> bool:
    """Whether a name is none, or one of the texts that stand for none: to be asked where there is
    no file of that name."""
    return name is None or name.strip() in MISSING_TOKENS


def what_else(name: str) -> str | None:
    """What a text that names no file holds instead, as the reason of an issue; None where it may
    well be a file name."""
    if _URL.match(name):
        return WEB_ADDRESS
    if name.lstrip().startswith("data:") or len(name) > 4096:
        return IMAGE_DATA
    return SEVERAL if sum(map(has_image_suffix, names_inside(name))) > 1 else None


def names_inside(text: str) -> list[str]:
    """The parts of a text that may be a list of names."""
    parts = [part.strip(_BRACKETS) for part in _SEPARATORS.split(text)]
    return [part for part in parts if part]


def other_readings(name: str) -> Iterator[tuple[str, str]]:
    """(how, text): further texts that a cell may stand for, each made from the one before; "how"
    says all that was changed."""
    done: list[str] = []
    text = name
    for how, change in _CHANGES:
        changed = change(text)
        if changed != text:
            text = changed
            done.append(how)
            yield " and ".join(done), text
    for form in ("NFC", "NFD"):
        changed = unicodedata.normalize(form, text)
        if changed != text:
            yield " and ".join([*done, "in another Unicode form"]), changed


def path_ends(name: str) -> Iterator[list[str]]:
    """The parts of an absolute path of any system without the first one, two, ... of them; nothing
    for a relative path."""
    written = name.strip().removeprefix("file://")
    for text in dict.fromkeys((written, unquote(written))):
        if _ABSOLUTE.match(text):
            parts = [part for part in re.split(r"[\\/]+", text) if part]
            yield from (parts[start:] for start in range(0 if text[0] in "\\/" else 1, len(parts)))


def _out_of_list(text: str) -> str:
    if not text.startswith("["):
        return text
    try:
        items = json.loads(text)
    except ValueError:
        items = [text[1:-1].strip(" '\"")] if text.endswith("]") and "," not in text else []
    return items[0] if len(items) == 1 and isinstance(items[0], str) else text


_CHANGES = (
    ("without what surrounds them", lambda text: text.strip(_AROUND).strip("'\"").strip(_AROUND)),
    ("taken out of a list", _out_of_list),
    ("as a path for an address", lambda text: re.sub(r"^file://(localhost)?", "", text)),
    ("percent-decoded", lambda text: unquote(text) if "%" in text else text),
    ("with / for \\", lambda text: text.replace("\\", "/")),
    ("as whole numbers", lambda text: _WHOLE.sub(r"\1", text)),
)
