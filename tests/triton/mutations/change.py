"""A change to the kernels, and the suites that have to notice it."""

from __future__ import annotations

from dataclasses import dataclass

from tests.mutating import Replacement

_FOLDER = "tests/triton/test_"
AOT = f"{_FOLDER}aot.py"
ARITHMETIC = f"{_FOLDER}arithmetic.py"
CONFIDENT = f"{_FOLDER}confident.py"
CONFIDENT_STEP = f"{_FOLDER}confident_step.py"
HEAD = f"{_FOLDER}linear_ce_grad.py"
LAUNCHES = f"{_FOLDER}launches.py"
MEMORY = f"{_FOLDER}memory.py"
PROJECTION = f"{_FOLDER}project.py"
ROWS = f"{_FOLDER}softmax_stats.py"
STEP = f"{_FOLDER}guided.py"
OUTSIDE = "outside or gradients_only"


@dataclass(frozen=True)
class Mutation(Replacement):
    """One change; ``tests`` (as pytest's ``-k``) of ``suite`` have to notice."""

    suite: str
    tests: str
