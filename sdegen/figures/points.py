"""Figures of data and samples, and the points and densities of x(t) that other figures use, too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter
from torch import Tensor

from sdegen.core.randomness import generator, randn_like
from sdegen.datasets import Dataset
from sdegen.figures.columns import (
    UNLABELLED,
    View,
    both_histograms,
    class_colours,
    class_handles,
    cloud,
    colours_of,
    name,
)
from sdegen.figures.corner import corner
from sdegen.figures.images import image_grid, scaled, show
from sdegen.figures.images import view as range_of
from sdegen.figures.signals import compare_signals
from sdegen.figures.style import DATA, SAMPLES, entitle, histogram, number, shown, styled, subplots
from sdegen.samplers import Samples
from sdegen.sde.base import SDE
from sdegen.sde.mixture import marginals as exact_marginals

GRID = 64
"""Number of images of the data that are shown."""


@styled
def compare(dataset: Dataset, x: Tensor, y: Tensor | None = None, title: str = "") -> Figure:
    """Draws the training data beside samples, in the user's units: figures 3 to 6 and 8 of the paper.

    Points have the colours of their classes. Three columns or more are drawn as a :func:`corner` plot.

    Args:
        dataset: the data.
        x: samples, ``(N, *)``.
        y: classes of the samples, ``(N,)``; None if they have no classes.
        title: words for what the samples are given; empty if they are given nothing.
    """
    x = x.detach().double().cpu()
    if dataset.units.kind != "vectors":
        figure = (compare_signals if dataset.units.kind == "signals" else _compare_images)(dataset.x, x)
        entitle(figure, title)
        return figure
    if dataset.units.shape[0] > 2:
        return corner(dataset, x, y, title)
    figure = (_on_line if dataset.units.shape == (1,) else _in_plane)(dataset, x, y)
    if handles := class_handles(dataset, y):
        columns = max(1, min(6, 90 // (5 + max(len(str(handle.get_label())) for handle in handles))))
        figure.legend(handles=handles, title=title or None, loc="outside upper center", ncols=columns, handletextpad=0)
    else:
        entitle(figure, title)
    return figure


def _on_line(dataset: Dataset, x: Tensor, y: Tensor | None) -> Figure:
    """Draws two histograms, stacked by class, with the exact density if it is known."""
    figure, panels = subplots(7, 2.6, 1, 2, sharex=True, sharey=True)
    view = View.of(dataset.x[:, 0].numpy(), 0.1, bends=dataset.law is None)
    edges = view.edges(60)
    cell = 1.0 if view.width else edges[1] - edges[0]
    for axes, points, labels, other in _kinds(dataset, x, y, panels):
        values = points.flatten().numpy()
        parts, colours = [values], [other]
        if labels is not None and dataset.classes is not None:
            parts = [values[labels.numpy() == label] for label in range(dataset.classes)]
            colours = list(class_colours(dataset.classes))
        weights = [np.full(len(part), 1 / (cell * len(values))) for part in parts]
        axes.hist(parts, list(edges), weights=weights, color=colours, stacked=True)
        axes.set_xlabel(name(dataset, 0))
        if dataset.law is not None:
            grid = torch.linspace(view.low, view.high, 400, dtype=torch.float64)
            exact = dataset.law.log_prob(grid[:, None]).exp()
            axes.plot(grid.numpy(), exact.numpy(), color="black", linewidth=1, label="exact density")
            axes.legend()
        view.set(axes, "x", 7)
    panels[0].set_ylabel("share of the points" if view.width else "density")
    panels[1].tick_params(left=False)
    return figure


def _in_plane(dataset: Dataset, x: Tensor, y: Tensor | None) -> Figure:
    """Draws two clouds in the view of the data, and the histograms of both columns."""
    figure = Figure(figsize=(8.2, 3.3))
    grid = figure.add_gridspec(2, 3, width_ratios=(1, 1, 0.5))
    first = figure.add_subplot(grid[:, 0], ylabel=name(dataset, 1))
    panels = (first, figure.add_subplot(grid[:, 1], sharex=first, sharey=first))
    views = [View.of(column) for column in dataset.x.numpy().T]
    size = float(np.clip(3000 / max(len(dataset.x), len(x)), 1.0, 6.0))
    lengths = [view.high - view.low for view in views if view.width is None]
    # Columns with names of their own may have different units.
    alike = 2 if dataset.description.columns else 5
    for axes, points, labels, other in _kinds(dataset, x, y, panels):
        colours = colours_of(dataset, labels)
        cloud(axes, points.numpy(), other if colours is None else colours, size)
        outside = np.stack([view.outside(column) for view, column in zip(views, points.numpy().T, strict=True)]).any(0)
        axes.set_xlabel(name(dataset, 0))
        if outside.any():
            axes.set_title(f"{axes.get_title()} ({outside.sum()} out of view)")
        for view, which in zip(views, "xy", strict=True):
            view.set(axes, which, 5)
        if len(lengths) == 2 and max(lengths) < alike * min(lengths):
            axes.set_aspect("equal")
    panels[1].tick_params(left=False, labelleft=False)
    for i, view in enumerate(views):
        axes = figure.add_subplot(grid[i, 2], xlabel=name(dataset, i))
        both_histograms(axes, dataset, dataset.x[:, i].numpy(), x[:, i].numpy(), view, 40)
        if i == 0:
            axes.legend(
                loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8, handlelength=1, columnspacing=1
            )
    return figure


def _kinds(
    dataset: Dataset, x: Tensor, y: Tensor | None, panels: Sequence[Axes]
) -> Iterator[tuple[Axes, Tensor, Tensor | None, str]]:
    """Yields axes with a title, the points, their labels, and the colour of points without labels."""
    colours = (DATA, SAMPLES if dataset.y is None else UNLABELLED)
    kinds = (("data", dataset.x, dataset.y), ("samples", x, y if dataset.y is not None else None))
    for axes, (title, points, labels), colour in zip(panels, kinds, colours, strict=True):
        axes.set_title(f"{title}, {len(points)} points")
        yield axes, points, None if labels is None else labels.cpu(), colour


def _compare_images(data: Tensor, x: Tensor) -> Figure:
    # The images may be sorted by class: show some that are spread evenly over the set.
    rows = torch.linspace(0, len(data) - 1, min(len(data), GRID)).round().long()
    part, (low, high) = data[rows].double(), range_of(data)
    figure, panels = subplots(7, 3.7, 1, 2)
    for axes, (title, images) in zip(panels, (("data", part), ("samples", x)), strict=True):
        show(axes, image_grid(scaled(images, low, high)))
        axes.set(title=title)
    return figure


@styled
def marginals(dataset: Dataset, samples: Samples, sde: SDE, title: str = "") -> Figure:
    """Draws x(t) of the forward process (top) and of the samples (bottom) at six times, in the network's units.

    ``title`` says what the samples are given; empty if they are given nothing.
    """
    path, times = samples.path.detach().double().cpu(), samples.times.double().cpu()
    chosen = spread(sde, times)
    clean = dataset.units.encode(fresh(dataset, path.shape[1]))
    source = randn_like(generator("cpu", 0, "marginals"))
    forward = [sde.perturb(clean, times[i].expand(len(clean)), source).flatten(1).numpy() for i in chosen]
    backward = [path[i].flatten(1)[: len(clean)].numpy() for i in chosen]
    line = clean[0].numel() == 1
    figure, panels = _grid(2, len(chosen))
    for column, (i, *rows) in enumerate(zip(chosen, forward, backward, strict=True)):
        reach = [float(np.quantile(np.abs(points[:, :2]), 0.999)) for points in rows]
        # The view has room for the points of a poor score, but not for diverging ones.
        limit = 1.15 * min(max(reach), 2 * reach[0])
        outside = int((np.abs(rows[1][:, :2]) > limit).any(1).sum()) if reach[1] > 2 * reach[0] else 0
        for axes, points, colour in zip(panels[:, column], rows, (DATA, SAMPLES), strict=True):
            axes.set_xlim(-limit, limit)
            if line:
                histogram(axes, points[:, 0], (-limit, limit), 40, colour)
                axes.set_yticks([])
                axes.spines["left"].set_visible(False)
            else:
                axes.scatter(points[:, 0], points[:, 1], s=1.5, color=colour, linewidths=0)
                axes.set(ylim=(-limit, limit), aspect="equal", adjustable="box")
            axes.locator_params(nbins=3)
            axes.tick_params(labelsize=7)
        panels[0, column].set_title(f"t = {number(float(times[i]))}")
        if outside:
            panels[1, column].set_title(f"{outside} out of view", fontsize=7)
    panels[0, 0].set_ylabel("forward")
    panels[1, 0].set_ylabel("reverse")
    pair = f"{name(dataset, 0)} (across) and {name(dataset, 1)} (up) at t" if not line else name(dataset, 0, at_t=True)
    label = pair if dataset.description.columns else "x(t)"
    figure.supxlabel(f"{label}, {units(dataset)}{shown(path[0, 0].numel(), ', ')}", fontsize=9)
    entitle(figure, title)
    return figure


def _grid(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    """Returns a figure with square panels, in which each column shares its axes.

    The places are fixed, because matplotlib needs as long to find them for so many axes as for the rest of the figure.
    """
    left, right, bottom, top, gap, side = 0.7, 0.2, 0.5, 0.5, (0.43, 0.33), 1.1
    width, height = (n * side + (n - 1) * between for n, between in zip((columns, rows), gap, strict=True))
    whole = (left + width + right, bottom + height + top)
    places = {
        "left": left / whole[0],
        "right": 1 - right / whole[0],
        "bottom": bottom / whole[1],
        "top": 1 - top / whole[1],
    }
    places |= {"wspace": gap[0] / side, "hspace": gap[1] / side}
    figure = Figure(figsize=whole)
    figure.set_layout_engine("none")
    return figure, figure.subplots(rows, columns, sharex="col", sharey="col", squeeze=False, gridspec_kw=places)


def units(dataset: Dataset) -> str:
    """Returns the name of the network's units for labels."""
    x, inner = dataset.x.double(), dataset.units.encode(dataset.x)
    if torch.equal(x, inner):
        return "in the data's units"
    mean, deviation = inner.mean(0), inner.std(0, correction=0)
    # A constant coordinate is centred, but not scaled.
    standard = (mean.abs() < 1e-6) & (((deviation - 1).abs() < 1e-6) | (deviation == 0))
    return "standardised" if bool(standard.all()) else "in the network's units"


def heat(dataset: Dataset, sde: SDE, t: Tensor, x: Tensor) -> np.ndarray:
    """Returns the density of x(t) on the line, divided by its maximum at each t, in the network's units.

    The density is exact if the distribution of the data is known. Otherwise it is a histogram of the forward process,
    smoothed by a Gaussian with a standard deviation of two cells.

    Args:
        dataset: the data.
        sde: the forward process.
        t: times, ``(K,)``.
        x: evenly spaced points, ``(N,)``.

    Returns:
        The densities, ``(N, K)``.
    """
    exact = exact_marginals(dataset.encoded_law, sde)
    if exact is not None:
        density = torch.stack([exact.log_prob(x[:, None], time).exp() for time in t], dim=1).numpy()
    else:
        clean = dataset.units.encode(fresh(dataset, 5000))
        source = randn_like(generator("cpu", 0, "marginals"))
        half = 0.5 * float(x[1] - x[0])
        ends = (float(x[0]) - half, float(x[-1]) + half)
        columns = [sde.perturb(clean, time.expand(len(clean)), source).flatten().numpy() for time in t]
        counts = np.stack([np.histogram(c, len(x), ends)[0] for c in columns], axis=1)
        density = gaussian_filter(counts.astype(float), 2, mode="nearest")
    return density / density.max(axis=0).clip(min=np.finfo(float).tiny)


def spread(sde: SDE, times: Tensor, panels: int = 6) -> list[int]:
    """Returns indices of recorded times from T to eps, evenly spaced in log(σ²/α²), or in log t if there is no σ."""
    u = times.log() if sde.linear is None else sde.linear.log_nsr(times)
    wanted = torch.cat([torch.linspace(float(u[0]), float(u[-1].clamp(min=-6)), panels - 1), u[-1:].float()])
    indices = [int((u - value).abs().argmin()) for value in wanted]
    return sorted(set(indices))


def fresh(dataset: Dataset, n: int) -> Tensor:
    """Returns ``n`` draws from the exact distribution, or ``n`` training points if the distribution is not known."""
    drawn = dataset.draw(n, generator("cpu", 0, "figure"))
    return dataset.x[:n] if drawn is None else drawn
