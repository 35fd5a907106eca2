"""Distances between two sets of points, of features or of images."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdegen.core.randomness import generator
from sdegen.core.tensors import chunks

DIRECTIONS = 32
"""Number of directions on which :func:`sliced_w1` projects."""
NEIGHBOURS = 3
"""Rank of the neighbour whose distance is the radius of a ball in :func:`precision`."""
PAIRS = 2**24
"""Largest number of pairwise distances that are in memory at once."""


def w1(x: Tensor, y: Tensor) -> Tensor:
    r"""Returns the Wasserstein-1 distances between sets of numbers, :math:`\int_0^1 |F^{-1}(q) - G^{-1}(q)|\, dq`.

    F and G are the distribution functions of the two sets.

    Args:
        x: first sets, ``(*, N)``.
        y: second sets, ``(*, M)``.

    Returns:
        The distances, ``(*)``.
    """
    n, m = x.shape[-1], y.shape[-1]
    # Both quantile functions jump at multiples of 1 / (n m). In this unit they are integers, without rounding errors.
    ends = torch.cat([m * torch.arange(1, n + 1), n * torch.arange(1, m + 1)]).unique()
    width = ends.diff(prepend=ends.new_zeros(1)).double() / (n * m)
    # NumPy sorts several times faster than torch on a CPU.
    quantiles, others = (torch.from_numpy(np.sort(points.numpy())) for points in (x, y))
    return (quantiles[..., (ends - 1) // m] - others[..., (ends - 1) // n]).abs() @ width.to(x)


def ks(x: Tensor, y: Tensor) -> float:
    """Returns the Kolmogorov–Smirnov distance, the largest difference between two distribution functions."""
    from scipy.stats import ks_2samp

    return float(ks_2samp(x.flatten().numpy(), y.flatten().numpy(), method="asymp").statistic)


def sliced_w1(x: Tensor, y: Tensor) -> float:
    """Returns the mean W1 distance between projections of the sets on fixed directions (Bonneel et al. 2015).

    In the plane the directions are equally spaced; in other dimensions they are random, but the same at every call.
    """
    along = directions(x[0].numel()).T
    return float(w1(along @ x.flatten(1).T, along @ y.flatten(1).T).mean())


def directions(d: int) -> Tensor:
    """Returns unit vectors, the directions of :func:`sliced_w1`, as the columns of a ``(d, 32)`` tensor."""
    if d == 2:
        angle = torch.arange(DIRECTIONS, dtype=torch.float64) * math.pi / DIRECTIONS
        return torch.stack([angle.cos(), angle.sin()])
    random = torch.randn(d, DIRECTIONS, generator=generator("cpu", 0, "directions"), dtype=torch.float64)
    return random / random.norm(dim=0)


def energy(x: Tensor, y: Tensor, within_y: float | None = None) -> float:
    r"""Returns the energy distance :math:`\sqrt{2 E|X - Y| - E|X - X'| - E|Y - Y'|}` as a V-statistic.

    X and X' are drawn from ``x``, Y and Y' from ``y``, all independently.

    Reference: Székely & Rizzo (2013), https://doi.org/10.1016/j.jspi.2013.03.018

    Args:
        x: first set, ``(N, *)``.
        y: second set, ``(M, *)``.
        within_y: value of :math:`E|Y - Y'|`, if it is already known.
    """
    if x[0].numel() == 1:
        from scipy.stats import energy_distance

        return float(energy_distance(x.flatten().numpy(), y.flatten().numpy()))
    within_y = mean_distance(y, y) if within_y is None else within_y
    return math.sqrt(max(2 * mean_distance(x, y) - mean_distance(x, x) - within_y, 0.0))


def mean_distance(x: Tensor, y: Tensor) -> float:
    """Returns the mean Euclidean distance over all pairs of a point of ``x`` and a point of ``y``."""
    x, y = x.flatten(1), y.flatten(1)
    # torch.cdist computes |x|² - 2 x·y + |y|², which far from the origin is all rounding error.
    middle = y.mean(0)
    x, y = x - middle, y - middle
    # Pieces of 100 rows fit into the processor's cache.
    total = sum(float(torch.cdist(chunk, y).sum()) for chunk in x.split(100))
    return total / (len(x) * len(y))


def total_variation(x: Tensor, y: Tensor) -> float:
    """Returns half the sum of the absolute differences of the label shares in ``x`` ``(N,)`` and ``y`` ``(M,)``."""
    classes = int(max(x.max(), y.max())) + 1
    shares = [torch.bincount(labels, minlength=classes).double() / len(labels) for labels in (x, y)]
    return 0.5 * float((shares[0] - shares[1]).abs().sum())


def share_difference(x: Tensor, y: Tensor) -> float:
    r"""Returns the largest difference of a label's shares in ``x`` ``(N,)`` and ``y`` ``(M,)``, in standard errors.

    .. math:: \max_k \frac{|p_k - q_k|}{\sqrt{m_k (1 - m_k) (1 / N + 1 / M)}}, \qquad m = \frac{N p + M q}{N + M}

    Reference: this is the statistic of each bin in Richardson and Weiss (2018), https://arxiv.org/abs/1805.12462

    Args:
        x: first labels, integers from 0.
        y: second labels.
    """
    classes, n, m = int(max(x.max(), y.max())) + 1, len(x), len(y)
    counts, others = (torch.bincount(labels, minlength=classes).double() for labels in (x, y))
    mean = (counts + others) / (n + m)
    # A label that all points have, or none, has no difference and no error.
    error = (mean * (1 - mean) * (1 / n + 1 / m)).sqrt().clamp(min=1e-12)
    return float(((counts / n - others / m).abs() / error).max())


class Moments(NamedTuple):
    """Mean ``(F,)`` of a distribution, and a matrix R ``(K, F)`` such that RᵀR is its covariance."""

    mean: Tensor
    root: Tensor


def moments(x: Tensor, divisor: float) -> Moments:
    """Returns the mean of a set ``(N, F)``, and its covariance with a divisor, such as N or N - 1."""
    mean = x.mean(0)
    return Moments(mean, torch.linalg.qr((x - mean) / divisor**0.5, mode="r").R)


def frechet_square(x: Moments, y: Moments) -> float:
    r"""Returns the square of the W2 distance of two Gaussians.

    .. math:: d^2 = |\mu_1 - \mu_2|^2 + \operatorname{tr}\bigl(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2}\bigr)

    With :math:`\Sigma_i = R_i^T R_i`, the trace of :math:`(\Sigma_1 \Sigma_2)^{1/2}` is the sum of the singular values
    of :math:`R_1 R_2^T`. This form also holds for singular covariances, and avoids the square root of a rounding error.

    Reference: Dowson and Landau (1982), https://doi.org/10.1016/0047-259X(82)90077-X
    """
    common = torch.linalg.svdvals(x.root @ y.root.T).sum()
    square = (x.mean - y.mean).square().sum() + x.root.square().sum() + y.root.square().sum() - 2 * common
    return float(square.clamp(min=0))


def frechet(x: Tensor, y: Tensor) -> float:
    """Returns the W2 distance of Gaussians with the means and covariances of ``x`` ``(N, F)`` and ``y`` ``(M, F)``.

    The covariances have the divisors N and M. The square with the divisors N - 1 and M - 1 is
    :func:`sdegen.metrics.fid`.
    """
    return math.sqrt(frechet_square(moments(x, len(x)), moments(y, len(y))))


def kernel(x: Tensor, y: Tensor, within_y: float | None = None) -> float:
    r"""Returns the maximum mean discrepancy between two sets for the kernel :math:`(x \cdot y / F + 1)^3`.

    The value is the square root of a V-statistic. Reference: Bińkowski et al. (2018), https://arxiv.org/abs/1801.01401

    Args:
        x: first set, ``(N, F)``.
        y: second set, ``(M, F)``.
        within_y: value of ``affinity(y, y)``, if it is already known.
    """
    within_y = affinity(y, y) if within_y is None else within_y
    return max(affinity(x, x) + within_y - 2 * affinity(x, y), 0.0) ** 0.5


def affinity(x: Tensor, y: Tensor) -> float:
    r"""Returns the mean of :math:`(x \cdot y / F + 1)^3` over all pairs of a row of ``x`` and a row of ``y``."""
    total = sum(float((part @ y.T / y.shape[1] + 1).pow(3).sum()) for part in _pieces(x, y))
    return total / (len(x) * len(y))


def precision(x: Tensor, y: Tensor) -> float:
    """Returns the share of the points ``x`` ``(N, F)`` that lie on the manifold of the reference ``y`` ``(M, F)``.

    The manifold is the union of balls around the points of the reference. The radius of a ball is the distance from its
    centre to the third-nearest other point of the reference.

    Reference: Kynkäänniemi et al. (2019), https://arxiv.org/abs/1904.06991
    """
    # The nearest point of the reference is the point itself, so the third neighbour has rank 4.
    rank = min(NEIGHBOURS + 1, len(y))
    radius = torch.cat([torch.cdist(part, y).topk(rank, largest=False).values[:, -1] for part in _pieces(y, y)])
    covered = torch.cat([(torch.cdist(part, y) <= radius).any(1) for part in _pieces(x, y)])
    return float(covered.double().mean())


def recall(x: Tensor, y: Tensor) -> float:
    """Returns the share of the points ``y`` ``(M, F)`` on the manifold of ``x`` ``(N, F)``; see :func:`precision`."""
    return precision(y, x)


def spread(x: Tensor) -> float:
    """Returns the root mean square distance of points ``(N, F)`` from their mean, with the divisor N - 1."""
    return float(((x - x.mean(0)).square().sum() / max(len(x) - 1, 1)).sqrt())


def nearest(x: Tensor, reference: Tensor) -> Tensor:
    """Returns the distance of each image of ``x`` to the nearest image of ``reference``, ``(N,)`` float64."""
    x, found = x.double().flatten(1), torch.full((len(x),), torch.inf, dtype=torch.float64)
    centre = x.mean(0)
    for originals in chunks(reference.flatten(1)):
        centred = (originals - centre).float()
        for rows in _pieces(torch.arange(len(x)), originals):
            chosen = originals[torch.cdist((x[rows] - centre).float(), centred).argmin(1)]
            # Compute the distance from differences. cdist uses products, and their rounding errors give exact copies a
            # distance above zero.
            found[rows] = found[rows].minimum((x[rows] - chosen.double()).norm(dim=1))
    return found


def _pieces(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Splits ``x`` into pieces, so that the distances between a piece and ``y`` fit into memory."""
    return x.split(max(1, PAIRS // len(y)))
