"""Writes a prepared data set: the table, its images, checksums, and what was decided."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from gaal_fast.errors import UserError
from gaal_fast.files import replacing, write_text
from gaal_fast.published.folder import appearing, bring, sha256
from gaal_fast.published.prepared import (
    IMAGE_COLUMN,
    IMAGE_FOLDER,
    PARTS,
    SPLIT_COLUMN,
    Note,
    Prepared,
)

DESCRIPTION, SUMS = "prepared.json", "SHA256SUMS"
FORMAT = 1


@contextmanager
def rows_into(path: Path) -> Iterator[Any]:
    """A writer of CSV rows into a new file that appears whole; a float is written so that it reads
    back to the same bits.
    """
    with replacing(path) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        yield csv.writer(text, lineterminator="\n")
        text.flush()
        text.detach()


def write(data: Prepared, raw: Path, out: Path) -> dict[str, Any]:
    """Write ``NAME.csv``, ``images/``, ``SHA256SUMS`` and ``prepared.json`` into a new folder.

    One row and one image are in memory at a time. A killed call goes on at the next one.

    Args:
        data: What to write.
        raw: The folder of the download, which another unfinished folder is told apart by.
        out: The new folder; it appears whole.

    Returns:
        What ``prepared.json`` holds.

    Raises:
        UserError: ``out`` is there already, no image of the table is in the download, or an image
            path leaves the folder.
    """
    what = {"name": data.name, "raw": str(raw.resolve()), "options": dict(data.options)}
    with appearing(out, what) as folder:
        table = folder / f"{data.name}.csv"
        tally = _Tally(data)
        with replacing(folder / SUMS) as sums:
            with rows_into(table) as writer:
                writer.writerow(data.header)
                for row in _with_bar(data.rows, data.length):
                    writer.writerow(row)
                    image = f"{IMAGE_FOLDER}/{_inside(str(row[0]))}"
                    found = bring(data.images / str(row[0]), folder / image)
                    tally.add(row, found)
                    if found:
                        sums.write(f"{sha256(folder / image)}  {image}\n".encode())
            sums.write(f"{sha256(table)}  {table.name}\n".encode())
        tally.check()
        description = {
            "prepared": data.name,
            "format": FORMAT,
            "options": dict(data.options),
            "table": table.name,
            "images": IMAGE_FOLDER,
            "image_column": IMAGE_COLUMN,
            "target": data.target,
            "split_column": SPLIT_COLUMN,
            **tally.facts(),
            "counts": dict(data.counts),
            "official": dict(data.official),
            "notes": [note._asdict() for note in (*data.notes, *tally.notes())],
            "sha256": {name: sha256(folder / name) for name in (table.name, SUMS)},
        }
        text = json.dumps(description, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(folder / DESCRIPTION, text + "\n")
    return description


def _with_bar(rows: Iterable[Sequence[object]], length: int) -> Iterator[Sequence[object]]:
    yield from tqdm(
        rows, total=length, desc="Linking images", unit="image", leave=False, disable=None
    )


def _inside(name: str) -> str:
    """An image path of the download, which must not leave the folder of the images."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise UserError(f': the image path "{name}" leaves the folder of the images', key="raw")
    return name


class _Tally:
    """What is counted while rows are written."""

    def __init__(self, data: Prepared) -> None:
        self.data = data
        self.target = data.header.index(data.target)
        self.parts: Counter[str] = Counter()
        self.classes: dict[str, Counter[str]] = {part: Counter() for part in PARTS}
        self.missing = 0
        self.first_missing = ""

    def add(self, row: Sequence[object], found: bool) -> None:
        part = str(row[-1])
        self.parts[part] += 1
        self.classes[part][str(row[self.target])] += 1
        if not found:
            self.missing += 1
            self.first_missing = self.first_missing or str(row[0])

    def check(self) -> None:
        if self.missing == sum(self.parts.values()):
            raise UserError(
                f": none of the {self.missing} images is in {self.data.images}, such as"
                f" {self.first_missing}",
                key="raw",
            )

    def facts(self) -> dict[str, Any]:
        seen: Counter[str] = sum(self.classes.values(), Counter())
        smallest = min(self.classes["train"].get(name, 0) for name in seen)
        return {
            "rows": {part: self.parts[part] for part in PARTS},
            "classes": len(seen),
            "smallest_training_class": smallest,
            "largest_training_class": max(self.classes["train"].values(), default=0),
            "missing_images": self.missing,
        }

    def notes(self) -> list[Note]:
        found = []
        if self.missing:
            found.append(
                Note(
                    "deviation",
                    f"{self.missing} of {sum(self.parts.values())} images are not in"
                    f" {self.data.images.name}, such as {self.first_missing}.",
                )
            )
        published = self.data.published
        here = {part: self.parts[part] for part in PARTS}
        if published is not None and dict(published) != here:
            words = ", ".join(
                f"{part} {published[part]:,} and here {here[part]:,}" for part in here
            )
            found.append(Note("deviation", f"The published parts have other sizes: {words}."))
        return found
