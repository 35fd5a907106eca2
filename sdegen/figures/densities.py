"""Figures of the flow between data and latents: densities, likelihoods and interpolations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from sdegen.datasets import Dataset
from sdegen.figures.columns import class_colours, name
from sdegen.figures.images import image_grid, scaled, show, view
from sdegen.figures.signals import signal_interpolation
from sdegen.figures.style import DATA, DENSITY, SAMPLES, shown, styled, subplots


@styled
def density(
    dataset: Dataset, axes: Sequence[Tensor], log_p: Tensor, exact: Callable[[Tensor], Tensor | None]
) -> Figure:
    """Draws the density of a model beside the exact density or the data, in one or two dimensions, in the user's units.

    Args:
        dataset: the data.
        axes: points of the grid along each axis, one tensor per axis.
        log_p: log-density of the model at all points of the grid, in nats, ``(N,)``.
        exact: function that returns the exact log-density at points, or None if it is not known.
    """
    grid = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    truth = exact(grid)
    if len(axes) == 1:
        return _density_on_line(dataset, axes[0], log_p, truth)
    named = [("model", log_p)] + ([("exact", truth)] if truth is not None else [])
    shape = (len(axes[0]), len(axes[1]))
    top = max(float(values.max()) for _, values in named) / math.log(10)
    extent = [float(end) for axis in axes for end in (axis[0], axis[-1])]
    figure, panels = subplots(7.6, 3.2, 1, 2, sharex=True, sharey=True)
    for panel, (title, values) in zip(panels, named, strict=False):
        decades = (values.reshape(shape).T / math.log(10)).numpy()
        image = panel.imshow(
            decades, origin="lower", extent=extent, aspect="auto", cmap=DENSITY, vmin=top - 4, vmax=top
        )
        panel.set(title=f"density, {title}", xlabel=name(dataset, 0))
    if truth is None:
        panels[1].scatter(*dataset.x.T.numpy(), s=1.5, color=DATA, linewidths=0)
        panels[1].set(title=f"data, {len(dataset.x)} points", xlabel=name(dataset, 0))
    panels[0].set_ylabel(name(dataset, 1))
    figure.colorbar(
        image,
        ax=panels,
        label=f"$\\log_{{10}}$ density, per unit of {name(dataset, 0)} and {name(dataset, 1)}",
        extend="min",
    )
    return figure


@styled
def likelihoods(train: Tensor, test: Tensor, names: tuple[str, str] = ("training set", "unseen points")) -> Figure:
    """Draws histograms of the negative log-likelihoods of two sets of points, in nats, as logs and tables have them."""
    named = ((names[0], train, DATA), (names[1], test, SAMPLES))
    together = torch.cat([train, test]).cpu()
    low, high = (float(q) for q in together.quantile(torch.tensor([0.005, 0.995], dtype=together.dtype)))
    # A few points far from all others must not set the scale.
    least, most = (float(value) for value in (train.min(), train.max()))
    low, high = max(low, 2 * least - most), min(high, 2 * most - least)
    figure, axes = subplots(4.6, 2.8)
    for label, values, colour in named:
        values = values.cpu()
        style = "-" if colour == DATA else "--"
        axes.hist(
            values.clamp(low, high).numpy(), bins=40, range=(low, high + 1e-9), density=True, histtype="step",
            color=colour, linestyle=style, label=f"{label}, mean {float(values.mean()):.4g}",
        )  # fmt: skip
    axes.set(xlabel="negative log-likelihood of a point, nats", ylabel="density")
    beyond = int(((together < low) | (together > high)).sum())
    if beyond:
        axes.set_title(f"the outermost bars include {beyond} of {len(together)} points, which lie beyond", fontsize=8)
    axes.legend()
    return figure


@styled
def interpolation(dataset: Dataset, paths: Tensor) -> Figure:
    """Draws interpolations between pairs of points, in the user's units.

    Args:
        dataset: the data.
        paths: points of the interpolations, both ends included, ``(pairs, frames, *)``.
    """
    pairs, frames = paths.shape[:2]
    if paths.ndim == 4:
        return signal_interpolation(paths)
    if paths.ndim > 4:
        figure, axes = subplots(7, 0.8 * pairs + 0.4)
        pictures = scaled(paths.flatten(0, 1), *view(dataset.x))
        show(axes, image_grid(pictures, frames, pairs))
        axes.set(title="one pair per row, from left to right")
        return figure
    share = np.linspace(0, 1, frames)
    line = paths.shape[2] == 1
    labels = ["position between the latents, 0 to 1", name(dataset, 0)]
    if not line:
        labels = [name(dataset, 0), f"{name(dataset, 1)}{shown(paths.shape[2], ', ')}"]
    figure, axes = subplots(5, 3.8)
    if not line:
        axes.scatter(dataset.x[:2000, 0], dataset.x[:2000, 1], s=2, color="0.8", linewidths=0)
    for path, colour in zip(paths.numpy(), class_colours(pairs), strict=True):
        x, y = (share, path[:, 0]) if line else (path[:, 0], path[:, 1])
        ends = slice(None, None, frames - 1)
        axes.plot(x, y, color=colour, linewidth=1.2, marker=".", markersize=4)
        axes.plot(x[ends], y[ends], "o", color=colour, markersize=6, markeredgecolor="0.1", zorder=3)
    axes.set(xlabel=labels[0], ylabel=labels[1], title="one colour for each pair of points, with circles at both ends")
    return figure


def _density_on_line(dataset: Dataset, axis: Tensor, log_p: Tensor, truth: Tensor | None) -> Figure:
    figure, axes = subplots(5.4, 2.8)
    axes.hist(dataset.x.flatten().numpy(), bins=60, density=True, color="0.85", label="training data")
    axes.plot(axis.numpy(), log_p.exp().numpy(), color=SAMPLES, linewidth=1.2, label="model")
    if truth is not None:
        axes.plot(axis.numpy(), truth.exp().numpy(), color="black", linewidth=1, linestyle="--", label="exact")
    axes.set(xlabel=name(dataset, 0), ylabel=f"density, per unit of {name(dataset, 0)}")
    axes.legend()
    return figure
