"""Finds the picture files that a column of a table names."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from gaal_fast.data.cells import missing_cells, to_texts
from gaal_fast.data.issues import DataIssue, some
from gaal_fast.errors import UserError

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".avif"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".tga", ".ico"}
)
_SAMPLE = 200
_SEARCH_LIMIT = 20_000


def has_image_suffix(name: str) -> bool:
    dot = name.rfind(".")
    return dot > 0 and name[dot:].lower() in IMAGE_SUFFIXES and name[dot - 1] not in "/\\"


class ImageFolder:
    """A folder of pictures (sub-folders included), read one directory listing at a time and only where a name points to.

    Raises UserError, naming the `option` that gave it, if `base` is no folder.
    """

    def __init__(self, base: Path | str, option: str = "--data.images"):
        self.base = Path(base).expanduser()
        if not self.base.is_dir():
            what = "not a folder" if self.base.exists() else "no such folder"
            raise UserError(f"{option}: {what}: {self.base}")
        self.option = option
        self._top = os.path.split(os.path.join(self.base, "name"))[0]
        self._listings: dict[str, tuple[frozenset[str], dict[str, list[str]]]] = {}

    def listing(self, directory: str) -> tuple[frozenset[str], dict[str, list[str]]]:
        """The file names in a directory, and its picture names by their stem."""
        if directory not in self._listings:
            try:
                with os.scandir(directory) as entries:
                    names = frozenset(entry.name for entry in entries if entry.is_file())
            except OSError:
                names = frozenset()
            stems: dict[str, list[str]] = {}
            for name in sorted(names):
                if has_image_suffix(name):
                    stems.setdefault(os.path.splitext(name)[0], []).append(name)
            self._listings[directory] = (names, stems)
        return self._listings[directory]

    def find(self, name: str) -> str | None:
        """The file that a cell names, or None. A name without a picture suffix also finds the file "name.<suffix>"."""
        found = self._find(name)
        return self._find(name.replace("\\", "/")) if found is None and "\\" in name else found

    def find_exact(self, name: str) -> bool:
        directory, tail = self._split(name)
        return tail in self.listing(directory)[0]

    def _split(self, name: str) -> tuple[str, str]:
        # A wide table has hundreds of thousands of cells to try, nearly all without a folder.
        if "/" not in name and "\\" not in name and ":" not in name:
            return self._top, name
        return os.path.split(os.path.join(self.base, name))

    def _find(self, name: str) -> str | None:
        directory, tail = self._split(name)
        names, stems = self.listing(directory)
        if tail in names:
            return os.path.join(directory, tail)
        if tail in stems and not has_image_suffix(tail):
            return os.path.join(directory, stems[tail][0])
        return None


def find_image_column(candidates: pd.DataFrame, folder: ImageFolder, source: object) -> str | None:
    """The one column whose texts name pictures: files that exist in `folder`, else file names with a picture suffix, else
    different names that exist once a suffix is added. None if there is none; raises UserError if there is more than one."""
    exact, suffixed, stems = [], [], []
    for name in candidates.columns:
        sample = _sample_texts(candidates[name])
        if not sample:
            continue
        share = 1 / len(sample)
        if share * sum(map(has_image_suffix, sample)) >= 0.5:
            suffixed.append(name)
        if share * sum(map(folder.find_exact, sample)) >= 0.5:
            exact.append(name)
        elif len(set(sample)) == len(sample) and _mostly_found(sample, folder):
            stems.append(name)
    for found in (exact, suffixed, stems):
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"{source}: several columns name pictures ({some(found)}); choose with --data.image-column")
    return None


def _sample_texts(series: pd.Series) -> list[str]:
    """At most about ``_SAMPLE`` texts of a column, evenly spaced among those that are there."""
    if len(series) <= _SAMPLE:
        return [text for text in to_texts(series) if text is not None]
    present = np.flatnonzero(~missing_cells(series))
    if not present.size:
        return []
    return to_texts(series.iloc[present[np.unique(np.linspace(0, present.size - 1, _SAMPLE).astype(int))]]).tolist()


def _mostly_found(names: Sequence[str], folder: ImageFolder) -> bool:
    """Whether nine in ten names have a file; looks no further once that cannot be."""
    absent = 0
    for name in names:
        absent += folder.find(name) is None
        if absent > 0.1 * len(names):
            return False
    return True


def resolve_images(
    names: Sequence[str | None], folder: ImageFolder, column: str, *, empty_ok: bool = False
) -> tuple[list[str | None], list[DataIssue]]:
    """Path of each row's picture, None where there is none, and an issue for each of those rows.

    Raises UserError if not one picture exists, with the likely reason (`empty_ok`: unless the whole column is empty).
    """
    paths = [None if name is None else folder.find(name) for name in names]
    issues = [
        DataIssue(row, column, name or "", "no picture named" if name is None else "no such file")
        for row, (name, path) in enumerate(zip(names, paths, strict=True))
        if path is None
    ]
    named = [name for name in names if name is not None]
    if not named and not empty_ok:
        raise UserError(f'the picture column "{column}" is empty')
    if named and len(issues) == len(paths):
        raise UserError(
            f'none of the {len(named)} pictures named in column "{column}" exists in {folder.base} '
            f'(first: "{named[0]}"){_hint(named, folder)}'
        )
    return paths, issues


def _hint(named: Sequence[str], folder: ImageFolder) -> str:
    sample = [named[i] for i in np.unique(np.linspace(0, len(named) - 1, 50).astype(int))]
    for name in sample:
        directory, tail = os.path.split(os.path.join(folder.base, name))
        names, stems = folder.listing(directory)
        stem = os.path.splitext(tail)[0]
        if stem in stems:
            return f'; the extension differs: the folder has "{stems[stem][0]}"'
        same_letters = [other for other in names if other.casefold() == tail.casefold()]
        if same_letters:
            return f'; upper and lower case differ: the folder has "{same_letters[0]}"'
    elsewhere = _search(sample, folder.base)
    if elsewhere is not None:
        return f"; the folder differs: they are under {elsewhere} ({folder.option})"
    if not any(has_image_suffix(name) for name in folder.listing(str(folder.base))[0]):
        return "; the folder holds no pictures"
    return ""


def _search(sample: Sequence[str], base: Path) -> str | None:
    """The folder under which most names of the sample exist, looked for below and beside the folder."""
    wanted = {PurePosixPath(name.replace("\\", "/")).name: name.replace("\\", "/") for name in sample}
    votes: Counter[str] = Counter()
    for path in _walk(base):
        name = wanted.get(os.path.basename(path))
        if name is not None:
            # A name with folders in it is relative to wherever those begin, which may be above the base.
            root = path[: -len(name)] if path.endswith("/" + name) else os.path.dirname(path)
            votes[os.path.normpath(root)] += 1
    return votes.most_common(1)[0][0] if votes else None


def _walk(base: Path) -> Iterator[str]:
    """Files below the folder, then below its siblings; a bounded number, so that a home directory is not searched whole."""
    budget = _SEARCH_LIMIT
    parent = base.resolve().parent
    try:
        siblings = sorted(entry.path for entry in os.scandir(parent) if entry.is_dir() and entry.path != str(base.resolve()))
    except OSError:
        siblings = []
    for root in (str(base), *siblings):
        for directory, folders, files in os.walk(root):
            folders.sort()
            for name in files:
                budget -= 1
                if budget < 0:
                    return
                yield os.path.join(directory, name).replace(os.sep, "/")
