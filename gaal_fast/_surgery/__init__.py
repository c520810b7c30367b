"""The machinery of :mod:`gaal_fast.surgery`."""

from __future__ import annotations
