"""Two kinds of process run the tests of the Triton kernels.

With ``TRITON_INTERPRET=1`` set before Triton is imported, every kernel of the process runs in
Triton's interpreter on the CPU: the files below are for such a process only. Without it kernels are
compiled: the other files, one of which starts the first kind of process, so that a plain ``pytest``
runs them all.
"""

from __future__ import annotations

import os

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
INTERPRETED_FILES = (
    "test_arithmetic.py",
    "test_confident.py",
    "test_confident_step.py",
    "test_guided.py",
    "test_launches.py",
    "test_linear_ce_grad.py",
    "test_memory.py",
    "test_project.py",
    "test_softmax_stats.py",
)

collect_ignore = (
    ["test_aot.py", "test_interpreter.py", "test_mutations.py"]
    if INTERPRETED
    else list(INTERPRETED_FILES)
)


@pytest.fixture(params=["own-gram", "own-direct", "blas-gram", "blas-direct"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each form of launches 1 and 2, whatever the sizes would choose."""
    from gaal_fast.kernels.guided import plan

    own, gram = request.param.split("-")
    monkeypatch.setattr(plan, "own_logits", lambda *_: own == "own")
    monkeypatch.setattr(plan, "use_gram", lambda B, k, *_: gram == "gram" and B > 0 and k > 0)
    return request.param
