"""A forward process without a closed-form kernel."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.randomness import RandnLike
from sdegen.core.tensors import expand
from sdegen.sde.base import SDE
from sdegen.sde.linear import Beta


class DoubleWell(SDE):
    r"""Diffusion of each coordinate in a double-well potential: VP with a quartic in place of the quadratic potential.

    .. math:: dx = -\tfrac12 \beta(t) V'(x) \, dt + \sqrt{\beta(t)} \, dw, \qquad
              V(x) = b \left(x^2/a^2 - 1\right)^2, \quad \beta(t) = \beta_{\min} + (\beta_{\max} - \beta_{\min}) t

    The stationary distribution is the prior. Its density is :math:`e^{-V(x)}/Z`, with modes at :math:`\pm a`. Between
    the modes, the log-density has a barrier of height b. The kernel has no closed form, so :meth:`perturb` simulates
    paths. As a function of :math:`B(t) = \int_0^t \beta`, the process is homogeneous. A path to t has :attr:`STEPS`
    steps in B, which become shorter towards the end. A step uses Strang's splitting: half of the drift, then the noise,
    then the other half of the drift. The flow of the drift has a closed form (Bernoulli's equation). The scheme has
    weak order 2 and, unlike Euler–Maruyama, is stable for all x.

    References: Gardiner (2009), Stochastic methods, section 5.5; for the splitting, Leimkuhler & Matthews (2015).

    Args:
        wells: distance a of the wells from 0, in units of the standardised data.
        barrier: height b of the barrier, above 0. Paths take longer to cross a higher barrier, and p_T is close to the
            prior only if they cross the barrier before T.
        beta_min: rate :math:`\beta(0)`, above 0.
        beta_max: rate :math:`\beta(1)`, at least ``beta_min``.
        eps: smallest time of training and sampling.
    """

    STEPS = 48
    TABLE = 4096

    def __init__(
        self,
        wells: float = 1.0,
        barrier: float = 1.0,
        beta_min: float = 0.1,
        beta_max: float = 20.0,
        eps: float = 1e-2,
    ) -> None:
        super().__init__(eps)
        self.wells, self.barrier = in_range("wells", wells, above=0), in_range("barrier", barrier, above=0)
        self.beta = Beta(beta_min, beta_max)
        # The table ends where the density is e^-50 times its maximum. No draw lies beyond the table.
        x = wells * torch.linspace(0, math.sqrt(1 + math.sqrt(50 / barrier)), self.TABLE, dtype=torch.float64)
        cells = torch.cumulative_trapezoid((-self.potential(x)).exp().flip(0), x)
        upper = torch.cat([cells.new_zeros(1), cells]).flip(0)
        self._log_normaliser = math.log(2 * float(upper[0]))
        # For each x, find the normal number z with the same tail probability. Do not use 1 - tail, which loses digits.
        self._x, self._z = x[:-1], -torch.special.ndtri(0.5 * upper[:-1] / upper[0])

    def potential(self, x: Tensor) -> Tensor:
        """Returns V(x), entry by entry."""
        return self.barrier * ((x / self.wells) ** 2 - 1) ** 2

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -2 * self.barrier / self.wells**2 * expand(self.beta(t), x) * x * ((x / self.wells) ** 2 - 1)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.beta(t).sqrt()

    def perturb(self, x0: Tensor, t: Tensor, randn_like: RandnLike) -> Tensor:
        clock, n = expand(self.beta.integral(t), x0), self.STEPS
        # The shares (2j - 1) / n², j from n to 1, add up to 1. The last steps are short, because early errors decay.
        shares = [(2 * j - 1) / n**2 for j in range(n, 0, -1)]
        x = self._slide(x0, 0.5 * shares[0] * clock)
        for share, following in itertools.pairwise([*shares, 0.0]):
            noise = (share * clock).sqrt() * randn_like(x)
            x = self._slide(x + noise, 0.5 * (share + following) * clock)
        return x

    def sample_prior(self, x: Tensor, randn_like: RandnLike) -> Tensor:
        z = randn_like(x).double()
        size, table = z.abs(), self._z.to(z)
        cell = (torch.searchsorted(table, size) - 1).clamp(0, len(table) - 2)
        share = (size - table[cell]) / (table[cell + 1] - table[cell])
        values = self._x.to(z)
        return torch.copysign(torch.lerp(values[cell], values[cell + 1], share), z).to(x.dtype)

    def log_prior(self, x: Tensor) -> Tensor:
        return -(self.potential(x) + self._log_normaliser).flatten(1).sum(1)

    def _slide(self, x: Tensor, b: Tensor) -> Tensor:
        r"""Returns the state after the drift alone, :math:`dx/dB = -\tfrac12 V'(x)`, while B grows by ``b``."""
        rate = 2 * self.barrier / self.wells**2
        return x * torch.exp(rate * b) * torch.rsqrt(1 + (x / self.wells) ** 2 * torch.expm1(2 * rate * b))
