"""The built-in demo set: a housewares catalogue, one small image and one table row per item.

Ten kinds of item come in five pairs that share a body. Only one part tells the two of a pair apart:
a mug is a cup with a handle, a tumbler the same cup without. That part is often turned away, folded
down or taken off (and now and then a tumbler has a handle), so an image always gives the pair away
and only sometimes the kind. The table has it the other way round: the two of a pair differ in size,
weight and price, while kinds of different pairs overlap. Each modality tells part of the class, and
the table, whose classes lie in nearly Gaussian clouds, is learned in far fewer steps than the
images.

Every row is drawn from the generative model written down here, so its exact posterior is known
(:func:`posterior`) and with it the best accuracy any classifier can reach (:func:`best_possible`).

The model, for an item of kind y::

    p(y) p(look | y) p(decoration | y) p(glaze)  prod_c p(column c | y)

``look`` (which body, with or without its part) and ``decoration`` are seen in the image;
``glaze`` is the colour in the image and a column of the table, and says nothing about y.
Everything else in an image (position, size, rotation, view, light, background, noise) is drawn
independently of y, so p(y | image) depends on the image through ``look`` and ``decoration``
alone.
"""

import contextlib
import csv
import glob
import hashlib
import json
import os
import shutil
import struct
import tempfile
import time
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.interpolate import PchipInterpolator
from scipy.special import log_ndtr, ndtri
from tqdm import tqdm

from gaal_fast.errors import UserError

DEMO_VERSION = 1
DEMO_ROWS = 2400
IMAGE_SIZE = 32
IMAGE_COLUMN = "image"
TARGET = "kind"

BODIES = ("flask", "pan", "pot", "pitcher", "cup")
DECORATIONS = ("plain", "bands", "stripes", "dots")
MATERIALS = ("stoneware", "porcelain", "glass", "metal", "wood", "wicker")
MAKERS = tuple(
    f"{stem} {form}"
    for form in ("Works", "Studio", "& Sons", "House", "Trading")
    for stem in (
        "Alder", "Birch", "Calder", "Dunmore", "Elster", "Farrow",
        "Gilead", "Hartwell", "Isola", "Juniper", "Kestrel", "Linden",
    )
)  # fmt: skip

_GLAZE_RGB = {
    "cream": (226, 214, 186),
    "slate": (96, 108, 124),
    "moss": (104, 128, 72),
    "rust": (178, 84, 54),
    "cobalt": (52, 84, 160),
    "plum": (122, 62, 108),
    "mustard": (212, 166, 60),
    "teal": (42, 132, 134),
}
GLAZES = tuple(_GLAZE_RGB)


@dataclass(frozen=True)
class _Kind:
    """What one kind of item looks like and measures.

    ``height_cm`` and ``wall_mm`` are (mean, standard deviation) of a Gaussian; ``weight_g`` and
    ``price_eur`` are (median, standard deviation of the logarithm) of a log-normal. ``decoration``
    and ``material`` are unnormalised weights in the order of DECORATIONS and MATERIALS.
    """

    name: str
    prior: float
    body: str
    part_shown: float
    decoration: tuple[int, ...]
    height_cm: tuple[float, float]
    weight_g: tuple[float, float]
    price_eur: tuple[float, float]
    wall_mm: tuple[float, float]
    material: tuple[int, ...]
    weight_missing: float


# fmt: off
_KINDS = (
    _Kind(
        "basket", prior=0.08, body="pan", part_shown=0.72, decoration=(30, 15, 40, 15),
        height_cm=(17.0, 3.0), weight_g=(430, 0.27), price_eur=(24.0, 0.30), wall_mm=(4.6, 0.79),
        material=(2, 1, 2, 15, 25, 55), weight_missing=0.14,
    ),
    _Kind(
        "bottle", prior=0.10, body="flask", part_shown=0.05, decoration=(40, 15, 25, 20),
        height_cm=(27.0, 3.0), weight_g=(500, 0.27), price_eur=(17.0, 0.34), wall_mm=(3.0, 0.71),
        material=(12, 8, 68, 10, 1, 1), weight_missing=0.08,
    ),
    _Kind(
        "bowl", prior=0.11, body="pan", part_shown=0.05, decoration=(35, 35, 10, 20),
        height_cm=(9.0, 1.66), weight_g=(520, 0.27), price_eur=(15.0, 0.30), wall_mm=(4.4, 0.79),
        material=(40, 25, 15, 5, 13, 2), weight_missing=0.08,
    ),
    _Kind(
        "jar", prior=0.10, body="pot", part_shown=0.05, decoration=(35, 35, 20, 10),
        height_cm=(18.0, 2.7), weight_g=(610, 0.29), price_eur=(20.0, 0.32), wall_mm=(3.8, 0.79),
        material=(40, 16, 30, 10, 3, 1), weight_missing=0.10,
    ),
    _Kind(
        "jug", prior=0.10, body="pitcher", part_shown=0.72, decoration=(30, 35, 15, 20),
        height_cm=(19.5, 2.5), weight_g=(880, 0.24), price_eur=(31.0, 0.29), wall_mm=(4.7, 0.79),
        material=(45, 20, 17, 16, 1, 1), weight_missing=0.08,
    ),
    _Kind(
        "lamp", prior=0.07, body="flask", part_shown=0.72, decoration=(50, 20, 15, 15),
        height_cm=(33.0, 4.4), weight_g=(980, 0.30), price_eur=(58.0, 0.32), wall_mm=(4.0, 0.79),
        material=(30, 22, 22, 20, 5, 1), weight_missing=0.18,
    ),
    _Kind(
        "mug", prior=0.14, body="cup", part_shown=0.72, decoration=(25, 35, 10, 30),
        height_cm=(10.0, 1.33), weight_g=(350, 0.21), price_eur=(12.0, 0.29), wall_mm=(4.2, 0.71),
        material=(50, 30, 8, 10, 1, 1), weight_missing=0.08,
    ),
    _Kind(
        "teapot", prior=0.09, body="pot", part_shown=0.72, decoration=(30, 20, 10, 40),
        height_cm=(15.5, 1.93), weight_g=(840, 0.22), price_eur=(40.0, 0.29), wall_mm=(4.2, 0.71),
        material=(42, 32, 9, 15, 1, 1), weight_missing=0.10,
    ),
    _Kind(
        "tumbler", prior=0.10, body="cup", part_shown=0.05, decoration=(40, 15, 35, 10),
        height_cm=(12.5, 1.61), weight_g=(235, 0.25), price_eur=(9.5, 0.30), wall_mm=(2.6, 0.63),
        material=(12, 10, 60, 16, 1, 1), weight_missing=0.08,
    ),
    _Kind(
        "vase", prior=0.11, body="pitcher", part_shown=0.05, decoration=(30, 10, 35, 25),
        height_cm=(26.5, 3.8), weight_g=(700, 0.32), price_eur=(37.0, 0.36), wall_mm=(4.0, 0.79),
        material=(33, 30, 30, 5, 1, 1), weight_missing=0.08,
    ),
)
# fmt: on
KINDS = tuple(kind.name for kind in _KINDS)


class _Measure(NamedTuple):
    """A numeric column: written as a multiple of ``step``, Gaussian itself or (``log``) in its
    logarithm.
    """

    name: str
    step: float
    decimals: int
    log: bool
    missing: float | None  # None: the rate depends on the kind


_MEASURES = (
    _Measure("height_cm", 0.1, 1, False, 0.05),
    _Measure("weight_g", 1.0, 0, True, None),
    _Measure("price_eur", 0.01, 2, True, 0.03),
    _Measure("wall_mm", 0.1, 1, False, 0.10),
)
_MATERIAL_MISSING = 0.07
_MAKER_MISSING = 0.15
_GLAZE_MISSING = 0.02
_CURRENCY = "EUR"
COLUMNS = (
    "item_id", IMAGE_COLUMN, "height_cm", "weight_g", "price_eur", "wall_mm", "material", "maker", "glaze",
    "catalogue_page", "stock_count", "currency", TARGET,
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# The generative model: latent evidence, exact posterior, best possible accuracy
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Items:
    """n items as the model draws them: what the image shows and what the table says, before any
    pixel or text.

    Attributes
    ----------
    kind : int64[n], index into KINDS (the class).
    look : int64[n], 2 * body + 1 if the part is seen else 2 * body, with body an index into BODIES.
    decoration : int64[n], index into DECORATIONS.
    glaze : int64[n], index into GLAZES (the colour in the image).
    glaze_written : bool[n], False where the table leaves the glaze out.
    ticks : int64[n, 4], height_cm, weight_g, price_eur and wall_mm in units of their written step.
    written : bool[n, 4], False where that cell is missing.
    material, maker : int64[n], index into MATERIALS and MAKERS, -1 where the cell is missing.
    catalogue_page, stock_count : int64[n], independent of everything else.
    """

    kind: np.ndarray
    look: np.ndarray
    decoration: np.ndarray
    glaze: np.ndarray
    glaze_written: np.ndarray
    ticks: np.ndarray
    written: np.ndarray
    material: np.ndarray
    maker: np.ndarray
    catalogue_page: np.ndarray
    stock_count: np.ndarray

    def __len__(self) -> int:
        return len(self.kind)


@dataclass(frozen=True)
class _Model:
    """The parameters of the model as arrays; the first axis is the kind."""

    prior: np.ndarray
    look: np.ndarray
    decoration: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    missing: np.ndarray
    material: np.ndarray
    maker: np.ndarray


def _normalised(weights: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    array = np.asarray(weights, dtype=np.float64)
    return array / array.sum(axis=-1, keepdims=True)


@lru_cache(maxsize=1)
def _model() -> _Model:
    look = np.zeros((len(_KINDS), 2 * len(BODIES)))
    mean = np.empty((len(_KINDS), len(_MEASURES)))
    sd = np.empty_like(mean)
    missing = np.empty_like(mean)
    for y, kind in enumerate(_KINDS):
        body = BODIES.index(kind.body)
        look[y, 2 * body : 2 * body + 2] = 1.0 - kind.part_shown, kind.part_shown
        for column, measure in enumerate(_MEASURES):
            centre, sd[y, column] = getattr(kind, measure.name)
            mean[y, column] = np.log(centre) if measure.log else centre
            missing[y, column] = kind.weight_missing if measure.missing is None else measure.missing
    # Makers follow a power law, so most of the sixty are rare; each kind has its own favourites
    # among them.
    rank = np.arange(len(MAKERS))
    favourite = np.where((3 * rank + np.arange(len(_KINDS))[:, None]) % 10 < 3, 1.45, 0.8)
    return _Model(
        prior=_normalised([kind.prior for kind in _KINDS]),
        look=look,
        decoration=_normalised([kind.decoration for kind in _KINDS]),
        mean=mean,
        sd=sd,
        missing=missing,
        material=_normalised([kind.material for kind in _KINDS]),
        maker=_normalised((rank + 1.0) ** -1.7 * favourite),
    )


_UNIFORMS = 19  # random numbers per table row


def _pick(uniform: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Inverse of the discrete distribution function. uniform[n], probabilities[n, K] or [K] ->
    int64[n].
    """
    cumulative = np.cumsum(probabilities, axis=-1)
    return np.minimum((uniform[:, None] >= cumulative).sum(axis=1), probabilities.shape[-1] - 1)


def _items_from_uniforms(u: np.ndarray) -> Items:
    """Map u[n, 19], uniform on [0, 1), to items. Inverse distribution functions only: one number,
    one quantity.
    """
    model = _model()
    kind = _pick(u[:, 0], model.prior)
    gaussian = model.mean[kind] + model.sd[kind] * ndtri(u[:, 1:5] + 2.0**-54)
    value = np.where([measure.log for measure in _MEASURES], np.exp(gaussian), gaussian)
    material = _pick(u[:, 9], model.material[kind])
    maker = _pick(u[:, 10], model.maker[kind])
    return Items(
        kind=kind,
        look=_pick(u[:, 13], model.look[kind]),
        decoration=_pick(u[:, 14], model.decoration[kind]),
        glaze=(u[:, 15] * len(GLAZES)).astype(np.int64),
        glaze_written=u[:, 16] >= _GLAZE_MISSING,
        ticks=np.floor(value / [measure.step for measure in _MEASURES] + 0.5).astype(np.int64),
        written=u[:, 5:9] >= model.missing[kind],
        material=np.where(u[:, 11] < _MATERIAL_MISSING, -1, material),
        maker=np.where(u[:, 12] < _MAKER_MISSING, -1, maker),
        catalogue_page=4 + (u[:, 17] * 316).astype(np.int64),
        stock_count=(200 * u[:, 18] ** 2).astype(np.int64),
    )


def sample_items(rows: int = DEMO_ROWS, seed: int = 0) -> Items:
    """The first ``rows`` items of the demo set of this seed. Item i depends on (DEMO_VERSION, seed,
    i) alone.
    """
    u = np.empty((rows, _UNIFORMS))
    for row in range(rows):
        u[row] = np.random.Generator(np.random.PCG64([DEMO_VERSION, seed, row, 0])).random(
            _UNIFORMS
        )
    return _items_from_uniforms(u)


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
    model = _model()
    with np.errstate(divide="ignore"):
        if modality == "image":
            return (
                np.log(model.look[:, items.look]) + np.log(model.decoration[:, items.decoration])
            ).T
        if modality != "table":
            raise ValueError(f'modality must be "image" or "table", not {modality!r}')
        total = np.zeros((len(items), len(KINDS)))
        for column, measure in enumerate(_MEASURES):
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
    joint = np.tile(np.log(_model().prior), (len(items), 1))
    for modality in modalities:
        joint = joint + log_likelihood(items, modality)
    joint = np.exp(joint - joint.max(axis=1, keepdims=True))
    return joint / joint.sum(axis=1, keepdims=True)


_DRAWS = 200_000
_CHUNK = 20_000


@lru_cache(maxsize=4)
def _expected_maximum(draws: int) -> tuple[dict[str, float], dict[str, float]]:
    """E[max_y p(y | evidence)] and its standard error for image, table and both.

    The image's evidence has 40 states and is enumerated. The table's is integrated by Monte Carlo
    with a fixed seed; given a table, the image is enumerated again, which leaves only the table's
    share of the variance.
    """
    model = _model()
    image = (model.look[:, :, None] * model.decoration[:, None, :]).reshape(len(KINDS), -1)
    rng = np.random.Generator(np.random.PCG64([DEMO_VERSION, draws]))
    table_best, multi_best = [], []
    for start in range(0, draws, _CHUNK):
        items = _items_from_uniforms(rng.random((min(_CHUNK, draws - start), _UNIFORMS)))
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
    error of :func:`best_possible_error`.
    """
    return dict(_expected_maximum(draws)[0])


def best_possible_error(draws: int = _DRAWS) -> dict[str, float]:
    """The standard error of each figure of :func:`best_possible` with the same ``draws``."""
    return dict(_expected_maximum(draws)[1])


# ---------------------------------------------------------------------------------------------------------------------
# Images: shapes turned on a lathe, sampled 3 x 3 per pixel
# ---------------------------------------------------------------------------------------------------------------------

_SUPERSAMPLE = 3
_PROFILE_TOP = -1.3
_PROFILE_STEPS_PER_UNIT = 400


class _Body(NamedTuple):
    """A solid of revolution. ``profile`` lists (height, radius), y pointing down; ``decorated`` is
    a height range.
    """

    profile: tuple[tuple[float, float], ...]
    open_top: bool
    decorated: tuple[float, float]


_BODIES = {
    "cup": _Body(((-0.72, 0.66), (-0.40, 0.63), (0.30, 0.56), (0.60, 0.50), (0.70, 0.44)), True, (-0.50, 0.55)),
    "pitcher": _Body(
        ((-1.00, 0.42), (-0.88, 0.34), (-0.65, 0.31), (-0.20, 0.52), (0.25, 0.68), (0.65, 0.60), (0.95, 0.38)),
        True,
        (-0.25, 0.75),
    ),
    "pot": _Body(
        ((-0.84, 0.05), (-0.76, 0.26), (-0.60, 0.42), (-0.52, 0.44), (-0.30, 0.72), (0.10, 0.86), (0.50, 0.72),
         (0.78, 0.48)),
        False,
        (-0.28, 0.62),
    ),
    "pan": _Body(((-0.30, 1.00), (-0.20, 0.99), (0.10, 0.88), (0.40, 0.62), (0.58, 0.40)), True, (-0.16, 0.46)),
    "flask": _Body(
        ((-1.02, 0.17), (-0.92, 0.15), (-0.45, 0.16), (-0.18, 0.38), (0.05, 0.52), (0.35, 0.55), (0.80, 0.52),
         (0.98, 0.44)),
        True,
        (-0.12, 0.80),
    ),
}  # fmt: skip

_WALLS = (
    (222, 218, 208),
    (196, 208, 214),
    (206, 198, 184),
    (168, 182, 170),
    (214, 188, 176),
    (150, 152, 164),
)
_TABLES = (
    (152, 116, 84),
    (120, 92, 72),
    (188, 170, 146),
    (104, 112, 116),
    (170, 140, 104),
    (92, 84, 92),
)
_LIGHT_INK = (246, 240, 224)
_DARK_INK = (44, 40, 58)
_SHADE_RGB = (250, 222, 160)


@lru_cache(maxsize=len(BODIES))
def _radius_table(body: str) -> np.ndarray:
    """Radius at heights _PROFILE_TOP + i / _PROFILE_STEPS_PER_UNIT; 0 outside the body."""
    height, radius = np.array(_BODIES[body].profile).T
    at = (
        _PROFILE_TOP
        + np.arange(int(2 * -_PROFILE_TOP * _PROFILE_STEPS_PER_UNIT)) / _PROFILE_STEPS_PER_UNIT
    )
    return np.nan_to_num(PchipInterpolator(height, radius, extrapolate=False)(at))


class _Painter:
    """One image, oversampled: float64[3, side, side], with y pointing down and both axes on [-1,
    1].
    """

    def __init__(self, size: int):
        side = size * _SUPERSAMPLE
        self.size = size
        axis = (np.arange(side) + 0.5) / (side / 2) - 1.0
        self.x, self.y = np.broadcast_arrays(axis[None, :], axis[:, None])
        self.pixels = np.empty((3, side, side))

    def paint(
        self, where: np.ndarray | bool, rgb: Sequence[float], light: np.ndarray | float = 1.0
    ) -> None:
        """Cover ``where`` with ``rgb`` (0..255) times ``light`` (a number, or one per sample)."""
        for channel, value in zip(self.pixels, rgb, strict=True):
            np.copyto(channel, value * light, where=where)

    def finish(self, noise: np.ndarray) -> np.ndarray:
        """Average the samples of each pixel, add noise[size, size, 3] (in grey levels) and round to
        uint8.
        """
        # Whole numbers from here on: their sum does not depend on the order in which a machine
        # adds.
        samples = np.clip(self.pixels * 16.0 + 0.5, 0.0, 255 * 16.0).astype(np.int64)
        k = _SUPERSAMPLE
        total = samples.reshape(3, self.size, k, self.size, k).sum(axis=(2, 4)).transpose(1, 2, 0)
        scale = 16 * k * k
        return np.clip((total + noise * scale + scale // 2) // scale, 0, 255).astype(np.uint8)


def _ellipse(
    x: np.ndarray, y: np.ndarray, cx: float, cy: float, rx: float, ry: float
) -> np.ndarray:
    """(distance from the centre / radius)^2 for an upright ellipse."""
    return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2


def _ring(x, y, cx: float, cy: float, rx: float, ry: float, width: float) -> np.ndarray:
    """True on an elliptic ring whose outer radii are rx, ry."""
    return (_ellipse(x, y, cx, cy, rx, ry) <= 1.0) & (
        _ellipse(x, y, cx, cy, rx - width, ry - width) > 1.0
    )


def _paint_background(canvas: _Painter, u: np.ndarray, foot: float) -> None:
    """Wall, wallpaper and table from u[8]. ``foot`` is the height the item stands at, so that it
    never floats.
    """
    wall = np.array(_WALLS[int(u[0] * len(_WALLS))]) * (0.85 + 0.25 * u[1])
    table = np.array(_TABLES[int(u[2] * len(_TABLES))]) * (0.85 + 0.3 * u[3])
    horizon = foot - 0.06 - 0.45 * u[4]
    light = 1.0 - 0.10 * canvas.y
    pattern = int(u[5] * 4)
    pitch, phase = 0.22 + 0.25 * u[6], u[7]
    if pattern == 0:
        light = light - 0.09 * ((canvas.x / pitch + phase) % 1.0 < 0.5)
    elif pattern == 1:
        across, down = (
            (canvas.x / pitch + phase) % 1.0 - 0.5,
            (canvas.y / pitch + phase) % 1.0 - 0.5,
        )
        light = light - 0.12 * (across**2 + down**2 < 0.07)
    canvas.paint(True, wall, light)
    canvas.paint(canvas.y > horizon, table, 1.0 - 0.12 * (1.0 - canvas.y))


def _decoration_mask(name: str, body: _Body, nx: np.ndarray, bent: np.ndarray) -> np.ndarray:
    """Where the decoration lies. nx: sample / radius in [-1, 1]; bent: height along the curved
    surface.
    """
    top, bottom = body.decorated
    t = (bent - top) / (bottom - top)
    within = (t >= 0.0) & (t <= 1.0)
    if name == "bands":
        return within & ((t < 0.26) | (t > 0.74))
    if name == "stripes":
        across = np.abs(nx)
        return within & ((across < 0.16) | ((across > 0.46) & (across < 0.74)))
    # Dots in staggered rows; the columns crowd towards the edge as they do on a cylinder.
    along = nx * (1.0 + 0.35 * nx * nx)
    rows = max(2.0, np.floor((bottom - top) / 0.36 + 0.5))
    row = np.floor(t * rows)
    across = (along / 0.62 + 0.5 * (row % 2.0)) % 1.0 - 0.5
    return within & (
        (across * 0.62 * 1.1) ** 2 + ((t * rows - row - 0.5) * (bottom - top) / rows) ** 2 < 0.0225
    )


def _draw(
    look: int, decoration: int, glaze: int, rng: np.random.Generator, size: int
) -> np.ndarray:
    """One image, uint8[size, size, 3]. All that varies beside the three factors comes from
    ``rng``.
    """
    name, part = BODIES[look // 2], bool(look % 2)
    body = _BODIES[name]
    u = rng.random(24)
    canvas = _Painter(size)

    # Into the item's own coordinates: shift, turn, size, proportions, and which way round it
    # stands.
    turn = (u[10] - 0.5) * 0.28
    unit = 0.58 + 0.14 * u[11]
    wide = unit * (0.90 + 0.20 * u[12])
    cx, cy = canvas.x - 0.24 * (u[8] - 0.5), canvas.y - 0.20 * (u[9] - 0.5)
    cos, sin = np.cos(turn), np.sin(turn)
    x, y = (cos * cx + sin * cy) / wide, (cos * cy - sin * cx) / unit
    if u[13] < 0.5:
        x = -x
    tilt = 0.14 + 0.16 * u[14]  # how far from above it is seen: short axis / long axis of every rim
    lamp_side = 1.0 if u[15] < 0.5 else -1.0
    ambient = 0.80 + 0.30 * u[16]

    heights = [height for height, _ in body.profile]
    top, bottom = heights[0], heights[-1]
    table = _radius_table(name)
    index = ((y - _PROFILE_TOP) * _PROFILE_STEPS_PER_UNIT).astype(np.int64)
    radius = table[np.clip(index, 0, len(table) - 1)]
    top_radius, foot_radius = body.profile[0][1], body.profile[-1][1]

    _paint_background(canvas, u[:8], foot=0.20 * (u[9] - 0.5) + unit * bottom)
    shadow = _ellipse(x, y, 0.35 * lamp_side, bottom, table.max() * 1.15, 0.26)
    canvas.pixels *= np.where(shadow < 1.0, 0.62 + 0.38 * shadow, 1.0)

    rgb = np.array(_GLAZE_RGB[GLAZES[glaze]]) + 28.0 * (u[17:20] - 0.5)
    flat = ambient * (0.90 + 0.12 * lamp_side * x)
    if part and name == "cup":
        canvas.paint(_ring(x, y, 0.66, -0.06, 0.44, 0.46, 0.17), rgb * 0.86, flat)
    elif part and name == "pitcher":
        canvas.paint(_ring(x, y, 0.50, -0.36, 0.48, 0.56, 0.16), rgb * 0.86, flat)
        canvas.paint(
            (x < -0.1) & (-x - 0.72 < (y + 1.0) * -1.2) & (y > -1.06) & (y < -0.6), rgb * 0.95, flat
        )
    elif part and name == "pot":
        canvas.paint(_ring(x, y, 0.80, -0.02, 0.44, 0.44, 0.16), rgb * 0.86, flat)
        along = -(x + 0.6)  # the spout: a tapering bar that leans out and up
        spout = (
            (along > 0.0) & (along < 0.68) & (np.abs(y - 0.22 + 0.95 * along) < 0.22 - 0.16 * along)
        )
        canvas.paint(spout, rgb * 0.92, flat)
    elif part and name == "pan":
        hoop = _ring(x, y, 0.0, -0.30, 0.94, 0.92, 0.14) & (y < -0.28)
        canvas.paint(hoop, rgb * 0.80, flat)

    # The body: shaded by its normal, with one soft highlight, the foot rounded by the view from
    # above.
    nx = np.clip(x / np.maximum(radius, 1e-6), -1.5, 1.5)
    facing = np.sqrt(np.maximum(0.0, 1.0 - nx * nx))
    gloss = np.maximum(0.0, 1.0 - np.abs(nx - 0.42 * lamp_side) / 0.16)
    light = ambient * (0.58 + 0.36 * facing + 0.20 * lamp_side * nx)
    solid = (np.abs(nx) <= 1.0) & (radius > 0.0)
    foot = _ellipse(x, y, 0.0, bottom - 0.01, foot_radius, foot_radius * tilt) <= 1.0
    canvas.paint(foot, rgb, ambient * 0.62)
    canvas.paint(solid, rgb, light)
    if DECORATIONS[decoration] != "plain":
        bent = y - tilt * radius * (facing - 0.6)
        ink = _DARK_INK if rgb @ (0.299, 0.587, 0.114) > 140 else _LIGHT_INK
        canvas.paint(solid & _decoration_mask(DECORATIONS[decoration], body, nx, bent), ink, light)
    np.add(canvas.pixels, 46.0 * gloss * ambient, out=canvas.pixels, where=solid)
    if body.open_top:
        rim = _ellipse(x, y, 0.0, top, top_radius, top_radius * tilt)
        canvas.paint(rim <= 1.0, rgb * 1.08, ambient)
        inner = max(top_radius - 0.07, top_radius * 0.6)
        inside = _ellipse(x, y, 0.0, top, inner, inner * tilt) <= 1.0
        canvas.paint(inside, rgb * 0.45, ambient * (1.0 - 0.25 * lamp_side * x))
    else:
        canvas.paint(_ellipse(x, y, 0.0, -0.92, 0.13, 0.13) <= 1.0, rgb * 0.95, flat)
        canvas.paint(solid & (np.abs(y + 0.54 - tilt * 0.44 * facing) < 0.035), rgb * 0.5, light)
    if part and name == "flask":
        span = (y + 1.12) / 0.86
        shade = (span >= 0.0) & (span <= 1.0) & (np.abs(x) < 0.34 + 0.44 * span)
        canvas.paint(shade, _SHADE_RGB, ambient * (0.80 + 0.20 * span - 0.10 * np.abs(x)))

    grain = 2.0 + 6.0 * u[20]
    noise = np.floor((rng.random((size, size, 3)) - 0.5) * 2.0 * grain + 0.5).astype(np.int64)
    return canvas.finish(noise)


def render_image(items: Items, row: int, seed: int = 0, size: int = IMAGE_SIZE) -> np.ndarray:
    """The image of one item, uint8[size, size, 3] in RGB, from its look, decoration, glaze and
    (seed, row).
    """
    rng = np.random.Generator(np.random.PCG64([DEMO_VERSION, seed, row, 1]))
    return _draw(int(items.look[row]), int(items.decoration[row]), int(items.glaze[row]), rng, size)


# ---------------------------------------------------------------------------------------------------------------------
# The folder
# ---------------------------------------------------------------------------------------------------------------------

_CSV_NAME = "catalogue.csv"
_IMAGE_FOLDER = "images"
_MARKER_NAME = "demo.json"
_STALE_SECONDS = 3600.0


class DemoPaths(NamedTuple):
    """Where the demo set lies: what --data.csv, --data.images, --data.image-column and
    --data.target take.
    """

    csv: Path
    images: Path
    image_column: str
    target: str


def _png_bytes(pixels: np.ndarray) -> bytes:
    """An uncompressed PNG of uint8[height, width, 3], under 64 KiB.

    Written by hand because compressors differ (zlib, zlib-ng) and the same pixels are to give the
    same file anywhere.
    """
    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    stored = struct.pack("<BHH", 1, len(lines), len(lines) ^ 0xFFFF) + lines

    def chunk(tag: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + tag
            + content
            + struct.pack(">I", zlib.crc32(tag + content))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(lines)))
        + chunk(b"IEND", b"")
    )


def _image_name(row: int) -> str:
    return f"{row:05d}.png"


def _csv_rows(items: Items) -> Iterator[list[str]]:
    """The table as text, row by row, in the order of COLUMNS; a missing cell is empty."""
    for row in range(len(items)):
        measures = [
            f"{tick / 10**measure.decimals:.{measure.decimals}f}" if written else ""
            for tick, written, measure in zip(
                items.ticks[row].tolist(), items.written[row], _MEASURES, strict=True
            )
        ]
        yield [
            f"HW-{row:05d}",
            _image_name(row),
            *measures,
            MATERIALS[items.material[row]] if items.material[row] >= 0 else "",
            MAKERS[items.maker[row]] if items.maker[row] >= 0 else "",
            GLAZES[items.glaze[row]] if items.glaze_written[row] else "",
            str(items.catalogue_page[row]),
            str(items.stock_count[row]),
            _CURRENCY,
            KINDS[items.kind[row]],
        ]


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        return ImageFont.load_default(size)
    except ImportError:  # Pillow without FreeType: one fixed size
        return ImageFont.load_default()


def _contact_sheet(items: Items, images: np.ndarray) -> Image.Image:
    """Examples of every kind: nine as it usually looks, three that look like the other kind of its
    pair.
    """
    cell, gap, left, top, usual, rare = 80, 4, 96, 34, 9, 3
    step = cell + gap
    divide = 20
    width = left + usual * step + divide + rare * step + 96
    sheet = Image.new("RGB", (width, top + len(KINDS) * step + gap), (250, 249, 246))
    draw = ImageDraw.Draw(sheet)
    title, text, ink = _font(15), _font(13), (50, 48, 56)
    draw.text((left, 9), "as it usually looks", fill=ink, font=title)
    draw.text((left + usual * step + divide, 9), "as its look-alike does", fill=ink, font=title)
    for y, kind in enumerate(_KINDS):
        own = 2 * BODIES.index(kind.body) + int(kind.part_shown > 0.5)
        mate = next(other.name for other in _KINDS if other.body == kind.body and other is not kind)
        line = top + y * step
        draw.text((10, line + cell // 2 - 9), kind.name, fill=ink, font=title)
        draw.text((width - 92, line + cell // 2 - 8), f"like a {mate}", fill=ink, font=text)
        for at, count, chosen in (
            (left, usual, items.look == own),
            (left + usual * step + divide, rare, items.look == own ^ 1),
        ):
            for column, row in enumerate(np.flatnonzero((items.kind == y) & chosen)[:count]):
                image = Image.fromarray(images[row]).resize((cell, cell), Image.Resampling.BICUBIC)
                sheet.paste(image, (at + column * step, line))
    return sheet


_README = """\
gaal_fast demo set, version {version}, seed {seed}: a housewares catalogue
{rows} items of {kinds} kinds. Rendered, not photographed; made again from the seed if this folder is deleted.

{csv:<18} the table, one row per item; an empty cell is a missing value
{images:<18} the images named in the column "{image_column}", {size} x {size} RGB
contact_sheet.png  examples of every kind

Columns
  item_id         unique
  {image_column:<15} file name in {images}
  height_cm       height in centimetres
  weight_g        weight in grams; left out more often for some kinds than for others
  price_eur       price in euros
  wall_mm         thickness of the wall in millimetres
  material        {materials}
  maker           {makers} makers, most of them rare
  glaze           the colour in the image; says nothing about the kind
  catalogue_page  says nothing about the kind
  stock_count     says nothing about the kind
  currency        always {currency}
  {target:<15} the class to predict

How it is made
  The kinds come in pairs that share a body: {pairs}.
  A part (handle, spout, hoop, shade) tells the two of a pair apart, and is often turned away, folded down or taken
  off. So an image always gives the pair away and only sometimes the kind. The table separates the two of a pair by
  size, weight and price, and confuses kinds of different pairs.

Best possible accuracy on fresh items, from the exact posterior of the generative model (standard error in brackets)
  image and table  {multi:.4f} ({multi_error:.4f})
  image alone      {image:.4f} (exact)
  table alone        {table:.4f} ({table_error:.4f})

Train on it as on any other data:
  python -m gaal_fast.train --data.csv {csv} --data.images {images} \\
      --data.image-column {image_column} --data.target {target}
"""


def _readme(seed: int, rows: int) -> str:
    best, error = best_possible(), best_possible_error()
    pairs = (" / ".join(kind.name for kind in _KINDS if kind.body == body) for body in BODIES)
    return _README.format(
        version=DEMO_VERSION,
        seed=seed,
        rows=rows,
        kinds=len(KINDS),
        csv=_CSV_NAME,
        images=_IMAGE_FOLDER + "/",
        image_column=IMAGE_COLUMN,
        target=TARGET,
        size=IMAGE_SIZE,
        materials=", ".join(MATERIALS),
        makers=len(MAKERS),
        currency=_CURRENCY,
        pairs=", ".join(pairs),
        multi_error=error["multi"],
        table_error=error["table"],
        **best,
    )


def _write(folder: Path, seed: int, rows: int) -> None:
    """Render the whole set into an empty folder; the marker comes last."""
    items = sample_items(rows, seed)
    (folder / _IMAGE_FOLDER).mkdir()
    images = np.empty((rows, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    for row in tqdm(
        range(rows), desc="Rendering the demo set", unit="image", leave=False, disable=None
    ):
        images[row] = render_image(items, row, seed)
        (folder / _IMAGE_FOLDER / _image_name(row)).write_bytes(_png_bytes(images[row]))
    with open(folder / _CSV_NAME, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(_csv_rows(items))
    _contact_sheet(items, images).save(folder / "contact_sheet.png")
    (folder / "README.txt").write_text(_readme(seed, rows), encoding="utf-8", newline="\n")
    marker = {
        "demo": "gaal_fast",
        "version": DEMO_VERSION,
        "seed": seed,
        "rows": rows,
        "csv_sha256": hashlib.sha256((folder / _CSV_NAME).read_bytes()).hexdigest(),
    }
    (folder / _MARKER_NAME).write_text(
        json.dumps(marker, indent=2) + "\n", encoding="utf-8", newline="\n"
    )


def _marker(folder: Path) -> dict | None:
    """What the folder says it holds, or None if it does not say that it is a demo set."""
    try:
        marker = json.loads((folder / _MARKER_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return marker if isinstance(marker, dict) and marker.get("demo") == "gaal_fast" else None


def _is_whole(folder: Path, seed: int, rows: int) -> bool:
    """True if nothing of this version and seed is missing: marker, table by its hash, images by
    name and size.
    """
    marker = _marker(folder)
    if marker is None or (marker.get("version"), marker.get("seed"), marker.get("rows")) != (
        DEMO_VERSION,
        seed,
        rows,
    ):
        return False
    expected = len(_png_bytes(np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)))
    try:
        digest = hashlib.sha256((folder / _CSV_NAME).read_bytes()).hexdigest()
        with os.scandir(folder / _IMAGE_FOLDER) as entries:
            sizes = {entry.name: entry.stat().st_size for entry in entries}
    except OSError:
        return False
    return digest == marker.get("csv_sha256") and all(
        sizes.get(_image_name(row)) == expected for row in range(rows)
    )


def _default_roots(seed: int) -> list[Path]:
    """The per-user cache, then a folder of this user among the temporary files."""
    name = f"demo-v{DEMO_VERSION}-seed{seed}"
    roots = []
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(cache):
        roots.append(Path(cache) / "gaal_fast" / name)
    else:
        with contextlib.suppress(RuntimeError):  # no home directory
            roots.append(Path.home() / ".cache" / "gaal_fast" / name)
    owner = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    roots.append(Path(tempfile.gettempdir()) / f"gaal_fast-{owner}" / name)
    return roots


def _remove_stale(root: Path) -> None:
    """Drop what killed runs left beside ``root``; a younger folder may belong to a run that is
    still at work.
    """
    for partial in root.parent.glob(f".{glob.escape(root.name)}.*.partial"):
        with contextlib.suppress(OSError):  # another process may be removing it too
            if time.time() - partial.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(partial, ignore_errors=True)


def _put_aside(root: Path) -> None:
    """Make way at ``root``: a set that is broken or was edited is kept under a new name, an empty
    folder is not.
    """
    with contextlib.suppress(OSError):
        root.rmdir()
        return
    number = 1
    while (kept := root.with_name(f"{root.name}.replaced-{number}")).exists():
        number += 1
    os.rename(root, kept)
    warnings.warn(
        f"{root} was incomplete or edited: rendered anew, the old folder is kept as {kept}",
        stacklevel=4,
    )


def _render(root: Path, seed: int, rows: int) -> None:
    """Write the set beside ``root`` and rename it into place, so that ``root`` is either whole or
    not there.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(root)
    fresh = root.parent / f".{root.name}.{os.getpid()}-{os.urandom(4).hex()}.partial"
    try:
        fresh.mkdir()
        _write(fresh, seed, rows)
        if _is_whole(root, seed, rows):  # another process was first, with the same bytes
            return
        if root.exists():
            _put_aside(root)
        try:
            os.rename(fresh, root)
        except OSError:
            if not _is_whole(root, seed, rows):
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def ensure_demo(root: Path | None = None, seed: int = 0) -> DemoPaths:
    """Render the demo set unless it is there already, and say where it lies.

    Parameters
    ----------
    root : the folder of the set itself. Default: ``gaal_fast/demo-v<version>-seed<seed>`` in the
    per-user cache
        (``XDG_CACHE_HOME``, else ``~/.cache``), or among the temporary files if that cannot be
        written.
    seed : which set, a whole number >= 0. The same seed and version give the same CSV and PNG
    bytes.

    Raises
    ------
    UserError : a bad seed, a ``root`` that holds something else, or no room to write.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UserError(f"seed of the demo set must be a whole number >= 0, not {seed!r}")
    roots = _default_roots(seed) if root is None else [Path(root)]
    place = next((folder for folder in roots if _is_whole(folder, seed, DEMO_ROWS)), None)
    reason = ""
    for folder in roots if place is None else ():
        try:
            if root is not None:
                _refuse_foreign(folder, seed)
            _render(folder, seed, DEMO_ROWS)
        except OSError as error:
            reason = reason or f"{folder}: {error.strerror or error}"
            continue
        place = folder
        break
    if place is None:
        raise UserError(f"cannot write the demo set to {reason}")
    return DemoPaths(place / _CSV_NAME, place / _IMAGE_FOLDER, IMAGE_COLUMN, TARGET)


def _refuse_foreign(folder: Path, seed: int) -> None:
    """Raise UserError if ``folder``, named by the user, holds anything but this demo set, whole or
    broken.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; the demo set needs a folder")
    marker = _marker(folder)
    if marker is None:
        if any(folder.iterdir()):
            raise UserError(
                f"{folder} holds other files; name a new or empty folder for the demo set"
            )
    elif (marker.get("version"), marker.get("seed")) != (DEMO_VERSION, seed):
        found = f"version {marker.get('version')}, seed {marker.get('seed')}"
        raise UserError(
            f"{folder} holds the demo set of {found}, not version {DEMO_VERSION}, seed {seed}"
        )
