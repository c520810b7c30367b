"""The exact posterior, and the best accuracy that the demo set says it allows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gaal_fast.demo import catalogue, folder, posterior

MEASURES = ["height_cm", "weight_g", "price_eur", "wall_mm"]
BOTH = ("image", "table")


@pytest.fixture(scope="module")
def sample() -> catalogue.Items:
    return catalogue.sample_items(20_000, seed=3)


def test_best_possible_pays_for_fusion_and_says_how_sure_it_is():
    best, error = posterior.best_possible(), posterior.best_possible_error()
    assert best["multi"] > max(best["image"], best["table"]) + 0.1
    assert (
        0.80 <= best["image"] <= 0.88
        and 0.75 <= best["table"] <= 0.85
        and 0.95 <= best["multi"] <= 0.98
    )
    assert error["image"] == 0.0 and 0.0 < error["multi"] < error["table"] < 1e-3
    fewer, wider = posterior.best_possible(20_000), posterior.best_possible_error(20_000)
    for name in ("table", "multi"):
        assert abs(fewer[name] - best[name]) <= 4 * np.hypot(error[name], wider[name])


@pytest.mark.parametrize(
    ("name", "modalities"), [("image", ("image",)), ("table", ("table",)), ("multi", BOTH)]
)
def test_the_bayes_classifier_reaches_the_stated_figure(sample, name, modalities):
    p = posterior.posterior(sample, modalities)
    assert np.allclose(p.sum(axis=1), 1.0)
    best, error = posterior.best_possible()[name], posterior.best_possible_error()[name]
    hits = p.argmax(axis=1) == sample.kind
    assert abs(hits.mean() - best) <= 3 * np.hypot(error, np.sqrt(best * (1 - best) / len(hits)))
    # A posterior that is right is also calibrated, whichever class it speaks of.
    for low, high in ((0.05, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 0.99)):
        inside = (p > low) & (p <= high)
        truth = (sample.kind[:, None] == np.arange(len(catalogue.KINDS)))[inside]
        sd = np.sqrt((p[inside] * (1 - p[inside])).sum())
        assert abs(truth.sum() - p[inside].sum()) <= 4 * sd


def test_image_figure_by_brute_force():
    total = 0.0
    for body in catalogue.BODIES:
        pair = [kind for kind in catalogue.SPECIFICATIONS if kind.body == body]
        for mark in range(len(catalogue.DECORATIONS)):
            weight = [kind.prior * kind.decoration[mark] / sum(kind.decoration) for kind in pair]
            total += max(w * kind.part_shown for w, kind in zip(weight, pair, strict=True))
            total += max(w * (1 - kind.part_shown) for w, kind in zip(weight, pair, strict=True))
    assert posterior.best_possible()["image"] == pytest.approx(total, abs=1e-12)


def test_posterior_agrees_with_distributions_written_out_by_hand(sample):
    """Each cell by scipy.stats, from the numbers of the kind and the text in the table."""
    rows = list(range(40))
    text = [
        dict(zip(catalogue.COLUMNS, row, strict=True))
        for _, row in zip(rows, folder._csv_rows(sample), strict=False)
    ]
    step = {"height_cm": 0.1, "weight_g": 1.0, "price_eur": 0.01, "wall_mm": 0.1}
    gone = {"height_cm": 0.05, "price_eur": 0.03, "wall_mm": 0.10}
    rank = np.arange(len(catalogue.MAKERS))
    expected = np.empty((len(rows), len(catalogue.SPECIFICATIONS)))
    for y, kind in enumerate(catalogue.SPECIFICATIONS):
        maker = (rank + 1.0) ** -1.7 * np.where((3 * rank + y) % 10 < 3, 1.45, 0.8)
        for row in rows:
            p = kind.prior
            for name in MEASURES:
                missing = kind.weight_missing if name == "weight_g" else gone[name]
                if text[row][name] == "":
                    p *= missing
                    continue
                centre, spread = getattr(kind, name)
                log_normal = name in ("weight_g", "price_eur")
                law = (
                    stats.lognorm(spread, scale=centre)
                    if log_normal
                    else stats.norm(centre, spread)
                )
                value, half = float(text[row][name]), step[name] / 2
                p *= (1 - missing) * (law.cdf(value + half) - law.cdf(value - half))
            if text[row]["material"]:
                p *= kind.material[catalogue.MATERIALS.index(text[row]["material"])] / sum(
                    kind.material
                )
            if text[row]["maker"]:
                p *= maker[catalogue.MAKERS.index(text[row]["maker"])] / maker.sum()
            expected[row, y] = p
    expected /= expected.sum(axis=1, keepdims=True)
    # The differences of cdf above lose digits in the far tails, hence the absolute part.
    np.testing.assert_allclose(
        posterior.posterior(sample, ("table",))[rows], expected, rtol=1e-6, atol=1e-9
    )


def test_posterior_of_images_by_hand(sample):
    for row, found in enumerate(posterior.posterior(sample, ("image",))[:40]):
        body, shown = catalogue.BODIES[sample.look[row] // 2], sample.look[row] % 2
        expected = np.array(
            [
                kind.prior
                * (kind.part_shown if shown else 1 - kind.part_shown)
                * (kind.decoration[sample.decoration[row]] / sum(kind.decoration))
                * (kind.body == body)
                for kind in catalogue.SPECIFICATIONS
            ]
        )
        np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-12)


def test_log_normal_interval_in_both_tails():
    low = np.array([-40.0, -8.0, -0.5, 0.3, 8.0, 40.0])
    found = posterior._log_normal_interval(low, low + 0.02)
    np.testing.assert_allclose(
        found, found_mirrored := posterior._log_normal_interval(-low - 0.02, -low), rtol=1e-12
    )
    assert np.isfinite(found_mirrored).all()
    # Midpoint rule with its second-order term: relative error O(width^4 z^4).
    z = low + 0.01
    second_order = np.log1p(0.02**2 * (z**2 - 1) / 24)
    np.testing.assert_allclose(found, stats.norm.logpdf(z) + np.log(0.02) + second_order, atol=1e-3)


def test_no_evidence_gives_the_prior_and_a_wrong_modality_is_named(sample):
    assert np.allclose(
        posterior.posterior(sample, ()), [kind.prior for kind in catalogue.SPECIFICATIONS]
    )
    with pytest.raises(ValueError, match="'sound'"):
        posterior.log_likelihood(sample, "sound")
