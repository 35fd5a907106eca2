r"""Samplers of the times of a training step.

A time sampler turns uniform numbers into times and ratios. A ratio is the uniform density on :math:`[\varepsilon, T]`
divided by the density of the times. The mean of ratio · loss estimates the mean of the loss over uniform t. For
:class:`Grid` and :class:`Levels`, it estimates the mean over the points of a grid.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Generic

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.sde.base import SDE, LinearSDE, S
from sdegen.training.levels import NoiseLevels
from sdegen.training.weighting import Weighting


class TimeSampler(ABC, Generic[S]):
    """A distribution of times, with ``draws`` times for each data point of a batch.

    Args:
        draws: number of times (and noises) for each data point and step.
        chunk: number of draws that pass through the network at once, which limits the memory; None for all draws.

    Attributes:
        process: type of process that the sampler works with.
        grid: number of equally spaced times from eps to T to which the times belong; None for all times.
    """

    process: type[SDE] = SDE
    grid: int | None = None

    def __init__(self, draws: int = 1, chunk: int | None = None) -> None:
        self.draws = in_range("draws", draws, at_least=1)
        self.chunk = draws if chunk is None else min(in_range("chunk", chunk, at_least=1), draws)

    @abstractmethod
    def __call__(self, sde: S, weighting: Weighting, u: Tensor) -> tuple[Tensor, Tensor]:
        """Returns times and ratios, both shaped like ``u``.

        Args:
            sde: forward process.
            weighting: weight λ(t) of the loss, on which the density of importance sampling depends.
            u: uniform numbers in [0, 1), ``(K, draws, B)``: K steps of B data points.
        """


class Uniform(TimeSampler[SDE]):
    r"""Uniform times, :math:`t \sim U[\varepsilon, T]`, independent for each row (Song et al. 2021)."""

    def __call__(self, sde: SDE, weighting: Weighting, u: Tensor) -> tuple[Tensor, Tensor]:
        return between(sde, u), torch.ones_like(u)


class Stratified(TimeSampler[SDE]):
    r"""One draw in each of :math:`n` equal slices of :math:`[\varepsilon, T]`, where n is the number of rows of a step.

    The mean of the loss is the same as with independent draws, and the variance is smaller. Each data point
    gets a random slice, because the order of the batch is random.
    """

    def __call__(self, sde: SDE, weighting: Weighting, u: Tensor) -> tuple[Tensor, Tensor]:
        return between(sde, stratify(u)), torch.ones_like(u)


class Importance(TimeSampler[LinearSDE]):
    r"""Stratified draws from the density :math:`\propto \lambda(t)/\sigma_t^2`, which the ratio corrects.

    The weighted denoising losses of all rows are then of about the same size, for every λ. The derivative of :math:`u =
    \log(\sigma_t^2/\alpha_t^2)` is :math:`g^2/\sigma^2`. In u, the density is :math:`\propto \lambda/g^2`, a constant
    for the likelihood weighting. This density is tabulated in :attr:`CELLS` cells. The ratio is computed from the
    table, so that the mean of ratio · loss is exact for any weighting.

    Reference: Song et al. (2021), https://arxiv.org/abs/2101.09258, section 5.
    """

    CELLS = 1024
    process = LinearSDE

    def __call__(self, sde: LinearSDE, weighting: Weighting, u: Tensor) -> tuple[Tensor, Tensor]:
        ends = sde.log_nsr(torch.tensor([sde.eps, sde.T], dtype=torch.float64))
        edges = torch.linspace(float(ends[0]), float(ends[1]), self.CELLS + 1, dtype=torch.float64)
        middle = sde.time(0.5 * (edges[1:] + edges[:-1]))
        density = weighting(sde, middle) / sde.diffusion(middle) ** 2
        cumulative = torch.cat([torch.zeros(1, dtype=torch.float64), density.cumsum(0)])
        density, cumulative = (c.to(u) for c in (density / cumulative[-1], cumulative / cumulative[-1]))

        v = stratify(u)
        cell = (torch.searchsorted(cumulative, v, right=True) - 1).clamp(0, self.CELLS - 1)
        position = (cell + (v - cumulative[cell]) / density[cell]) / self.CELLS
        t = sde.time(torch.lerp(ends[0].to(u), ends[1].to(u), position)).clamp(sde.eps, sde.T)
        # p(t) = p(u) du/dt, where du/dt = g² / σ², and p(u) is constant in a cell of the table.
        per_u = density[cell] * self.CELLS / float(ends[1] - ends[0])
        return t, sde.sigma(t) ** 2 / (per_u * sde.diffusion(t) ** 2 * (sde.T - sde.eps))


class Mixed(TimeSampler[S]):
    """Stratified draws from a distribution mixed with a tenth of uniform times.

    Without the uniform times, the ratio would be huge where the distribution has little mass. With them, the ratio is
    at most 10, so that the mean of ratio · loss has at most ten times the second moment that it has with uniform times,
    whatever the weighting.
    """

    UNIFORM = 0.1

    @abstractmethod
    def time(self, sde: S, share: Tensor) -> Tensor:
        """Returns the times before which the shares in [0, 1] of the distribution lie, shaped like ``share``."""

    @abstractmethod
    def density(self, sde: S, t: Tensor) -> Tensor:
        """Returns the density of t divided by the uniform density, shaped like ``t``."""

    def __call__(self, sde: S, weighting: Weighting, u: Tensor) -> tuple[Tensor, Tensor]:
        v = stratify(u.double())
        own = self.time(sde, (v - self.UNIFORM).clamp(min=0) / (1 - self.UNIFORM))
        t = torch.where(v < self.UNIFORM, between(sde, v / self.UNIFORM), own)
        return t.to(u), 1 / torch.lerp(self.density(sde, t), torch.ones_like(t), self.UNIFORM).to(u)


class LogNormal(Mixed[LinearSDE]):
    r"""Times with a log-normal noise level :math:`\sigma_t/\alpha_t`, as in EDM, and a tenth of uniform times.

    The distribution is truncated to the noise levels of :math:`[\varepsilon, T]`. The ratio corrects for it, so that
    the expected gradient is the one with uniform times. With ``weighting=edm``, it is the expected gradient of EDM.

    Reference: Karras et al. (2022), https://arxiv.org/abs/2206.00364, table 1

    Args:
        mean: mean of :math:`\log(\sigma_t/\alpha_t)`.
        std: standard deviation of :math:`\log(\sigma_t/\alpha_t)`.
        draws: see :class:`TimeSampler`.
        chunk: see :class:`TimeSampler`.
    """

    process = LinearSDE

    def __init__(self, mean: float = -1.2, std: float = 1.2, draws: int = 1, chunk: int | None = None) -> None:
        super().__init__(draws, chunk)
        self.mean, self.std = mean, in_range("std", std, above=0)

    def time(self, sde: LinearSDE, share: Tensor) -> Tensor:
        return NoiseLevels(sde, self.mean, self.std).time(share)

    def density(self, sde: LinearSDE, t: Tensor) -> Tensor:
        return NoiseLevels(sde, self.mean, self.std).density(t)


class LogitNormal(Mixed[SDE]):
    r"""Times with a normal logit of their place p in :math:`[\varepsilon, T]`, and a tenth of uniform times.

    .. math:: p = \frac{t - \varepsilon}{T - \varepsilon}, \qquad \log \frac{p}{1 - p} \sim N(\text{mean}, \text{std}^2)

    With the mean 0, most draws are in the middle of the path. The ratio corrects for this, so that the times do not
    change the expected gradient. (Esser et al. do not correct, which changes the weight of the loss as well.)

    Reference: Esser et al. (2024), https://arxiv.org/abs/2403.03206, section 3.1

    Args:
        mean: mean of the logit; draws are mostly at small t if it is below 0.
        std: standard deviation of the logit.
        draws: see :class:`TimeSampler`.
        chunk: see :class:`TimeSampler`.
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0, draws: int = 1, chunk: int | None = None) -> None:
        super().__init__(draws, chunk)
        self.mean, self.std = mean, in_range("std", std, above=0)

    def time(self, sde: SDE, share: Tensor) -> Tensor:
        return between(sde, torch.sigmoid(self.mean + self.std * torch.special.ndtri(share)))

    def density(self, sde: SDE, t: Tensor) -> Tensor:
        logit = torch.logit((t - sde.eps) / (sde.T - sde.eps), eps=1e-12)
        normal = torch.exp(-0.5 * ((logit - self.mean) / self.std) ** 2) / (self.std * math.sqrt(2 * math.pi))
        # 1 / (p (1 - p)) is (1 + e^logit) (1 + e^-logit).
        return normal * (2 + 2 * torch.cosh(logit))


class Grid(TimeSampler[SDE]):
    r"""The paper's discretisation. Every data point of the batch gets all times of a grid, each ``simulations`` times.

    .. math:: t_i = \varepsilon + \frac{i}{N - 1} (T - \varepsilon), \qquad i = 0, \dots, N - 1

    The loss is then a mean over the grid, not an integral over t. With the variance weighting, the two agree as N
    grows. With :math:`\lambda = 1` they do not: at 100 points, nearly all of the weight is on the single point
    :math:`t = \varepsilon`, where :math:`1/\sigma^2` is :math:`10^6`.

    Args:
        points: number N of grid points, at least 2.
        simulations: number of noise draws at each point.
        chunk: number of the ``points * simulations`` draws that pass through the network at once, which limits the
            memory; None for all draws.
    """

    def __init__(self, points: int = 100, simulations: int = 30, chunk: int | None = 100) -> None:
        self.points = self.grid = in_range("points", points, at_least=2)
        super().__init__(points * in_range("simulations", simulations, at_least=1), chunk)

    def __call__(self, sde: SDE, weighting: Weighting, u: Tensor) -> tuple[Tensor, Tensor]:
        grid = torch.linspace(sde.eps, sde.T, self.points, dtype=u.dtype, device=u.device)
        t = grid.repeat(self.draws // self.points)[:, None].expand(u.shape)
        return t, torch.ones_like(u)


class Levels(TimeSampler[SDE]):
    r"""Independent draws from equally spaced times, as in the training of discrete chains.

    .. math:: t = \varepsilon + \frac{i}{N - 1} (T - \varepsilon), \qquad i \sim U\{0, \dots, N - 1\}

    If N is the number of levels of a chain, the times are the times i/N of the chain. The mean of the loss is the same
    as with :class:`Grid`, which uses all times for each data point.

    Args:
        points: number N of times, at least 2.
        draws: see :class:`TimeSampler`.
        chunk: see :class:`TimeSampler`.
    """

    def __init__(self, points: int = 1000, draws: int = 1, chunk: int | None = None) -> None:
        self.points = self.grid = in_range("points", points, at_least=2)
        super().__init__(draws, chunk)

    def __call__(self, sde: SDE, weighting: Weighting, u: Tensor) -> tuple[Tensor, Tensor]:
        # In float32, N times a number just below 1 can round up to N.
        level = (u * self.points).floor().clamp(max=self.points - 1)
        return between(sde, level / (self.points - 1)), torch.ones_like(u)


def between(sde: SDE, u: Tensor) -> Tensor:
    """Maps numbers in [0, 1] linearly to [eps, T]."""
    return sde.eps + (sde.T - sde.eps) * u


def stratify(u: Tensor) -> Tensor:
    """Moves the number of row i of a step's n rows into the i-th of n equal slices of [0, 1]."""
    n = u.shape[-2] * u.shape[-1]
    slices = torch.arange(n, device=u.device, dtype=u.dtype).view(u.shape[-2:])
    # In float32, a number in the last slice can round up to 1. Then t = T, which is allowed.
    return (slices + u) / n
