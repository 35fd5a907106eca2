r"""Correctors: Markov chains that leave the marginal p_t unchanged and need only its score.

The step sizes are functions of t only. If the step size of a sample were proportional to ‖z‖/‖s‖ with the score s of
the sample, the chain would have no stationary distribution where the score vanishes; in one dimension the chain would
diverge. If the step size depended on means over the batch, the samples would depend on each other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.randomness import RandnLike
from sdegen.core.tensors import expand, squared_norm
from sdegen.samplers.base import Corrector, Moved
from sdegen.sde.base import LinearSDE, Score

UNSTABLE = ": larger steps are unstable"


class Unadjusted(Corrector[LinearSDE]):
    r"""Unadjusted Langevin dynamics with a step size :math:`\epsilon(t)` for each time t.

    .. math:: x \leftarrow x + \epsilon(t)\, s_\theta(x, t) + \sqrt{2 \epsilon(t)}\, z

    Args:
        moves: number of moves at each time.
    """

    process = LinearSDE

    def __init__(self, moves: int) -> None:
        self.evaluations = self.moves = in_range("moves", moves, at_least=1)

    def __call__(self, score: Score, x: Tensor, t: Tensor, size: float, noise: RandnLike) -> Moved:
        std = math.sqrt(2 * size)
        for _ in range(self.moves):
            x = torch.add(x, score(x, t), alpha=size).add_(noise(x), alpha=std)
        return Moved(x)


class Langevin(Unadjusted):
    r"""Langevin dynamics with the step sizes :math:`\epsilon(t) = 2 r^2 \sigma_t^2 a^2`.

    The factor a of the forward process, from t to the previous time of the grid, is 1 for VE and
    :math:`\sqrt{1 - \beta}` for VP, as in algorithms 4 and 5 of Song et al. (2021). These algorithms use the ratio of
    norms ‖z‖/‖s‖. Here :math:`\sigma_t` replaces this ratio, because both are about equal for a score of variance
    :math:`1/\sigma_t^2`.

    Args:
        snr: signal-to-noise ratio r of a move; below 1, because larger moves are unstable.
        moves: number of moves at each time.
    """

    def __init__(self, snr: float = 0.16, moves: int = 1) -> None:
        super().__init__(moves)
        self.snr = in_range("snr", snr, above=0, below=1, fix=UNSTABLE)

    def sizes(self, sde: LinearSDE, times: Tensor) -> Tensor:
        factor, _ = sde.transition(times[1:], times[:-1])
        return 2 * (self.snr * sde.sigma(times[1:]) * factor) ** 2


class AnnealedLangevin(Unadjusted):
    r"""Annealed Langevin dynamics, in which the step size is proportional to the variance of the noise.

    .. math:: \epsilon_i = \epsilon\, \sigma_i^2 / \sigma_{\min}^2

    Reference: appendix A of the paper; Song & Ermon (2019), algorithm 1, https://arxiv.org/abs/1907.05600

    Args:
        size: step size divided by the variance of the noise, ε/σ_min²; the same at every level.
        moves: number M of moves at each level.
    """

    def __init__(self, size: float = 0.1, moves: int = 10) -> None:
        super().__init__(moves)
        self.size = in_range("size", size, above=0, below=2, fix=UNSTABLE)

    def sizes(self, sde: LinearSDE, times: Tensor) -> Tensor:
        return self.size * sde.sigma(times[1:]) ** 2


class Hamiltonian(Corrector[LinearSDE]):
    r"""Hamiltonian dynamics with the energy :math:`-\log p_t(x) + \|p\|^2/2m`, by leapfrog steps from random momenta p.

    .. math:: p \leftarrow p + \tfrac h2 s_\theta(x, t), \qquad x \leftarrow x + \tfrac hm p, \qquad
              p \leftarrow p + \tfrac h2 s_\theta(x, t), \qquad h = \mathrm{size}\, \sqrt m\, \sigma_t

    Reference: Neal (2011), MCMC using Hamiltonian dynamics, https://arxiv.org/abs/1206.1901

    Args:
        leaps: number of leapfrog steps in each trajectory.
        size: length of a leapfrog step, in units of σ_t √m; below 2, because larger steps are unstable for a Gaussian
            of standard deviation σ_t.
        mass: mass m. It changes only the scale of the momenta, because the step length is in units of √m.
        moves: number of trajectories at each time.

    Attributes:
        points: number of evaluations of the score in each leapfrog step.
    """

    process = LinearSDE
    points: int

    def __init__(self, leaps: int = 5, size: float = 0.5, mass: float = 1.0, moves: int = 1) -> None:
        self.leaps, self.moves = in_range("leaps", leaps, at_least=1), in_range("moves", moves, at_least=1)
        self.size, self.mass = in_range("size", size, above=0, below=2, fix=UNSTABLE), in_range("mass", mass, above=0)
        self.evaluations = 1 + self.points * moves * leaps

    def sizes(self, sde: LinearSDE, times: Tensor) -> Tensor:
        return self.size * math.sqrt(self.mass) * sde.sigma(times[1:])


class HMC(Hamiltonian):
    """Hamiltonian Monte Carlo without a Metropolis test. The error of the leapfrog steps biases the samples."""

    points = 1

    def __call__(self, score: Score, x: Tensor, t: Tensor, size: float, noise: RandnLike) -> Moved:
        pull = score(x, t)
        for _ in range(self.moves):
            p = math.sqrt(self.mass) * noise(x)
            for _ in range(self.leaps):
                p = torch.add(p, pull, alpha=0.5 * size)
                x = torch.add(x, p, alpha=size / self.mass)
                pull = score(x, t)
                p = torch.add(p, pull, alpha=0.5 * size)
        return Moved(x)


class MetropolisHMC(Hamiltonian):
    r"""Hamiltonian Monte Carlo with a Metropolis test. The change of the log-density is an integral of the score.

    .. math:: \log p_t(x') - \log p_t(x) = \int_x^{x'} s_\theta \cdot dx \approx \sum_{\mathrm{leaps}}
              \left(\tfrac1{12} s_0 + \tfrac5{12} s_a + \tfrac5{12} s_{1 - a} + \tfrac1{12} s_1\right) \cdot (x_1 -
              x_0), \qquad a = \tfrac12 - \tfrac1{2 \sqrt 5}

    This is Lobatto's rule with four points on the straight line from :math:`x_0` to :math:`x_1` of each leapfrog step;
    :math:`s_a` is the score at :math:`x_0 + a (x_1 - x_0)`. The rule takes two more evaluations in each leapfrog step.
    The error is proportional to the seventh power of the length of the step. (With the trapezoid rule, the computed
    change of the energy vanishes to leading order, and the test removes no bias. With Simpson's rule, a quarter of the
    bias remained.)
    """

    points = 3
    INNER = 0.5 - 0.5 / math.sqrt(5)

    def __call__(self, score: Score, x: Tensor, t: Tensor, size: float, noise: RandnLike) -> Moved:
        pull, accepted = score(x, t), []
        for _ in range(self.moves):
            p = math.sqrt(self.mass) * noise(x)
            kinetic = energy(p, self.mass)
            x_new, pull_new, gained = x, pull, torch.zeros_like(kinetic)
            for _ in range(self.leaps):
                p = torch.add(p, pull_new, alpha=0.5 * size)
                chord = p * (size / self.mass)
                inner = score(torch.add(x_new, chord, alpha=self.INNER), t)
                inner = inner + score(torch.add(x_new, chord, alpha=1 - self.INNER), t)
                x_new, before = x_new + chord, pull_new
                pull_new = score(x_new, t)
                p = torch.add(p, pull_new, alpha=0.5 * size)
                gained = gained + ((before + 5 * inner + pull_new) * chord).flatten(1).double().sum(1) / 12
            # Compute the uniform number from a normal number of the same row: rows must not depend on each other.
            luck = torch.special.log_ndtr(noise(x).flatten(1)[:, 0].double())
            accept = luck < gained + kinetic - energy(p, self.mass)
            keep = expand(accept, x).bool()
            x, pull = torch.where(keep, x_new, x), torch.where(keep, pull_new, pull)
            accepted.append(accept.double().mean())
        return Moved(x, torch.stack(accepted).mean())


def energy(p: Tensor, mass: float) -> Tensor:
    """Returns the kinetic energies ‖p‖²/2m, ``(B,)`` float64, for the momenta ``p`` ``(B, *)`` and the mass m."""
    return squared_norm(p.double()) / (2 * mass)
