"""Figure of the quality of a network against the width of the average of its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from sdegen.figures.style import COLOURS, SAMPLES, log_ticks, styled, subplots

FAR = 3
"""Ratio of the largest and the smallest value from which the axis of a measure is logarithmic."""


@styled
def widths(
    at: Sequence[float],
    tracked: Sequence[float],
    measures: Mapping[str, Sequence[float]],
    others: Mapping[str, Mapping[str, float]],
) -> Figure:
    """Draws a panel for each measure.

    Args:
        at: widths, in ascending order.
        tracked: widths whose averages were tracked; the others were computed from snapshots.
        measures: values at the widths, by the name of the measure.
        others: values of the same network with other weights, by the names of the measure and of the weights.
    """
    figure, grid = subplots(3.8 * len(measures), 3.0, 1, len(measures), squeeze=False)
    for axes, (name, values) in zip(grid[0], measures.items(), strict=True):
        axes.plot(at, values, color=SAMPLES, marker="o", markersize=3, linewidth=1.2, label="power averages")
        known = [(x, y) for x, y in zip(at, values, strict=True) if x in tracked]
        axes.plot(*zip(*known, strict=True), "s", color=SAMPLES, markersize=6, fillstyle="none", label="tracked")
        for colour, style, (other, value) in zip(COLOURS[2:], ("--", ":"), others[name].items(), strict=False):
            axes.axhline(value, color=colour, linestyle=style, linewidth=1, label=other)
        axes.set(xscale="log", xlabel="width of the average", ylabel=name.replace("_", " "))
        every = [*values, *others[name].values()]
        if min(every) > 0 and max(every) > FAR * min(every):
            axes.set_yscale("log")
            log_ticks(axes.yaxis)
        log_ticks(axes.xaxis)
        axes.legend(fontsize=7)
    return figure
