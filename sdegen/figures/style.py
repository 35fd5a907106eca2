"""Style of all figures, and functions that several figures use."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Palette of Okabe & Ito. Colour-blind readers can distinguish these colours, too."""
MARKERS = "os^DvPX"
"""Markers that distinguish lines in a print without colour."""
DATA, SAMPLES = COLOURS[:2]
DENSITY = "cividis"
DPI = 150
"""Dots per inch of all pictures."""
STYLE: dict[Any, Any] = {
    "figure.dpi": DPI,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "image.interpolation": "nearest",
}
styled = matplotlib.rc_context(STYLE)
"""Decorator of functions that draw in :data:`STYLE`."""


def subplots(width: float, height: float, *shape: int, **options: Any) -> tuple[Figure, Any]:  # noqa: ANN401
    """Returns a figure of ``width`` by ``height`` inches and its axes, as ``matplotlib.pyplot.subplots`` does."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(*shape, **options)


def png(figure: Figure) -> bytes:
    """Returns a figure as the bytes of a PNG without empty margins, at :data:`DPI` dots per inch.

    The figure is drawn once and then cut. ``savefig(bbox_inches="tight")`` would draw it twice; it is used only for
    a figure with parts outside of its area.
    """
    from PIL import Image

    buffer, canvas, dpi = io.BytesIO(), figure.canvas, figure.dpi
    try:
        own, figure.dpi = FigureCanvasAgg(figure), DPI
        own.draw()
        left, low, right, high = DPI * figure.get_tightbbox(own.get_renderer()).extents
        pixels, pad = np.asarray(own.buffer_rgba()), round(DPI * matplotlib.rcParams["savefig.pad_inches"])
    finally:
        figure.set_canvas(canvas)
        figure.dpi = dpi
    height, width = pixels.shape[:2]
    if min(left, low) < 0 or right > width or high > height:
        figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight")
        return buffer.getvalue()
    empty = np.round(255 * np.array(to_rgba(figure.get_facecolor()))).astype(np.uint8)
    whole = np.broadcast_to(empty, (height + 2 * pad, width + 2 * pad, 4)).copy()
    whole[pad : pad + height, pad : pad + width] = pixels
    rows, columns = (math.floor(height - high), math.ceil(height - low)), (math.floor(left), math.ceil(right))
    part = whole[rows[0] : rows[1] + 2 * pad, columns[0] : columns[1] + 2 * pad]
    Image.fromarray(part).save(buffer, format="png", dpi=(DPI, DPI))
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(figure))
    return path


def entitle(figure: Figure, title: str) -> None:
    """Writes a title above a figure, unless it is empty."""
    if title:
        figure.suptitle(title, fontsize=9)


def histogram(axes: Axes, x: np.ndarray, ends: tuple[float, float], bins: int, colour: str) -> None:
    """Draws the density of numbers ``x`` ``(N,)`` between two ``ends``. N includes the numbers outside."""
    width = (ends[1] - ends[0]) / bins or 1 / bins
    axes.hist(x, bins=bins, range=ends, weights=np.full(len(x), 1 / (width * len(x))), color=colour)


def log_ticks(axis: Axis) -> None:
    """Labels a logarithmic axis with plain numbers, and with so few that they do not overlap."""
    low, high = axis.get_data_interval()
    decades = LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,))
    axis.set_major_locator(MaxNLocator(4) if high < 5 * low else decades)
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def marked(k: int) -> dict[str, Any]:
    """Returns the colour and the marker of line ``k``. The first 49 lines differ in colour or marker."""
    shift = k // len(COLOURS)
    return {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[(k + shift) % len(MARKERS)]}


def number(value: float) -> str:
    """Returns a number with two significant digits, and its power of ten, if any, as a formula."""
    mantissa, _, exponent = f"{value:.2g}".partition("e")
    power = f"10^{{{int(exponent)}}}" if exponent else ""
    return mantissa if not exponent else f"${power}$" if mantissa == "1" else f"${mantissa} \\times {power}$"


def plain(text: str) -> str:
    """Returns text with its dollar signs escaped: matplotlib would read a formula between two of them."""
    return text.replace("$", r"\$")


def shown(dimensions: int, before: str = "") -> str:
    """Returns a note that a figure shows only the first two coordinates; empty if it shows all coordinates."""
    return f"{before}first 2 of {dimensions} coordinates" if dimensions > 2 else ""
