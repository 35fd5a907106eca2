r"""Exponential multistep schemes: the linear part of the reverse process exactly, the rest by a polynomial.

With :math:`\bar x = x/\alpha`, :math:`\bar\sigma = \sigma/\alpha`, :math:`\lambda = \log \bar\sigma` and the denoised
data :math:`D = E[x_0 \mid x]`, the reverse processes of every linear SDE are

.. math:: d\bar x = (1 + \eta^2) (\bar x - D)\, d\lambda + \eta \sqrt 2\, \bar\sigma\, d\bar w .

For Gaussian data of standard deviation c (the *spread*), :math:`D = c^2 \bar x / V` with
:math:`V = \bar\sigma^2 + c^2`. Splitting this off, :math:`D = c^2 \bar x / V + F \bar\sigma c/\sqrt V`, leaves

.. math:: y = \bar x\, V^{-(1 + \eta^2)/2}, \qquad
          dy = -(1 + \eta^2)\, V^{-(1 + \eta^2)/2}\, \frac{\bar\sigma c}{\sqrt V}\, F\, d\lambda + \dots

whose noise over a step from t to s has the variance :math:`V_s^{-\eta^2} - V_t^{-\eta^2}` exactly. F is what a network
of EDM's parametrization learns: of order one at every noise, zero where the data are Gaussian. A spread of 0 is the
limit in which D itself takes the place of F, which is the form of DPM-Solver++.

A scheme puts a polynomial in λ through the last values of F and integrates it over the step against the weight. For
:math:`\eta = 0` this is an exponential Adams method (Hochbruck & Ostermann 2010, section 2.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdegen.core.randomness import RandnLike
from sdegen.samplers.base import Predictor, Row, State
from sdegen.samplers.predictors import ANY
from sdegen.sde.base import LinearSDE, ReverseSDE

GAUSS = tuple(torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(12))
"""Points and weights of the rule that integrates the polynomials; its error is below 1e-9 on steps of λ up to 2."""

Rule = Sequence[tuple[int, int]]
"""How many values a polynomial goes through: pairs of a number of steps and what holds from there on."""

FLOW: Rule = ((1, 1), (8, 2), (15, 3), (40, 4))
"""What is best for the flow; like the next, chosen on mixtures that no reported number is measured on."""
REVERSE: Rule = ((1, 1), (15, 2))
"""What is best for the reverse SDE."""


class Numbers(NamedTuple):
    """The numbers of one step.

    Attributes:
        x: factor of x in F.
        score: factor of the score in F.
        correct: weights of the values of F, newest first, that close the step before; none to leave it as it was.
        predict: weights of the values of F, newest first, that open this step.
        keep: factor of x over this step.
        std: of its noise.
    """

    x: float
    score: float
    correct: list[float]
    predict: list[float]
    keep: float
    std: float


class Exponential(Predictor[LinearSDE]):
    """An exponential multistep scheme.

    Args:
        nodes: values of F that the polynomial of a step goes through; fewer in the first steps.
        eta: which reverse process.
        spread: standard deviation c of the Gaussian whose score is solved exactly.
        correct: go back over each step once F at its end is known, with one more node. It costs no evaluation.
    """

    grid = "log_snr"
    kernel = ANY

    def __init__(self, nodes: Rule, eta: float, spread: float, correct: bool) -> None:
        if eta < 0:
            raise ValueError(f"eta={eta:g} must not be negative")
        if spread < 0:
            raise ValueError(f"spread={spread:g} must not be negative")
        self.memory, self.nodes = nodes[0][1], nodes
        self.eta, self.spread, self.revises = eta, spread, correct

    def plan(self, sde: LinearSDE, times: Tensor) -> Sequence[Row]:
        nodes = max(count for fewest, count in self.nodes if fewest < len(times))
        alpha, sigma = sde.alpha(times), sde.sigma(times)
        ratio = sigma / alpha
        power, v = 0.5 * (1 + self.eta**2), ratio**2 + self.spread**2
        gain = ratio * self.spread / v.sqrt() if self.spread else torch.ones_like(v)
        scale = alpha * v**power
        lam, after = ratio.log(), scale[1:, None]
        predict = (self._weights(lam, nodes, ahead=0) * after).tolist()
        correct = (self._weights(lam, nodes + 1, ahead=1) * after).tolist() if self.revises else []
        keep = (scale[1:] / scale[:-1]).tolist()
        # x and D share a limit as the noise vanishes: 1 - c²/V in a form that does not cancel.
        of_x, of_score = (ratio**2 / v / (alpha * gain)).tolist(), (sigma**2 / (alpha * gain)).tolist()
        std = (alpha[1:] * (v[1:] * (1 - (v[1:] / v[:-1]) ** self.eta**2)).sqrt()).tolist()
        rows = []
        for i in range(len(times) - 1):
            closing = correct[i - 1][: min(nodes, i) + 1] if correct and i else []
            opening = predict[i][: min(nodes, i + 1)]
            rows.append(Numbers(of_x[i], of_score[i], closing, opening, keep[i], std[i]))
        return rows

    def _weights(self, nodes: Tensor, most: int, ahead: int) -> Tensor:
        r"""Integrals over each step of :math:`w(\lambda) \ell_j(\lambda)`, ``(N, most)``.

        The Lagrange polynomials :math:`\ell_j` of step i go through the nodes i + ``ahead``, i + ``ahead`` - 1, …, as
        many as there are.
        """
        index = torch.arange(len(nodes) - 1)[:, None] + ahead - torch.arange(most)
        there, through = index >= 0, nodes[index.clamp(min=0)]
        at, rule = GAUSS
        half = 0.5 * nodes.diff()[:, None]
        points = nodes[:-1, None] + half * (1 + at)
        # For each polynomial j, a factor (λ - λ_m) / (λ_j - λ_m) for each other node m that there is.
        factor = there[:, None, :] & ~torch.eye(most, dtype=torch.bool)
        apart = torch.where(factor, through[:, :, None] - through[:, None, :], 1.0)
        distance = torch.where(factor[:, None], (points[:, :, None] - through[:, None, :])[:, :, None, :], 1.0)
        values = (distance / apart[:, None]).prod(3)
        return torch.einsum("nq,nqj->nj", half * rule * self._weight(points), values) * there

    def _weight(self, lam: Tensor) -> Tensor:
        """w(λ), what F is multiplied by in dy/dλ."""
        ratio, power = lam.exp(), 0.5 * (1 + self.eta**2)
        v = ratio**2 + self.spread**2
        gain = ratio * self.spread / v.sqrt() if self.spread else 1.0
        return -2 * power * v**-power * gain

    def step(
        self, reverse: ReverseSDE, x: Tensor, t: Tensor, row: Row, state: State, noise: RandnLike
    ) -> tuple[Tensor, State]:
        opened, past = state or (x, ())
        history = [(row.x * x).add_(reverse.score(x, t), alpha=row.score), *past]
        if row.correct:
            x = combine(opened, row.correct, history)
        opened = row.keep * x
        if row.std:
            opened.add_(noise(x), alpha=row.std)
        return combine(opened, row.predict, history), (opened, history[: len(row.predict)])


def fixed(order: int) -> Rule:
    """The rule of one number of values, from 1 to 3, or ValueError."""
    if not 1 <= order <= 3:
        raise ValueError(f"order={order} must be 1, 2 or 3")
    return ((1, order),)


def combine(x: Tensor, weights: Sequence[float], terms: Sequence[Tensor]) -> Tensor:
    """``x`` plus the weighted sum of as many terms as there are weights, at least one."""
    total = torch.add(x, terms[0], alpha=weights[0])
    for weight, term in zip(weights[1:], terms[1:], strict=False):
        total.add_(term, alpha=weight)
    return total


class DPMSolver(Exponential):
    r"""DPM-Solver++, the exponential multistep scheme in the denoised data D (spread 0), for the flow.

    The polynomial through the last values of D is integrated exactly. The published 2M takes one of the integrals to
    leading order only, which changes nothing in its order; the 3M in circulation takes half of its second difference.

    Reference: Lu et al. (2022), https://arxiv.org/abs/2211.01095

    Args:
        order: values of D that a step uses: 1 (which is DDIM), 2 (2M) or 3 (3M). The first steps have fewer, so that
            the order of the whole is 2 at most.
    """

    def __init__(self, order: int = 2) -> None:
        super().__init__(nodes=fixed(order), eta=0.0, spread=0.0, correct=False)
        self.order = min(order, 2)


class StochasticDPMSolver(Exponential):
    r"""SDE-DPM-Solver++, the exponential multistep scheme in the denoised data D (spread 0), for the reverse SDE.

    Reference: Lu et al. (2022), https://arxiv.org/abs/2211.01095

    Args:
        order: values of D that a step uses: 1 (which is ancestral sampling), 2 (2M) or 3 (3M).
        eta: how much noise is put back: 1 for the reverse SDE, towards 0 for the flow.
    """

    def __init__(self, order: int = 2, eta: float = 1.0) -> None:
        super().__init__(nodes=fixed(order), eta=eta, spread=0.0, correct=False)
        self.order = min(order, 2)


class Adams(Exponential):
    r"""The exponential Adams–Bashforth–Moulton scheme for the flow: predict, evaluate, correct.

    Each step is predicted from the last values of F, and gone over again with one node more once F at its end is known:
    one evaluation a step, as that value opens the next step as well. On ``grid=logistic`` the most accurate scheme of
    this package where the data have few broad modes; sdegen/README.md has the families where others are nearer.

    Reference: Hochbruck & Ostermann (2010), Exponential integrators, section 2.5; in the form of DEIS and UniPC:
    Zhang & Chen (2023), https://arxiv.org/abs/2204.13902, Zhao et al. (2023), https://arxiv.org/abs/2302.04867

    Args:
        order: from 2 to 6, needs ``order - 1`` steps; None for the best at the number of steps, from 2 below 8 steps
            to 5 from 40 on. The first steps have fewer nodes to use. Their error, of third order, is negligible where
            the prior is far wider than the data, as for VP; it shows as a third order of the whole where it is not.
        spread: standard deviation c of the Gaussian solved exactly; best a little below that of the data in the
            network's units, which is 1 where they are standardised.
    """

    eta = 0.0

    def __init__(self, order: int | None = None, spread: float = 0.8) -> None:
        if order is not None and not 2 <= order <= 6:
            raise ValueError(f"order={order} must lie between 2 and 6")
        super().__init__(nodes=((1, order - 1),) if order else FLOW, eta=0.0, spread=spread, correct=True)
        self.order = min(order or 3, 3)


class StochasticAdams(Exponential):
    r"""The exponential Adams–Bashforth scheme for the reverse SDE, with its noise exact.

    Reference: the linear part and the noise as in Lu et al. (2022), https://arxiv.org/abs/2211.01095, for data of any
    spread; the family of η as in Xue et al. (2023), SA-Solver, https://arxiv.org/abs/2309.05019

    Args:
        order: values of F that a step uses, from 1 to 3; None for the best at the number of steps, 1 below 15 steps
            and then 2.
        eta: how much noise is put back: 1 for the reverse SDE, towards 0 for the flow.
        spread: standard deviation of the data in the network's units, 1 where they are standardised.
    """

    def __init__(self, order: int | None = None, eta: float = 1.0, spread: float = 1.0) -> None:
        super().__init__(nodes=REVERSE if order is None else fixed(order), eta=eta, spread=spread, correct=False)
        self.order = min(order or 2, 2)
