"""Figures of images: generation, classes, posteriors, the accuracy of classifiers, and the effect of guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from sdegen.figures.style import COLOURS, DATA, DENSITY, entitle, number, styled, subplots

LINES = ("-", "--", "-.", ":")
UNKNOWN = "#56B4E9"
"""Colour of pixels that were not measured. No grey picture contains this colour."""


@styled
def generation(path: Tensor, times: Tensor, low: float, high: float, rows: int = 4, columns: int = 11) -> Figure:
    """Draws images on their way from noise to data, one per row, with the times on top: figure 7 of the paper.

    Args:
        path: states ``(F, B, C, H, W)``; ``rows`` images are drawn at ``columns`` times, from the first to the last.
        times: decreasing times, ``(F,)``.
        low: value of black, in the units of the path; lower values are black, too.
        high: value of white; higher values are white, too.
        rows: number of images.
        columns: number of times.
    """
    chosen = torch.linspace(0, len(path) - 1, min(columns, len(path)), dtype=torch.float64).round().long()
    images = path.detach().cpu()[chosen, :rows].transpose(0, 1)
    n, count = images.shape[:2]
    figure, axes = subplots(7, 7 * n / count + 0.4)
    show(axes, image_grid(scaled(images.flatten(0, 1), low, high), count, n))
    axes.set_xticks(_centres(count, images.shape[-1]), [number(float(t)) for t in times[chosen]])
    axes.xaxis.tick_top()
    axes.set_xlabel("time t")
    axes.xaxis.set_label_position("top")
    return figure


@styled
def classes(x: Tensor, y: Tensor, low: float, high: float, columns: int = 10) -> Figure:
    """Draws images of the requested classes, one class per row, with its label at the left: figure 9 of the paper.

    Args:
        x: images, ``(N, C, H, W)``.
        y: requested classes, ``(N,)``, in any order.
        low: value of black.
        high: value of white.
        columns: largest number of images per class; a class with fewer images leaves white at the end of its row.
    """
    x, y = scaled(x, low, high), y.cpu()
    labels = y.unique()
    columns = min(columns, int(max((y == label).sum() for label in labels)))
    canvas = torch.ones(len(labels), columns, *x.shape[1:], dtype=x.dtype)
    for row, label in enumerate(labels):
        own = x[y == label][:columns]
        canvas[row, : len(own)] = own
    figure, axes = subplots(0.45 * columns + 0.5, 0.45 * len(labels) * x.shape[2] / x.shape[3] + 0.2)
    show(axes, image_grid(canvas.flatten(0, 1), columns, len(labels)))
    axes.set_yticks(_centres(len(labels), x.shape[2]), [str(int(label)) for label in labels])
    axes.set_ylabel("requested class")
    return figure


@styled
def posterior(truth: Tensor | None, measured: Tensor, x: Tensor, low: float, high: float, samples: int = 4) -> Figure:
    """Draws a measurement, the mean and deviation of samples given this measurement, and the first samples.

    Args:
        truth: image that was measured, ``(C, H, W)``; None if it is not known.
        measured: measurement: ``(C, h, w)`` on the scale of the image, with NaN for pixels that were not measured, or
            an array ``(m,)`` or ``(h, w)`` of other numbers.
        x: samples given the measurement, ``(N, C, H, W)``.
        low: value of black.
        high: value of white.
        samples: number of samples drawn.
    """
    x = x.detach().double().cpu()
    kept = ~diverged(x, low, high)
    if not kept.any():
        kept = ~kept
    # Take the root mean square over colours, so that one and three channels of grey give the same deviation.
    deviation = x[kept].var(0, correction=0).mean(0).sqrt().numpy()
    named: list[tuple[str, Tensor | None]] = [("truth", truth)] if truth is not None else []
    named += [("measured", measured), ("mean", x[kept].mean(0)), ("deviation", None)]
    named += [(f"sample {i + 1}", image) for i, image in enumerate(x[:samples])]
    # Below the images are the scale of the deviation and its unit, and above are one or two lines of text.
    out = len(x) - int(kept.sum())
    height = 1.15 * x.shape[2] / x.shape[3] + (1.05 if out else 0.8)
    figure, panels = subplots(1.15 * len(named) + 0.4, height, 1, len(named))
    for axes, (title, image) in zip(panels, named, strict=True):
        if image is None:
            drawn = axes.imshow(deviation, cmap=DENSITY, vmin=0)
            bar = figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.9, pad=0.04, aspect=10)
            bar.ax.locator_params(nbins=3)
            bar.ax.tick_params(labelsize=6)
            bar.set_label("in units of the data", fontsize=7)
        elif image.ndim == 1:
            axes.plot(image.numpy(), color=DATA, linewidth=1)
            axes.set_box_aspect(x.shape[2] / x.shape[3])
        elif image.ndim == 2:
            axes.imshow(image.numpy(), cmap="gray", aspect="auto")
            axes.set_box_aspect(x.shape[2] / x.shape[3])
        else:
            show(axes, _picture(image, low, high))
        axes.set(title=title, xticks=[], yticks=[], anchor="N")
        axes.spines[:].set_visible(False)
    if out:
        title = f"mean and deviation without {out} of {len(x)} samples: values far out of the range of the data"
        entitle(figure, title)
    return figure


@styled
def conditioned(c: Tensor, truth: Tensor | None, x: Tensor, low: float, high: float) -> Figure:
    """Draws conditions and samples given them, one condition in a row.

    Args:
        c: images that are the conditions, ``(M, C, H, W)``, drawn from their smallest to their largest value.
        truth: images that belong to the conditions, ``(M, C, H, W)``; None if they are not known.
        x: samples of each condition, ``(M, n, C, H, W)``.
        low: value of black.
        high: value of white.
    """
    columns = [("condition", c, *view(c)), *([] if truth is None else [("truth", truth, low, high)])]
    columns += [(f"sample {i + 1}" if x.shape[1] > 1 else "sample", x[:, i], low, high) for i in range(x.shape[1])]
    figure, panels = subplots(1.15 * len(columns) + 0.4, 1.15 * len(c) + 0.3, len(c), len(columns), squeeze=False)
    for column, (title, images, black, white) in enumerate(columns):
        panels[0, column].set_title(title)
        for axes, image in zip(panels[:, column], images, strict=True):
            show(axes, _picture(image, black, white))
    return figure


@styled
def accuracy(times: Tensor, curves: Mapping[str, Tensor], chance: float) -> Figure:
    """Draws the accuracy of classifiers of noisy images against t, and the share of the most frequent class.

    Args:
        times: times, ``(F,)``.
        curves: shares of correct classes, ``(F,)`` each, by the name of the curve.
        chance: share of the most frequent class.
    """
    figure, axes = _over_time(times, curves, "accuracy on $x_t$")
    axes.axhline(chance, color="0.5", linestyle=":", linewidth=1, label=f"chance, {chance:.2g}")
    axes.set_ylim(0, 1.02)
    axes.legend()
    return figure


@styled
def nll(times: Tensor, curves: Mapping[str, Tensor]) -> Figure:
    """Draws the negative log-likelihood of conditions given noisy points against t.

    Args:
        times: times, ``(F,)``.
        curves: means over points, ``(F,)`` each, by the name of the curve.
    """
    figure, axes = _over_time(times, curves, "$-\\log p_t(y \\mid x_t)$, nats")
    axes.legend()
    return figure


def _over_time(times: Tensor, curves: Mapping[str, Tensor], label: str) -> tuple[Figure, Axes]:
    figure, axes = subplots(4.6, 2.8)
    for i, (name, values) in enumerate(curves.items()):
        colour, line = COLOURS[i % len(COLOURS)], LINES[i % len(LINES)]
        axes.plot(times.cpu().numpy(), values.cpu().numpy(), line, color=colour, linewidth=1.2, label=name)
    axes.set(xlabel="time t", ylabel=label, xlim=(0, float(times.max())))
    return figure, axes


@styled
def steering(scales: Sequence[float], curves: Mapping[str, Sequence[float]], floors: Mapping[str, float]) -> Figure:
    """Draws each metric against the guidance scale, in its own panel, with the floor as a dashed line.

    Args:
        scales: guidance scales, ascending.
        curves: values for the scales, by the name of the metric.
        floors: values of held-out data, by the name of the metric.
    """
    figure, (panels,) = subplots(2.4 * len(curves), 2.5, 1, len(curves), squeeze=False)
    for axes, (name, values) in zip(panels, curves.items(), strict=True):
        axes.plot(scales, values, color=DATA, marker="o", markersize=3.5, linewidth=1.2, label="guided")
        axes.axhline(floors[name], color="0.4", linestyle="--", linewidth=1, label="held-out images")
        # The axis is linear up to 1, the scale of Bayes' rule, and logarithmic above 1.
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(min(scales) - 0.1, 1.1 * max(scales))
        axes.set_xticks(list(scales), [f"{scale:g}" for scale in scales])
        axes.minorticks_off()
        axes.set(xlabel="guidance scale", ylabel=name.replace("_", " "))
        axes.set_ylim(bottom=0, top=1.05 * max(*values, floors[name]))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def diverged(x: Tensor, low: float, high: float) -> Tensor:
    """Returns True for images ``(N, *)`` with a value farther outside of the range of the data than it is wide."""
    wide = high - low
    return ((x < low - wide) | (x > high + wide)).flatten(1).any(1)


def image_grid(images: Tensor, side: int = 8, lines: int | None = None) -> np.ndarray:
    """Returns images ``(N, C, H, W)`` in [0, 1] as one picture of at most ``lines`` rows (default ``side``).

    A row has ``side`` images, which white lines separate.

    The picture is ``(h, w)``, or ``(h, w, 3)`` if the images have three channels or more. Only the first three channels
    are drawn.
    """
    images = images[: side * (lines or side)].detach().double().cpu()
    n, c, h, w = images.shape
    rows = -(-n // side)
    canvas = torch.ones(rows * side, c, h + 1, w + 1, dtype=images.dtype)
    canvas[:n, :, :h, :w] = images
    tiled = canvas.unflatten(0, (rows, side)).permute(0, 3, 1, 4, 2).reshape(rows * (h + 1), side * (w + 1), c)
    return (tiled[:-1, :-1, :3] if c >= 3 else tiled[:-1, :-1, 0]).numpy()


def scaled(x: Tensor, low: float, high: float) -> Tensor:
    """Returns images on the CPU, scaled so that ``low`` is 0 and ``high`` is 1, and clamped to [0, 1]."""
    return ((x.detach().double().cpu() - low) / (high - low)).clamp(0, 1)


def view(x: Tensor) -> tuple[float, float]:
    """Returns the values of black and white for images ``x``: the range of 1000 images, spread evenly over the set."""
    # Reading all images from the disk can take a long time. Torch has no minimum of some types of integers.
    some = x[:: -(-len(x) // 1000)].double()
    return float(some.min()), float(some.max())


def show(axes: Axes, picture: np.ndarray) -> None:
    """Shows a picture in [0, 1]: colour ``(h, w, 3)``, or grey ``(h, w)`` with NaN in the colour :data:`UNKNOWN`."""
    cmap = matplotlib.colormaps["gray"].with_extremes(bad=UNKNOWN)
    axes.imshow(picture, cmap=cmap, vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _picture(image: Tensor, low: float, high: float) -> np.ndarray:
    """Returns an image ``(C, H, W)`` in the form that :func:`show` takes."""
    picture = image_grid(scaled(image[None], low, high), 1)
    if picture.ndim == 3:
        picture = np.where(np.isnan(picture).any(2, keepdims=True), matplotlib.colors.to_rgb(UNKNOWN), picture)
    return picture


def _centres(count: int, size: int) -> list[float]:
    """Returns the centres of ``count`` pictures of ``size`` pixels in a row, with one pixel between two pictures."""
    return [i * (size + 1) + (size - 1) / 2 for i in range(count)]
