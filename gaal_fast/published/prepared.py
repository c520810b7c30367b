"""A published data set as it is to be written: rows, images, and what must be said of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

IMAGE_COLUMN, SPLIT_COLUMN = "image_path", "split"
IMAGE_FOLDER = "images"
PARTS = ("train", "val", "test")


class Note(NamedTuple):
    """What somebody who compares numbers has to know.

    Attributes:
        kind: "official": a trait of the authors' preprocessing that is kept though it surprises.
            "choice": decided here, as nobody published it. "deviation": not as the authors have it.
        text: One sentence or two.
    """

    kind: Literal["official", "choice", "deviation"]
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


# True of all three data sets.
EVERYWHERE = (
    Note(
        "deviation",
        "Images keep their own size and are hard links to those of the download, or copies where"
        " the file system has none, so that the folder can be moved and costs no space; the trainer"
        " resizes them.",
    ),
    Note(
        "deviation",
        "A row whose image is not in the download is kept and trains on its table alone, where the"
        " authors' loaders stop.",
    ),
)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A data set before it is written.

    Attributes:
        name: Of the data set, its table and its preset.
        images: Folder of the download that image paths are relative to.
        header: Columns of the table: ``IMAGE_COLUMN`` first, ``SPLIT_COLUMN`` last.
        rows: The cells, in the order of ``header``; read once.
        length: Number of rows.
        target: Name of the target column.
        notes: Choices and deviations.
        counts: Numbers on the way from the download to the rows, in order.
        official: What ``export_official`` needs beside the table.
        options: The options that were asked for.
        published: Rows by part that others report; None where nobody does.
    """

    name: str
    images: Path
    header: tuple[str, ...]
    rows: Iterable[Sequence[object]]
    length: int
    target: str
    notes: tuple[Note, ...]
    counts: Mapping[str, int]
    official: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    published: Mapping[str, int] | None = None
