"""The list of changes that the checks have to notice stays in step with the sources, and the checks pass on these."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.native_cuda import build, mutations
from tests.native_cuda.mutations import MUTATIONS

CHECKS = [
    mutations.special_rows,
    mutations.ties,
    mutations.low_logits,
    mutations.head_gradient,
    mutations.illegal_labels,
    mutations.projections,
    mutations.head_step("launches", sample_space=False),
    mutations.head_step("launches", sample_space=True),
    mutations.confident_rows,
    mutations.tied_rows,
    mutations.confident_gradient,
    mutations.features_gradient,
    mutations.great_weight,
    mutations.tiny_guides,
    mutations.numbers_on_the_device,
    mutations.label_of_one_row,
    *(
        mutations.confident_head(path, sample)
        for path in ("launches", "composed")
        for sample in (False, True)
    ),
    *(
        mutations.saturated(path, sample)
        for path, sample in (("launches", False), ("composed", True))
    ),
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__qualname__.partition(".")[0])
def test_the_checks_pass_on_the_kernels_as_they_are(
    device: build.Emulated, check: Callable[[], None]
) -> None:
    check()


@pytest.mark.parametrize("name", list(MUTATIONS))
def test_change_still_applies(name: str) -> None:
    source = (build.KERNELS / MUTATIONS[name].file).read_text()
    assert MUTATIONS[name].applied(source) != source
