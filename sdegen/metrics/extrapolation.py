r"""Fréchet distance as it is published for images (FID), and its value without the bias by the number of samples.

FID is the *square* of :func:`sdegen.metrics.distances.frechet`, with covariances divided by N - 1, between the features
of N samples and of a reference (Heusel et al. 2017, https://arxiv.org/abs/1706.08500). With fewer samples it is larger:
its bias is near C / N, and C depends on the model. Chong & Forsyth (2020, https://arxiv.org/abs/1911.07023) therefore
compute the distance for several numbers of samples, and follow the line to 1 / N = 0.

The samples are cut at random into 1, 2, … K parts of equal size. The value at N / k is the mean over k parts. A
straight line through the values, by least squares, has the intercept :math:`\mathrm{FID}_\infty` at 1 / N = 0.

The values come from the same samples, so they lie nearer to the line than other samples would. The residuals
therefore tell the error of the fit, but not that of the intercept. The K smallest parts share no sample. Their spread
divided by :math:`\sqrt{K}` estimates the standard error by the choice of the samples. For Gaussians it is near the
true one if the distance is above 0, and up to twice as large if the distributions are equal. The choice of the
reference has an error and a bias of its own, which the floor has as well.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.core.progress import Progress
from sdegen.core.randomness import generator
from sdegen.metrics.distances import frechet_square, moments

PARTS = 5
"""Largest number of parts K into which the samples are cut.

For Gaussians in 16 dimensions, eight or ten parts do not make the intercept more accurate, and take longer.
"""
FEWEST = 4 * PARTS
"""Smallest number of samples: the smallest parts have four."""


class ByCount(NamedTuple):
    """FID at several numbers of samples, and the line ``infinity + slope / n`` through the values.

    Attributes:
        counts: numbers of samples, the largest first.
        values: FID at each number of samples, the mean over the parts of this size.
        infinity: intercept of the line.
        slope: slope of the line against 1 / n.
        error: standard error of ``values[0]`` and of ``infinity`` by the choice of the samples.
        error_of_fit: standard error of ``infinity`` by the residuals of the line.
    """

    counts: list[int]
    values: list[float]
    infinity: float
    slope: float
    error: float
    error_of_fit: float


def fid(x: Tensor, y: Tensor) -> float:
    """Returns the square of the Fréchet distance of features ``x`` ``(N, F)`` and ``y`` ``(M, F)``.

    The covariances have the divisors N - 1 and M - 1.
    """
    return frechet_square(moments(x, len(x) - 1), moments(y, len(y) - 1))


def by_count(x: Tensor, y: Tensor) -> ByCount:
    """Returns the FID of random parts of the features ``x`` ``(N, F)`` from ``y`` ``(M, F)``, and its extrapolation.

    The parts are the same at every call. N must be at least :data:`FEWEST`.
    """
    reference, total = moments(y, len(y) - 1), PARTS * (PARTS + 1) // 2
    x = x[torch.randperm(len(x), generator=generator("cpu", 0, "fid"))]
    counts = [len(x) // k for k in range(1, PARTS + 1)]
    report, found = Progress("Fréchet distances", "parts"), []
    for k, n in enumerate(counts, 1):
        for part in x[: k * n].split(n):
            found.append(frechet_square(moments(part, n - 1), reference))
            report.to(len(found), total)
    report.close()
    parts = torch.tensor(found, dtype=torch.float64).split(list(range(1, PARTS + 1)))
    values = torch.stack([part.mean() for part in parts])
    design = torch.stack([torch.ones(PARTS).double(), 1 / torch.tensor(counts).double()], 1)
    inverse = torch.linalg.inv(design.T @ design)
    line = inverse @ design.T @ values
    residual = (values - design @ line).square().sum() / (PARTS - 2)
    return ByCount(
        counts,
        values.tolist(),
        infinity=float(line[0]),
        slope=float(line[1]),
        error=float(parts[-1].std() / PARTS**0.5),
        error_of_fit=float((residual * inverse[0, 0]).sqrt()),
    )
