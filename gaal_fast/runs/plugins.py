"""What a run folder notes of the plug-in files that its method comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def check_plugins(run: Path, start: Path | None, environment: Mapping[str, object]) -> None:
    """Refuse to go on with other plug-in files than a run was trained with.

    Args:
        run: the run folder.
        start: the directory that training was started in.
        environment: what ``environment.json`` holds.

    Raises:
        UserError: A file is gone or has changed.
    """
    plugins = environment.get("plugins")
    for name, former in plugins.items() if isinstance(plugins, Mapping) else ():
        file = (start or Path()) / Path(name).expanduser()
        if not file.is_file():
            raise UserError(f"{run} was trained with the plug-in {file}, which is gone")
        if digest(file) != former:
            raise UserError(
                f"{run} was trained with the plug-in {file}, which has changed since; put the"
                " former file back or train anew"
            )
