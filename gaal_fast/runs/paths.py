"""Where runs and their data lie."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path


def path_from(start: Path, path: Path) -> Path:
    """A path as seen from ``start``, where something is there."""
    place = start / path.expanduser()
    return place if place.exists() else path


def default_path(name: str, method: str) -> Path:
    """``runs/NAME-METHOD-TIME``, made unique when two runs start in one second."""
    stem = Path("runs") / f"{name}-{method}-{datetime.now():%Y%m%d-%H%M%S}"
    path, count = stem, 1
    while path.exists():
        count += 1
        path = stem.with_name(f"{stem.name}-{count}")
    return path
