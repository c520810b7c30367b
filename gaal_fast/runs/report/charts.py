"""Charts of a report: SVG that takes the page's colors, so that it is read on light and on dark."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from gaal_fast.runs.figures import COLORS, colors
from gaal_fast.runs.naming import FUSED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 4.5, 2.9  # inches; 10 points are then about 10 pixels on a phone
_INK, _FAINT = "#010203", "#040506"  # stand for the page's own colors of text and of grid lines
_SIZE = 9.5
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gaal_fast",  # the same chart has the same bytes
    "text.parse_math": False,  # a dollar sign in the user's names is a dollar sign
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _FAINT,
    "font.size": _SIZE,
    "axes.labelsize": _SIZE,
    "legend.fontsize": _SIZE - 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "legend.frameon": False,
}
_MARKERS = "osD^vP*X"
_LONGEST = 24  # letters of a name on an axis
_LEGEND = 3  # names in a row of a legend

Line = tuple[Sequence[float], Sequence[float]]


def _draw(
    alt: str,
    draw: Callable[[Axes], None],
    *,
    height: float = HEIGHT,
    left: float = 0.8,
    top: float = 0.1,
) -> str:
    """A chart as SVG text. Margins are in inches: finding them out would double the time."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, height))
        figure.subplots_adjust(
            left=left / WIDTH, right=1 - 0.1 / WIDTH, bottom=0.48 / height, top=1 - top / height
        )
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        draw(axes)
        figure.patch.set_alpha(0)
        axes.patch.set_alpha(0)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return _inlined(stream.getvalue(), alt)


def _inlined(text: str, alt: str) -> str:
    """The SVG as it stands in a page: no namespaces, ids of its own, the page's colors."""
    size = re.search(r'viewBox="([^"]+)"', text)
    assert size is not None
    body = text[text.index("<svg") :]
    body = body[body.index(">") + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.S)
    body = body.replace("xlink:href=", "href=")
    body = re.sub(r' xmlns(:\w+)?="[^"]*"', "", body)
    # Several charts are in one page: each needs ids of its own, the same ones every time.
    own = f"c{zlib.crc32(text.encode('utf-8')):x}-"
    body = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{own}", body)
    body = re.sub(r'style="[^"]*"', _page_style, body)
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    return f'<svg viewBox="{size[1]}" role="img" aria-label="{escape(alt)}">{body}'


def _page_style(found: re.Match[str]) -> str:
    return re.sub("#([0-9a-f]{6})", _page_color, found[0])


def _page_color(found: re.Match[str]) -> str:
    color = found[0]
    if color in (_INK, COLORS[FUSED]):
        return "currentColor"
    return "var(--faint)" if color == _FAINT else f"var(--s{found[1]}, {color})"


def short(name: object, limit: int = _LONGEST) -> str:
    """A name that fits beside an axis."""
    text = str(name)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def lines(
    alt: str,
    series: Mapping[str, Line],
    x: str,
    y: str,
    *,
    shades: Mapping[str, str] | None = None,
    limits: tuple[float, float] | None = None,
    zero: bool = False,
    diagonal: bool = False,
    whole: bool = False,
) -> str:
    """One line a name.

    Args:
        alt: What the chart shows, for who does not see it.
        series: Name to x and y.
        x: Title of the axis.
        y: Title of the axis.
        shades: Name to color; None for those of ``colors``.
        limits: Of y.
        zero: Whether to mark y = 0.
        diagonal: Whether to mark y = x.
        whole: Whether x counts something.
    """

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        found = shades or colors(series)
        for place, (name, (across, up)) in enumerate(series.items()):
            few = len(across) <= 30
            axes.plot(
                across,
                up,
                color=found[name],
                label=short(name),
                marker=_MARKERS[place % len(_MARKERS)] if few else None,
                markersize=4,
                linewidth=1.8,
            )
        if zero:
            axes.axhline(0, color=_INK, linewidth=0.8)
        if diagonal:
            ends = [axes.get_xlim(), axes.get_ylim()]
            low, high = min(end[0] for end in ends), max(end[1] for end in ends)
            axes.plot([low, high], [low, high], color=_INK, linewidth=0.8, linestyle=":")
        if limits is not None:
            axes.set_ylim(*limits)
        axes.xaxis.set_major_locator(MaxNLocator(integer=whole, nbins=5, min_n_ticks=1))
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(alpha=0.6, linewidth=0.6)
        if len(series) > 1:
            columns = min(_LEGEND, len(series))
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)

    rows = -(-len(series) // _LEGEND) if len(series) > 1 else 0
    return _draw(alt, draw, height=HEIGHT + 0.2 * max(0, rows - 1), top=0.15 + 0.2 * rows)


def intervals(
    alt: str,
    values: Sequence[tuple[str, float, float | None, float | None]],
    x: str,
    *,
    hollow: Iterable[str] = (),
    shades: Mapping[str, str] | None = None,
    zero: bool = False,
) -> str:
    """A dot a name with its interval, the first one on top.

    Args:
        alt: What the chart shows.
        values: Name, value, and the ends of its interval where there is one.
        x: Title of the axis.
        hollow: Names whose dot is not filled.
        shades: Name to color; None for those of ``colors``.
        zero: Whether to mark x = 0.
    """

    def draw(axes: Axes) -> None:
        found = shades or colors(name for name, *_ in values)
        for place, (name, value, low, high) in enumerate(values):
            color = found[name]
            if low is not None and high is not None:
                axes.plot([low, high], [place, place], color=color, linewidth=2.2)
            inside = "none" if name in hollow else color
            axes.plot([value], [place], "o", color=color, markerfacecolor=inside, markersize=6.5)
        if zero:
            axes.axvline(0, color=_INK, linewidth=0.8)
        axes.set_yticks(range(len(values)), [short(name) for name, *_ in values])
        axes.set_ylim(len(values) - 0.4, -0.6)
        axes.margins(x=0.08)
        axes.set_xlabel(x)
        axes.grid(axis="x", alpha=0.6, linewidth=0.6)
        axes.tick_params(axis="y", length=0)

    longest = max(len(short(name)) for name, *_ in values)
    height = max(1.3, 0.75 + 0.3 * len(values))
    return _draw(alt, draw, height=height, left=0.15 + 0.077 * longest)


def heat(alt: str, matrix: np.ndarray) -> str:
    """A confusion matrix of many classes as shares of the true class, without their names."""

    def draw(axes: Axes) -> None:
        shares = matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)
        # Transparent where nothing is, so that it suits any background.
        pixels = np.zeros((*matrix.shape, 4))
        pixels[..., :3] = (0x2B / 255, 0x8C / 255, 0xBE / 255)
        pixels[..., 3] = np.where(shares > 0, 0.15 + 0.85 * shares, 0)
        axes.imshow(pixels, interpolation="nearest", aspect="auto")
        axes.set_xlabel("predicted class, by number")
        axes.set_ylabel("true class, by number")

    return _draw(alt, draw, height=WIDTH * 0.9)
