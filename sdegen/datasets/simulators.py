r"""Simulators: pairs of parameters, which are the points, and observations, which are their conditions.

A network that is trained on the pairs learns the score of the posterior :math:`p(\theta \mid y)`, and samples it for
any observation without further simulations.

Reference: Sharrock et al. (2022), https://arxiv.org/abs/2210.04872
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.randomness import generator
from sdegen.datasets.base import Dataset, Standardize
from sdegen.datasets.checks import check_size
from sdegen.datasets.description import Description
from sdegen.sde.mixture import GaussianMixture

PILOT = 5000
"""Number of simulations from which the units are computed if each step simulates anew."""


class Simulator(Dataset, ABC):
    """Pairs of parameters and observations from a simulator. A subclass defines :meth:`pairs`.

    The attributes that :meth:`pairs` needs must be set before the constructor of this class is called.

    Args:
        seed: seed of the simulations; from the run.
        size: number of simulations that a run trains on; None to simulate anew at every step.
        standardize: see :class:`Dataset`. The observations always have mean 0 and standard deviation 1 for the network.
        columns: names of the parameters; empty for none.
        conditions: names of the numbers of an observation; empty for none.
        posterior: function that draws n exact parameters given one observation; None if the posterior is not known.
        joint: see :class:`Dataset`.
    """

    def __init__(
        self,
        seed: int,
        size: int | None,
        standardize: Standardize = True,
        *,
        columns: Sequence[str] = (),
        conditions: Sequence[str] = (),
        posterior: Callable[[Tensor, int, torch.Generator], Tensor] | None = None,
        joint: GaussianMixture | None = None,
    ) -> None:
        count = PILOT if size is None else check_size(size)
        found = self.pairs(count, generator("cpu", seed, "data"))
        if not isinstance(found, tuple) or len(found) != 2 or any(len(part) != count for part in found):
            raise ValueError(f"{type(self).__name__}.pairs({count}, …) must return two tensors of {count} rows each")
        x, c = (part.unsqueeze(1) if part.ndim == 1 else part for part in found)
        if size is None:
            report = f"simulated anew at every step; {count} simulations give the units and the figures"
        else:
            report = f"{count} simulations, drawn once"
        super().__init__(
            x,
            standardize=standardize,
            c=c,
            simulate=self.pairs,
            fresh=size is None,
            posterior=posterior,
            joint=joint,
            description=Description(tuple(columns), report=(report,), conditions=tuple(conditions)),
        )

    @abstractmethod
    def pairs(self, n: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws n independent pairs: parameters θ from the prior, ``(n, *)``, and observations y ``(n, *)`` given θ.

        All random numbers must come from ``source``. Then a seed fixes the result.
        """


class LinearGaussian(Simulator):
    r"""Observations :math:`y = A \theta + \text{noise}\, n` of standard normal parameters; the posterior is Gaussian.

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
