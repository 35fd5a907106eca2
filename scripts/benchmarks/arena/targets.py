r"""Families of Gaussian mixtures, and the exact scores of several mixtures at once.

=========  ==========================================================================================================
broad      3 to 10 modes in the plane; means from N(0, I), deviations along axes log-uniform from 0.03 to 0.4
clusters   25 round clusters in the plane; means from N(0, I), deviation 0.014
rare       a mixture as in broad, and one more mode of weight 0.02 and deviation 0.01
ring       48 Gaussians along a circle in the plane, 0.03 thick, heavier on one side
tails      three Cauchy distributions in the plane, each approximated by 16 Gaussians of increasing scale
planes16   8 subspaces of dimension 4 in 16 dimensions, 0.03 thick, in random directions
planes64   8 subspaces as in planes16, in 64 dimensions
=========  ==========================================================================================================

Family and seed fix a mixture. It is then scaled to mean 0 and standard deviation 1 in each coordinate. Seeds from 100
on are for tuning: reported numbers use smaller seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from scipy.stats import chi2
from torch import Generator, Tensor
from torch.nn.utils.rnn import pad_sequence

from sdegen.core.randomness import generator
from sdegen.sde import LinearSDE
from sdegen.sde.mixture import GaussianMixture


def target(family: str, seed: int) -> GaussianMixture:
    """Returns the mixture of a seed in a family of :data:`FAMILIES`."""
    # With this key the broad mixtures are the same as in older measurements.
    key = ("contest",) if family == "broad" else ("contest", family)
    law = FAMILIES[family](generator("cpu", seed, *key))
    return law.affine(*moments(law))


def moments(law: GaussianMixture) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation of each coordinate of a mixture with full covariances, ``(d,)`` each."""
    mean = law.weights @ law.means
    variances = law.covariances.diagonal(dim1=1, dim2=2) + (law.means - mean) ** 2
    return mean, (law.weights @ variances).sqrt()


def uniform(source: Generator, *shape: int) -> Tensor:
    """Draws uniform numbers between 0 and 1, float64."""
    return torch.rand(*shape, generator=source, dtype=torch.float64)


def normal(source: Generator, *shape: int) -> Tensor:
    """Draws standard normal numbers, float64."""
    return torch.randn(*shape, generator=source, dtype=torch.float64)


def turned(deviations: Tensor, angle: Tensor) -> Tensor:
    """Returns covariances ``(M, 2, 2)`` with deviations ``(M, 2)`` along two axes, the first at an angle ``(M,)``."""
    axes = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).reshape(-1, 2, 2)
    return axes @ torch.diag_embed(deviations**2) @ axes.mT


def broad(source: Generator) -> GaussianMixture:
    m = int(torch.randint(3, 11, (), generator=source))
    weights = 0.2 + uniform(source, m)
    means = normal(source, m, 2)
    deviations = 0.03 * (0.4 / 0.03) ** uniform(source, m, 2)
    return GaussianMixture(weights, means, turned(deviations, 2 * math.pi * uniform(source, m)))


def clusters(source: Generator) -> GaussianMixture:
    narrow = 0.014**2 * torch.eye(2, dtype=torch.float64).expand(25, 2, 2)
    return GaussianMixture(0.5 + uniform(source, 25), normal(source, 25, 2), narrow)


def rare(source: Generator) -> GaussianMixture:
    base = broad(source)
    weights = torch.cat([0.98 * base.weights, torch.tensor([0.02], dtype=torch.float64)])
    tight = 0.01**2 * torch.eye(2, dtype=torch.float64)
    return GaussianMixture(
        weights, torch.cat([base.means, normal(source, 1, 2)]), torch.cat([base.covariances, tight[None]])
    )


def ring(source: Generator) -> GaussianMixture:
    m = 48
    angle = 2 * math.pi * torch.arange(m, dtype=torch.float64) / m
    weights = 1 + 0.7 * (angle + 2 * math.pi * uniform(source, 1)).cos()
    # Neighbours are 0.13 apart, so that they overlap along the circle.
    deviations = torch.tensor([0.03, 0.1], dtype=torch.float64).expand(m, 2)
    return GaussianMixture(weights, torch.stack([angle.cos(), angle.sin()], 1), turned(deviations, angle))


def tails(source: Generator) -> GaussianMixture:
    centres, scales = 3, 16
    # A Cauchy vector is a normal vector divided by the square root of a chi2 variable with one degree of freedom. The
    # chi2 variable is replaced by its quantiles at the midpoints of 16 equal shares.
    variances = 1 / torch.as_tensor(chi2.ppf([(i + 0.5) / scales for i in range(scales)], 1))
    shape = turned(0.1 + 0.2 * uniform(source, centres, 2), 2 * math.pi * uniform(source, centres))
    covariances = (shape[:, None] * variances[None, :, None, None]).flatten(0, 1)
    means = normal(source, centres, 2).repeat_interleave(scales, 0)
    return GaussianMixture((0.5 + uniform(source, centres)).repeat_interleave(scales), means, covariances)


def planes(d: int, source: Generator) -> GaussianMixture:
    """Returns 8 subspaces. Before the last scaling, half of the variance is between subspaces and half within them."""
    m, rank, thickness = 8, 4, 0.03
    weights = 0.5 + uniform(source, m)
    weights = weights / weights.sum()
    means = normal(source, m, d)
    means = means - weights @ means
    axes = torch.linalg.qr(normal(source, m, d, rank))[0] * 0.3 ** uniform(source, m, 1, rank)
    axes = axes * (weights @ means.square()).sum().sqrt() / (weights @ axes.square().sum((1, 2))).sqrt()
    # Scale before the thickness is added, so that the thickness is the same in all directions.
    scale = (weights @ (means.square() + axes.square().sum(2)) / (1 - thickness**2)).sqrt()
    means, axes = means / scale, axes / scale[:, None]
    return GaussianMixture(weights, means, axes @ axes.mT + thickness**2 * torch.eye(d, dtype=torch.float64))


FAMILIES: dict[str, Callable[[Generator], GaussianMixture]] = {
    "broad": broad,
    "clusters": clusters,
    "rare": rare,
    "ring": ring,
    "tails": tails,
    "planes16": partial(planes, 16),
    "planes64": partial(planes, 64),
}


class SideBySide:
    r"""Exact scores of K mixtures, each on its own part of the batch. One mixture after another would be slower.

    A covariance is the sum of a multiple of the identity and a part of low rank, :math:`\Sigma_m = b_m I + Q_m W_m
    Q_m^T` with orthonormal :math:`Q_m` and diagonal :math:`W_m`. With :math:`v_m = \alpha^2 b_m + \sigma^2` and
    :math:`\kappa_m = \alpha^2 W_m / (v_m + \alpha^2 W_m)`,

    .. math:: (\alpha^2 \Sigma_m + \sigma^2 I)^{-1} = v_m^{-1} (I - Q_m \kappa_m Q_m^T),

    and the score is a few matrix products.

    Args:
        laws: mixtures with full covariances and the same dimension.
        sde: forward process.
    """

    def __init__(self, laws: Sequence[GaussianMixture], sde: LinearSDE) -> None:
        self.sde = sde
        # Padding components have weight 0.
        self.log_weights = pad_sequence([law.weights.log() for law in laws], True, -math.inf).unsqueeze(1)
        self.means = pad_sequence([law.means for law in laws], True)
        values, axes = torch.linalg.eigh(pad_sequence([law.covariances for law in laws], True))
        self.base, excess = values[..., 0].unsqueeze(1), values - values[..., :1]
        rank = int((excess > 1e-12 * values[..., -1:]).sum(-1).max())
        kept = slice(values.shape[-1] - rank, None)
        self.excess = excess[..., kept].unsqueeze(1)
        # The directions of all components are (K, M r, d).
        self.axes = axes[..., kept].mT.flatten(1, 2)
        self.along = (self.axes.unflatten(1, (-1, rank)) @ self.means.unsqueeze(3)).flatten(1).unsqueeze(1)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns the score ``(K B, d)`` at ``x`` ``(K B, d)`` and ``t``, ``()`` or ``(K B,)``."""
        k, m, d = self.means.shape
        rows = x.reshape(k, -1, d)
        alpha, variance = self.sde.alpha(t), self.sde.sigma(t) ** 2
        if t.ndim:
            alpha, variance = alpha.reshape(k, -1, 1), variance.reshape(k, -1, 1)
        v = alpha**2 * self.base + variance
        grown = (alpha**2).unsqueeze(-1) * self.excess
        shrink = grown / (v.unsqueeze(-1) + grown)
        along = (rows @ self.axes.mT - alpha * self.along).unflatten(2, (m, -1))
        pull = shrink * along
        squares = rows.square().sum(2, keepdim=True) - 2 * alpha * (rows @ self.means.mT)
        squares = squares + alpha**2 * self.means.square().sum(2).unsqueeze(1) - (pull * along).sum(3)
        log_det = d * v.log() - (-shrink).log1p().sum(3)
        share = (self.log_weights - 0.5 * (squares / v + log_det)).softmax(2) / v
        back = (share.unsqueeze(3) * pull).flatten(2) @ self.axes + alpha * (share @ self.means)
        return (back - share.sum(2, keepdim=True) * rows).reshape(-1, d)
