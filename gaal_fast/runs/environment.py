"""Versions and hardware that a number depends on."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypedDict

from gaal_fast import __version__

PACKAGES = (
    "torch",
    "torchvision",
    "triton",
    "numpy",
    "pandas",
    "scikit-learn",
    "pillow",
    "skops",
    "timm",
)


class Environment(TypedDict):
    """What ``environment.json`` says of the machine; None where something is not there."""

    gaal_fast: str
    python: str
    platform: str
    packages: dict[str, str | None]
    cpu: str
    cpu_threads: int
    gpu: str | None
    cuda: str | None


def environment() -> Environment:
    """Versions and hardware of this process."""
    import torch

    return {
        "gaal_fast": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": versions(PACKAGES),
        "cpu": cpu_name(),
        "cpu_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda": torch.version.cuda,
    }


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """The installed version of each package, None where it is not there."""
    return {name: _version(name) for name in packages}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's model, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
