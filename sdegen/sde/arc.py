r"""Distribution on half an ellipse, whose convolution with narrow Gaussians is computed by local quadrature."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

GAUSS = tuple(torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(64))
"""Points and weights of the Gauss–Legendre rule on [-1, 1]."""
REACH = 10.0
"""Standard deviations of the noise along the curve, on both sides of the nearest point, that the rule covers."""
NEWTON = 20
"""Number of Gauss–Newton steps to the nearest point. Near the curve, the error is a rounding error after a few."""


class Arc(NamedTuple):
    r"""Lower half of an ellipse, :math:`m(\theta) = c - r \circ (\cos\theta, \sin\theta)` with angles from 0 to π.

    The density of the angle is :math:`\tfrac12 \sin\theta`: the first coordinate of the point is uniform.

    Attributes:
        centre: centre c, ``(2,)`` float64.
        radii: half axes r, ``(2,)`` float64.
        finest: standard deviation of the noise, relative to α and the larger half axis, below which the arc must
            replace a set of its points.
    """

    centre: Tensor
    radii: Tensor
    finest: float

    def affine(self, shift: Tensor, scale: Tensor) -> Arc:
        """Returns the arc of the points ``(x - shift) / scale``; both arguments are ``(2,)``."""
        return Arc((self.centre - shift) / scale, self.radii / scale, self.finest)

    def shows(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Returns True where the noise is so small that single points would show."""
        return sigma < self.finest * float(self.radii.max()) * alpha

    def nodes(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns weights ``(B, K)`` and points ``(B, K, 2)`` that stand for the arc in :math:`p_t` near each row.

        The weights are those of a Gauss–Legendre rule for the integral over the angle, around the point of the arc that
        is nearest to the row.

        Args:
            x: points, ``(B, 2)`` float64.
            alpha: factors :math:`\alpha`, ``(B, 1)`` float64.
            sigma: standard deviations :math:`\sigma` of the noise, ``(B, 1)`` float64.
        """
        centre, radii = self.centre.to(x.device), self.radii.to(x.device)
        clean = x.detach() / alpha
        angle = self._nearest(clean - centre, radii)
        speed = (radii * torch.cat([angle.sin(), angle.cos()], dim=1)).norm(dim=1, keepdim=True)
        reach = REACH * sigma / (alpha * speed)
        low, high = (angle - reach).clamp(min=0), (angle + reach).clamp(max=math.pi)
        at, weights = (part.to(x.device) for part in GAUSS)
        theta = low + 0.5 * (high - low) * (1 + at)
        weights = 0.25 * (high - low) * weights * theta.sin()
        return weights, centre - radii * torch.stack([theta.cos(), theta.sin()], dim=2)

    @staticmethod
    def _nearest(off: Tensor, radii: Tensor) -> Tensor:
        """Returns the angles ``(B, 1)`` of the points of the arc nearest to points near it, ``off`` from the centre."""
        x, y = (off / radii).unbind(1)
        angle = torch.atan2(-y, -x)
        angle = torch.where(angle < -0.5 * math.pi, angle + 2 * math.pi, angle).clamp(0, math.pi).unsqueeze(1)
        for _ in range(NEWTON):
            cosine, sine = angle.cos(), angle.sin()
            tangent = radii * torch.cat([sine, -cosine], dim=1)
            residual = off + radii * torch.cat([cosine, sine], dim=1)
            step = (residual * tangent).sum(1, keepdim=True) / tangent.square().sum(1, keepdim=True)
            angle = (angle + step).clamp(0, math.pi)
        return angle
