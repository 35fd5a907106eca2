"""Particles under guidance, weighted to correct the error of the guidance."""

from __future__ import annotations

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.randomness import RandnLike
from sdegen.core.tensors import squared_norm
from sdegen.samplers.base import Sampler, Walk
from sdegen.samplers.exponential import StochasticAdams
from sdegen.samplers.grids import along
from sdegen.samplers.steps import frame_indices
from sdegen.sde.base import LinearSDE
from sdegen.sde.scores import Counted, Parts


class Twisted(Sampler):
    r"""Sequential Monte Carlo: with many particles it is exact for every guidance that has a likelihood.

    The samples of a batch are particles that take guided steps of ``stochastic_adams`` of order 1,
    :math:`x_s = A x_t + B\,(s_\theta + v) + C z` with the pull v of the guidance. The likelihood :math:`\ell_t(x)` of
    the guidance is approximate, except at the end. The weights

    .. math:: \log w = \log \ell_s(x_s) - \log \ell_t(x_t) - \frac{B^2 \|v\|^2}{2 C^2} - \frac{B}{C}\, v \cdot z

    correct it. Particles are resampled by their weights once fewer than half of them are effective. Without guidance
    only the steps remain.

    A sample therefore depends on the others of its batch, and its law on their number: the error of the weights of the
    modes is about one over the root of the number of particles, and larger if few particles start towards a mode. A
    single particle has the law of the uncorrected guidance. Increase ``count`` and ``batch_size`` together.

    Reference: Wu et al. (2023), Twisted Diffusion Sampler, https://arxiv.org/abs/2306.17775

    Args:
        steps: number of steps, at least 1, on ``grid=logistic``.
        denoise: see :class:`Sampler`.
    """

    couples = True
    enough = 1000

    def __init__(self, steps: int = 100, denoise: bool = False) -> None:
        super().__init__(denoise)
        self.processes = {"predictor": LinearSDE, **self.processes}
        self.steps = in_range("steps", steps, at_least=1)
        self.evaluations = self.steps + 1 + denoise

    def _integrate(self, sde: LinearSDE, score: Counted, x: Tensor, noise: RandnLike, frames: int) -> Walk:
        times, kept = along("logistic", sde, self.steps), frame_indices(self.steps, frames)
        path = [x] if kept else []
        parts = score.parts(x, times[0])
        weight = parts.log_likelihood.double()
        for i, step in enumerate(StochasticAdams(order=1).affine(sde, times), start=1):
            if effective(weight) < 0.5 * len(x):
                chosen = resampled(weight, noise(x))
                x, parts, weight = x[chosen], Parts(*(part[chosen] for part in parts)), torch.zeros_like(weight)
            z, before = noise(x), parts
            x = step.keep * x + step.pull * (before.score + before.pull) + step.std * z
            parts, ratio = score.parts(x, times[i]), step.pull / step.std
            gain = (parts.log_likelihood - before.log_likelihood).double()
            inner = (before.pull * z).flatten(1).sum(1)
            weight = weight + gain - 0.5 * ratio**2 * squared_norm(before.pull).double() - ratio * inner.double()
            if i in kept[1:]:
                path.append(x)
        if bool((weight != weight[0]).any()):
            x = x[resampled(weight, noise(x))]
        return Walk(x, torch.stack(path) if path else x.new_zeros(0, *x.shape), times[kept])


def effective(weight: Tensor) -> float:
    """Returns the effective number of particles with log-weights ``(B,)``."""
    share = weight.softmax(0)
    return float(1 / share.square().sum())


def resampled(weight: Tensor, normal: Tensor) -> Tensor:
    """Draws indices ``(B,)`` of particles by systematic resampling: each as often as its share, up to rounding.

    Args:
        weight: log-weights, ``(B,)``.
        normal: standard normal numbers; only the first is used.
    """
    u = torch.special.ndtr(normal.flatten()[0].double())
    at = (torch.arange(len(weight), device=weight.device, dtype=torch.float64) + u) / len(weight)
    return torch.searchsorted(weight.softmax(0).cumsum(0), at).clamp(max=len(weight) - 1)
