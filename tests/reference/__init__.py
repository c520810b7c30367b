"""What tests and benchmarks both compare with: the float64 oracle and the authors' released step."""

from __future__ import annotations
