"""The built-in demo set: a housewares catalogue, one small image and one table row per item.

Ten kinds of item come in five pairs that share a body. Only one part tells the two of a pair apart:
a mug is a cup with a handle, a tumbler the same cup without. That part is often turned away, folded
down or taken off (and now and then a tumbler has a handle), so an image always gives the pair away
and only sometimes the kind. The table has it the other way round: the two of a pair differ in size,
weight and price, while kinds of different pairs overlap. Each modality tells part of the class, and
the table, whose classes lie in nearly Gaussian clouds, is learned in far fewer steps than the
images.

Every row is drawn from the generative model written down here, so its exact posterior is known
(``posterior``) and with it the best accuracy any classifier can reach (``best_possible``).

The model, for an item of kind y::

    p(y) p(look | y) p(decoration | y) p(glaze)  prod_c p(column c | y)

``look`` (which body, with or without its part) and ``decoration`` are seen in the image;
``glaze`` is the colour in the image and a column of the table, and says nothing about y.
Everything else in an image (position, size, rotation, view, light, background, noise) is drawn
independently of y, so p(y | image) depends on the image through ``look`` and ``decoration``
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

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

GLAZE_RGB = {
    "cream": (226, 214, 186),
    "slate": (96, 108, 124),
    "moss": (104, 128, 72),
    "rust": (178, 84, 54),
    "cobalt": (52, 84, 160),
    "plum": (122, 62, 108),
    "mustard": (212, 166, 60),
    "teal": (42, 132, 134),
}
GLAZES = tuple(GLAZE_RGB)


@dataclass(frozen=True)
class Kind:
    """What one kind of item looks like and measures.

    ``height_cm`` and ``wall_mm`` are (mean, standard deviation) of a Gaussian; ``weight_g`` and
    ``price_eur`` are (median, standard deviation of the logarithm) of a log-normal. ``decoration``
    and ``material`` are unnormalized weights in the order of DECORATIONS and MATERIALS.
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
SPECIFICATIONS = (
    Kind(
        "basket", prior=0.08, body="pan", part_shown=0.72, decoration=(30, 15, 40, 15),
        height_cm=(17.0, 3.0), weight_g=(430, 0.27), price_eur=(24.0, 0.30), wall_mm=(4.6, 0.79),
        material=(2, 1, 2, 15, 25, 55), weight_missing=0.14,
    ),
    Kind(
        "bottle", prior=0.10, body="flask", part_shown=0.05, decoration=(40, 15, 25, 20),
        height_cm=(27.0, 3.0), weight_g=(500, 0.27), price_eur=(17.0, 0.34), wall_mm=(3.0, 0.71),
        material=(12, 8, 68, 10, 1, 1), weight_missing=0.08,
    ),
    Kind(
        "bowl", prior=0.11, body="pan", part_shown=0.05, decoration=(35, 35, 10, 20),
        height_cm=(9.0, 1.66), weight_g=(520, 0.27), price_eur=(15.0, 0.30), wall_mm=(4.4, 0.79),
        material=(40, 25, 15, 5, 13, 2), weight_missing=0.08,
    ),
    Kind(
        "jar", prior=0.10, body="pot", part_shown=0.05, decoration=(35, 35, 20, 10),
        height_cm=(18.0, 2.7), weight_g=(610, 0.29), price_eur=(20.0, 0.32), wall_mm=(3.8, 0.79),
        material=(40, 16, 30, 10, 3, 1), weight_missing=0.10,
    ),
    Kind(
        "jug", prior=0.10, body="pitcher", part_shown=0.72, decoration=(30, 35, 15, 20),
        height_cm=(19.5, 2.5), weight_g=(880, 0.24), price_eur=(31.0, 0.29), wall_mm=(4.7, 0.79),
        material=(45, 20, 17, 16, 1, 1), weight_missing=0.08,
    ),
    Kind(
        "lamp", prior=0.07, body="flask", part_shown=0.72, decoration=(50, 20, 15, 15),
        height_cm=(33.0, 4.4), weight_g=(980, 0.30), price_eur=(58.0, 0.32), wall_mm=(4.0, 0.79),
        material=(30, 22, 22, 20, 5, 1), weight_missing=0.18,
    ),
    Kind(
        "mug", prior=0.14, body="cup", part_shown=0.72, decoration=(25, 35, 10, 30),
        height_cm=(10.0, 1.33), weight_g=(350, 0.21), price_eur=(12.0, 0.29), wall_mm=(4.2, 0.71),
        material=(50, 30, 8, 10, 1, 1), weight_missing=0.08,
    ),
    Kind(
        "teapot", prior=0.09, body="pot", part_shown=0.72, decoration=(30, 20, 10, 40),
        height_cm=(15.5, 1.93), weight_g=(840, 0.22), price_eur=(40.0, 0.29), wall_mm=(4.2, 0.71),
        material=(42, 32, 9, 15, 1, 1), weight_missing=0.10,
    ),
    Kind(
        "tumbler", prior=0.10, body="cup", part_shown=0.05, decoration=(40, 15, 35, 10),
        height_cm=(12.5, 1.61), weight_g=(235, 0.25), price_eur=(9.5, 0.30), wall_mm=(2.6, 0.63),
        material=(12, 10, 60, 16, 1, 1), weight_missing=0.08,
    ),
    Kind(
        "vase", prior=0.11, body="pitcher", part_shown=0.05, decoration=(30, 10, 35, 25),
        height_cm=(26.5, 3.8), weight_g=(700, 0.32), price_eur=(37.0, 0.36), wall_mm=(4.0, 0.79),
        material=(33, 30, 30, 5, 1, 1), weight_missing=0.08,
    ),
)
# fmt: on
KINDS = tuple(kind.name for kind in SPECIFICATIONS)


class Measure(NamedTuple):
    """A numeric column: written as a multiple of ``step``, Gaussian itself or (``log``) in its
    logarithm.
    """

    name: str
    step: float
    decimals: int
    log: bool
    missing: float | None  # None: the rate depends on the kind


MEASURES = (
    Measure("height_cm", 0.1, 1, False, 0.05),
    Measure("weight_g", 1.0, 0, True, None),
    Measure("price_eur", 0.01, 2, True, 0.03),
    Measure("wall_mm", 0.1, 1, False, 0.10),
)
_MATERIAL_MISSING = 0.07
_MAKER_MISSING = 0.15
_GLAZE_MISSING = 0.02
CURRENCY = "EUR"
COLUMNS = (
    *("item_id", IMAGE_COLUMN, "height_cm", "weight_g", "price_eur", "wall_mm", "material"),
    *("maker", "glaze", "catalogue_page", "stock_count", "currency", TARGET),
)


@dataclass(frozen=True)
class Items:
    """n items as the model draws them: what the image shows and what the table says, before any
    pixel or text.

    Attributes:
        kind: int64 [n], index into ``KINDS`` (the class).
        look: int64 [n], 2 * body + 1 if the part is seen else 2 * body, with body an index into
            ``BODIES``.
        decoration: int64 [n], index into ``DECORATIONS``.
        glaze: int64 [n], index into ``GLAZES`` (the color in the image).
        glaze_written: bool [n], False where the table leaves the glaze out.
        ticks: int64 [n, 4], height_cm, weight_g, price_eur and wall_mm in units of their written
            step.
        written: bool [n, 4], False where that cell is missing.
        material: int64 [n], index into ``MATERIALS``, -1 where the cell is missing.
        maker: int64 [n], index into ``MAKERS``, -1 where the cell is missing.
        catalogue_page: int64 [n], independent of everything else.
        stock_count: int64 [n], independent of everything else.
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
class Parameters:
    """The parameters of the model as arrays; the first axis is the kind."""

    prior: np.ndarray
    look: np.ndarray
    decoration: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    missing: np.ndarray
    material: np.ndarray
    maker: np.ndarray


def _normalized(weights: Sequence[float] | Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    array = np.asarray(weights, dtype=np.float64)
    return array / array.sum(axis=-1, keepdims=True)


@lru_cache(maxsize=1)
def parameters() -> Parameters:
    look = np.zeros((len(SPECIFICATIONS), 2 * len(BODIES)))
    mean = np.empty((len(SPECIFICATIONS), len(MEASURES)))
    sd = np.empty_like(mean)
    missing = np.empty_like(mean)
    for y, kind in enumerate(SPECIFICATIONS):
        body = BODIES.index(kind.body)
        look[y, 2 * body : 2 * body + 2] = 1.0 - kind.part_shown, kind.part_shown
        for column, measure in enumerate(MEASURES):
            centre, sd[y, column] = getattr(kind, measure.name)
            mean[y, column] = np.log(centre) if measure.log else centre
            missing[y, column] = kind.weight_missing if measure.missing is None else measure.missing
    # Makers follow a power law, so most of the sixty are rare; each kind has its own favourites
    # among them.
    rank = np.arange(len(MAKERS))
    favourite = np.where((3 * rank + np.arange(len(SPECIFICATIONS))[:, None]) % 10 < 3, 1.45, 0.8)
    return Parameters(
        prior=_normalized([kind.prior for kind in SPECIFICATIONS]),
        look=look,
        decoration=_normalized([kind.decoration for kind in SPECIFICATIONS]),
        mean=mean,
        sd=sd,
        missing=missing,
        material=_normalized([kind.material for kind in SPECIFICATIONS]),
        maker=_normalized((rank + 1.0) ** -1.7 * favourite),
    )


UNIFORMS = 19  # random numbers per table row


def _pick(uniform: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Inverse of the discrete distribution function. uniform[n], probabilities[n, K] or [K] ->
    int64[n].
    """
    cumulative = np.cumsum(probabilities, axis=-1)
    return np.minimum((uniform[:, None] >= cumulative).sum(axis=1), probabilities.shape[-1] - 1)


def items_from_uniforms(u: np.ndarray) -> Items:
    """Map u[n, 19], uniform on [0, 1), to items. Inverse distribution functions only: one number,
    one quantity.
    """
    model = parameters()
    kind = _pick(u[:, 0], model.prior)
    gaussian = model.mean[kind] + model.sd[kind] * ndtri(u[:, 1:5] + 2.0**-54)
    value = np.where([measure.log for measure in MEASURES], np.exp(gaussian), gaussian)
    material = _pick(u[:, 9], model.material[kind])
    maker = _pick(u[:, 10], model.maker[kind])
    return Items(
        kind=kind,
        look=_pick(u[:, 13], model.look[kind]),
        decoration=_pick(u[:, 14], model.decoration[kind]),
        glaze=(u[:, 15] * len(GLAZES)).astype(np.int64),
        glaze_written=u[:, 16] >= _GLAZE_MISSING,
        ticks=np.floor(value / [measure.step for measure in MEASURES] + 0.5).astype(np.int64),
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
    u = np.empty((rows, UNIFORMS))
    for row in range(rows):
        u[row] = np.random.Generator(np.random.PCG64([DEMO_VERSION, seed, row, 0])).random(UNIFORMS)
    return items_from_uniforms(u)
