"""The Gaussian with the mean and covariance of data, by principal axes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

WIDEST = 2048
"""Largest number of coordinates for which axes are computed, which takes seconds and 32 MiB."""
ENOUGH = 20
"""Number of points per coordinate from which on variances along the points' own axes are nearly unbiased."""
NULL = 1e-10
"""Share of the largest variance below which the data count as constant in a direction."""


class Moments(NamedTuple):
    """Mean, principal axes and variances of points.

    Attributes:
        mean: mean, ``(d,)``; for images and long vectors a single number, ``()``.
        axes: orthonormal columns, ``(d, k)``; None if all directions count as equal.
        variances: variances along the axes, ``(d,)``, zeros beyond k; ``(1,)`` if there are no axes.
    """

    mean: Tensor
    axes: Tensor | None
    variances: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        """Returns the moments of points ``(N, *)`` in float64; images and long vectors have one mean and one variance.

        If there are few points per coordinate, every second point gives the axes, and the other points give the
        variances: along their own axes, points have too much variance, and none in the directions that they do not
        fill. If the data fill less than a quarter of the dimensions, only the axes that they fill are kept.
        """
        x = x.double()
        if x.ndim > 2 or x.shape[1] > WIDEST:
            return cls(x.mean(), None, x.var(correction=0).reshape(1))
        mean, d = x.mean(0), x.shape[1]
        few = len(x) < ENOUGH * d and len(x) > 3
        chosen, others = (x[::2] - mean, x[1::2] - mean) if few else (x - mean, x - mean)
        axes = torch.linalg.eigh(chosen.mT @ chosen).eigenvectors
        variances, order = (others @ axes).square().mean(0).sort(descending=True)
        k = int((variances > NULL * variances[0]).sum())
        if 4 * k < d:
            return cls(mean, axes[:, order[:k]].contiguous(), torch.cat([variances[:k], variances.new_zeros(d - k)]))
        return cls(mean, axes[:, order], variances)


class Rotation(NamedTuple):
    r"""An orthogonal matrix with given first columns; products with it are cheap if the given columns are few.

    For orthonormal columns A ``(d, k)`` with the polar decomposition :math:`A_1 = R P` of their first k rows, E the
    first k columns of the identity, and :math:`Y = E + A R^\top`,

    .. math:: U = \left(I - Y (I + R P R^\top)^{-1} Y^\top\right) \operatorname{diag}(-R, I)

    is orthogonal, and A is its first k columns. It is a reflection through a space of k dimensions. A product with it
    costs 4 d k multiplications instead of d².

    Reference: Schreiber & Parlett (1988), Block reflectors, https://doi.org/10.1137/0725014

    Attributes:
        outer: Y, ``(d, k)``.
        inner: :math:`(I + R P R^\top)^{-1} Y^\top`, ``(k, d)``.
        turn: -R, ``(k, k)``.
    """

    outer: Tensor
    inner: Tensor
    turn: Tensor

    @classmethod
    def of(cls, axes: Tensor) -> Rotation:
        """Returns the rotation with the first columns ``axes`` ``(d, k)``."""
        k = axes.shape[1]
        left, _, right = torch.linalg.svd(axes[:k])
        turn = -left @ right
        outer = -axes @ turn.mT
        identity = torch.eye(k, dtype=axes.dtype)
        symmetric = outer[:k].clone()
        outer[:k] += identity
        return cls(outer, torch.linalg.solve(identity + symmetric, outer.mT), turn)

    def along(self, x: Tensor) -> Tensor:
        """Returns the coordinates of vectors, ``(*, d)`` to ``(*, d)``: :math:`U^\top x`."""
        x, k = x - (x @ self.outer) @ self.inner, len(self.turn)
        return torch.cat([x[..., :k] @ self.turn, x[..., k:]], dim=-1)

    def back(self, x: Tensor) -> Tensor:
        """Returns the vectors of coordinates, the inverse of :meth:`along`: :math:`U x`."""
        k = len(self.turn)
        x = torch.cat([x[..., :k] @ self.turn.mT, x[..., k:]], dim=-1)
        return x - (x @ self.outer) @ self.inner
