r"""Exponential multistep schemes, exact for the linear part of the reverse process.

With :math:`\bar x = x/\alpha`, :math:`\bar\sigma = \sigma/\alpha`, :math:`\lambda = \log \bar\sigma` and the denoised
data :math:`D = E[x_0 \mid x]`, the reverse processes of every linear SDE are

.. math:: d\bar x = (1 + \eta^2) (\bar x - D)\, d\lambda + \eta \sqrt 2\, \bar\sigma\, d\bar w .

For Gaussian data of standard deviation c (the *spread*), :math:`D = c^2 \bar x / V` with :math:`V = \bar\sigma^2 +
c^2`. If this part is split off, :math:`D = c^2 \bar x / V + F \bar\sigma c/\sqrt V`, the process is

.. math:: y = \bar x\, V^{-(1 + \eta^2)/2}, \qquad
          dy = -(1 + \eta^2)\, V^{-(1 + \eta^2)/2}\, \frac{\bar\sigma c}{\sqrt V}\, F\, d\lambda + \dots .

The noise over a step from t to s has the variance :math:`V_s^{-\eta^2} - V_t^{-\eta^2}` exactly. A network with EDM's
parametrization learns F. F is of order one at every noise level, and zero for Gaussian data. With a spread of 0, D
replaces F, as in DPM-Solver++.

A scheme fits a polynomial in λ to the last values of F. In the formula for dy, the polynomial replaces F, and the
integral over a step is computed. For :math:`\eta = 0` this is an exponential Adams method (Hochbruck & Ostermann 2010,
section 2.5).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.randomness import RandnLike
from sdegen.samplers.base import Memory, Predictor
from sdegen.samplers.predictors import AffineStep
from sdegen.sde.base import LinearSDE, ReverseSDE

GAUSS = tuple(torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(12))
"""Points and weights of the Gauss–Legendre rule for the integrals. The error is below 1e-9 for steps of λ up to 2."""

Rule = Sequence[tuple[int, int]]
"""Pairs ``(steps, values)``: on a grid of ``steps`` steps or more, the polynomial uses ``values`` values of F.

If several pairs apply, the largest number of values counts.
"""

Weights = tuple[tuple[float, ...], ...]
"""Weights of the values of F in each step, newest first."""

FLOW: Rule = ((1, 1), (8, 2), (15, 3), (40, 4))
"""Best rule for the flow. FLOW and REVERSE were tuned on mixtures that no reported result uses."""
REVERSE: Rule = ((1, 1), (15, 2))
"""Best rule for the reverse SDE."""


class ExponentialStep(NamedTuple):
    """A step from ``t``, and the correction of the previous step.

    Attributes:
        t: time at which the step begins.
        x: factor of x in F.
        score: factor of the score in F.
        correct: weights of the values of F, newest first, in the corrected previous step; empty for no correction.
        predict: weights of the values of F, newest first, in this step.
        keep: factor of x in this step.
        std: standard deviation of the noise in this step.
    """

    t: Tensor
    x: float
    score: float
    correct: list[float]
    predict: list[float]
    keep: float
    std: float

    def __call__(self, reverse: ReverseSDE, x: Tensor, noise: RandnLike, memory: Memory) -> tuple[Tensor, Memory]:
        # The memory holds the previous step without the part of the polynomial, and the last values of F.
        opened, *past = memory or (x,)
        history = [(self.x * x).add_(reverse.score(x, self.t), alpha=self.score), *past]
        if self.correct:
            x = combine(opened, self.correct, history)
        opened = self.keep * x
        if self.std:
            opened.add_(noise(x), alpha=self.std)
        return combine(opened, self.predict, history), (opened, *history[: len(self.predict)])


class Exponential(Predictor[LinearSDE]):
    """Exponential multistep scheme.

    Args:
        nodes: rule for the number of values of F that the polynomial interpolates. The first steps use fewer values.
        eta: amount of noise η of the reverse process.
        spread: standard deviation c of the Gaussian that is solved exactly.
        correct: true to repeat each step with one more node, when F at the end of the step is known. The repetition
            costs no evaluation.
    """

    grid = "log_snr"
    process = LinearSDE
    fits = True
    weights: Weights = ()
    """Fitted weights of the steps along one grid; empty for those of the polynomial."""

    def __init__(self, nodes: Rule, eta: float, spread: float, correct: bool) -> None:
        self.memory, self.nodes, self.revises = nodes[0][1], nodes, correct
        self.eta, self.spread = in_range("eta", eta, at_least=0), in_range("spread", spread, at_least=0)

    def plan(self, sde: LinearSDE, times: Tensor) -> list[ExponentialStep]:
        nodes = max(count for fewest, count in self.nodes if fewest < len(times))
        alpha, sigma = sde.alpha(times), sde.sigma(times)
        ratio = sigma / alpha
        power, v = 0.5 * (1 + self.eta**2), ratio**2 + self.spread**2
        gain = ratio * self.spread / v.sqrt() if self.spread else torch.ones_like(v)
        scale = alpha * v**power
        lam, after = ratio.log(), scale[1:, None]
        predict = (self._weights(lam, nodes, ahead=0) * after).tolist()
        correct: list[list[float]] = [[] for _ in predict]
        if self.revises:
            correct[1:] = (self._weights(lam, nodes + 1, ahead=1) * after).tolist()[:-1]
        keep = (scale[1:] / scale[:-1]).tolist()
        # Compute 1 - c²/V as ratio²/V, which has no cancellation at small noise.
        of_x, of_score = (ratio**2 / v / (alpha * gain)).tolist(), (sigma**2 / (alpha * gain)).tolist()
        std = (alpha[1:] * (v[1:] * (1 - (v[1:] / v[:-1]) ** self.eta**2)).sqrt()).tolist()
        rows = zip(times[:-1], of_x[:-1], of_score[:-1], correct, predict, keep, std, strict=True)
        steps = [ExponentialStep(*row) for row in rows]
        if not self.weights:
            return steps
        fitted = zip(steps, self.weights, strict=True)
        return [step._replace(correct=[], predict=list(weights)) for step, weights in fitted]

    def adjusted(self, weights: Weights = (), order: int | None = None, spread: float | None = None) -> Self:
        """Returns the scheme with fitted weights along one grid, or with another number of values or spread."""
        other = copy.copy(self)
        other.weights = weights
        other.nodes = self.nodes if order is None else fixed(order)
        other.memory = max(map(len, weights), default=other.nodes[0][1])
        # Fitted weights contain the correction.
        other.revises = self.revises and not weights
        other.spread = self.spread if spread is None else in_range("spread", spread, at_least=0)
        return other

    def affine(self, sde: LinearSDE, times: Tensor) -> list[AffineStep]:
        """Returns the steps as affine maps, for a scheme with one node and no correction."""
        return [
            AffineStep(step.t, step.keep + step.predict[0] * step.x, step.predict[0] * step.score, step.std)
            for step in self.plan(sde, times)
        ]

    def _weights(self, nodes: Tensor, most: int, ahead: int) -> Tensor:
        r"""Returns the integrals of :math:`w(\lambda) \ell_j(\lambda)` over each step, ``(N, most)``.

        The Lagrange polynomial :math:`\ell_j` of step i belongs to the node i + ``ahead`` - j. If a step has fewer than
        ``most`` nodes, the weights of the missing nodes are 0.
        """
        index = torch.arange(len(nodes) - 1)[:, None] + ahead - torch.arange(most)
        there, through = index >= 0, nodes[index.clamp(min=0)]
        at, rule = GAUSS
        half = 0.5 * nodes.diff()[:, None]
        points = nodes[:-1, None] + half * (1 + at)
        # Polynomial j is the product of (λ - λ_m) / (λ_j - λ_m) over all other nodes m.
        factor = there[:, None, :] & ~torch.eye(most, dtype=torch.bool)
        apart = torch.where(factor, through[:, :, None] - through[:, None, :], 1.0)
        distance = torch.where(factor[:, None], (points[:, :, None] - through[:, None, :])[:, :, None, :], 1.0)
        values = (distance / apart[:, None]).prod(3)
        return torch.einsum("nq,nqj->nj", half * rule * self._weight(points), values) * there

    def _weight(self, lam: Tensor) -> Tensor:
        """Returns w(λ), the factor of F in dy/dλ."""
        ratio, power = lam.exp(), 0.5 * (1 + self.eta**2)
        v = ratio**2 + self.spread**2
        gain = ratio * self.spread / v.sqrt() if self.spread else 1.0
        return -2 * power * v**-power * gain


def fixed(order: int) -> Rule:
    """Returns the rule that always uses ``order`` values of F, from 1 to 3."""
    return ((1, in_range("order", order, at_least=1, at_most=3)),)


def combine(x: Tensor, weights: Sequence[float], terms: Sequence[Tensor]) -> Tensor:
    """Returns ``x`` plus the weighted sum of the terms. Weights without a term are ignored."""
    total = torch.add(x, terms[0], alpha=weights[0])
    for weight, term in zip(weights[1:], terms[1:], strict=False):
        total.add_(term, alpha=weight)
    return total


class DPMSolver(Exponential):
    r"""DPM-Solver++ for the flow: the exponential multistep scheme in the denoised data D (spread 0).

    The polynomial through the last values of D is integrated exactly. The published 2M variant approximates one
    of the integrals; this does not change the order. The common 3M variant halves the second difference.

    Reference: Lu et al. (2022), https://arxiv.org/abs/2211.01095

    Args:
        order: number of values of D that a step uses: 1 (DDIM), 2 (2M) or 3 (3M). The first steps use fewer
            values, so that the scheme has at most order 2.
    """

    def __init__(self, order: int = 2) -> None:
        super().__init__(nodes=fixed(order), eta=0.0, spread=0.0, correct=False)
        self.order = min(order, 2)


class StochasticDPMSolver(Exponential):
    r"""SDE-DPM-Solver++ for the reverse SDE: the exponential multistep scheme in the denoised data D (spread 0).

    Reference: Lu et al. (2022), https://arxiv.org/abs/2211.01095

    Args:
        order: number of values of D that a step uses: 1 (ancestral sampling), 2 (2M) or 3 (3M).
        eta: amount of noise: 0 for the flow, 1 for the reverse SDE; larger values are possible.
    """

    def __init__(self, order: int = 2, eta: float = 1.0) -> None:
        super().__init__(nodes=fixed(order), eta=eta, spread=0.0, correct=False)
        self.order = min(order, 2)


class Adams(Exponential):
    r"""Exponential Adams–Bashforth–Moulton scheme for the flow. Each step is predicted and then corrected.

    Each step is predicted from the last values of F, and repeated with one more node when F at the end of the step is
    known. Both together cost one evaluation, because the next step begins with the same value of F. On
    ``grid=logistic``, ``adams`` is the most accurate scheme of this package for data with few broad modes.

    Reference: Hochbruck & Ostermann (2010), Exponential integrators, section 2.5. Related schemes are DEIS (Zhang &
    Chen 2023, https://arxiv.org/abs/2204.13902) and UniPC (Zhao et al. 2023, https://arxiv.org/abs/2302.04867).

    Args:
        order: order from 2 to 6, for at least ``order - 1`` steps. None for the best order for the number of steps: 2
            below 8 steps, up to 5 from 40 steps on. The first steps use fewer nodes, and have an error of third order.
            This error is negligible if σ/α at T is far above the standard deviation of the data, as for VP. Otherwise
            the scheme has third order.
        spread: standard deviation c of the Gaussian that is solved exactly. The best value is a little below the
            standard deviation of the data in the network's units, which is 1 for standardised data.
    """

    def __init__(self, order: int | None = None, spread: float = 0.8) -> None:
        if order is not None:
            in_range("order", order, at_least=2, at_most=6)
        super().__init__(nodes=((1, order - 1),) if order else FLOW, eta=0.0, spread=spread, correct=True)
        self.order = min(order or 3, 3)


class StochasticAdams(Exponential):
    r"""Exponential Adams–Bashforth scheme for the reverse SDE, with exact noise.

    References: Lu et al. (2022), https://arxiv.org/abs/2211.01095, for the linear part and the noise, in the case of
    spread 0; Xue et al. (2023), SA-Solver, https://arxiv.org/abs/2309.05019, for the family of η

    Args:
        order: number of values of F that a step uses, from 1 to 3. None for the best number: 1 below 15 steps,
            2 from 15 steps on.
        eta: amount of noise: 0 for the flow, 1 for the reverse SDE; larger values are possible.
        spread: standard deviation of the data in the network's units, 1 for standardised data.
    """

    def __init__(self, order: int | None = None, eta: float = 1.0, spread: float = 1.0) -> None:
        super().__init__(nodes=REVERSE if order is None else fixed(order), eta=eta, spread=spread, correct=False)
        self.order = min(order or 2, 2)
