"""Mean, principal axes and variances of data, and their regression on the numbers of the condition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

WIDEST = 2048
"""Largest number of coordinates for which axes are computed. This takes at most seconds and 32 MiB."""
ENOUGH = 20
"""Number of points per coordinate above which the same points can give both the axes and the variances.

It is also the number of points per number of a condition from which a regression is worth its errors.
"""
NULL = 1e-10
"""Variance, as a share of the largest variance, below which the data count as constant in a direction."""


class Moments(NamedTuple):
    """Mean, principal axes and variances of points.

    Attributes:
        mean: mean, ``(d,)``. For images and long vectors, it is a single number, ``()``.
        axes: orthonormal columns, ``(d, k)``; None if all directions have one variance.
        variances: variances along the axes, ``(d,)``, with zeros after the first k; ``(1,)`` if ``axes`` is None.
        regression: regression on the numbers of the condition; None if there are no such numbers, or too few points.
    """

    mean: Tensor
    axes: Tensor | None
    variances: Tensor
    regression: Regression | None = None

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

    def state(self) -> dict[str, Tensor | None]:
        """Returns the tensors from which :func:`restored` rebuilds the object."""
        own = {name: getattr(self, name) for name in FIELDS}
        if self.regression is None:
            return own
        rest = {f"given.{name}": value for name, value in self.regression.rest.state().items()}
        return {**own, "slope": self.regression.slope, **rest}


FIELDS = ("mean", "axes", "variances")


class Regression(NamedTuple):
    """Linear regression of points x ``(N, d)`` on numbers c ``(N, k)`` that are known about them.

    It stands for a Gaussian of x given c, whose mean is linear in c and whose covariance does not depend on c.

    Attributes:
        slope: matrix B, ``(d, k)``.
        rest: moments of the residuals x - B c.
    """

    slope: Tensor
    rest: Moments

    @classmethod
    def of(cls, x: Tensor, c: Tensor) -> Regression | None:
        """Returns the regression by least squares in float64; None for images, long vectors and too few points."""
        if x.ndim > 2 or c.ndim != 2 or x.shape[1] > WIDEST or len(x) < ENOUGH * c.shape[1]:
            return None
        x, c = x.double(), c.double()
        centred = c - c.mean(0)
        # The pseudo-inverse is defined even if some numbers are constant or linear functions of others.
        slope = (torch.linalg.pinv(centred.mT @ centred, rtol=NULL, hermitian=True) @ centred.mT @ (x - x.mean(0))).mT
        return cls(slope.contiguous(), Moments.of(x - c @ slope.mT))


def restored(state: Mapping[str, Tensor | None]) -> Moments:
    """Rebuilds moments from :meth:`Moments.state`. Check the content of a file with :func:`are_moments`."""
    mean, axes, variances = (state[name] for name in FIELDS)
    assert mean is not None and variances is not None
    if (slope := state.get("slope")) is None:
        return Moments(mean, axes, variances)
    rest = restored({name: state[f"given.{name}"] for name in FIELDS})
    return Moments(mean, axes, variances, Regression(slope, rest))


def are_moments(
    state: Mapping[str, Tensor | None], shape: tuple[int, ...], condition: tuple[int, ...] | None = None
) -> bool:
    """Returns True if values, which may come from a foreign file, are the state of moments.

    Args:
        state: tensors on the CPU, or None, by name.
        shape: shape of a point.
        condition: shape of the condition of a point; None if there is none.
    """
    if "slope" in state:
        own, given = ({name: state.get(f"{prefix}{name}") for name in FIELDS} for prefix in ("", "given."))
        slope = state["slope"]
        fits = slope is not None and condition is not None and slope.shape == (*shape, *condition)
        known = {"slope", *FIELDS, *(f"given.{name}" for name in FIELDS)}
        whole = fits and state.keys() == known and own["axes"] is not None and given["axes"] is not None
        return whole and _are_finite(slope) and are_moments(own, shape) and are_moments(given, shape)
    if state.keys() != set(FIELDS):
        return False
    mean, axes, variances = (state[name] for name in FIELDS)
    if mean is None or variances is None or not _are_finite(mean, variances, *([] if axes is None else [axes])):
        return False
    if axes is None:
        fits = mean.shape == () and variances.shape == (1,)
    else:
        fits = len(shape) == 1 and mean.shape == variances.shape == shape
        fits = fits and axes.ndim == 2 and len(axes) == len(mean) >= axes.shape[1]
    return fits and bool((variances >= 0).all())


def _are_finite(*tensors: Tensor | None) -> bool:
    return all(x is not None and x.is_floating_point() and bool(x.isfinite().all()) for x in tensors)


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
