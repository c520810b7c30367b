"""Tabular-image fusion with Gradient-Aligned Alternating Learning (arXiv 2604.01579).

``gaal_fast.ops`` holds the fused operations, ``gaal_fast.surgery`` the gradient surgery for other
trainers; both load on first use, so that importing the package is quick and touches no GPU.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

try:
    __version__ = version("gaal-fast")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "unknown"

__all__ = ["__version__", "ops", "surgery"]


def __getattr__(name: str) -> ModuleType:
    if name in ("ops", "surgery"):
        return importlib.import_module(f"gaal_fast.{name}")
    raise AttributeError(f"module 'gaal_fast' has no attribute {name!r}")
