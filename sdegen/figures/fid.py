"""Figure of the FID against the number of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from sdegen.figures.style import DATA, MARKERS, SAMPLES, styled, subplots

Curve = tuple[Sequence[int], Sequence[float], float, float, float]
"""Numbers of images, the values at these numbers, and the intercept, the slope and the standard error of the line."""


@styled
def fid(curves: Mapping[str, Curve]) -> Figure:
    """Draws the FID against 1 / N, with the line to 1 / N = 0.

    Args:
        curves: curve of the samples and of the training images, by the names in the legend.
    """
    figure, axes = subplots(4.6, 3.2)
    longest = max((counts for counts, *_ in curves.values()), key=lambda counts: 1 / counts[-1])
    for colour, marker, (name, (counts, values, infinity, slope, error)) in zip(
        (SAMPLES, DATA), MARKERS[:2], curves.items(), strict=True
    ):
        ends, limit = (0.0, 1 / counts[-1]), f"without the bias {infinity:.3g} ± {error:.1g}"
        axes.plot(ends, [infinity + slope * end for end in ends], color=colour, linewidth=1)
        axes.plot([1 / n for n in counts], values, marker, color=colour, markersize=4, label=f"{name}, {limit}")
        axes.errorbar(0, infinity, error, fmt=marker, color=colour, fillstyle="none", markersize=5, capsize=3)
    axes.set_xticks([0, *(1 / n for n in longest)], ["∞", *map(str, longest)])
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set(xlabel="number of images N, on the scale of 1/N", ylabel="FID")
    axes.legend(fontsize=7)
    return figure
