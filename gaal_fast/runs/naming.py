"""The one name that memory and disk spell in two ways.

The prediction from all modalities is ``fused`` in memory, in figures and on the screen. The files
of a run folder call it ``multi``, and keep that name so that what reads them goes on working. It is
translated here, as a file is written or read, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

FUSED = "fused"
_ON_DISK = "multi"


def stored(name: str) -> str:
    """A dotted name as the files spell it: ``val.accuracy.multi`` for ``val.accuracy.fused``."""
    return _with(name, FUSED, _ON_DISK)


def loaded(name: str) -> str:
    """A dotted name of a file as memory spells it."""
    return _with(name, _ON_DISK, FUSED)


def renamed(content: Any, rename: Callable[[str], str]) -> Any:
    """Nested dictionaries and lists with every key renamed.

    Args:
        content: What JSON can hold.
        rename: ``stored`` or ``loaded``.
    """
    if isinstance(content, Mapping):
        return {rename(str(key)): renamed(value, rename) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [renamed(value, rename) for value in content]
    return content


def stored_row(row: Mapping[str, object]) -> dict[str, object]:
    """A row of a CSV file: its columns, and the name in the column ``modality``, as files spell
    them.
    """
    return {
        stored(name): stored(str(value)) if name == "modality" else value
        for name, value in row.items()
    }


def _with(name: str, old: str, new: str) -> str:
    return ".".join(new if part == old else part for part in name.split("."))
