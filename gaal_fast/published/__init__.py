"""DVM, SUN Attribute and CelebA as the paper uses them (Table I): from what the official downloads
unpack to, to a table with images, and back to the files that the authors' code reads.

It is a product of its own: nothing here imports another part of ``gaal_fast`` but its errors and
files. ``README.md`` beside this file names every choice and deviation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gaal_fast.errors import UserError
from gaal_fast.published import celeba, dvm, sun
from gaal_fast.published.folder import check_new
from gaal_fast.published.official import export_official
from gaal_fast.published.sun import Votes
from gaal_fast.published.writing import write

NAMES = (dvm.NAME, sun.NAME, celeba.NAME)

__all__ = ["NAMES", "Votes", "export_official", "prepare"]


def prepare(
    name: str,
    raw: Path,
    out: Path,
    *,
    ids: Path | None = None,
    votes: Votes = "majority",
    complements: bool = True,
) -> dict[str, Any]:
    """Turn an official download into a table, images and ``prepared.json`` in a new folder.

    Args:
        name: One of ``NAMES``.
        raw: Folder of what the downloads unpack to.
        out: The new folder. It appears whole; a call that was killed goes on.
        ids: DVM only: see ``dvm.read``.
        votes: SUN only: see ``sun.read``.
        complements: SUN only: see ``sun.read``.

    Returns:
        What ``prepared.json`` holds.

    Raises:
        UserError: A file of the download is missing or damaged, or ``out`` is there already.
    """
    if not raw.is_dir():
        raise UserError(f": no such folder: {raw}", key="raw")
    check_new(out)
    if name == dvm.NAME:
        data = dvm.read(raw, ids)
    elif name == sun.NAME:
        data = sun.read(raw, votes=votes, complements=complements)
    else:
        data = celeba.read(raw)
    return write(data, raw, out)
