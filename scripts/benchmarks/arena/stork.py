r"""STORK: stabilised Runge–Kutta methods with virtual evaluations, written from its paper.

With the predicted noise :math:`\varepsilon = -\sigma \nabla \log p_t(x)`, the flow is :math:`x' = a x + g^2 \varepsilon
/ (2 \sigma)`. A step from t to s evaluates the score once, at t. In the other stages of the Runge–Kutta method,
:math:`\varepsilon` is replaced by its Taylor polynomial in time, whose derivatives are differences of the last values:
this is the polynomial through these values. STORK-2 has the Runge–Kutta–Gegenbauer method of order 2, and STORK-4 the
orthogonal Runge–Kutta–Chebyshev method of order 4 (ROCK4), both with :data:`STAGES` stages.

The first step needs two more evaluations: half steps with the methods of Euler and of Adams and Bashforth give the
values at the middle and at the end of the step; then the step is repeated from its start. A last step to t = 0 is that
of DDIM, as the authors end.

References: Tan et al. (2025), STORK, https://arxiv.org/abs/2505.24210; Skaras et al. (2021), Super-time-stepping
schemes for parabolic equations with boundary conditions, J. Comput. Phys. 425; Abdulle (2002), Fourth order Chebyshev
methods with recurrence relation, SIAM J. Sci. Comput. 23
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import fsolve
from torch import Tensor

from arena.grids import gridded
from arena.race import Contestant
from sdegen.sde import LinearSDE
from sdegen.sde.base import Score

STAGES = 50
"""Number of stages of a step, the authors' default."""

Array = NDArray[np.float64]
Method = Callable[[int], "Tableau"]


def contestants(kind: str) -> list[Contestant]:
    """Returns STORK-2 and STORK-4 with Taylor polynomials of degree 2 and 3, on every grid; only for the flow."""
    if kind == "sde":
        return []
    methods = {"STORK 2": gegenbauer, "STORK 4": rock4}
    return [
        contestant
        for name, method in methods.items()
        for degree in (2, 3)
        for contestant in gridded(f"{name} degree {degree}", partial(stork, method, degree))
    ]


class Tableau(NamedTuple):
    """Explicit Runge–Kutta method.

    Attributes:
        a: weights of the derivatives in the stages, ``(s, s)``, below the diagonal.
        b: weights of the derivatives in the result, ``(s,)``.
        c: times of the stages as shares of the step, ``(s,)``.
    """

    a: Array
    b: Array
    c: Array


EULER = Tableau(np.zeros((1, 1)), np.ones(1), np.zeros(1))


@functools.cache
def gegenbauer(stages: int) -> Tableau:
    r"""Returns the Runge–Kutta–Gegenbauer method of order 2.

    Its stability polynomials are :math:`1 - \binom{j + 2}{2} b_j + b_j C_j^{(3/2)}(1 + w z)`, with the polynomials of
    Gegenbauer.
    """
    j = np.arange(stages + 1.0)
    b = np.append([1.0, 1 / 3], 4 * (j - 1)[2:] * (j + 4)[2:] / (3 * j * (j + 1) * (j + 2) * (j + 3))[2:])
    w = 6 / ((stages + 4) * (stages - 1))
    rows = np.zeros((stages + 1, stages))
    rows[1, 0] = w
    for k in range(2, stages + 1):
        mu, nu = (2 * k + 1) * b[k] / (k * b[k - 1]), -(k + 1) * b[k] / (k * b[k - 2])
        rows[k] = mu * rows[k - 1] + nu * rows[k - 2]
        rows[k, k - 1] += mu * w
        rows[k, 0] -= mu * w * (1 - k * (k + 1) / 2 * b[k - 1])
    return Tableau(rows[:-1], rows[-1], rows[:-1].sum(1))


@functools.cache
def rock4(stages: int) -> Tableau:
    r"""Returns ROCK4, with coefficients that are solved here from the conditions that define them.

    The stability polynomial is :math:`w(z) P(z)`. P has the degree ``stages`` - 4 and is orthogonal to polynomials of
    smaller degree, with the weight :math:`w^2 / \sqrt{1 - x^2}` for x = 1 + 2 z / l between -1 and 1. The polynomial w
    of degree 4 is such that :math:`w P = e^z + O(z^5)`. For l = 0.35 ``stages``^2, w P stays below 0.96. The recurrence
    of P gives the first stages. Four more have the stability polynomial w, and fulfil the conditions of order 4
    together with the first. The last two stages are at one and two thirds of the rest of the step, as in the paper.
    """
    length = 0.35 * stages**2
    w = np.append(1.0, fsolve(lambda w: completed(recurrence(np.append(1.0, w), length, stages)) - w, W, xtol=1e-12))
    first = np.zeros((stages - 3, stages))
    for j, (mu, nu, kappa) in enumerate(recurrence(w, length, stages), start=1):
        first[j] = -nu * first[j - 1] - (kappa * first[j - 2] if j > 1 else 0)
        first[j, j - 1] += mu

    def tableau(last: Array) -> Tableau:
        a = np.zeros((stages, stages))
        a[: stages - 3], a[stages - 3 :] = first, first[-1]
        a[[-3, -2, -2, -1, -1, -1], [-4, -4, -3, -4, -3, -2]] += last[:6]
        b = first[-1].copy()
        b[-4:] += last[6:]
        return Tableau(a, b, a.sum(1))

    def defects(last: Array) -> Array:
        method = tableau(last)
        rest = 1 - method.c[-4]
        return np.append(conditions(method), method.c[-2:] - method.c[-4] - rest * np.array([1 / 3, 2 / 3]))

    return tableau(fsolve(defects, LAST, xtol=1e-12))


W = np.array([0.68, 0.235, 0.055, 0.01])
LAST = np.array([-0.1, 0.5, -0.3, 0.0, 0.0, 0.5, 0.7, -0.3, -0.4, 0.6])
"""First guesses of the coefficients of w and of the last four stages, which hardly depend on the number of stages."""


def conditions(method: Tableau) -> Array:
    """Returns the eight numbers that are 0 for a Runge–Kutta method of order 4."""
    a, b, c = method
    trees = (b.sum(), b @ c, b @ c**2, b @ a @ c, b @ c**3, b @ (c * (a @ c)), b @ a @ c**2, b @ a @ a @ c)
    return np.array(trees) - 1 / np.array([1, 2, 3, 6, 4, 8, 12, 24])


def recurrence(w: Array, length: float, stages: int) -> Array:
    r"""Returns the coefficients :math:`\mu, \nu, \kappa` of the orthogonal polynomials, ``(stages - 4, 3)``.

    .. math:: P_j(z) = (\mu_j z - \nu_j) P_{j-1}(z) - \kappa_j P_{j-2}(z), \qquad P_j(0) = 1
    """
    nodes = 2 * stages
    x = np.cos(np.pi * (np.arange(nodes) + 0.5) / nodes)
    weight = np.polyval(w[::-1], length * (x - 1) / 2) ** 2
    before, now, at_end, square, found = np.zeros(nodes), np.ones(nodes), 1.0, 1.0, []
    for j in range(stages - 4):
        last, square = square, float(weight @ now**2)
        centre, ratio = float(weight @ (x * now**2)) / square, square / last if j else 0.0
        # The values at x = 1 divide the monic polynomials; only their quotients are needed.
        quotient = 1 - centre - ratio / at_end
        found.append((2 / (length * quotient), (centre - 1) / quotient, ratio / (at_end * quotient)))
        before, now, at_end = now, (x - centre) * now - ratio * before, quotient
    return np.array(found)


def completed(steps: Array) -> Array:
    """Returns the coefficients of z, ..., z^4 in exp(z) / P(z)."""
    before, now = np.zeros(5), np.array([1.0, 0, 0, 0, 0])
    for mu, nu, kappa in steps:
        before, now = now, mu * np.append(0.0, now[:-1]) - nu * now - kappa * before
    w = np.zeros(5)
    for k, value in enumerate((1, 1, 1 / 2, 1 / 6, 1 / 24)):
        w[k] = value - now[k:0:-1] @ w[:k]
    return w[1:]


def stork(method: Method, degree: int, sde: LinearSDE, score: Score, x: Tensor, times: Tensor) -> Tensor:
    """Draws samples of the flow.

    Args:
        method: :func:`gegenbauer` or :func:`rock4`.
        degree: degree of the Taylor polynomial of the noise; less in the first steps.
        sde: forward process.
        score: function ``(x, t) -> ∇ log p_t(x)``.
        x: draws of the prior, ``(B, d)``.
        times: times of the steps, ``(n + 1,)``; n steps take n + 2 evaluations.
    """
    tableau = method(STAGES)
    first, end, *rest = times.tolist()
    middle = (first + end) / 2

    def noise(x: Tensor, t: float) -> Tensor:
        at = torch.tensor(t, dtype=torch.float64)
        return -sde.sigma(at) * score(x, at)

    values = {first: noise(x, first)}
    half = step(EULER, sde, x, first, middle, values)
    start = values | {middle: noise(half, middle)}
    (a, b), (c, d) = slopes(sde, [first, middle])
    full = half + (end - middle) * (1.5 * (c * half + d * start[middle]) - 0.5 * (a * x + b * start[first]))
    x = step(tableau, sde, x, first, end, start | {end: noise(full, end)})
    for i, (t, s) in enumerate(itertools.pairwise([end, *rest])):
        values[t] = noise(x, t)
        x = step(tableau, sde, x, t, s, start | values if i == 0 else dict([*values.items()][-degree - 1 :]))
    return x


def step(tableau: Tableau, sde: LinearSDE, x: Tensor, t: float, s: float, values: dict[float, Tensor]) -> Tensor:
    """Returns the states at s, for states ``x`` at t and the noise that a polynomial through ``values`` predicts."""
    if s == 0:
        now = torch.tensor(t, dtype=torch.float64)
        return (x - sde.sigma(now) * values[t]) / sde.alpha(now)
    own, *others = weights(tableau, sde, t, s, tuple(values))
    return sum((w * value for w, value in zip(others, values.values(), strict=True)), own * x)


def weights(tableau: Tableau, sde: LinearSDE, t: float, s: float, nodes: tuple[float, ...]) -> list[float]:
    """Returns the weights of x and of the noise at the ``nodes`` in a step.

    The flow is linear in both. The Runge–Kutta method therefore steps the vector of their weights.
    """
    at, h = t + (s - t) * tableau.c, s - t
    shares = [np.prod([(at - o) / (node - o) for o in nodes if o != node] or [at**0], axis=0) for node in nodes]
    rates, pulls = np.array(slopes(sde, at.tolist())).T
    begin = np.eye(1, 1 + len(nodes))
    # The derivatives in the stages are rate (begin + h a derivatives) + pull shares: a triangular system.
    known = rates[:, None] * begin + pulls[:, None] * np.stack([0 * at, *shares], 1)
    derivatives = np.linalg.solve(np.eye(len(at)) - h * rates[:, None] * tableau.a, known)
    found: list[float] = (begin[0] + h * (tableau.b @ derivatives)).tolist()
    return found


def slopes(sde: LinearSDE, times: list[float]) -> list[list[float]]:
    """Returns a and g^2 / (2 sigma) at each time: the factors of x and of the noise in the flow."""
    t = torch.tensor(times, dtype=torch.float64)
    return torch.stack([sde.rate(t), sde.diffusion(t) ** 2 / (2 * sde.sigma(t))], 1).tolist()
