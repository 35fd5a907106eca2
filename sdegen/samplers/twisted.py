"""Particles under guidance, weighed by what the guidance gets wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from sdegen.core.randomness import RandnLike
from sdegen.core.tensors import squared_norm
from sdegen.samplers.base import Sampler, Walk
from sdegen.samplers.correctors import at_least_1
from sdegen.samplers.exponential import StochasticAdams
from sdegen.samplers.grids import GRIDS
from sdegen.samplers.predictors import ANY
from sdegen.sde.base import LinearSDE
from sdegen.sde.scores import Counted


class Twisted(Sampler):
    r"""Sequential Monte Carlo: exact for any guidance that tells its likelihood, as the particles grow in number.

    The samples of a batch are particles that take guided steps of ``stochastic_adams`` of order 1,
    :math:`x_s = A x_t + B\,(s_\theta + v) + C z` with the pull v of the guidance. The likelihood :math:`\ell_t(x)` by
    which it steers is approximate; the weights

    .. math:: \log w = \log \ell_s(x_s) - \log \ell_t(x_t) - \frac{B^2 \|v\|^2}{2 C^2} - \frac{B}{C}\, v \cdot z

    correct it, since at the end it is right. Particles are drawn anew by their weights whenever these have become worth
    less than half of their number. Without guidance these are the steps alone.

    A sample therefore depends on the others of its batch, and its law on their number: the weights of the modes are off
    by about one over the root of the number of particles, and by more where few of them start towards a mode. One
    particle has the law of the guidance as it is. Raise ``count`` and ``batch_size`` together.

    Reference: Wu et al. (2023), Twisted Diffusion Sampler, https://arxiv.org/abs/2306.17775

    Args:
        steps: number of steps, at least 1, on ``grid=logistic``.
        denoise: see :class:`Sampler`.
    """

    kernel = ANY
    couples = True
    enough = 1000

    def __init__(self, steps: int = 100, denoise: bool = False) -> None:
        super().__init__(denoise)
        self.kernel = ANY
        self.steps = at_least_1("steps", steps)
        self.evaluations = self.steps + 1 + denoise

    def _integrate(self, sde: LinearSDE, score: Counted, x: Tensor, noise: RandnLike, frames: int) -> Walk:  # type: ignore[override]
        times = GRIDS["logistic"].times(sde, torch.linspace(0, 1, self.steps + 1, dtype=torch.float64))
        times[0], times[-1] = sde.T, sde.eps
        plan = StochasticAdams(order=1).plan(sde, times)
        kept = torch.linspace(0, self.steps, frames, dtype=torch.float64).round().long().unique().tolist()
        path = [x] if kept else []
        parts = score.parts(x, times[0])
        weight = parts.log_likelihood.double()
        for i, row in enumerate(plan, start=1):
            keep, pull, std = row.keep + row.predict[0] * row.x, row.predict[0] * row.score, row.std
            if effective(weight) < 0.5 * len(x):
                chosen = resampled(weight, noise(x))
                x, parts, weight = x[chosen], type(parts)(*(part[chosen] for part in parts)), torch.zeros_like(weight)
            z = noise(x)
            x = keep * x + pull * (parts.score + parts.pull) + std * z
            before = parts
            parts = score.parts(x, times[i])
            gain = (parts.log_likelihood - before.log_likelihood).double()
            inner = (before.pull * z).flatten(1).sum(1)
            ratio = pull / std
            weight = weight + gain - 0.5 * ratio**2 * squared_norm(before.pull).double() - ratio * inner.double()
            if i in kept[1:]:
                path.append(x)
        if bool((weight != weight[0]).any()):
            x = x[resampled(weight, noise(x))]
        return Walk(x, torch.stack(path) if path else x.new_zeros(0, *x.shape), times[kept])


def effective(weight: Tensor) -> float:
    """How many equal particles those of log-weights ``(B,)`` are worth."""
    share = weight.softmax(0)
    return float(1 / share.square().sum())


def resampled(weight: Tensor, normal: Tensor) -> Tensor:
    """Indices ``(B,)`` of particles drawn by their log-weights, systematically: each as often as its share, within one.

    Args:
        weight: ``(B,)``.
        normal: standard normal numbers, of which the first one decides.
    """
    u = torch.special.ndtr(normal.flatten()[0].double())
    at = (torch.arange(len(weight), device=weight.device, dtype=torch.float64) + u) / len(weight)
    return torch.searchsorted(weight.softmax(0).cumsum(0), at).clamp(max=len(weight) - 1)
