"""Which files of a user's own methods may run when a run folder is opened.

A run folder never makes code run by itself: it may come from somebody else. So nobody looks for the
file that its configuration names; who opens the run names the file, and its digest must be the one
that was noted in training.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from gaal_fast.config.methods import digest
from gaal_fast.errors import UserError


def digests(files: Sequence[Path]) -> dict[str, dict[str, str]]:
    """The entry of ``environment.json`` about plug-in files; none without any.

    Args:
        files: as they were given.
    """
    found = {str(file): digest(file.expanduser()) for file in files}
    return {"plugins": found} if found else {}


def check_plugins(
    run: Path, trained: object, named: Sequence[Path], known: Collection[str]
) -> None:
    """Refuse plug-in files that are not those of a run.

    Args:
        run: The run folder.
        trained: What its ``config.yaml`` holds under ``plugin``.
        named: The files that its user lets run.
        known: The sha256 of the files that it was trained with.

    Raises:
        UserError: With the key ``plugin``.
    """
    files = _names(trained)
    if not files and named:
        raise UserError(f": {run} was trained without a plug-in", key="plugin")
    if files and not named:
        raise UserError(
            f" {','.join(files)} is needed: {run} was trained with a method of this file, which"
            " only runs where you name it",
            key="plugin",
        )
    for file in named:
        if not file.expanduser().is_file():
            raise UserError(f": no such file: {file}", key="plugin")
        if digest(file.expanduser()) not in known:
            raise UserError(
                f": {file} is not what {run} was trained with, or has changed since; name the"
                " former file or train anew",
                key="plugin",
            )


def _names(value: object) -> list[str]:
    """The files of a stored key ``plugin``, whose form nobody has checked yet."""
    if isinstance(value, str):
        return [value] if value else []
    return [str(name) for name in value] if isinstance(value, list) else []
