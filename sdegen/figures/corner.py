"""Corner plot of points with three columns or more: every pair of columns, and every column by itself."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from sdegen.datasets import Dataset
from sdegen.figures.columns import UNLABELLED, View, both_histograms, class_handles, cloud, colours_of, dot, name
from sdegen.figures.style import DATA, SAMPLES, styled

MOST = 8
"""Largest number of columns that are drawn."""
POINTS = 1500
"""Largest number of points of each kind in a panel of two columns."""
ROWS = 5000
"""Largest number of rows from which the distances of the columns are computed."""
LEFT, BOTTOM, RIGHT, TOP, LINE = 0.85, 0.8, 0.4, 0.2, 0.165
"""Margins, and height of a line of the heading, in inches."""


@styled
def corner(dataset: Dataset, x: Tensor, y: Tensor | None = None, title: str = "") -> Figure:
    """Draws data and samples in every pair of columns, with histograms of the columns on the diagonal.

    If the data have no labels, both are drawn below the diagonal, and their rank correlations stand above it. If they
    have, the data are drawn below the diagonal and the samples above it, in the colours of their classes, and each
    panel has its own rank correlation. If there are more than :data:`MOST` columns, those are drawn in which the
    samples differ most from the data.

    Args:
        dataset: the data.
        x: samples in the user's units, ``(N, d)``.
        y: classes of the samples, ``(N,)``; None if they have no classes.
        title: words for what the samples are given; empty if they are given nothing.
    """
    data, samples, labelled = dataset.x.numpy(), x.numpy(), dataset.y is not None
    chosen = farthest(data, samples)
    views, labels, own = [View.of(data[:, i]) for i in chosen], colours_of(dataset, dataset.y), colours_of(dataset, y)
    outside = np.stack([view.outside(samples[:, i]) for i, view in zip(chosen, views, strict=True)]).any(0)
    both = [rank_correlations(points[:, chosen]) for points in (data, samples)]
    notes = [title] * bool(title) + _notes(dataset, len(x), len(chosen), int(outside.sum()))
    handles, columns = class_handles(dataset, y), 2 if len(chosen) < 5 else 4
    if not labelled:
        kinds = ((DATA, f"data, {len(data)} points"), (SAMPLES, f"samples, {len(samples)} points"))
        handles = [dot(colour, label) for colour, label in kinds]
    figure, panels = _panels(len(chosen), LINE * (len(notes) - (-len(handles) // columns)) + 0.2)
    for row, column in np.ndindex(panels.shape):
        axes, pair = panels[row, column], [chosen[column], chosen[row]]
        if row == column:
            both_histograms(axes, dataset, data[:, pair[0]], samples[:, pair[0]], views[row], 30)
        elif labels is None and row > column:
            _both(axes, data[:, pair], samples[:, pair])
        elif labels is None:
            for part, height, colour in zip(both, (0.62, 0.38), (DATA, SAMPLES), strict=True):
                _number(axes, float(part[row, column]), 0.5, height, colour, 10)
            axes.set_axis_off()
            continue
        else:
            drawn = (data, labels) if row > column else (samples, UNLABELLED if own is None else own)
            _one(axes, drawn[0][:, pair], drawn[1])
            _number(axes, float(both[int(row < column)][row, column]), 0.04, 0.96, "black", 7)
        views[column].set(axes, "x", 3)
        if row != column:
            views[row].set(axes, "y", 3)
        _edges(axes, row, column, len(chosen))
    for i, column in enumerate(chosen):
        label = textwrap.fill(name(dataset, column), 14)
        panels[-1, i].set_xlabel(label, fontsize=8)
        if i:
            panels[i, 0].set_ylabel(label, fontsize=8)
    figure.align_labels()
    _heading(figure, handles, notes, columns)
    return figure


def rank_correlations(x: np.ndarray) -> np.ndarray:
    """Returns Spearman's correlations of the columns of points ``(N, d)``, from at most :data:`ROWS` rows.

    Unlike Pearson's correlations, they do not depend on the scale of an axis, and a single exploded sample hardly
    changes them. The correlation with a constant column is NaN.
    """
    ranks = []
    for values in _some(x, ROWS).T:
        _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - 0.5 * (counts - 1))[where])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.corrcoef(ranks)


def farthest(data: np.ndarray, samples: np.ndarray) -> list[int]:
    """Returns the columns with the largest Kolmogorov–Smirnov distances, at most :data:`MOST`, in ascending order."""
    if data.shape[1] <= MOST:
        return list(range(data.shape[1]))
    first, second = (np.sort(_some(x, ROWS), axis=0) for x in (data, samples))
    distances = []
    for a, b in zip(first.T, second.T, strict=True):
        both = np.concatenate([a, b])
        shares = [np.searchsorted(values, both, "right") / len(values) for values in (a, b)]
        distances.append(np.abs(shares[0] - shares[1]).max())
    return sorted(np.argsort(-np.array(distances), kind="stable")[:MOST].tolist())


def _panels(count: int, heading: float) -> tuple[Figure, Any]:
    """Returns a figure with a heading, whose height is given in inches, and its panels."""
    side = (1.0 if count > 4 else 1.4) * count
    width, height = LEFT + side + RIGHT, BOTTOM + side + TOP + heading
    # The layout engine takes seconds for 64 panels.
    with matplotlib.rc_context({"figure.constrained_layout.use": False}):
        figure = Figure(figsize=(width, height))
    panels = figure.subplots(count, count, squeeze=False)
    figure.subplots_adjust(LEFT / width, BOTTOM / height, 1 - RIGHT / width, 1 - (TOP + heading) / height, 0.08, 0.08)
    return figure, panels


def _some(x: np.ndarray, count: int) -> np.ndarray:
    """Returns at most ``count`` rows, evenly spaced in the order of the rows."""
    return x[np.linspace(0, len(x) - 1, min(len(x), count)).round().astype(int)]


def _both(axes: Axes, data: np.ndarray, samples: np.ndarray) -> None:
    """Draws as many points of the data as of the samples, in a random order: neither covers the other."""
    count = min(len(data), len(samples), POINTS)
    points = np.concatenate([_some(data, count), _some(samples, count)])
    cloud(axes, points, to_rgba_array([DATA, SAMPLES]).repeat(count, axis=0), _size(count))


def _one(axes: Axes, x: np.ndarray, colours: Any) -> None:  # noqa: ANN401
    cloud(axes, _some(x, POINTS), colours if isinstance(colours, str) else _some(colours, POINTS), _size(len(x)))


def _number(axes: Axes, r: float, x: float, y: float, colour: str, size: float) -> None:
    """Writes a correlation at a place in a panel, whose sides are 1."""
    text = "–" if np.isnan(r) else f"{r:.2f}".replace("-", "−")
    middle = x == 0.5
    box = None if middle else {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1}
    across, upwards = ("center", "center") if middle else ("left", "top")
    axes.text(x, y, text, fontsize=size, color=colour, bbox=box, transform=axes.transAxes, ha=across, va=upwards)


def _size(count: int) -> float:
    return float(np.clip(1500 / count, 1.0, 5.0))


def _edges(axes: Axes, row: int, column: int, count: int) -> None:
    """Keeps the tick labels of the outer panels only."""
    axes.tick_params(labelsize=7, length=2, labelbottom=row == count - 1, labelleft=column == 0 and row > 0)
    if row == 0 and column == count - 1 > 0:
        # The histogram at the left of this row has no numbers of the row's column.
        axes.tick_params(left=False, right=True, labelright=True)
        axes.spines["right"].set_visible(True)
    if row == count - 1:
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")


def _notes(dataset: Dataset, samples: int, drawn: int, outside: int) -> list[str]:
    """Returns lines that say what the figure shows and leaves out."""
    counts, columns = [f"data, {len(dataset.x)} points", f"samples, {samples} points"], len(dataset.x[0])
    notes = ["above the diagonal: rank correlations"]
    if dataset.y is not None:
        notes = [f"below the diagonal: {counts[0]}", f"above: {counts[1]}", "on it: data filled, samples as a line"]
        notes.append("numbers: rank correlations")
    if drawn < columns:
        notes.append(f"{drawn} of {columns} columns: those in which the samples")
        notes.append("differ most from the data (Kolmogorov–Smirnov)")
    return [*notes, f"{outside} of {samples} samples out of view"] if outside else notes


def _heading(figure: Figure, handles: Sequence[Line2D], notes: Sequence[str], columns: int) -> None:
    """Writes the legend and the notes at the top."""
    height, x = figure.get_figheight(), LEFT / figure.get_figwidth()
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (x, 1 - 0.5 * TOP / height)}
    if handles:
        figure.legend(handles=handles, ncols=columns, fontsize=8, handletextpad=0.2, borderaxespad=0, **place)
    below = 0.5 * TOP + LINE * -(-len(handles) // columns) + 0.1
    figure.text(x, 1 - below / height, "\n".join(notes), fontsize=8, va="top")
