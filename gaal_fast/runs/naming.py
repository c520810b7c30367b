"""The name of the prediction from all modalities, and how the files of earlier runs spell it.

It is ``fused`` everywhere. Files of earlier runs say ``multi``; they can still be opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FUSED = "fused"
_FORMER = "multi"


def loaded(name: str) -> str:
    """A dotted name of a file as memory spells it: ``val.accuracy.fused``."""
    return ".".join(FUSED if part == _FORMER else part for part in name.split("."))


def with_names(content: Any) -> Any:
    """What a JSON file holds, with every key as memory spells it."""
    if isinstance(content, Mapping):
        return {loaded(str(key)): with_names(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [with_names(value) for value in content]
    return content
