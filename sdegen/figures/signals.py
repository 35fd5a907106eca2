"""Figures of signals as curves over the steps: data and samples, the way from noise to data, and posteriors."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from sdegen.figures.style import COLOURS, DATA, DENSITY, SAMPLES, number, styled, subplots

CURVES = 4
"""Number of signals that are drawn one by one."""
CHANNELS = 4
"""Largest number of channels that are drawn."""
DRAWN = 1000
"""Largest number of signals over which the mean and the band are computed."""
BAND = (0.05, 0.95)
"""Quantiles between which the band lies."""
BAND_LABEL = "5 to 95 % of the signals"
STATES = 5
"""Number of times in the figure of the generation."""


@styled
def compare_signals(data: Tensor, x: Tensor) -> Figure:
    """Draws data ``(N, C, L)`` beside samples ``x``: some signals, the mean, and the band of 90 % of the signals."""
    rows = min(CHANNELS, x.shape[1])
    figure, panels = subplots(7, 1.5 + 1.2 * rows, rows, 2, sharex=True, sharey="row", squeeze=False)
    for column, (name, signals, colour) in enumerate((("data", data, DATA), ("samples", x, SAMPLES))):
        panels[0, column].set_title(f"{name}, {len(signals)} signals")
        panels[-1, column].set_xlabel("step")
        for row in range(rows):
            _bundle(panels[row, column], signals[:, row], colour)
    _name_channels(panels, data)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@styled
def signal_generation(path: Tensor, times: Tensor, rows: int = 3) -> Figure:
    """Draws signals on their way from noise to data, one per row, with the times on top.

    Args:
        path: states ``(F, B, C, L)`` in the network's units, in which all channels have one scale; ``rows`` signals are
            drawn at :data:`STATES` times.
        times: decreasing times, ``(F,)``.
        rows: number of signals.
    """
    chosen = torch.linspace(0, len(path) - 1, min(STATES, len(path)), dtype=torch.float64).round().long()
    states = path.detach().cpu()[chosen, :rows]
    n, count = states.shape[1], len(chosen)
    # The noise may be far larger than the data, so each time has its own range.
    figure, panels = subplots(7.4, 0.9 + 0.9 * n, n, count, sharex=True, sharey="col", squeeze=False)
    for column, (state, t) in enumerate(zip(states, times[chosen], strict=True)):
        panels[0, column].set_title(f"t = {number(float(t))}")
        panels[-1, column].set_xlabel("step")
        for row in range(n):
            _channels(panels[row, column], state[row])
    if path.shape[2] > 1:
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=CHANNELS)
    figure.supylabel(f"x(t), in the network's units{_of_channels(path.shape[2])}", fontsize=9)
    return figure


@styled
def signal_classes(x: Tensor, y: Tensor, names: tuple[str, ...] = (), most: int = 10) -> Figure:
    """Draws the first channel of samples ``x`` ``(N, C, L)`` of each class, in a panel for each of ``most`` classes.

    ``y`` ``(N,)`` are the requested classes, and ``names`` the names of all classes; empty for their numbers.
    """
    labels = y.unique().tolist()[:most]
    columns = min(len(labels), 5)
    rows = -(-len(labels) // columns)
    figure, panels = subplots(
        max(4.4, 1.5 * columns), 1.3 * rows + 1, rows, columns, sharex=True, sharey=True, squeeze=False
    )
    for axes, label in zip(panels.flat, labels, strict=False):
        _bundle(axes, x[y == label][:, 0], SAMPLES)
        axes.set(title=names[label] if names else f"class {label}", xlabel="step")
        axes.label_outer()
    for axes in panels.flat[len(labels) :]:
        axes.set_visible(False)
    figure.suptitle(_first_of(x.shape[1]).removeprefix(", "), fontsize=9)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@styled
def signal_posterior(truth: Tensor | None, measured: Tensor, x: Tensor) -> Figure:
    """Draws samples given a measurement with the measured steps, the mean, the band and, if it is known, the truth.

    Args:
        truth: signal that was measured, ``(C, L)``; None if it is not known.
        measured: measurement: ``(C, L)`` with NaN for steps that were not measured, or numbers of any other shape,
            which are not drawn.
        x: samples given the measurement, ``(N, C, L)``.
    """
    rows = min(CHANNELS, x.shape[1])
    figure, panels = subplots(6, 1.2 + 1.5 * rows, rows, 1, sharex=True, squeeze=False)
    for row, (axes,) in enumerate(panels):
        _bundle(axes, x[:, row], SAMPLES)
        if truth is not None:
            axes.plot(truth[row].cpu().numpy(), color="black", linestyle="--", linewidth=1, label="truth")
        if measured.shape == x.shape[1:]:
            axes.plot(measured[row].cpu().numpy(), ".", color=DATA, markersize=4, label="measured")
    panels[-1, 0].set_xlabel("step")
    _name_channels(panels, x)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


@styled
def signal_conditioned(c: Tensor, truth: Tensor | None, x: Tensor) -> Figure:
    """Draws conditions, and the first channel of samples given them, one condition in a row.

    Args:
        c: signals that are the conditions, ``(M, C, L)``.
        truth: signals that belong to the conditions, ``(M, C, L)``; None if they are not known.
        x: samples of each condition, ``(M, n, C, L)``.
    """
    figure, panels = subplots(6.4, 0.9 + 1.2 * len(c), len(c), 2, sharex=True, sharey="col", squeeze=False)
    for row, (left, right) in enumerate(panels):
        _channels(left, c[row].cpu())
        right.tick_params(labelsize=6)
        for i, signal in enumerate(x[row, :CURVES, 0].cpu().numpy()):
            right.plot(signal, color=SAMPLES, linewidth=0.7, label="" if i else "samples")
        if truth is not None:
            right.plot(truth[row, 0].cpu().numpy(), color="black", linestyle="--", linewidth=1, label="truth")
    panels[0, 0].set_title(f"condition{_of_channels(c.shape[1])}")
    panels[0, 1].set_title(f"given the condition{_first_of(x.shape[2])}")
    for axes in panels[-1]:
        axes.set_xlabel("step")
    figure.legend(*panels[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@styled
def signal_interpolation(paths: Tensor) -> Figure:
    """Draws interpolations ``(pairs, frames, C, L)`` of the first channel, coloured from one end to the other."""
    pairs, frames = paths.shape[:2]
    columns = min(3, pairs)
    rows = -(-pairs // columns)
    figure, panels = subplots(7, 1.5 * rows + 0.6, rows, columns, sharex=True, sharey=True, squeeze=False)
    colours = colormaps[DENSITY](np.linspace(0, 1, frames))
    for axes, path in zip(panels.flat, paths[:, :, 0].numpy(), strict=False):
        for i, (signal, colour) in enumerate(zip(path, colours, strict=True)):
            ends = i in (0, frames - 1)
            axes.plot(signal, color=colour, linewidth=1.4 if ends else 0.6, zorder=3 if ends else 2)
    for axes in panels.flat[pairs:]:
        axes.set_visible(False)
    figure.suptitle("a pair of signals in each panel, from dark to bright", fontsize=9)
    figure.supxlabel(f"step{_first_of(paths.shape[2])}", fontsize=9)
    return figure


def _bundle(axes: Axes, signals: Tensor, colour: str) -> None:
    """Draws signals ``(N, L)``: some of them, their mean, and a band."""
    # Signals in a file may be sorted, so the drawn ones are spread over the set.
    values = signals[:: -(-len(signals) // DRAWN)].double().cpu().numpy()
    low, high = np.quantile(values, BAND, axis=0)
    at = np.arange(values.shape[1])
    axes.fill_between(at, low, high, color=colour, alpha=0.2, linewidth=0, label=BAND_LABEL)
    for i, signal in enumerate(values[:: -(-len(values) // CURVES)]):
        axes.plot(signal, color=colour, linewidth=0.7, alpha=0.8, label="" if i else "signals")
    axes.plot(values.mean(0), color="black", linewidth=1, label="mean")


def _channels(axes: Axes, signal: Tensor) -> None:
    """Draws the channels of a signal ``(C, L)`` in their colours."""
    for i, (channel, colour) in enumerate(zip(signal[:CHANNELS].numpy(), COLOURS, strict=False)):
        axes.plot(channel, color=colour, linewidth=0.7, label=f"channel {i + 1}")
    axes.tick_params(labelsize=6)


def _name_channels(panels: np.ndarray, x: Tensor) -> None:
    if x.shape[1] > 1:
        for row, axes in enumerate(panels[:, 0]):
            axes.set_ylabel(f"channel {row + 1}" + (f" of {x.shape[1]}" if row == 0 else ""))


def _of_channels(channels: int) -> str:
    return f", first {CHANNELS} of {channels} channels" if channels > CHANNELS else ""


def _first_of(channels: int) -> str:
    return f", channel 1 of {channels}" if channels > 1 else ""
