"""The items of the demo set follow the model that is written down."""

from __future__ import annotations

import numpy as np
import pytest

from gaal_fast.demo import catalogue


@pytest.fixture(scope="module")
def sample() -> catalogue.Items:
    return catalogue.sample_items(20_000, seed=3)


def test_frequencies_are_those_of_the_model(sample):
    """Class shares, missing rates, looks and materials within four standard errors of what the
    kinds say.
    """

    def near(hits: np.ndarray, p: float) -> bool:
        return abs(hits.mean() - p) <= 4 * np.sqrt(p * (1 - p) / len(hits))

    assert sum(kind.prior for kind in catalogue.SPECIFICATIONS) == pytest.approx(1.0)
    for y, kind in enumerate(catalogue.SPECIFICATIONS):
        own = sample.kind == y
        assert near(own, kind.prior)
        assert near(~sample.written[own, 1], kind.weight_missing)
        assert near(sample.look[own] % 2 == 1, kind.part_shown)
        assert (sample.look[own] // 2 == catalogue.BODIES.index(kind.body)).all()
        for index, weight in enumerate(kind.decoration):
            assert near(sample.decoration[own] == index, weight / sum(kind.decoration))
        held = own & (sample.material >= 0)
        for index, weight in enumerate(kind.material):
            assert near(sample.material[held] == index, weight / sum(kind.material))
    for hits, p in (
        (~sample.written[:, 0], 0.05),
        (~sample.written[:, 2], 0.03),
        (~sample.written[:, 3], 0.10),
        (sample.material < 0, 0.07),
        (sample.maker < 0, 0.15),
        (~sample.glaze_written, 0.02),
    ):
        assert near(hits, p)


def test_full_set_is_mildly_imbalanced_with_many_rare_makers():
    items = catalogue.sample_items()
    classes = np.bincount(items.kind, minlength=len(catalogue.KINDS))
    assert (
        len(items) == catalogue.DEMO_ROWS
        and classes.min() >= 100
        and 1.5 <= classes.max() / classes.min() <= 3
    )
    makers = np.bincount(items.maker[items.maker >= 0], minlength=len(catalogue.MAKERS))
    assert (makers < 10).sum() >= 30 and (makers > 0).sum() >= 30
