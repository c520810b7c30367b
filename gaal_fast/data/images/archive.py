"""Images inside a ``.zip`` or ``.tar``, read without unpacking it.

A member is named by a path that goes on behind the archive, ``photos.zip/oak/001.png``, as if that
were a folder. The system calls such a path "not a directory", which is when it is looked for here:
ordinary files cost nothing more.
"""

from __future__ import annotations

import io
import os
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from gaal_fast.errors import UserError

# Larger members are no images: reading one would fill the memory.
LARGEST_MEMBER = 2**29


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
        name: As the archive has it.
        size: In bytes, unpacked.
    """

    name: str
    size: int


class Archive:
    """The files of one archive, by their paths with ``/`` between the parts.

    Members that are no plain files are left out, and those whose path would lead out of the archive
    (absolute, or with ``..``). Where all lie in one folder, they are found without it too.

    Args:
        path: The archive.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no archive that is read here; the message is the reason.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._read: Callable[[Member], bytes]
        if zipfile.is_zipfile(path):
            members = self._open_zip()
        elif _is_tar(path):
            members = self._open_tar()
        else:
            raise ValueError(_no_archive(path))
        self.members: dict[str, Member] = {}
        for member in members:
            if (name := _plain(member.name)) is not None:
                self.members[name] = member
        tops = {name.partition("/")[0] for name in self.members}
        if len(tops) == 1 and not tops & set(self.members):
            top = f"{tops.pop()}/"
            inner = {name.removeprefix(top): member for name, member in self.members.items()}
            self.members = inner | self.members
        self.folders: dict[str, tuple[set[str], set[str]]] = {"": (set(), set())}
        for name in self.members:
            self._enter(name)

    def _enter(self, name: str) -> None:
        """Note a member in its folder, and each new folder in the one above."""
        folder, _, tail = name.rpartition("/")
        known = folder in self.folders
        self.folders.setdefault(folder, (set(), set()))[0].add(tail)
        while folder and not known:
            above, _, tail = folder.rpartition("/")
            known = above in self.folders
            self.folders.setdefault(above, (set(), set()))[1].add(tail)
            folder = above

    def _open_zip(self) -> list[Member]:
        archive = zipfile.ZipFile(self.path)
        entries = {entry.filename: entry for entry in archive.infolist() if not entry.is_dir()}

        def read(member: Member) -> bytes:
            entry = entries[member.name]
            if entry.flag_bits & 1:
                raise OSError("it is encrypted in the archive")
            with archive.open(entry) as stream:
                return stream.read(LARGEST_MEMBER + 1)

        self._read = read
        return [Member(name, entry.file_size) for name, entry in entries.items()]

    def _open_tar(self) -> list[Member]:
        with tarfile.open(self.path, "r:") as archive:
            entries = {
                entry.name: (entry.offset_data, entry.size)
                for entry in archive
                if entry.isreg() and not entry.issparse()
            }
        stream = open(self.path, "rb")  # noqa: SIM115  It is read from for as long as this object lives
        lock = threading.Lock()

        def read(member: Member) -> bytes:
            start, size = entries[member.name]
            with lock:
                stream.seek(start)
                return stream.read(size)

        self._read = read
        return [Member(name, size) for name, (_, size) in entries.items()]

    def read(self, name: str) -> bytes:
        """The contents of a member.

        Raises:
            FileNotFoundError: There is none of that name.
            OSError: It is damaged, encrypted, or larger than ``LARGEST_MEMBER``.
        """
        if (member := self.members.get(name)) is None:
            raise FileNotFoundError(name)
        if member.size > LARGEST_MEMBER:
            raise OSError(f"it has {member.size} bytes in the archive, too many for an image")
        try:
            content = self._read(member)
        # zipfile raises NotImplementedError for a compression that it does not know.
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
            raise OSError(f"it is damaged in the archive: {error}") from None
        if len(content) != member.size:
            raise OSError("it is damaged in the archive: its length is wrong")
        return content


def open_archive(path: Path, option: str) -> Archive:
    """The archive that a flag names.

    Raises:
        UserError: Naming the flag, where it cannot be read.
    """
    try:
        return _archive(str(path), os.getpid())
    except ValueError as error:
        raise UserError(f"{option}: {error}") from None
    except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise UserError(f"{option}: cannot read {path}: {error}") from None


def open_file(path: str | os.PathLike[str]) -> io.BufferedReader | io.BytesIO:
    """A file, or a member of an archive, to be read.

    Raises:
        OSError: As ``open`` does.
    """
    try:
        return open(path, "rb")
    except NotADirectoryError:
        archive, name = _member(path)
        return io.BytesIO(archive.read(name))


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """As Pillow's, of a file or of a member of an archive."""
    try:
        return Image.open(path)
    except NotADirectoryError:
        image = Image.open(open_file(path))
        image.filename = os.fspath(path)  # it may be opened again
        return image


def stamp(path: str | os.PathLike[str]) -> tuple[int, int]:
    """When a file was changed, in nanoseconds, and its size in bytes; of a member the time is that
    of its archive.

    Raises:
        OSError: There is no such file.
    """
    try:
        status = os.stat(path)
        return status.st_mtime_ns, status.st_size
    except NotADirectoryError:
        archive, name = _member(path)
        if name not in archive.members:
            raise FileNotFoundError(path) from None
        return os.stat(archive.path).st_mtime_ns, archive.members[name].size


def _member(path: str | os.PathLike[str]) -> tuple[Archive, str]:
    """The archive that a path goes through, and the path in it."""
    whole = os.fspath(path)
    at = len(whole)
    while (at := whole.rfind(os.sep, 0, at)) > 0:
        if os.path.isfile(whole[:at]):
            try:
                archive = _archive(whole[:at], os.getpid())
            except (ValueError, zipfile.BadZipFile, tarfile.TarError):
                break
            return archive, inside(whole[at:])
    raise FileNotFoundError(whole)


# One of each process: a file that two read from at once has one position.
@lru_cache(maxsize=16)
def _archive(path: str, _process: int) -> Archive:
    return Archive(path)


def inside(path: str) -> str:
    """A path below an archive as its members are named: without empty parts and ``.``."""
    return "/".join(part for part in path.split(os.sep) if part not in ("", "."))


def _plain(name: str) -> str | None:
    """A member's path without ``./``; None where it leads out of the archive."""
    name = name if "/" in name else name.replace("\\", "/")
    if name.startswith("/") or "\0" in name or (len(name) > 1 and name[1] == ":"):
        return None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or parts[0] == "__MACOSX":
        return None
    return "/".join(parts)


def _is_tar(path: str) -> bool:
    try:
        with tarfile.open(path, "r:"):
            return True
    except tarfile.TarError:
        return False


def _no_archive(path: str) -> str:
    try:
        with tarfile.open(path):  # finds out how it is compressed
            return f"{path} is compressed as a whole, so that no image can be read alone: unpack it"
    except (tarfile.TarError, EOFError, zlib.error, OSError):
        return f"not a folder: {path}, nor a .zip or .tar of images"
