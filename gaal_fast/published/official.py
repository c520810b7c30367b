"""The files that the authors' repository reads, from a table that ``prepare`` wrote."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gaal_fast.errors import UserError, some
from gaal_fast.published import celeba, dvm, sun
from gaal_fast.published.folder import appearing, sha256
from gaal_fast.published.prepared import IMAGE_COLUMN, PARTS, SPLIT_COLUMN
from gaal_fast.published.writing import DESCRIPTION, rows_into

# How the file names of the authors spell the parts.
_PART_FILES = {"train": "train", "val": "valid", "test": "test"}
# Column of the image's name, and the folders that the released configuration looks for images in.
# That of CelebA lacks a folder in the path of the test images.
_ATTRIBUTES = {
    sun.NAME: ("SUNAttribute", "image_path", ("SUN/images",)),
    celeba.NAME: ("CelebA", "img_index", ("CelebA/img_align_celeba", "img_align_celeba")),
}
_DVM_FOLDER = "DVM/features"


def export_official(
    table: Path, out: Path, parts: Mapping[int, str] | None = None
) -> tuple[dict[str, int], list[str]]:
    """Write what the authors' ``data_base`` folder holds of one data set.

    Args:
        table: The table that ``prepare`` wrote, with ``prepared.json`` beside it.
        out: The new folder; it appears whole.
        parts: Row number of the table (from 0) to its part; rows that are not in it are left out.
            None: as the table's own split column says.

    Returns:
        Number of rows by part, and warnings.

    Raises:
        UserError: The table is none that ``prepare`` wrote, or lacks what the authors' code reads.
    """
    description = _described(table)
    warnings = []
    if sha256(table) != description.get("sha256", {}).get(table.name):
        warnings.append(f"{table} was changed after it was prepared")
    images = (table.parent / str(description["images"])).resolve()
    rows = _Rows(table, description, parts)
    write = _write_dvm if description["prepared"] == dvm.NAME else _write_attributes
    with appearing(out, {"export": str(table.resolve())}, goes_on=False) as folder:
        counts = write(rows, images, folder)
    if empty := [part for part in PARTS if not counts[part]]:
        warnings.append(f"no row is in the part {some(empty)}")
    return counts, warnings


def _described(table: Path) -> dict[str, Any]:
    """What ``prepared.json`` beside the table says."""
    path = table.parent / DESCRIPTION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f": {table} is not a table that `python -m gaal_fast.data prepare` wrote: there is no"
            f" {DESCRIPTION} beside it",
            key="csv",
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f": {path} cannot be read: {error}", key="csv") from None
    known = (dvm.NAME, *_ATTRIBUTES)
    if not isinstance(content, dict) or content.get("prepared") not in known:
        raise UserError(f": {path} describes none of {', '.join(known)}", key="csv")
    if content.get("table") != table.name:
        raise UserError(f": {path} describes {content.get('table')}, not {table.name}", key="csv")
    return content


class _Rows:
    """The rows of the table with the part of each, read one at a time."""

    def __init__(
        self, table: Path, description: dict[str, Any], parts: Mapping[int, str] | None
    ) -> None:
        self.table, self.parts = table, parts
        self.name: str = description["prepared"]
        self.official: dict[str, Any] = description["official"]
        self.target: str = description["target"]
        needed = [IMAGE_COLUMN, self.target, *self.official["features"]]
        needed += [] if parts is not None else [SPLIT_COLUMN]
        with self._stream() as stream:
            header = next(csv.reader(stream), [])
        if lacking := [name for name in needed if name not in header]:
            raise UserError(f": {table} has no column {some(lacking)}", key="csv")
        self.place = {name: header.index(name) for name in needed}

    def _stream(self) -> Any:
        return self.table.open(encoding="utf-8", newline="")

    def __iter__(self) -> Iterator[tuple[str, str, str, list[str]]]:
        """(part, image, label, features), in the order of the table."""
        features = [self.place[name] for name in self.official["features"]]
        with self._stream() as stream:
            reader = csv.reader(stream)
            next(reader)
            for number, row in enumerate(reader):
                part = row[self.place[SPLIT_COLUMN]] if self.parts is None else None
                if self.parts is not None and (part := self.parts.get(number)) is None:
                    continue
                if part not in PARTS:
                    raise UserError(
                        f': row {number + 1} of {self.table} is in the part "{part}", not in'
                        f" {some(PARTS)}",
                        key="csv",
                    )
                image, label = row[self.place[IMAGE_COLUMN]], row[self.place[self.target]]
                yield part, image, label, [row[column] for column in features]


def _write_dvm(rows: _Rows, images: Path, out: Path) -> dict[str, int]:
    """Lists of paths and labels, tables without a header, and the sizes of the columns."""
    import torch

    folder = out / _DVM_FOLDER
    folder.mkdir(parents=True)
    paths: dict[str, list[str]] = {part: [] for part in PARTS}
    labels: dict[str, list[int]] = {part: [] for part in PARTS}
    with ExitStack() as stack:
        writers = {
            part: stack.enter_context(
                rows_into(folder / f"dvm_features_{part}_noOH_all_views_physical_jittered_50.csv")
            )
            for part in PARTS
        }
        for part, image, label, features in rows:
            paths[part].append(str(images / image))
            labels[part].append(int(label))
            writers[part].writerow(features)
    for part in PARTS:
        torch.save(paths[part], folder / f"{part}_paths_all_views.pt")
        torch.save(labels[part], folder / f"labels_model_all_{part}_all_views.pt")
    torch.save(rows.official["lengths"], folder / "tabular_lengths_all_views_physical.pt")
    return {part: len(labels[part]) for part in PARTS}


def _write_attributes(rows: _Rows, images: Path, out: Path) -> dict[str, int]:
    """``dataset_{train,valid,test}.csv``, and links to the images where the authors look."""
    folder, image_column, places = _ATTRIBUTES[rows.name]
    features = rows.official["features"]
    if rows.name == sun.NAME and len(features) != sun.ATTRIBUTES - 1:
        raise UserError(
            f": {rows.table} was prepared --without-complements, and the authors' code reads all"
            f" {sun.ATTRIBUTES} attributes",
            key="csv",
        )
    (out / folder).mkdir()
    counts = dict.fromkeys(PARTS, 0)
    with ExitStack() as stack:
        writers = {
            part: stack.enter_context(rows_into(out / folder / f"dataset_{name}.csv"))
            for part, name in _PART_FILES.items()
        }
        for writer in writers.values():
            writer.writerow([image_column, rows.target, *features])
        for part, image, label, cells in rows:
            writers[part].writerow([image, label, *cells])
            counts[part] += 1
    for place in places:
        (out / place).parent.mkdir(exist_ok=True)
        (out / place).symlink_to(images, target_is_directory=True)
    return counts
