"""Mean, principal axes and variances of data: all that a Gaussian knows of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

WIDEST = 4096
"""Coordinates above which vectors are taken as a whole: their axes would be 128 MiB."""
ENOUGH = 20
"""Points for each coordinate from which on the variances along their own axes are nearly those of the law."""


class Moments(NamedTuple):
    """Mean, principal axes and variances of points.

    Attributes:
        mean: ``(d,)`` of vectors; ``()`` of points that are taken as a whole, as images are.
        axes: orthonormal columns, ``(d, d)``; None where all directions are taken as equal.
        variances: along the axes, ``(d,)``; ``(1,)`` where there are none.
    """

    mean: Tensor
    axes: Tensor | None
    variances: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        """The moments of points ``(N, *)``, float64: of vectors along their axes, of others as a whole.

        Where there are few points for their coordinates, the axes are those of every second point, and the variances
        along them those of the others: along axes that they had chosen themselves, points would spread too far, and in
        the directions that they leave out not at all.
        """
        x = x.double()
        if x.ndim > 2 or x.shape[1] > WIDEST:
            return cls(x.mean(), None, x.var(correction=0).reshape(1))
        mean = x.mean(0)
        few = len(x) < ENOUGH * x.shape[1] and len(x) > 3
        chosen, others = (x[::2] - mean, x[1::2] - mean) if few else (x - mean, x - mean)
        axes = torch.linalg.eigh(chosen.mT @ chosen).eigenvectors
        return cls(mean, axes, (others @ axes).square().mean(0))
