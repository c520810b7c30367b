"""A folder of images: which file a name means, as it is written or read in another way."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from gaal_fast.data.images.archive import Archive, inside, open_archive
from gaal_fast.data.images.names import (
    UNREAD_SUFFIXES,
    has_image_suffix,
    other_readings,
    path_ends,
    what_else,
)
from gaal_fast.errors import UserError

SUFFIX_ADDED = "with an extension added"
BY_END = "by the end of their path"
_SUFFIX_CASE, _ZEROS = "with the extension in other case", "with other leading zeros"


class Listing:
    """The files and folders of one directory, by what a name that is not quite theirs has in common
    with theirs.

    Args:
        directory: Its path.
        archive: The archive that it is in, and its path there; None for one on the disk.
    """

    def __init__(self, directory: str, archive: tuple[Archive, str] | None = None):
        self.names: frozenset[str] = frozenset()
        self.folders: frozenset[str] = frozenset()
        if archive is not None:
            names, folders = archive[0].folders.get(archive[1], ((), ()))
            self.names, self.folders = frozenset(names), frozenset(folders)
            return
        try:
            with os.scandir(directory) as entries:
                files = {
                    entry.name: entry.is_file()
                    for entry in entries
                    if entry.is_file() or entry.is_dir()
                }
        except (OSError, ValueError):  # ValueError: a zero byte in the name
            return
        self.names = frozenset(name for name, is_file in files.items() if is_file)
        self.folders = frozenset(name for name, is_file in files.items() if not is_file)

    @cached_property
    def stems(self) -> dict[str, list[str]]:
        """Image names by their stem."""
        return self._by(lambda stem, suffix: [stem])

    @cached_property
    def lower_suffixes(self) -> dict[str, list[str]]:
        """Image names by themselves with a lower-case suffix."""
        return self._by(lambda stem, suffix: [stem + suffix])

    @cached_property
    def numbers(self) -> dict[str, list[str]]:
        """Image names that are numbers by that number, with and without the lower-case suffix."""
        return self._by(
            lambda stem, suffix: (
                [_no_zeros(stem), _no_zeros(stem) + suffix] if _is_number(stem) else []
            )
        )

    @cached_property
    def folded(self) -> dict[str, str]:
        return {name.casefold(): name for name in sorted(self.names)}

    def _by(self, keys: Callable[[str, str], list[str]]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in sorted(self.names):
            stem, suffix = os.path.splitext(name)
            if has_image_suffix(name):
                for key in keys(stem, suffix.lower()):
                    found.setdefault(key, []).append(name)
        return found

    def nearly(self, name: str) -> tuple[str, list[str]]:
        """What has to change in a name that is not here so that it is, and the files that it then
        may mean."""
        if not self.names:
            return "", []
        stem, suffix = os.path.splitext(name)
        with_suffix = has_image_suffix(name)
        if with_suffix and (found := self.lower_suffixes.get(stem + suffix.lower())):
            return _SUFFIX_CASE, found
        if not with_suffix and (found := self.stems.get(name)):
            return SUFFIX_ADDED, found
        number = stem if with_suffix else name
        if _is_number(number) and (
            found := self.numbers.get(_no_zeros(number) + (suffix.lower() if with_suffix else ""))
        ):
            return (
                _ZEROS if with_suffix else f"{SUFFIX_ADDED} and {_ZEROS.removeprefix('with ')}",
                found,
            )
        return "", []


class Match(NamedTuple):
    """What a name means.

    Attributes:
        path: The file, None if there is none or more than one.
        how: What had to change, "" if the name is as written.
        others: The names among which the choice is open.
    """

    path: str | None
    how: str = ""
    others: tuple[str, ...] = ()


class ImageFolder:
    """A folder of images, sub-folders included, or a ``.zip`` or ``.tar`` that takes its place.

    It is read one directory listing at a time and only where a name points to.

    Args:
        base: The folder or the archive.
        option: The flag that names it, for messages.

    Raises:
        UserError: ``base`` is neither.
    """

    def __init__(self, base: Path | str, option: str = "--data.images"):
        self.base = Path(base).expanduser()
        if not self.base.exists():
            raise UserError(f"{option}: no such folder: {self.base}")
        self._archive = None if self.base.is_dir() else open_archive(self.base, option)
        self.option = option
        self._top = os.path.split(os.path.join(self.base, "name"))[0]
        self._listings: dict[str, Listing] = {}

    def listing(self, directory: str) -> Listing:
        if directory not in self._listings:
            self._listings[directory] = Listing(directory, self._inside(directory))
        return self._listings[directory]

    def _inside(self, directory: str) -> tuple[Archive, str] | None:
        """The archive with the path of a directory in it, None for one that is not in it."""
        if self._archive is None or not f"{directory}{os.sep}".startswith(f"{self.base}{os.sep}"):
            return None
        return self._archive, inside(directory[len(str(self.base)) :])

    def find_exact(self, name: str) -> bool:
        directory, tail = self.split(name)
        return tail in self.listing(directory).names

    def look_up(self, name: str) -> Match:
        """The file of a name as it is written, or with another suffix or zeros."""
        directory, tail = self.split(name)
        listing = self.listing(directory)
        if tail in listing.names:
            return Match(os.path.join(directory, tail))
        how, found = listing.nearly(tail)
        if len(found) > 1:
            found = [name for name in found if not _is_unread(name)] or found
        if len(found) == 1:
            return Match(os.path.join(directory, found[0]), how)
        return Match(None, how, tuple(found))

    def match(self, name: str) -> Match:
        """The file that a cell names. A name that is no file as written is read in other ways,
        until one of them is a file (see ``other_readings``); an absolute path that is not here, by
        its longest end that is. A choice is never made."""
        found = self.look_up(name)
        if found.path is not None or found.others or what_else(name) is not None:
            return found
        for how, text in other_readings(name):
            found = self.look_up(text)
            if found.path is not None or found.others:
                return found._replace(how=" and ".join(filter(None, (how, found.how))))
        for parts in path_ends(name):
            # Most of these folders do not exist: asked for one by one they would be a listing each.
            if len(parts) > 1 and parts[0] not in self.listing(str(self.base)).folders:
                continue
            found = self.look_up(os.path.join(*parts))
            if found.path is not None or found.others:
                return found._replace(how=" and ".join(filter(None, (BY_END, found.how))))
        return Match(None)

    def split(self, name: str) -> tuple[str, str]:
        """The directory that a name points to, and the name in it."""
        # A wide table has hundreds of thousands of cells to try, nearly all without a folder.
        if "/" not in name and "\\" not in name and ":" not in name:
            return self._top, name
        return os.path.split(os.path.join(self.base, name))


def _is_unread(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in UNREAD_SUFFIXES


def _is_number(stem: str) -> bool:
    return stem.isascii() and stem.isdigit()


def _no_zeros(number: str) -> str:
    return number.lstrip("0") or "0"
