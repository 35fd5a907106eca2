"""Figures of images: their generation, their classes, a measured image, and the effect of guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from sdegen.figures.points import COLOURS, DATA, DENSITY, STYLE, image_grid, number

LINES = ("-", "--", "-.", ":")
UNKNOWN = "#56B4E9"
"""Colour of pixels that were not measured; no grey picture has it."""


def generation(path: Tensor, times: Tensor, low: float, high: float, rows: int = 4, columns: int = 11) -> Figure:
    """Draws images on their way from noise to data, one in each row, with the times on top: figure 7 of the paper.

    Args:
        path: states ``(F, B, C, H, W)``; ``rows`` images are drawn at ``columns`` times, from the first to the last.
        times: decreasing times, ``(F,)``.
        low: value that is drawn black, in the units of the path; lower values are black too.
        high: value that is drawn white; higher values are white too.
        rows: number of images.
        columns: number of times.
    """
    chosen = torch.linspace(0, len(path) - 1, min(columns, len(path)), dtype=torch.float64).round().long()
    images = path.detach().cpu()[chosen, :rows].transpose(0, 1)
    n, count = images.shape[:2]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 7 * n / count + 0.4), layout="constrained")
        axes = figure.subplots()
        _show(axes, image_grid(_scaled(images.flatten(0, 1), low, high), count, n))
        axes.set_xticks(_centres(count, images.shape[-1]), [number(float(t)) for t in times[chosen]])
        axes.xaxis.tick_top()
        axes.set_xlabel("time t")
        axes.xaxis.set_label_position("top")
    return figure


def classes(x: Tensor, y: Tensor, low: float, high: float, columns: int = 10) -> Figure:
    """Draws images of the requested classes, a row for each, with its label at the left: figure 9 of the paper.

    Args:
        x: images, ``(N, C, H, W)``.
        y: their classes, ``(N,)``, in any order.
        low: value that is drawn black.
        high: value that is drawn white.
        columns: largest number of images of a class; rows with fewer end in white.
    """
    x, y = _scaled(x, low, high), y.cpu()
    labels = y.unique()
    columns = min(columns, int(max((y == label).sum() for label in labels)))
    canvas = torch.ones(len(labels), columns, *x.shape[1:], dtype=x.dtype)
    for row, label in enumerate(labels):
        own = x[y == label][:columns]
        canvas[row, : len(own)] = own
    with matplotlib.rc_context(STYLE):
        scale = 0.45
        size = (scale * columns + 0.5, scale * len(labels) * x.shape[2] / x.shape[3] + 0.2)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        _show(axes, image_grid(canvas.flatten(0, 1), columns, len(labels)))
        axes.set_yticks(_centres(len(labels), x.shape[2]), [str(int(label)) for label in labels])
        axes.set_ylabel("class asked for")
    return figure


def posterior(truth: Tensor | None, measured: Tensor, x: Tensor, low: float, high: float, samples: int = 4) -> Figure:
    """Draws a measured image: the measurement, the mean and deviation of the samples given it, and some of them.

    Args:
        truth: the image, ``(C, H, W)``, if it is known.
        measured: the measurement, ``(C, h, w)``; NaN for pixels that were not measured.
        x: samples given the measurement, ``(N, C, H, W)``.
        low: value that is drawn black.
        high: value that is drawn white.
        samples: number of samples to draw.
    """
    x = x.detach().double().cpu()
    # The root mean square over colours, so that a grey picture has the same deviation in colour.
    deviation = x.var(0, correction=0).mean(0).sqrt().numpy()
    named: list[tuple[str, Tensor | None]] = [("truth", truth)] if truth is not None else []
    named += [("measured", measured), ("mean", x.mean(0)), ("deviation", None)]
    named += [(f"sample {i + 1}", image) for i, image in enumerate(x[:samples])]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.15 * len(named) + 0.4, 1.6 * x.shape[2] / x.shape[3]), layout="constrained")
        for axes, (title, image) in zip(figure.subplots(1, len(named)), named, strict=True):
            if image is None:
                drawn = axes.imshow(deviation, cmap=DENSITY, vmin=0)
                bar = figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.9, pad=0.04, aspect=10)
                bar.ax.locator_params(nbins=3)
                bar.ax.tick_params(labelsize=6)
            else:
                _show(axes, _picture(image, low, high))
            axes.set(title=title, xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    return figure


def accuracy(times: Tensor, curves: Mapping[str, Tensor], chance: float) -> Figure:
    """Draws the accuracy of classifiers of noisy images over time, and of a guess.

    Args:
        times: times, ``(F,)``.
        curves: shares of correct classes by the name of the classifier, ``(F,)`` each.
        chance: share of the most frequent class.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 2.8), layout="constrained")
        axes = figure.subplots()
        for i, (name, hits) in enumerate(curves.items()):
            colour, line = COLOURS[i % len(COLOURS)], LINES[i % len(LINES)]
            axes.plot(times.cpu().numpy(), hits.cpu().numpy(), line, color=colour, linewidth=1.2, label=name)
        axes.axhline(chance, color="0.5", linestyle=":", linewidth=1, label=f"chance, {chance:.2g}")
        axes.set(xlabel="time t", ylabel="accuracy on $x_t$", ylim=(0, 1.02), xlim=(0, float(times.max())))
        axes.legend()
    return figure


def steering(scales: Sequence[float], curves: Mapping[str, Sequence[float]], floors: Mapping[str, float]) -> Figure:
    """Draws the gain and the cost of guidance: a panel for each measure against the scale, with its floor dashed.

    Args:
        scales: scales of the guidance, ascending.
        curves: values by the name of the measure, one for each scale.
        floors: values of held-out data, by the same names.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.4 * len(curves), 2.5), layout="constrained")
        panels = figure.subplots(1, len(curves), squeeze=False)[0]
        for axes, (name, values) in zip(panels, curves.items(), strict=True):
            axes.plot(scales, values, color=DATA, marker="o", markersize=3.5, linewidth=1.2, label="guided")
            axes.axhline(floors[name], color="0.4", linestyle="--", linewidth=1, label="held-out images")
            # Linear up to 1, which is Bayes' rule, and logarithmic above.
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xlim(min(scales) - 0.1, 1.1 * max(scales))
            axes.set_xticks(list(scales), [f"{scale:g}" for scale in scales])
            axes.minorticks_off()
            axes.set(xlabel="guidance scale", ylabel=name.replace("_", " "))
            axes.set_ylim(bottom=0, top=1.05 * max(*values, floors[name]))
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _show(axes: Axes, picture: np.ndarray) -> None:
    """Shows a picture in [0, 1], grey or of three colours, without ticks."""
    cmap = matplotlib.colormaps["gray"].with_extremes(bad=UNKNOWN)
    axes.imshow(picture, cmap=cmap, vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _picture(image: Tensor, low: float, high: float) -> np.ndarray:
    """Returns an image ``(C, H, W)`` in the form that :func:`_show` takes."""
    picture = image_grid(_scaled(image[None], low, high), 1)
    if picture.ndim == 3:
        picture = np.where(np.isnan(picture).any(2, keepdims=True), matplotlib.colors.to_rgb(UNKNOWN), picture)
    return picture


def _scaled(x: Tensor, low: float, high: float) -> Tensor:
    return ((x.detach().double().cpu() - low) / (high - low)).clamp(0, 1)


def _centres(count: int, size: int) -> list[float]:
    """Returns the centres of pictures in a row with a pixel between them."""
    return [i * (size + 1) + (size - 1) / 2 for i in range(count)]
