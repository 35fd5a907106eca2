"""Columns and classes of points in figures: names, views, colours and histograms."""

from __future__ import annotations

from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from torch import Tensor

from sdegen.datasets import Dataset
from sdegen.figures.style import COLOURS, DATA, SAMPLES, number, plain

LONGEST, LONGEST_CLASS = 24, 40
"""Largest numbers of characters of the name of a column, and of a class or a condition in a legend."""
NAMED = 12
"""Largest number of classes in a legend."""
UNLABELLED = "0.35"
"""Colour of samples without labels beside data with labels."""
CROWDED = 0.1
"""Share of a linear axis below which the middle half of a column is crowded."""


def name(dataset: Dataset, column: int, at_t: bool = False) -> str:
    """Returns the name of a column for a label: its own name, or else :math:`x_1`, :math:`x_2`, ….

    Args:
        dataset: the data.
        column: index of the column, from 0.
        at_t: True for the name of the column of x(t).
    """
    columns, (dimensions,) = dataset.description.columns, dataset.units.shape
    if len(columns) == dimensions:
        return f"{_short(columns[column])}{' at t' if at_t else ''}"
    if dimensions == 1:
        return "x(t)" if at_t else "x"
    return f"$x_{{{column + 1}}}(t)$" if at_t else f"$x_{{{column + 1}}}$"


def class_name(dataset: Dataset, label: int) -> str:
    """Returns the name of a class for a legend; without names, the number of the class."""
    names = dataset.description.classes
    return _short(names[label], LONGEST_CLASS) if label < len(names) else str(label)


def _short(text: str, longest: int = LONGEST) -> str:
    text = " ".join(text.split())
    return plain(text if len(text) <= longest else f"{text[: longest - 1]}…")


class View(NamedTuple):
    r"""Visible part of a column, on a linear axis, or on the axis :math:`\sinh^{-1}(x/w)` for a skewed column.

    Attributes:
        low: lower end.
        high: upper end.
        width: w, the width of the linear part around 0; None for a linear axis.
    """

    low: float
    high: float
    width: float | None = None

    @classmethod
    def of(cls, x: np.ndarray, margin: float = 0.12, bends: bool = True) -> View:
        """Returns a view of all numbers ``x`` ``(N,)``, with a margin on both sides as a share of the axis.

        The axis is linear, unless ``bends`` is true, a linear axis would crowd the middle half of the numbers, and the
        other axis shows it at least twice as wide.
        """
        low, high = float(x.min()), float(x.max())
        for inner in (0.25, 0.05):
            first, last = np.quantile(x, (inner, 1 - inner))
            if (width := 0.5 * float(last - first)) > 0:
                break
        if bends and width > 0 and 2 * width < CROWDED * (high - low):
            ends = np.arcsinh(np.array([low, first, last, high]) / width)
            if (ends[2] - ends[1]) / (ends[3] - ends[0]) > 2 * 2 * width / (high - low):
                extra = margin * (ends[3] - ends[0])
                low, high = (width * np.sinh([ends[0] - extra, ends[3] + extra])).tolist()
                return cls(low, high, width)
        extra = margin * (high - low) or 1.0
        return cls(low - extra, high + extra)

    def edges(self, bins: int) -> np.ndarray:
        """Returns ``bins + 1`` numbers from end to end that are evenly spaced on the axis."""
        if self.width is None:
            return np.linspace(self.low, self.high, bins + 1)
        ends = np.arcsinh(np.array([self.low, self.high]) / self.width)
        edges = self.width * np.sinh(np.linspace(ends[0], ends[1], bins + 1))
        return np.concatenate([[self.low], edges[1:-1], [self.high]])

    def outside(self, x: np.ndarray) -> np.ndarray:
        """Returns True for numbers out of view."""
        return ~((x >= self.low) & (x <= self.high))

    def set(self, axes: Axes, which: str, ticks: int = 4) -> None:
        """Gives the axis ``x`` or ``y`` of axes this view, with about ``ticks`` ticks."""
        axis = axes.xaxis if which == "x" else axes.yaxis
        scale = axes.set_xscale if which == "x" else axes.set_yscale
        if self.width is None:
            axis.set_major_locator(MaxNLocator(ticks))
        else:
            scale("asinh", linear_width=self.width)
            axis.set_ticks(self._ticks(ticks))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        (axes.set_xlim if which == "x" else axes.set_ylim)(self.low, self.high)

    def _ticks(self, count: int) -> list[float]:
        """Returns 0 and numbers of one digit in view, the largest first, with room for ``count`` labels."""
        width = self.width or 1.0
        powers = range(int(np.floor(np.log10(width))), int(np.ceil(np.log10(max(-self.low, self.high, width)))) + 1)
        sizes = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        numbers = [x for x in (*sizes, 0.0, *(-size for size in sizes)) if self.low <= x <= self.high]
        places = dict(zip(numbers, np.arcsinh(np.array(numbers) / width), strict=True))
        room = float(np.ptp(np.arcsinh(np.array([self.low, self.high]) / width))) / (count + 0.5)
        chosen: list[float] = [0.0] if 0.0 in places else []
        # Decades come before other numbers, and large numbers before small ones.
        for x in sorted(places, key=lambda x: (f"{abs(x):e}"[0] != "1", -abs(x))):
            if all(abs(places[x] - places[other]) >= room for other in chosen):
                chosen.append(x)
        return sorted(chosen)


def both_histograms(axes: Axes, dataset: Dataset, data: np.ndarray, samples: np.ndarray, view: View, bins: int) -> None:
    """Draws the shares of the numbers of data and of samples, ``(N,)`` each, in each bin of a view.

    N includes the numbers out of view. The colours are not those of a class.
    """
    colours, edges = (DATA, SAMPLES) if dataset.y is None else ("0.6", "0.1"), list(view.edges(bins))
    weights = [np.full(len(x), 1 / len(x)) for x in (data, samples)]
    axes.hist(data, edges, weights=weights[0], color=colours[0], alpha=0.45, label="data")
    axes.hist(samples, edges, weights=weights[1], color=colours[1], histtype="step", linewidth=1.1, label="samples")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    view.set(axes, "x", 3)


def cloud(axes: Axes, x: np.ndarray, colours: Any, size: float) -> None:  # noqa: ANN401
    """Draws points ``(N, 2)`` in one colour, or in the colours ``(N, 4)`` of the points in a random order."""
    if not isinstance(colours, str):
        # In the order of the file, the last class could cover the others.
        order = np.random.default_rng(0).permutation(len(x))
        x, colours = x[order], colours[order]
    axes.scatter(x[:, 0], x[:, 1], s=size, c=colours, linewidths=0)


def class_colours(classes: int) -> np.ndarray:
    """Returns a colour for each class, ``(classes, 4)``."""
    if classes <= len(COLOURS):
        return matplotlib.colors.to_rgba_array(COLOURS[:classes])
    return matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, classes))


def colours_of(dataset: Dataset, y: Tensor | None) -> np.ndarray | None:
    """Returns the colour of each label, ``(N, 4)``; None without labels."""
    if y is None or dataset.classes is None:
        return None
    return class_colours(dataset.classes)[y.cpu().numpy()]


def class_handles(dataset: Dataset, y: Tensor | None) -> list[Line2D]:
    """Returns a coloured dot for each class, for a legend.

    The list is empty if there are too many classes, or if all data and all samples, with the classes ``y``, have one.
    """
    count, known = dataset.classes or 0, () if dataset.y is None else (dataset.y, dataset.y if y is None else y.cpu())
    if not known or count > NAMED or len(torch.cat(known).unique()) == 1:
        return []
    dots = enumerate(class_colours(count))
    return [dot(colour, class_name(dataset, label)) for label, colour in dots]


def dot(colour: Any, label: str) -> Line2D:  # noqa: ANN401
    """Returns a dot for a legend."""
    return Line2D([], [], linestyle="", marker="o", markersize=4, color=colour, label=label)
