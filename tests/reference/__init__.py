"""What tests and benchmarks compare with: the float64 oracle and the authors' released step."""

from __future__ import annotations
