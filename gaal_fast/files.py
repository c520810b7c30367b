"""New contents for a file, whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# Every unfinished file has this form, so that what a killed process left can be found.
PARTIAL = ".*.part"


class WriteError(OSError):
    """A file could not be written; ``filename`` is the one that was asked for."""


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write ``path`` through a stream that takes its place only when it is complete and on the
    disk.

    An error, or Ctrl-C, inside the block leaves ``path`` as it was and no other file behind.

    Args:
        path: The file to write, in a folder that exists. A file that is there is replaced.

    Yields:
        A binary stream, open for writing and reading, with seek.

    Raises:
        WriteError: Where the disk is full or cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}-{os.urandom(6).hex()}.part")
    try:
        with temporary.open("x+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        # A failing write carries no name, and nobody knows the temporary one.
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            raise WriteError(error.errno, error.strerror or str(error), str(path)) from error
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Give a file new contents as ``replacing`` does."""
    with replacing(path) as stream:
        stream.write(content)


def write_text(path: Path, text: str) -> None:
    """Give a file new contents in UTF-8 as ``replacing`` does."""
    write_bytes(path, text.encode("utf-8"))


def remove_partial(folder: Path) -> None:
    """Remove the unfinished files that a killed process left in ``folder`` itself."""
    for path in Path(folder).glob(PARTIAL):
        with contextlib.suppress(OSError):
            path.unlink()
