"""The images of the demo set: shapes turned on a lathe, sampled 3 x 3 per pixel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator

from gaal_fast.demo.catalogue import (
    BODIES,
    DECORATIONS,
    DEMO_VERSION,
    GLAZE_RGB,
    GLAZES,
    IMAGE_SIZE,
    Items,
)

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
    "cup": _Body(
        ((-0.72, 0.66), (-0.40, 0.63), (0.30, 0.56), (0.60, 0.50), (0.70, 0.44)),
        True,
        (-0.50, 0.55),
    ),
    "pitcher": _Body(
        ((-1.00, 0.42), (-0.88, 0.34), (-0.65, 0.31), (-0.20, 0.52), (0.25, 0.68), (0.65, 0.60),
         (0.95, 0.38)),
        True,
        (-0.25, 0.75),
    ),
    "pot": _Body(
        ((-0.84, 0.05), (-0.76, 0.26), (-0.60, 0.42), (-0.52, 0.44), (-0.30, 0.72), (0.10, 0.86),
         (0.50, 0.72), (0.78, 0.48)),
        False,
        (-0.28, 0.62),
    ),
    "pan": _Body(
        ((-0.30, 1.00), (-0.20, 0.99), (0.10, 0.88), (0.40, 0.62), (0.58, 0.40)),
        True,
        (-0.16, 0.46),
    ),
    "flask": _Body(
        ((-1.02, 0.17), (-0.92, 0.15), (-0.45, 0.16), (-0.18, 0.38), (0.05, 0.52), (0.35, 0.55),
         (0.80, 0.52), (0.98, 0.44)),
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
        self,
        where: np.ndarray | bool,
        rgb: Sequence[float] | np.ndarray,
        light: np.ndarray | float = 1.0,
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


def _ring(
    x: np.ndarray, y: np.ndarray, cx: float, cy: float, rx: float, ry: float, width: float
) -> np.ndarray:
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


class _Pose(NamedTuple):
    """How an item stands before the viewer.

    ``x`` and ``y``, [side, side], are the samples in its own coordinates. ``tilt`` is how far
    from above it is seen: short axis / long axis of every rim.
    """

    x: np.ndarray
    y: np.ndarray
    unit: float
    tilt: float
    lamp_side: float
    ambient: float


def _pose(canvas: _Painter, u: np.ndarray) -> _Pose:
    """Shift, turn, size, proportions, and which way round the item stands, from u[24]."""
    turn = (u[10] - 0.5) * 0.28
    unit = 0.58 + 0.14 * u[11]
    wide = unit * (0.90 + 0.20 * u[12])
    cx, cy = canvas.x - 0.24 * (u[8] - 0.5), canvas.y - 0.20 * (u[9] - 0.5)
    cos, sin = np.cos(turn), np.sin(turn)
    x, y = (cos * cx + sin * cy) / wide, (cos * cy - sin * cx) / unit
    if u[13] < 0.5:
        x = -x
    lamp_side = 1.0 if u[15] < 0.5 else -1.0
    return _Pose(x, y, unit, 0.14 + 0.16 * u[14], lamp_side, 0.80 + 0.30 * u[16])


def _paint_part(canvas: _Painter, name: str, rgb: np.ndarray, pose: _Pose) -> None:
    """The part of a body that lies behind it: handle, spout or hoop."""
    x, y = pose.x, pose.y
    flat = _flat_light(pose)
    if name == "cup":
        canvas.paint(_ring(x, y, 0.66, -0.06, 0.44, 0.46, 0.17), rgb * 0.86, flat)
    elif name == "pitcher":
        canvas.paint(_ring(x, y, 0.50, -0.36, 0.48, 0.56, 0.16), rgb * 0.86, flat)
        canvas.paint(
            (x < -0.1) & (-x - 0.72 < (y + 1.0) * -1.2) & (y > -1.06) & (y < -0.6), rgb * 0.95, flat
        )
    elif name == "pot":
        canvas.paint(_ring(x, y, 0.80, -0.02, 0.44, 0.44, 0.16), rgb * 0.86, flat)
        along = -(x + 0.6)  # the spout: a tapering bar that leans out and up
        spout = (
            (along > 0.0) & (along < 0.68) & (np.abs(y - 0.22 + 0.95 * along) < 0.22 - 0.16 * along)
        )
        canvas.paint(spout, rgb * 0.92, flat)
    elif name == "pan":
        hoop = _ring(x, y, 0.0, -0.30, 0.94, 0.92, 0.14) & (y < -0.28)
        canvas.paint(hoop, rgb * 0.80, flat)


def _flat_light(pose: _Pose) -> np.ndarray:
    return pose.ambient * (0.90 + 0.12 * pose.lamp_side * pose.x)


def _paint_body(
    canvas: _Painter, name: str, decoration: str, rgb: np.ndarray, pose: _Pose, radius: np.ndarray
) -> None:
    """The body: shaded by its normal, with one soft highlight, the foot rounded by the view from
    above. ``radius`` is that of the body at the height of each sample.
    """
    body, (x, y, _, tilt, lamp_side, ambient) = _BODIES[name], pose
    nx = np.clip(x / np.maximum(radius, 1e-6), -1.5, 1.5)
    facing = np.sqrt(np.maximum(0.0, 1.0 - nx * nx))
    gloss = np.maximum(0.0, 1.0 - np.abs(nx - 0.42 * lamp_side) / 0.16)
    light = ambient * (0.58 + 0.36 * facing + 0.20 * lamp_side * nx)
    solid = (np.abs(nx) <= 1.0) & (radius > 0.0)
    bottom, foot_radius = body.profile[-1]
    foot = _ellipse(x, y, 0.0, bottom - 0.01, foot_radius, foot_radius * tilt) <= 1.0
    canvas.paint(foot, rgb, ambient * 0.62)
    canvas.paint(solid, rgb, light)
    if decoration != "plain":
        bent = y - tilt * radius * (facing - 0.6)
        ink = _DARK_INK if rgb @ (0.299, 0.587, 0.114) > 140 else _LIGHT_INK
        canvas.paint(solid & _decoration_mask(decoration, body, nx, bent), ink, light)
    np.add(canvas.pixels, 46.0 * gloss * ambient, out=canvas.pixels, where=solid)
    if body.open_top:
        top, top_radius = body.profile[0]
        rim = _ellipse(x, y, 0.0, top, top_radius, top_radius * tilt)
        canvas.paint(rim <= 1.0, rgb * 1.08, ambient)
        inner = max(top_radius - 0.07, top_radius * 0.6)
        inside = _ellipse(x, y, 0.0, top, inner, inner * tilt) <= 1.0
        canvas.paint(inside, rgb * 0.45, ambient * (1.0 - 0.25 * lamp_side * x))
    else:  # a lid with a knob
        knob = _ellipse(x, y, 0.0, -0.92, 0.13, 0.13) <= 1.0
        canvas.paint(knob, rgb * 0.95, _flat_light(pose))
        canvas.paint(solid & (np.abs(y + 0.54 - tilt * 0.44 * facing) < 0.035), rgb * 0.5, light)


def _draw(
    look: int, decoration: int, glaze: int, rng: np.random.Generator, size: int
) -> np.ndarray:
    """One image, uint8 [size, size, 3]. All that varies beside the three factors comes from
    ``rng``.
    """
    name, part = BODIES[look // 2], bool(look % 2)
    u = rng.random(24)
    canvas = _Painter(size)
    pose = _pose(canvas, u)
    x, y = pose.x, pose.y

    table = _radius_table(name)
    index = ((y - _PROFILE_TOP) * _PROFILE_STEPS_PER_UNIT).astype(np.int64)
    radius = table[np.clip(index, 0, len(table) - 1)]
    bottom = _BODIES[name].profile[-1][0]
    _paint_background(canvas, u[:8], foot=0.20 * (u[9] - 0.5) + pose.unit * bottom)
    shadow = _ellipse(x, y, 0.35 * pose.lamp_side, bottom, table.max() * 1.15, 0.26)
    canvas.pixels *= np.where(shadow < 1.0, 0.62 + 0.38 * shadow, 1.0)

    rgb = np.array(GLAZE_RGB[GLAZES[glaze]]) + 28.0 * (u[17:20] - 0.5)
    if part:
        _paint_part(canvas, name, rgb, pose)
    _paint_body(canvas, name, DECORATIONS[decoration], rgb, pose, radius)
    if part and name == "flask":
        span = (y + 1.12) / 0.86
        shade = (span >= 0.0) & (span <= 1.0) & (np.abs(x) < 0.34 + 0.44 * span)
        light = pose.ambient * (0.80 + 0.20 * span - 0.10 * np.abs(x))
        canvas.paint(shade, _SHADE_RGB, light)

    grain = 2.0 + 6.0 * u[20]
    noise = np.floor((rng.random((size, size, 3)) - 0.5) * 2.0 * grain + 0.5).astype(np.int64)
    return canvas.finish(noise)


def render_image(items: Items, row: int, seed: int = 0, size: int = IMAGE_SIZE) -> np.ndarray:
    """The image of one item, uint8[size, size, 3] in RGB, from its look, decoration, glaze and
    (seed, row).
    """
    rng = np.random.Generator(np.random.PCG64([DEMO_VERSION, seed, row, 1]))
    return _draw(int(items.look[row]), int(items.decoration[row]), int(items.glaze[row]), rng, size)
