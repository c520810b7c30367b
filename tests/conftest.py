"""Rules for the whole suite: what a machine without a GPU skips, and why."""

from __future__ import annotations

import os

# Two workers on two cores: more threads than cores would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import setuptools  # noqa: F401  On Python 3.11 it must come before anything that imports the standard library's distutils
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    no_gpu = pytest.mark.skip(reason="needs an NVIDIA GPU; torch sees none here")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(no_gpu)
