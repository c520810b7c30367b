"""The gate that a result must pass before its time is reported: close to float64, with a tolerance
that plain torch sets.

An error may be twice what plain torch makes in the same dtype, plus a few units of rounding; no
relative tolerance is chosen by hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from bench.problems import Problem, Truth

# Rounding of the result itself, in units of the last place.
_ULPS = 4


class Gate:
    """Judges results of one problem; ``plain`` maps a result to the error of plain torch for it
    (:func:`errors`).
    """

    def __init__(self, problem: Problem, plain: Mapping[str, float]) -> None:
        self.problem, self.plain = problem, dict(plain)

    def allowed(self, name: str, dtype: torch.dtype) -> float:
        """Largest error of the result called ``name`` that is let pass."""
        shape = self.problem.shape
        # Sums are kept in float32 and have up to this many terms; their rounding grows like a
        # random walk.
        terms = max(shape.rows, shape.classes, shape.width)
        # What goes through a matrix product is rounded to the inputs' dtype on its way, whatever
        # the result's dtype is.
        ulp = torch.finfo(self.problem.dtype if self.problem.flops else dtype).eps
        return (
            2 * self.plain.get(name, 0.0)
            + _ULPS * ulp
            + math.sqrt(terms) * torch.finfo(torch.float32).eps
        )

    def verdict(self, truth: Truth, results: Mapping[str, Tensor]) -> str | None:
        """What is wrong with ``results``, or None. Results that an op must have are there."""
        missing = [name for name in self.problem.results if name not in results]
        if missing:
            return f"no {missing[0]}"
        return self.partial_verdict(truth, results)

    def partial_verdict(self, truth: Truth, results: Mapping[str, Tensor]) -> str | None:
        """As :meth:`verdict` for something that computes only some of the op's results."""
        if "index" in results:
            wrong = truth.selection_error(results["index"])
            if wrong:
                return wrong
        for name, error in errors(truth, results).items():
            allowed = self.allowed(name, results[name].dtype)
            if not error <= allowed:
                return f"{name} is off by {error:.1e}, {allowed:.1e} is allowed"
        return None


def errors(truth: Truth, results: Mapping[str, Tensor]) -> dict[str, float]:
    """Largest deviation of each result from float64, in units of the result's natural scale; inf
    where the shape is wrong or NaN stands.
    """
    expected = truth.expected(results.get("index"))
    found = {}
    for name, result in results.items():
        if name not in expected:
            continue
        value, scale = expected[name].value, expected[name].scale
        if result.shape != value.shape:
            found[name] = math.inf
            continue
        error = float((result.double() - value).abs().max()) / scale if value.numel() else 0.0
        found[name] = error if math.isfinite(error) else math.inf
    return found
