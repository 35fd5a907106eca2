"""Sampler of EDM: Heun's scheme for the probability-flow ODE, with churn (added noise)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.randomness import RandnLike
from sdegen.samplers.base import Memory, Predictor, Step
from sdegen.sde.base import LinearSDE, ReverseSDE


class HeunStep(NamedTuple):
    r"""A step from ``start``, the time after churn, to ``s``.

    ``ratio`` and ``ratio_s`` are :math:`\bar\sigma` at ``start`` and ``s``. ``alpha_t``, ``alpha`` and ``alpha_s`` are
    :math:`\alpha` before churn, at ``start`` and at ``s``. The noise of churn has the standard deviation ``churn_std``.
    """

    start: Tensor
    s: Tensor
    alpha_t: float
    churn_std: float
    ratio: float
    alpha: float
    ratio_s: float
    alpha_s: float

    def __call__(self, reverse: ReverseSDE, x: Tensor, noise: RandnLike, memory: Memory) -> tuple[Tensor, Memory]:
        clean = x / self.alpha_t
        if self.churn_std:
            clean = torch.add(clean, noise(x), alpha=self.churn_std)
        slope = reverse.score(self.alpha * clean, self.start) * (-self.alpha * self.ratio)
        h = self.ratio_s - self.ratio
        guess = torch.add(clean, slope, alpha=h)
        slope = torch.add(slope, reverse.score(self.alpha_s * guess, self.s), alpha=-self.alpha_s * self.ratio_s)
        return torch.add(clean, slope, alpha=0.5 * h) * self.alpha_s, ()


class Heun(Predictor[LinearSDE]):
    r"""Heun's scheme for the flow in :math:`\bar x = x/\alpha` and :math:`\bar\sigma = \sigma/\alpha`, as in EDM.

    .. math:: \frac{d \bar x}{d \bar\sigma} = -\alpha\, \bar\sigma\, s_\theta(x, t)

    With churn, noise is added before each step: :math:`\bar\sigma` is raised by the factor
    :math:`1 + \min(\mathrm{churn}/N, \sqrt 2 - 1)`, but not above the value of :math:`\bar\sigma` at T.

    Reference: Karras et al. (2022), algorithms 1 and 2, https://arxiv.org/abs/2206.00364

    Args:
        churn: amount of noise added in all N steps together; 0 for no noise.
        churn_min: smallest :math:`\bar\sigma` at which noise is added.
        churn_max: largest :math:`\bar\sigma` at which noise is added; None for no bound.
        churn_noise: factor of the standard deviation of the added noise; 1 is the value of the theory.
    """

    eta = 0.0
    order = 2
    grid = "karras"
    evaluations = 2
    process = LinearSDE

    def __init__(
        self, churn: float = 0.0, churn_min: float = 0.0, churn_max: float | None = None, churn_noise: float = 1.0
    ) -> None:
        highest = math.inf if churn_max is None else churn_max
        if not 0 <= churn_min <= highest:
            raise ValueError(f"churn_min={churn_min:g} must lie between 0 and churn_max={highest:g}")
        self.churn, self.churn_min, self.churn_max = in_range("churn", churn, at_least=0), churn_min, highest
        self.churn_noise = in_range("churn_noise", churn_noise, at_least=0)

    def plan(self, sde: LinearSDE, times: Tensor) -> Sequence[Step]:
        alpha = sde.alpha(times)
        ratio = sde.sigma(times) / alpha
        churned = (ratio >= self.churn_min) & (ratio <= self.churn_max)
        factor = 1 + churned * min(self.churn / (len(times) - 1), math.sqrt(2) - 1)
        raised = torch.minimum(ratio * factor, ratio[0])[:-1]
        start = torch.where(raised > ratio[:-1], sde.time(2 * raised.log()), times[:-1])
        raised_alpha = torch.where(raised > ratio[:-1], sde.alpha(start), alpha[:-1])
        churn_std = self.churn_noise * (raised**2 - ratio[:-1] ** 2).sqrt()
        # Use plain numbers: with tensors, each step would launch more GPU kernels.
        rows = torch.stack([alpha[:-1], churn_std, raised, raised_alpha, ratio[1:], alpha[1:]], dim=1).tolist()
        return [HeunStep(t, s, *row) for t, s, row in zip(start, times[1:], rows, strict=True)]
