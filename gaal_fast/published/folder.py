"""A folder that appears whole: written beside its place, where a killed run goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gaal_fast.errors import UserError
from gaal_fast.files import remove_partial, write_text

_MARKER, _LOCK = ".partial.json", ".lock"
_BLOCK = 2**20


def check_new(out: Path) -> None:
    """Refuse a place where something is already.

    Raises:
        UserError: With the key ``out``.
    """
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f": {out} exists and is not overwritten", key="out")
    parent = next(path for path in out.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f": cannot write into {parent}", key="out")


@contextmanager
def appearing(out: Path, what: Mapping[str, Any], *, goes_on: bool = True) -> Iterator[Path]:
    """Yield a folder beside ``out`` that takes its place when the block ends.

    Ctrl-C, a kill or a full disk leaves the unfinished folder, ``.NAME.partial``, and the next call
    with the same ``what`` goes on in it; one with another begins again. A ``UserError`` removes it.

    Args:
        out: Where nothing, or an empty folder, is.
        what: What is written, as JSON holds it.
        goes_on: Whether the block can do with what a killed call left; else it begins again.

    Raises:
        UserError: With the key ``out``: something is in the way, or another process writes there.
    """
    check_new(out)
    work = out.absolute().with_name(f".{out.absolute().name}.partial")
    work.mkdir(parents=True, exist_ok=True)
    lock = _locked(work)
    try:
        check_new(out)  # another process may have finished it meanwhile
        _begin_or_go_on(work, what, goes_on)
        try:
            yield work
        except UserError:
            shutil.rmtree(work, ignore_errors=True)
            raise
        os.rename(work, out)
        # Not before: without its marker the folder would be foreign to the next call.
        for name in (_MARKER, _LOCK):
            (out / name).unlink(missing_ok=True)
    finally:
        os.close(lock)


def _locked(work: Path) -> int:
    """A descriptor that holds the folder for this process, also against its own threads."""
    descriptor = os.open(work / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        import fcntl  # not on Windows, where two processes at once are not noticed

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(f": another process is writing {work}", key="out") from None
    except (ImportError, OSError):  # a system, or a file system, without locks
        pass
    return descriptor


def _begin_or_go_on(work: Path, what: Mapping[str, Any], goes_on: bool) -> None:
    text = json.dumps(what, sort_keys=True)
    marker = work / _MARKER
    known = marker.read_text(encoding="utf-8") if marker.is_file() else None
    others = [path for path in work.iterdir() if path.name != _LOCK]
    if known is None and any(not path.name.endswith(".part") for path in others):
        (work / _LOCK).unlink()
        raise UserError(f": {work} is in the way and not a folder of this command", key="out")
    if known != text or not goes_on:
        for path in others:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    remove_partial(work)
    write_text(marker, text)


def bring(source: Path, target: Path) -> bool:
    """Make ``target`` the same file as ``source``, or a copy of it where links cannot be.

    Args:
        source: A file, or a link to one.
        target: In a folder that may be missing. What is there already and is the same file, or has
            its size and time, is left.

    Returns:
        Whether there is such a ``source``.
    """
    source = Path(os.path.realpath(source))
    if not source.is_file():
        return False
    if target.is_file() and _same(source, target):
        return True
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        target.unlink()
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        part = target.with_name(f".{target.name}.part")
        shutil.copy2(source, part)
        os.replace(part, target)
    return True


def _same(source: Path, target: Path) -> bool:
    one, other = source.stat(), target.stat()
    if (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino):
        return True
    # A copy keeps the time of its source, to the precision of the file system.
    return one.st_size == other.st_size and abs(one.st_mtime - other.st_mtime) < 2


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
