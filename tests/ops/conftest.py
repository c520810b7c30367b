"""The fixture that runs one suite over every backend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

from gaal_fast.ops import _dispatch as ops_backends
from tests.ops.helpers import INTERPRETED, Backend

# The same examples on every machine and every run: a failure in CI is a failure at home.
settings.register_profile(
    "ops",
    max_examples=6 if INTERPRETED else 25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("ops")

_CASES = [
    pytest.param(Backend("torch", "cpu"), id="torch"),
    pytest.param(Backend("native", "cpu"), id="native"),
]
if torch.cuda.is_available():
    _CASES += [
        pytest.param(Backend(name, "cuda"), id=f"{name}-cuda", marks=pytest.mark.gpu)
        for name in ops_backends.BACKENDS
    ]
else:  # one line in the report stands for the three
    _CASES += [pytest.param(Backend("torch", "cuda"), id="cuda", marks=pytest.mark.gpu)]
if INTERPRETED:
    _CASES = [pytest.param(Backend("triton", "cpu", most_elements=40_000), id="triton-interpreted")]

# The same, and the native kernels in the instruction sets that this machine has beside the widest.
_NARROW_CASES = [
    pytest.param(Backend("native", "cpu", isa=isa), id=f"native-{isa}")
    for isa in ("portable", "avx2")
]
CASES_OF_EVERY_SET = [*_CASES, *([] if INTERPRETED else _NARROW_CASES)]


@pytest.fixture(params=_CASES)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The backend under test, in force while the test runs. A backend that this machine lacks is
    skipped with its reason.
    """
    case: Backend = request.param
    with case.in_force():
        yield case
