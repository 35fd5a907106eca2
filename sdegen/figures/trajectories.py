"""Figure of sampling paths in the plane."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from sdegen.core.randomness import generator, randn_like
from sdegen.datasets import Dataset
from sdegen.figures.columns import name
from sdegen.figures.paths import backward
from sdegen.figures.points import units
from sdegen.figures.style import DENSITY, SAMPLES, shown, styled, subplots
from sdegen.samplers import RK4, Samples
from sdegen.sde.base import SDE, Score

FLOWS, WALKS = 16, 3
"""Numbers of paths of the flow and of the sampler."""
SAME = 0.05
"""Distance of the ends of the sampler's paths from those of the flow, below which only the flow is drawn."""
STEPS, UNIFORM = 60, 200
"""Numbers of RK4 steps of the flow on the grid ``logistic``, and on the uniform grid if there is no σ."""


@styled
def trajectories(dataset: Dataset, samples: Samples, sde: SDE, flow: Samples | None = None, title: str = "") -> Figure:
    """Draws paths of the flow ODE from noise to data in the plane, coloured by time, over a few of the sampler's paths.

    Both start from the same noise. The paths are in the network's units. If the process makes the data much wider or
    narrower, as the VE SDE does, x(t) is divided by the square root of α² + σ². A sampler that solves the flow ODE has
    the paths of the flow, and the title says so.
    :func:`sdegen.figures.paths.process` draws paths on the line.

    Args:
        dataset: the data.
        samples: samples with the recorded path.
        sde: the forward process.
        flow: paths of :func:`flow`; None to draw the sampler's paths alone.
        title: words for what the samples are given; empty if they are given nothing.
    """
    path, times = samples.path.detach().double().cpu(), samples.times.double().cpu()
    walks = (path[:, :WALKS, :2] / _width(sde, times)).numpy()
    lines, at = walks, times
    if flow is not None:
        lines, at = (flow.path[..., :2] / _width(sde, flow.times)).numpy(), flow.times
    figure, axes = subplots(5.4, 4.2)
    clean = dataset.units.encode(dataset.x)[:2000].numpy()
    axes.scatter(clean[:, 0], clean[:, 1], s=3, color="0.75", linewidths=0, label="data")
    follows = flow is not None and float(np.abs(walks[-1] - lines[-1, :WALKS]).max()) < SAME
    if flow is not None and not follows:
        for i, walk in enumerate(walks.transpose(1, 0, 2)):
            axes.plot(*walk.T, color=SAMPLES, alpha=0.35, linewidth=0.5, label="" if i else "sampler's paths")
    thickness = 0.7 if flow is None else 1.2
    for line in lines.transpose(1, 0, 2):
        pieces = list(np.stack([line[:-1], line[1:]], 1))
        drawn = LineCollection(pieces, array=at[1:].numpy(), cmap=DENSITY, linewidths=thickness)
        drawn.set_clim(sde.eps, sde.T)
        axes.add_collection(drawn)
    axes.scatter(*lines[0].T, s=14, facecolor="white", edgecolor="0.2", zorder=3, label=f"noise, t = {sde.T:.3g}")
    axes.scatter(*lines[-1].T, s=14, color="0.1", zorder=3, label="t = ε")
    scaled = bool((_width(sde, times) != 1).any())
    below = " / $\\sqrt{\\alpha_t^2 + \\sigma_t^2}$" if scaled else ""
    labels = [f"{name(dataset, i, at_t=True)}{below}, {units(dataset)}" for i in (0, 1)]
    axes.set(xlabel=labels[0], ylabel=labels[1], aspect="equal")
    # The view has room for the paths of a poor score, but not for diverging paths.
    limit = 3 * max(float(np.abs(clean[:, :2]).max()), float(np.abs(walks[0]).max()))
    hidden = float(np.abs(np.concatenate([walks, lines], axis=None)).max()) > limit
    if hidden:
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit))
    remarks = ("the sampler follows the flow" if follows else "", "some paths leave the view" if hidden else "")
    notes = [note for note in (shown(path.shape[2]), *remarks) if note]
    # The legend lies where the title of the figure would be.
    axes.set_title("\n".join(filter(None, (title, ", ".join(notes)))), loc="left")
    legend = figure.legend(loc="outside upper center", ncols=4, handletextpad=0.3, columnspacing=1.2)
    # A single point of the data is too small to be seen.
    legend.legend_handles[0].set(sizes=[14])  # type: ignore[union-attr]
    figure.colorbar(drawn, label="time t" if flow is None else "time t of the flow ODE", shrink=0.8)
    return figure


def flow(sde: SDE, score: Score, samples: Samples) -> Samples | None:
    """Returns paths of the flow ODE from the noise of the first samples, or None if the flow diverges.

    Args:
        sde: the forward process.
        score: score of the flow, on the CPU.
        samples: samples with the recorded path.
    """
    start, noise = samples.path[0, :FLOWS].detach().double().cpu(), randn_like(generator("cpu", 0, "flow"))
    if sde.linear is None:
        found = backward(sde, score, start, noise, RK4(), UNIFORM)
    else:
        found = backward(sde, score, start, noise, RK4(), STEPS, "logistic")
    return found if found.path.isfinite().all() else None


def _width(sde: SDE, times: Tensor) -> Tensor:
    """Returns the square root of α² + σ² at the times, ``(F, 1, 1)``, or 1 if it always lies within a factor of two."""
    one = torch.ones(len(times), 1, 1, dtype=torch.float64)
    if sde.linear is None:
        return one
    width = torch.hypot(sde.linear.alpha(times), sde.linear.sigma(times))
    return one if float(width.max()) < 2 and float(width.min()) > 0.5 else width[:, None, None]
