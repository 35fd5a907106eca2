"""Figures of data and samples, and the points and densities of x(t) that other figures use, too."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter
from torch import Tensor

from sdegen.core.randomness import generator, randn_like
from sdegen.datasets import Dataset
from sdegen.figures.images import image_grid, scaled, show
from sdegen.figures.style import DATA, DENSITY, SAMPLES, histogram, number, shown, styled, subplots
from sdegen.samplers import Samples
from sdegen.sde.base import SDE
from sdegen.sde.mixture import marginals as exact_marginals


@styled
def compare(dataset: Dataset, x: Tensor) -> Figure:
    """Draws the training data beside samples ``x``, in the user's units: figures 3 to 6 and 8 of the paper."""
    x = x.detach().double().cpu()
    if len(dataset.units.shape) > 1:
        return _compare_images(dataset.x, x)
    line = dataset.units.shape == (1,)
    figure, panels = subplots(7, 2.6 if line else 3.4, 1, 2, sharex=True, sharey=True)
    size = float(np.clip(3000 / max(len(dataset.x), len(x)), 1.0, 6.0))
    for axes, (name, points, colour) in zip(panels, (("data", dataset.x, DATA), ("samples", x, SAMPLES)), strict=True):
        axes.set_title(f"{name}, {len(points)} points")
        if line:
            _density(axes, dataset, points, colour)
        else:
            _cloud(axes, dataset, points, colour, size)
    panels[0].set_ylabel("density" if line else "$x_2$")
    panels[1].tick_params(left=False)
    if note := shown(dataset.x.shape[1]):
        figure.suptitle(note)
    return figure


def _density(axes: Axes, dataset: Dataset, x: Tensor, colour: str) -> None:
    """Draws points on the line as a histogram, with the exact density if it is known."""
    low, high = float(dataset.x.min()), float(dataset.x.max())
    low, high = low - 0.1 * (high - low), high + 0.1 * (high - low)
    histogram(axes, x.flatten().numpy(), (low, high), 60, colour)
    if dataset.law is not None:
        grid = torch.linspace(low, high, 400, dtype=torch.float64)
        exact = dataset.law.log_prob(grid[:, None]).exp()
        axes.plot(grid.numpy(), exact.numpy(), color="black", linewidth=1, label="exact density")
        axes.legend()
    axes.set_xlabel("x")


def _cloud(axes: Axes, dataset: Dataset, x: Tensor, colour: str, size: float) -> None:
    """Draws the first two coordinates of points in the view of the data; the title counts points out of view."""
    low, high = dataset.x.amin(0)[:2].numpy(), dataset.x.amax(0)[:2].numpy()
    # A constant column has no range: show it in a range of 1.
    margin = np.where(high > low, 0.12 * (high - low), 0.5)
    low, high = low - margin, high + margin
    points = x[:, :2].numpy()
    axes.scatter(points[:, 0], points[:, 1], s=size, color=colour, linewidths=0)
    axes.set(xlabel="$x_1$", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    if outside := int(((points < low) | (points > high)).any(1).sum()):
        axes.set_title(f"{axes.get_title()} ({outside} out of view)")
    if (high - low).max() < 5 * (high - low).min():
        axes.set_aspect("equal")


def _compare_images(data: Tensor, x: Tensor) -> Figure:
    # Take the range from the first 1000 images: reading all images from the disk can take a long time.
    part = data[:1000].double()
    low, high = float(part.min()), float(part.max())
    figure, panels = subplots(7, 3.7, 1, 2)
    for axes, (title, images) in zip(panels, (("data", part), ("samples", x)), strict=True):
        show(axes, image_grid(scaled(images, low, high)))
        axes.set(title=title)
    return figure


@styled
def trajectories(dataset: Dataset, samples: Samples, sde: SDE) -> Figure:
    """Draws a few paths of the reverse process in the plane, coloured by time, in the network's units.

    :func:`sdegen.figures.paths.process` draws paths on the line.
    """
    path, times = samples.path.detach().double().cpu().numpy(), samples.times.double().cpu().numpy()
    figure, axes = subplots(5, 4.2)
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


@styled
def marginals(dataset: Dataset, samples: Samples, sde: SDE) -> Figure:
    """Draws x(t) of the forward process (top) and of the samples (bottom) at six times, in the network's units."""
    path, times = samples.path.detach().double().cpu(), samples.times.double().cpu()
    chosen = spread(sde, times)
    clean = dataset.units.encode(fresh(dataset, path.shape[1]))
    source = randn_like(generator("cpu", 0, "marginals"))
    forward = [sde.perturb(clean, times[i].expand(len(clean)), source).flatten(1).numpy() for i in chosen]
    backward = [path[i].flatten(1)[: len(clean)].numpy() for i in chosen]
    line = clean[0].numel() == 1
    figure, panels = subplots(1.5 * len(chosen) + 0.4, 3.3, 2, len(chosen), sharex="col", sharey="col", squeeze=False)
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
