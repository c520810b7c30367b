"""The list of changes that the checks have to notice stays in step with the sources, and the checks
pass on these.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.native_cuda import build, checks
from tests.native_cuda.changes import MUTATIONS

CHECKS = [
    checks.special_rows,
    checks.ties,
    checks.low_logits,
    checks.head_gradient,
    checks.illegal_labels,
    checks.projections,
    checks.head_step("launches", sample_space=False),
    checks.head_step("launches", sample_space=True),
    checks.confident_rows,
    checks.tied_rows,
    checks.confident_gradient,
    checks.features_gradient,
    checks.great_weight,
    checks.tiny_guides,
    checks.numbers_on_the_device,
    checks.label_of_one_row,
    *(
        checks.confident_head(path, sample)
        for path in ("launches", "composed")
        for sample in (False, True)
    ),
    *(checks.saturated(path, sample) for path, sample in (("launches", False), ("composed", True))),
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__qualname__.partition(".")[0])
def test_the_checks_pass_on_the_kernels_as_they_are(
    device: build.Emulated, check: Callable[[], None]
) -> None:
    check()


@pytest.mark.parametrize("name", list(MUTATIONS))
def test_change_still_applies(name: str) -> None:
    source = (build.CSRC / MUTATIONS[name].file).read_text()
    assert MUTATIONS[name].applied(source) != source
