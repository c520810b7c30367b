"""The lists of changes that the tests have to notice stay in step with the sources, and the
machinery that applies them works.
"""

from __future__ import annotations

import ast

import pytest

pytest.importorskip("triton")

from tests.triton.mutations import MUTATIONS
from tests.triton.mutations.change import ARITHMETIC, Mutation
from tests.triton.mutations.runner import KERNELS, check


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.file}-{m.what}")
def test_change_still_applies(mutation: Mutation) -> None:
    source = (KERNELS / mutation.file).read_text()
    changed = mutation.applied(source)
    assert changed != source
    ast.parse(changed)


def test_a_change_is_noticed_and_no_change_is_not() -> None:
    """One of the fastest changes, applied; and the same tests on the sources as they are."""
    mutation = next(m for m in MUTATIONS if m.what == "negative v")
    assert check(mutation, ARITHMETIC, "coefficient") == (True, "test_coefficient")
    assert check(None, ARITHMETIC, "coefficient") == (False, "")
