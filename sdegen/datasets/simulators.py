r"""Simulators: pairs of parameters, which are the points, and observations, which are their conditions.

A network that is trained on the pairs learns the score of the posterior :math:`p(\theta \mid y)`, and samples it for
any observation without further simulations.

Reference: Sharrock et al. (2022), https://arxiv.org/abs/2210.04872
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.randomness import generator
from sdegen.datasets.base import Dataset, Posterior, Standardize
from sdegen.datasets.checks import check_size
from sdegen.datasets.description import Description
from sdegen.sde.mixture import GaussianMixture

PILOT = 5000
"""Number of simulations from which the units are computed if each step simulates anew."""

CELLS = 2**16
"""Number of cells of a quadrature."""
TRIES = 1000
"""Largest number of batches of a rejection sampler."""


class Simulator(Dataset, ABC):
    """Pairs of parameters and observations from a simulator. A subclass defines :meth:`pairs`.

    A subclass sets the attributes that :meth:`pairs` needs before it calls the constructor of this class.

    Args:
        seed: seed of the simulations; from the run.
        size: number of simulations that a run trains on; None to simulate anew at every step.
        standardize: see :class:`Dataset`. The observations always have mean 0 and standard deviation 1 for the network.
        columns: names of the parameters; empty for none.
        conditions: names of the numbers of an observation; empty for none.
        posterior: see :class:`Dataset`.
        joint: see :class:`Dataset`.
    """

    def __init__(
        self,
        seed: int,
        size: int | None,
        standardize: Standardize = True,
        *,
        columns: tuple[str, ...] = (),
        conditions: tuple[str, ...] = (),
        posterior: Posterior | None = None,
        joint: GaussianMixture | None = None,
    ) -> None:
        count = PILOT if size is None else check_size(size)
        self._check_repeatable(seed)
        x, c = self._batched(count, generator("cpu", seed, "data"))
        if size is None:
            report = f"simulated anew at every step; {count} simulations give the units and the figures"
        else:
            report = f"{count} simulations, drawn once"
        super().__init__(
            x,
            standardize=standardize,
            c=c,
            simulate=self._batched,
            fresh=size is None,
            posterior=posterior,
            joint=joint,
            description=Description(columns, report=(report,), conditions=conditions),
        )

    def _check_repeatable(self, seed: int) -> None:
        """Raises ValueError if two simulations with the same seed differ."""
        first, second = (self._batched(2, generator("cpu", seed, "repeated")) for _ in range(2))
        if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(first, second, strict=True)):
            raise ValueError(
                f"{type(self).__name__}.pairs gives other numbers at each call: take all random numbers from source, "
                f"as in torch.randn(n, generator=source)"
            )

    def _batched(self, n: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        """Returns the pairs of :meth:`pairs`, with an axis of length 1 for a single parameter or a single number."""
        found = self.pairs(n, source)
        if not isinstance(found, tuple) or len(found) != 2 or any(len(part) != n for part in found):
            raise ValueError(f"{type(self).__name__}.pairs({n}, …) must return two tensors of {n} rows each")
        x, c = (part.unsqueeze(1) if part.ndim == 1 else part for part in found)
        return x, c

    @abstractmethod
    def pairs(self, n: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws n independent pairs: parameters θ from the prior, ``(n, *)``, and observations y ``(n, *)`` given θ.

        All random numbers must come from ``source``. Then a seed fixes the result.
        """


class LinearGaussian(Simulator):
    r"""Standard normal parameters, observed as :math:`y = A \theta + \text{noise}\, n`; the posterior is Gaussian.

    The entries of A are fixed: :math:`A_{ij} = \cos(i j) / \sqrt d`, for i and j from 1 to d.

    Args:
        seed: seed of the simulations; from the run.
        dimensions: number d of parameters, and of numbers in an observation.
        noise: standard deviation of the noise, above 0.
        size: number of simulations that a run trains on; null to simulate anew at every step.
        standardize: see :class:`Dataset`.
    """

    def __init__(
        self,
        seed: int,
        dimensions: int = 2,
        noise: float = 0.5,
        size: int | None = 10_000,
        standardize: Standardize = True,
    ) -> None:
        d = in_range("dimensions", dimensions, at_least=1)
        self.noise = in_range("noise", noise, above=0)
        i = torch.arange(1, d + 1, dtype=torch.float64)
        self.matrix = torch.cos(i[:, None] * i) / d**0.5
        self.prior = GaussianMixture(torch.ones(1), torch.zeros(1, d), torch.ones(1))
        joint = observed(self.prior, self.matrix, self.noise)
        super().__init__(seed, size, standardize, posterior=self._exact, joint=joint)

    def pairs(self, n: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        theta = self.prior.sample(n, source)
        noise = torch.randn(theta.shape, generator=source, dtype=torch.float64)
        return theta, theta @ self.matrix.T + self.noise * noise

    def _exact(self, y: Tensor, n: int, source: torch.Generator) -> Tensor:
        return self.prior.given(self.matrix, y, self.noise).sample(n, source)


class ObservedMixture(Simulator):
    r"""One number that is observed about a point of a Gaussian mixture in the plane.

    With ``observation=linear``, :math:`y = \theta_1 + \tfrac12 \theta_2 + \text{noise}\, n`, and the posterior is a
    mixture. With ``observation=quadratic``, :math:`y = \theta_1^2 + \theta_2^2 + \text{noise}\, n`, and the posterior
    is a ring on which several arcs are likely.

    Args:
        seed: seed of the simulations; from the run.
        observation: ``linear`` or ``quadratic``.
        noise: standard deviation of the noise, above 0.
        weights: weights of the components of the prior, above 0; they are normalised to the sum 1.
        means: means of the components, two coordinates for each.
        variances: variances (not standard deviations) of the components, above 0.
        size: number of simulations that a run trains on; null to simulate anew at every step.
        standardize: see :class:`Dataset`.
    """

    def __init__(
        self,
        seed: int,
        observation: Literal["linear", "quadratic"] = "linear",
        noise: float = 0.5,
        weights: tuple[float, ...] = (0.4, 0.3, 0.3),
        means: tuple[tuple[float, float], ...] = ((-2.0, 0.0), (1.5, 1.5), (1.0, -2.0)),
        variances: tuple[float, ...] = (0.25, 0.5, 0.1),
        size: int | None = 10_000,
        standardize: Standardize = True,
    ) -> None:
        if min(variances, default=0) <= 0:
            raise ValueError(f"variances={list(variances)} must be above 0")
        self.observation, self.noise = observation, in_range("noise", noise, above=0)
        self.prior = GaussianMixture(torch.tensor(weights), torch.tensor(means), torch.tensor(variances))
        posterior = self._on_rings if observation == "quadratic" else self._mixture
        super().__init__(seed, size, standardize, posterior=posterior)

    MATRIX = torch.tensor([[1.0, 0.5]], dtype=torch.float64)

    def pairs(self, n: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        theta = self.prior.sample(n, source)
        noise = torch.randn(n, 1, generator=source, dtype=torch.float64)
        exact = theta.square().sum(1, keepdim=True) if self.observation == "quadratic" else theta @ self.MATRIX.T
        return theta, exact + self.noise * noise

    def _mixture(self, y: Tensor, n: int, source: torch.Generator) -> Tensor:
        return self.prior.given(self.MATRIX, y, self.noise).sample(n, source)

    def _on_rings(self, y: Tensor, n: int, source: torch.Generator) -> Tensor:
        r"""Draws the component and :math:`u = |\theta|^2` by quadrature, and then the angle, which is von Mises.

        In component m, u divided by the variance has a non-central :math:`\chi^2` distribution with two degrees of
        freedom.
        """
        radius, variance = self.prior.means.norm(dim=1, keepdim=True), self.prior.covariances[:, None]
        farthest = max(float((radius + 9 * variance.sqrt()).max()) ** 2, float(y) + 8 * self.noise)
        width = farthest / CELLS
        u = width * (torch.arange(CELLS, dtype=torch.float64) + 0.5)
        along = u.sqrt() * radius / variance
        log_p = torch.special.i0e(along).log() - (u.sqrt() - radius).square() / (2 * variance) - variance.log()
        log_p = log_p + self.prior.weights.log()[:, None] - (u - float(y)).square() / (2 * self.noise**2)
        cumulated = (log_p - log_p.max()).exp().flatten().cumsum(0)
        uniform = torch.rand(n, 2, generator=source, dtype=torch.float64)
        cell = torch.searchsorted(cumulated, uniform[:, 0] * cumulated[-1]).clamp(max=len(cumulated) - 1)
        component, u = cell // CELLS, width * (cell % CELLS + uniform[:, 1])
        mean, root = self.prior.means[component], u.sqrt()
        kappa = root * radius[component, 0] / variance[component, 0]
        seed = int(torch.randint(2**62, (1,), generator=source))
        angle = torch.from_numpy(np.random.default_rng(seed).vonmises(0.0, kappa.numpy()))
        angle = angle + torch.atan2(mean[:, 1], mean[:, 0])
        return root[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)


class TwoMoons(Simulator):
    r"""The benchmark "two moons". The prior is uniform on :math:`[-1, 1]^2`, and the posterior is two crescents.

    .. math:: y = p + \tfrac{1}{\sqrt 2} \bigl(-|\theta_1 + \theta_2|,\; \theta_2 - \theta_1\bigr), \qquad
              p = r\, (\cos a, \sin a) + (\tfrac14, 0),

    with :math:`a \sim U(-\tfrac\pi2, \tfrac\pi2)` and :math:`r \sim N(0.1, 0.01^2)`. The data set ``moons``,
    without observations, is :class:`Moons`.

    Reference: Lueckmann et al. (2021), https://arxiv.org/abs/2101.04653

    Args:
        seed: seed of the simulations; from the run.
        size: number of simulations that a run trains on; null to simulate anew at every step.
        standardize: see :class:`Dataset`.
    """

    def __init__(self, seed: int, size: int | None = 10_000, standardize: Standardize = True) -> None:
        super().__init__(seed, size, standardize, posterior=self._exact)

    def pairs(self, n: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        theta = 2 * torch.rand(n, 2, generator=source, dtype=torch.float64) - 1
        turned = torch.stack([-theta.sum(1).abs(), theta[:, 1] - theta[:, 0]], dim=1) / math.sqrt(2)
        return theta, self._crescent(n, source) + turned

    def _crescent(self, n: int, source: torch.Generator) -> Tensor:
        """Draws the noise p, ``(n, 2)``."""
        angle = math.pi * (torch.rand(n, generator=source, dtype=torch.float64) - 0.5)
        radius = 0.1 + 0.01 * torch.randn(n, generator=source, dtype=torch.float64)
        return torch.stack([radius * angle.cos() + 0.25, radius * angle.sin()], dim=1)

    def _exact(self, y: Tensor, n: int, source: torch.Generator) -> Tensor | None:
        """Draws p and the sign of θ₁ + θ₂, solves for θ, and rejects parameters outside of the prior.

        Returns None if nearly all are outside.
        """
        found = torch.empty(0, 2, dtype=torch.float64)
        for _ in range(TRIES):
            off = self._crescent(n, source) - y
            sign = 2 * torch.randint(2, (n,), generator=source).double() - 1
            total, difference = sign * off[:, 0], -off[:, 1]
            theta = torch.stack([total - difference, total + difference], dim=1) / math.sqrt(2)
            found = torch.cat([found, theta[(off[:, 0] >= 0) & (theta.abs() <= 1).all(1)]])
            if len(found) >= n:
                return found[:n]
        return None


def observed(prior: GaussianMixture, matrix: Tensor, noise: float) -> GaussianMixture:
    """Returns the joint distribution of θ and y = A θ + noise n, with standard normal n, as a vector (θ, y).

    Args:
        prior: distribution of θ ``(d,)``.
        matrix: matrix A, ``(m, d)``.
        noise: standard deviation of the noise.
    """
    m, d = matrix.shape
    both = torch.cat([torch.eye(d, dtype=torch.float64), matrix])
    full = prior.covariances
    if full.ndim < 3:
        full = torch.diag_embed(full.reshape(len(full), -1).expand(len(full), d))
    own = torch.cat([torch.zeros(d), torch.full((m,), noise**2)]).double().diag()
    return GaussianMixture(prior.weights, prior.means @ both.T, both @ full @ both.T + own)
