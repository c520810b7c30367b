"""CelebA: is a face "Attractive"? From its image and 39 other attributes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from gaal_fast.errors import UserError, some
from gaal_fast.published.prepared import (
    EVERYWHERE,
    IMAGE_COLUMN,
    PARTS,
    SPLIT_COLUMN,
    Note,
    Prepared,
)
from gaal_fast.published.raw import Wanted

NAME, TARGET = "celeba", "Attractive"
ATTRIBUTES = 40
PUBLISHED = {"train": 162_770, "val": 19_867, "test": 19_962}

_HOME = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
LABELS = Wanted(
    "list_attr_celeba.txt", ("", "Anno"), f'the folder "Anno" of the CelebA download ({_HOME})'
)
PARTITION = Wanted(
    "list_eval_partition.txt",
    ("", "Eval", "Anno"),
    f'the folder "Eval" of the CelebA download ({_HOME})',
)
FILES = Wanted(
    "img_align_celeba",
    ("", "Img"),
    f'the archive "img_align_celeba.zip" of the CelebA download ({_HOME})',
    True,
)
_HEADER_LINES = 2
_CELLS = {"1": 1, "-1": 0}

NOTES = (
    Note(
        "choice",
        "Nobody published the split that GAAL used: this is the official partition of CelebA, as"
        " the names of the files that the released code reads suggest.",
    ),
    Note(
        "choice",
        "Labels and attributes are 0 and 1 for the -1 and 1 of the download: the released loader"
        " does not map them and would fail on a label of -1.",
    ),
    Note(
        "deviation",
        "The trainer gives an input to each value that an attribute has in the training rows: 78"
        " inputs as the authors have.",
    ),
)


def read(raw: Path) -> Prepared:
    """The data set from what the official downloads unpack to.

    The attributes are read line by line.

    Args:
        raw: Folder with ``list_attr_celeba.txt``, ``list_eval_partition.txt`` and
            ``img_align_celeba/``.

    Raises:
        UserError: With the key ``raw``: a file is missing or not what it should be.
    """
    labels, partition = LABELS.under(raw), PARTITION.under(raw)
    files = FILES.under(raw)
    names, length = _header(labels)
    features = [name for name in names if name != TARGET]
    rows = _Rows(labels, names, _parts(partition))
    found = sum(1 for _ in rows)  # a wrong line shows before anything is written
    if found != length:
        raise UserError(
            f": {labels} announces {length} images and lists {found}: an incomplete download?",
            key="raw",
        )
    return Prepared(
        name=NAME,
        images=files,
        header=(IMAGE_COLUMN, TARGET, *features, SPLIT_COLUMN),
        rows=rows,
        length=length,
        target=TARGET,
        notes=(*NOTES, *EVERYWHERE),
        counts={"images": length, "attributes": len(features)},
        official={"features": features},
        published=PUBLISHED,
    )


def _header(path: Path) -> tuple[list[str], int]:
    """The names of the attributes (second line) and the number of images (first line)."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        first, second = [*islice(stream, _HEADER_LINES), "", ""][:_HEADER_LINES]
    count, names = first.strip(), second.split()
    if not (count.isascii() and count.isdecimal()):
        raise UserError(f": the first line of {path} must be the number of images", key="raw")
    if len(names) != ATTRIBUTES or len(set(names)) != ATTRIBUTES or TARGET not in names:
        raise UserError(
            f": the second line of {path} must name {ATTRIBUTES} attributes with {TARGET}, and has"
            f" {len(names)}",
            key="raw",
        )
    return names, int(count)


def _parts(path: Path) -> dict[str, str]:
    """Image name to part."""
    parts = {}
    with path.open(encoding="utf-8", errors="replace") as stream:
        for number, line in enumerate(stream, start=1):
            words = line.split()
            if not words:
                continue
            if len(words) != 2 or words[1] not in ("0", "1", "2"):
                raise UserError(
                    f": line {number} of {path} must be an image and 0, 1 or 2", key="raw"
                )
            parts[words[0]] = PARTS[int(words[1])]
    return parts


@dataclass(frozen=True)
class _Rows:
    """The rows of the table, in the order of the download, read anew each time."""

    path: Path
    names: list[str]
    parts: dict[str, str]

    def __iter__(self) -> Iterator[list[Any]]:
        target = self.names.index(TARGET)
        with self.path.open(encoding="utf-8", errors="replace") as stream:
            for number, line in enumerate(stream, start=1):
                words = line.split()
                if number <= _HEADER_LINES or not words:
                    continue
                image, cells = words[0], [_CELLS.get(word) for word in words[1:]]
                if len(cells) != ATTRIBUTES or None in cells:
                    raise UserError(
                        f": line {number} of {self.path} must be an image and {ATTRIBUTES} times 1"
                        " or -1",
                        key="raw",
                    )
                if image not in self.parts:
                    raise UserError(
                        f": {PARTITION.name} does not list {some([image])} (line {number} of"
                        f" {self.path})",
                        key="raw",
                    )
                label = cells.pop(target)
                yield [image, label, *cells, self.parts[image]]
