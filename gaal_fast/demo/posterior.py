"""The exact posterior of the demo set's model, and the best accuracy it allows."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from scipy.special import log_ndtr

from gaal_fast.demo.catalogue import (
    DEMO_VERSION,
    KINDS,
    MEASURES,
    UNIFORMS,
    Items,
    items_from_uniforms,
    parameters,
)

_DRAWS = 200_000
_CHUNK = 20_000


def _log_normal_interval(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """log(Phi(high) - Phi(low)) for low < high, accurate in both tails."""
    flip = low + high > 0  # work in the lower tail, where log Phi keeps its digits
    low, high = np.where(flip, -high, low), np.where(flip, -low, high)
    log_high = log_ndtr(high)
    return log_high + np.log1p(-np.exp(log_ndtr(low) - log_high))


def log_likelihood(items: Items, modality: str) -> np.ndarray:
    """log p(evidence | kind) up to a constant per row, float64[n, 10].

    ``modality`` is "image" (look and decoration) or "table" (every cell as written: a measure
    counts with the probability of its rounding interval, a missing cell with the probability of
    being missing). The glaze and the noise columns do not depend on the kind and drop out.
    """
    model = parameters()
    with np.errstate(divide="ignore"):
        if modality == "image":
            return (
                np.log(model.look[:, items.look]) + np.log(model.decoration[:, items.decoration])
            ).T
        if modality != "table":
            raise ValueError(f'modality must be "image" or "table", not {modality!r}')
        total = np.zeros((len(items), len(KINDS)))
        for column, measure in enumerate(MEASURES):
            edges = (items.ticks[:, column, None] + np.array([-0.5, 0.5])) * measure.step
            if measure.log:
                edges = np.log(np.maximum(edges, 0.0))
            z = (edges[:, :, None] - model.mean[:, column]) / model.sd[:, column]
            interval = _log_normal_interval(z[:, 0], z[:, 1])
            missing = model.missing[:, column]
            total += np.where(
                items.written[:, column, None], np.log1p(-missing) + interval, np.log(missing)
            )
        for level, table in ((items.material, model.material), (items.maker, model.maker)):
            total += np.where((level >= 0)[:, None], np.log(table[:, level]).T, 0.0)
        return total


def posterior(items: Items, modalities: Iterable[str] = ("image", "table")) -> np.ndarray:
    """The exact p(kind | evidence of the given modalities), float64[n, 10]. No modality gives the
    prior.

    Given the kind, image and table are independent but for the glaze, which says nothing about
    the kind; so the log-likelihoods add.
    """
    joint = np.tile(np.log(parameters().prior), (len(items), 1))
    for modality in modalities:
        joint = joint + log_likelihood(items, modality)
    joint = np.exp(joint - joint.max(axis=1, keepdims=True))
    return joint / joint.sum(axis=1, keepdims=True)


@lru_cache(maxsize=4)
def _expected_maximum(draws: int) -> tuple[dict[str, float], dict[str, float]]:
    """E[max_y p(y | evidence)] and its standard error for image, table and both.

    The image's evidence has 40 states and is enumerated. The table's is integrated by Monte Carlo
    with a fixed seed; given a table, the image is enumerated again, which leaves only the table's
    share of the variance.
    """
    model = parameters()
    image = (model.look[:, :, None] * model.decoration[:, None, :]).reshape(len(KINDS), -1)
    rng = np.random.Generator(np.random.PCG64([DEMO_VERSION, draws]))
    table_best, multi_best = [], []
    for start in range(0, draws, _CHUNK):
        items = items_from_uniforms(rng.random((min(_CHUNK, draws - start), UNIFORMS)))
        given_table = posterior(items, ("table",))
        table_best.append(given_table.max(axis=1))
        best = np.zeros((len(items), image.shape[1]))
        for y in range(len(KINDS)):
            seen = np.flatnonzero(image[y])
            best[:, seen] = np.maximum(best[:, seen], given_table[:, y, None] * image[y, seen])
        multi_best.append(best.sum(axis=1))
    table, multi = np.concatenate(table_best), np.concatenate(multi_best)
    accuracy = {
        "image": float((model.prior[:, None] * image).max(axis=0).sum()),
        "table": float(table.mean()),
        "multi": float(multi.mean()),
    }
    error = {
        name: float(v.std(ddof=1) / np.sqrt(draws))
        for name, v in (("table", table), ("multi", multi))
    }
    return accuracy, {"image": 0.0, **error}


def best_possible(draws: int = _DRAWS) -> dict[str, float]:
    """The best accuracy any classifier can reach on fresh rows: the expected maximum of the exact
    posterior.

    Keys ``image``, ``table`` and ``multi`` (both). For images, look and decoration count as read
    without error; a classifier of pixels knows at most that, so the figure bounds it from above.
    ``image`` is exact, the other two are Monte Carlo means over ``draws`` tables with the standard
    error of ``best_possible_error``.
    """
    return dict(_expected_maximum(draws)[0])


def best_possible_error(draws: int = _DRAWS) -> dict[str, float]:
    """The standard error of each figure of ``best_possible`` with the same ``draws``."""
    return dict(_expected_maximum(draws)[1])
