"""Figures of data and samples, and the style and parts that all figures share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from scipy.ndimage import gaussian_filter
from torch import Tensor

from sdegen.core.randomness import generator, randn_like
from sdegen.datasets import Dataset
from sdegen.samplers import Samples
from sdegen.sde.base import SDE
from sdegen.sde.mixture import marginals as exact_marginals

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The palette of Okabe & Ito, which is also distinct for colour-blind readers."""
MARKERS = "os^DvPX"
"""Markers for lines, so that a figure can be read in grey."""
DATA, SAMPLES = COLOURS[:2]
DENSITY = "cividis"
STYLE: dict[Any, Any] = {
    "figure.dpi": 150,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "image.interpolation": "nearest",
}


def compare(dataset: Dataset, x: Tensor) -> Figure:
    """Draws the training data beside samples ``x``, in the user's units: figures 3, 4 and 8 of the paper."""
    x = x.detach().double().cpu()
    if len(dataset.units.shape) > 1:
        return _compare_images(dataset.x, x)
    if dataset.units.shape == (1,):
        return _compare_lines(dataset, x)
    return _compare_points(dataset.x.numpy(), x.numpy())


def trajectories(dataset: Dataset, samples: Samples, sde: SDE) -> Figure:
    """Draws a few paths of the reverse process in the plane, coloured by time, in the network's units.

    :func:`sdegen.figures.paths.process` draws paths on the line.
    """
    path, times = samples.path.detach().double().cpu().numpy(), samples.times.double().cpu().numpy()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5, 4.2), layout="constrained")
        axes = figure.subplots()
        clean = dataset.units.encode(dataset.x)[:2000].numpy()
        axes.scatter(clean[:, 0], clean[:, 1], s=2, color="0.8", linewidths=0, label="data")
        for i in range(min(4, path.shape[1])):
            segments = np.stack([path[:-1, i, :2], path[1:, i, :2]], axis=1)
            lines = LineCollection(list(segments), array=times[1:], cmap=DENSITY, linewidths=0.8)
            lines.set_clim(sde.eps, sde.T)
            axes.add_collection(lines)
        for end, colour, label in ((path[0], "0.2", "noise, t = 1"), (path[-1], SAMPLES, "samples, t = ε")):
            axes.scatter(end[:4, 0], end[:4, 1], s=18, color=colour, label=label, zorder=3)
        unit = units(dataset)
        axes.set(xlabel=f"$x_1(t)$, {unit}", ylabel=f"$x_2(t)$, {unit}", aspect="equal")
        axes.set_title(shown(path.shape[2]), loc="left")
        figure.legend(loc="outside upper center", ncols=3)
        figure.colorbar(lines, label="time t", shrink=0.8)
    return figure


def marginals(dataset: Dataset, samples: Samples, sde: SDE) -> Figure:
    """Draws the law of the forward process (top) and of the samples (bottom) at six times, in the network's units."""
    path, times = samples.path.detach().double().cpu(), samples.times.double().cpu()
    chosen = spread(sde, times)
    clean = dataset.units.encode(fresh(dataset, path.shape[1]))
    source = randn_like(generator("cpu", 0, "marginals"))
    forward = [sde.perturb(clean, times[i].expand(len(clean)), source).flatten(1).numpy() for i in chosen]
    backward = [path[i].flatten(1)[: len(clean)].numpy() for i in chosen]
    line = clean[0].numel() == 1
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.5 * len(chosen) + 0.4, 3.3), layout="constrained")
        panels = figure.subplots(2, len(chosen), sharex="col", sharey="col", squeeze=False)
        for column, (i, *rows) in enumerate(zip(chosen, forward, backward, strict=True)):
            limit = float(np.quantile(np.abs(np.concatenate(rows)[:, :2]), 0.999)) * 1.15
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
        panels[0, 0].set_ylabel("forward")
        panels[1, 0].set_ylabel("reverse")
        figure.supxlabel(f"x(t), {units(dataset)}{shown(path[0, 0].numel(), ', ')}")
    return figure


def histogram(axes: Axes, x: np.ndarray, ends: tuple[float, float], bins: int, colour: str) -> None:
    """Draws the density of numbers ``(N,)`` between two ends; numbers beyond them count, but are not drawn."""
    width = (ends[1] - ends[0]) / bins or 1 / bins
    axes.hist(x, bins=bins, range=ends, weights=np.full(len(x), 1 / (width * len(x))), color=colour)


def log_ticks(axis: Axis) -> None:
    """Labels a logarithmic axis with plain numbers, few enough not to overlap."""
    low, high = axis.get_data_interval()
    decades = LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,))
    axis.set_major_locator(MaxNLocator(4) if high < 5 * low else decades)
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    return path


def _compare_lines(dataset: Dataset, x: Tensor) -> Figure:
    low, high = (float(q) for q in dataset.x.quantile(torch.tensor([0.0, 1.0], dtype=torch.float64)))
    margin = 0.1 * (high - low)
    grid = torch.linspace(low - margin, high + margin, 400, dtype=torch.float64)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 2.6), layout="constrained")
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        named = ((f"data, {len(dataset.x)} points", dataset.x, DATA), (f"samples, {len(x)} points", x, SAMPLES))
        for axes, (title, points, colour) in zip(panels, named, strict=True):
            histogram(axes, points.flatten().numpy(), (low - margin, high + margin), 60, colour)
            if dataset.law is not None:
                density = dataset.law.log_prob(grid[:, None]).exp()
                axes.plot(grid.numpy(), density.numpy(), color="black", linewidth=1, label="exact density")
                axes.legend()
            axes.set(title=title, xlabel="x")
        panels[0].set_ylabel("density")
        panels[1].tick_params(left=False)
    return figure


def _compare_points(data: np.ndarray, x: np.ndarray) -> Figure:
    low, high = data.min(0)[:2], data.max(0)[:2]
    low, high = low - 0.12 * (high - low), high + 0.12 * (high - low)
    outside = int(((x[:, :2] < low) | (x[:, :2] > high)).any(1).sum())
    title = f"samples, {len(x)} points" + (f" ({outside} out of view)" if outside else "")
    size = float(np.clip(3000 / max(len(data), len(x)), 1.0, 6.0))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 3.4), layout="constrained")
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        named = ((f"data, {len(data)} points", data, DATA), (title, x, SAMPLES))
        for axes, (heading, points, colour) in zip(panels, named, strict=True):
            axes.scatter(points[:, 0], points[:, 1], s=size, color=colour, linewidths=0)
            axes.set(title=heading, xlabel="$x_1$", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
            if (high - low).max() < 5 * (high - low).min():
                axes.set_aspect("equal")
        panels[0].set_ylabel("$x_2$")
        panels[1].tick_params(left=False)
        if data.shape[1] > 2:
            figure.suptitle(shown(data.shape[1]))
    return figure


def units(dataset: Dataset) -> str:
    """Returns the name of the network's units for labels."""
    x, inner = dataset.x.double(), dataset.units.encode(dataset.x)
    if torch.equal(x, inner):
        return "in the data's units"
    mean, deviation = inner.mean(0), inner.std(0, correction=0)
    # A constant coordinate is only centred.
    standard = (mean.abs() < 1e-6) & (((deviation - 1).abs() < 1e-6) | (deviation == 0))
    return "standardised" if bool(standard.all()) else "in the network's units"


def shown(dimensions: int, before: str = "") -> str:
    """Returns a note that a plane shows two of several coordinates; empty if it shows all."""
    return f"{before}first 2 of {dimensions} coordinates" if dimensions > 2 else ""


def number(value: float) -> str:
    """Returns a number with two digits, and a power of ten as in print."""
    mantissa, _, exponent = f"{value:.2g}".partition("e")
    power = f"10^{{{int(exponent)}}}" if exponent else ""
    return mantissa if not exponent else f"${power}$" if mantissa == "1" else f"${mantissa} \\times {power}$"


def _compare_images(data: Tensor, x: Tensor) -> Figure:
    # A part gives the range, since data larger than memory are read from the disk.
    part = data[:1000].double()
    low, high = float(part.min()), float(part.max())
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 3.7), layout="constrained")
        for axes, (title, images) in zip(figure.subplots(1, 2), (("data", part), ("samples", x)), strict=True):
            axes.imshow(image_grid(((images - low) / (high - low)).clamp(0, 1)), cmap="gray", vmin=0, vmax=1)
            axes.set(title=title)
            axes.axis("off")
    return figure


def image_grid(images: Tensor, side: int = 8, lines: int | None = None) -> np.ndarray:
    """Returns the first images ``(N, C, H, W)`` in [0, 1] as one picture, ``side`` in a row, with white lines between.

    The picture is ``(h, w)``, or ``(h, w, 3)`` if the images have three channels or more; only the first three count.
    """
    images = images[: side * (lines or side)].detach().double().cpu()
    n, c, h, w = images.shape
    rows = -(-n // side)
    canvas = torch.ones(c, rows * (h + 1) - 1, side * (w + 1) - 1, dtype=images.dtype)
    for i, image in enumerate(images):
        y, x = (i // side) * (h + 1), (i % side) * (w + 1)
        canvas[:, y : y + h, x : x + w] = image
    return canvas[:3].permute(1, 2, 0).numpy() if c >= 3 else canvas[0].numpy()


def heat(dataset: Dataset, sde: SDE, t: Tensor, x: Tensor) -> np.ndarray:
    """Returns the density of x(t) on the line over its maximum at each t, in the network's units.

    It is exact if the law is known, and otherwise a histogram of the forward process, smoothed over two cells.

    Args:
        dataset: the data.
        sde: the forward process.
        t: times, ``(K,)``.
        x: evenly spaced points, ``(N,)``.

    Returns:
        ``(N, K)``.
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
    """Returns indices of recorded times, evenly spaced in the log noise-to-signal ratio, or in log t, from T to eps."""
    u = times.log() if sde.linear is None else sde.linear.log_nsr(times)
    wanted = torch.cat([torch.linspace(float(u[0]), float(u[-1].clamp(min=-6)), panels - 1), u[-1:].float()])
    indices = [int((u - value).abs().argmin()) for value in wanted]
    return sorted(set(indices))


def fresh(dataset: Dataset, n: int) -> Tensor:
    """Returns draws of the exact law, or training points if it is not known."""
    drawn = dataset.draw(n, generator("cpu", 0, "figure"))
    return dataset.x[:n] if drawn is None else drawn
