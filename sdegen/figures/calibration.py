"""Figure of the calibration of posteriors: ranks of parameters among samples, and the coverage of regions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from sdegen.figures.style import SAMPLES, marked, plain, styled, subplots

LINES = 8
"""Largest number of parameters whose ranks are drawn: those that are farthest off."""
BAND = math.sqrt(math.log(2 / 0.05) / 2)
"""Half of the width of the band in which 95 % of the curves of N uniform ranks lie everywhere, times the root of N."""


@styled
def calibration(by_column: Tensor, by_distance: Tensor, names: Sequence[str], p_values: tuple[float, float]) -> Figure:
    """Draws the deviations of the ranks of single parameters from uniform ones, and the coverage of regions.

    Args:
        by_column: ranks of each parameter, ``(N, d)``, uniform for exact posteriors.
        by_distance: ranks of distances, ``(N,)``.
        names: names of the parameters, the one that is farthest off first.
        p_values: p-values of simulation-based calibration and of TARP.
    """
    n = len(by_column)
    # A curve of N ranks begins with the share 0 at 0 and ends with the share 1 at 1.
    level, band = np.concatenate([[0], (np.arange(n) + 0.5) / n, [1]]), BAND / n**0.5
    figure, (left, right) = subplots(7.6, 3.2, 1, 2)
    for k, name in enumerate(names[:LINES]):
        rank = _whole(by_column[:, k])
        line = {**marked(k), "markevery": (k * n // 40, max(n // 5, 1)), "markersize": 3}
        left.plot(rank, level - rank, linewidth=1, label=plain(name), **line)
    left.fill_between([0, 1], -band, band, color="0.9", linewidth=0, label="exact posteriors, 95 %")
    left.axhline(0, color="0.6", linewidth=0.8)
    top = max(2 * band, 1.1 * max(abs(left.dataLim.y0), abs(left.dataLim.y1)))
    left.set(xlim=(0, 1), ylim=(-top, top), xlabel="rank of the parameter among samples")
    left.set(ylabel="share of ranks below − rank", title=_title("ranks", n, p_values[0]))
    left.legend(fontsize=7, ncols=2 if len(names) > LINES // 2 else 1)
    coverage = _whole(by_distance)
    right.fill_between([0, 1], [-band, 1 - band], [band, 1 + band], color="0.9", linewidth=0)
    right.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
    right.plot(coverage, level, color=SAMPLES, linewidth=1.2)
    right.set(xlim=(0, 1), ylim=(0, 1), xlabel="credibility level", ylabel="share of pairs in the region")
    right.set_title(_title("expected coverage", n, p_values[1]))
    return figure


def _whole(ranks: Tensor) -> np.ndarray:
    """Returns the sorted ranks ``(N,)`` between the ends 0 and 1."""
    return np.concatenate([[0], ranks.sort().values.numpy(), [1]])


def _title(what: str, n: int, p: float) -> str:
    return f"{what}, {n} pairs, p = {p:.2g}"
