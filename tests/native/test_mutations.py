"""The list of changes that the tests have to notice stays in step with the sources."""

from __future__ import annotations

import pytest

from tests.native.changes import MUTATIONS, Mutation
from tests.native.mutations import SOURCES


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.file}-{m.what}")
def test_change_still_applies(mutation: Mutation) -> None:
    source = (SOURCES / mutation.file).read_text()
    assert mutation.applied(source) != source
