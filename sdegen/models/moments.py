"""Mean, principal axes and variances of data."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

WIDEST = 2048
"""Largest number of coordinates for which axes are computed. This takes at most seconds and 32 MiB."""
ENOUGH = 20
"""Number of points per coordinate above which the same points can give both the axes and the variances."""
NULL = 1e-10
"""Variance, as a share of the largest variance, below which the data count as constant in a direction."""


class Moments(NamedTuple):
    """Mean, principal axes and variances of points.

    Attributes:
        mean: mean, ``(d,)``. For images and long vectors, it is a single number, ``()``.
        axes: orthonormal columns, ``(d, k)``; None if all directions have one variance.
        variances: variances along the axes, ``(d,)``, with zeros after the first k; ``(1,)`` if ``axes`` is None.
    """

    mean: Tensor
    axes: Tensor | None
    variances: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        """Returns the moments of points ``(N, *)`` in float64. Images and long vectors have one mean and one variance.

        If there are few points per coordinate, every second point is used for the axes and the other points for the
        variances. With the same points for both, the variances along the first axes would be too large, and the last
        ones too small. If the data vary along less than a quarter of the axes, only these axes are kept.
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
    r"""An orthogonal matrix U with given first columns. Products with U are cheap if the given columns are few.

    For orthonormal columns A ``(d, k)`` with the polar decomposition :math:`A_1 = R P` of their first k rows, E the
    first k columns of the identity, and :math:`Y = E + A R^\top`,

    .. math:: U = \left(I - Y (I + R P R^\top)^{-1} Y^\top\right) \operatorname{diag}(-R, I)

    is orthogonal, and its first k columns are A. The first factor is a block reflector. A product of a vector with U
    costs about 4 d k multiplications instead of d².

    Reference: Schreiber & Parlett (1988), Block reflectors, https://doi.org/10.1137/0725014

    Attributes:
        outer: matrix Y, ``(d, k)``.
        inner: matrix :math:`(I + R P R^\top)^{-1} Y^\top`, ``(k, d)``.
        turn: matrix -R, ``(k, k)``.
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
        """Returns the coordinates :math:`U^\top x` of vectors ``x`` ``(*, d)`` along the columns of U."""
        x, k = x - (x @ self.outer) @ self.inner, len(self.turn)
        return torch.cat([x[..., :k] @ self.turn, x[..., k:]], dim=-1)

    def back(self, x: Tensor) -> Tensor:
        """Returns the vectors :math:`U x` with the coordinates ``x`` ``(*, d)``, the inverse of :meth:`along`."""
        k = len(self.turn)
        x = torch.cat([x[..., :k] @ self.turn.mT, x[..., k:]], dim=-1)
        return x - (x @ self.outer) @ self.inner
