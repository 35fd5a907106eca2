r"""AYS: time grids that minimise a bound on a KL divergence, written from the paper.

Stochastic DDIM keeps the mean D of x(0) given x(t) constant in each step. By Girsanov's theorem, the KL divergence of
its paths from those of the reverse SDE is at most

.. math:: \sum_i \int_{s_i}^{t_i} \frac{1}{u^3} E \| D(x_u, u) - D(x_{t_i}, t_i) \|^2 \, du,

with the noise-to-signal ratio u as time and :math:`x_u, x_t` on one path of the forward process. The paper minimises
this bound over the :math:`t_i` by stochastic optimisation, and uses the grid for other solvers, too. Here, the
expectations are means over paths on a dense grid, the same for all steps, and dynamic programming finds the best grid
among all parts of the dense grid: for these means, no other part has a smaller bound.

The bound of a step grows with the quotient of its ends, also where the noise is far below any detail of the data. The
contest therefore tries several ends of the fitted grid, from which one more step leads to eps.

The data at the beginning of the paths are samples that the score itself gives, on the dense grid.

Reference: Sabour et al. (2024), Align your steps, https://arxiv.org/abs/2404.14507
"""

from __future__ import annotations

import functools
from functools import partial

import torch
from torch import Tensor

from arena.grids import denoised, level, log_snr
from arena.multistep import FLOW, REVERSE, dpm
from arena.paths import cheapest, on_fitted
from arena.race import Contestant
from sdegen.core.randomness import generator, randn_like
from sdegen.sde import LinearSDE
from sdegen.sde.base import Score

POINTS = 200
"""Number of steps of the dense grid, which is uniform in log-SNR."""

ENDS = (0.0, 0.01, 0.03, 0.1, 0.3)
"""Noise-to-signal ratios at which a fitted grid ends; one more step leads from there to the end of the dense grid."""


def contestants(kind: str) -> list[Contestant]:
    """Returns the solvers of the paper on the grids that minimise the bound."""
    solvers = FLOW if kind == "ode" else REVERSE
    return [
        on_fitted(f"AYS {name}", f"to {end}" if end else "", solver, partial(fit, end))
        for name, solver in solvers.items()
        for end in ENDS
    ]


def fit(end: float, sde: LinearSDE, score: Score, x: Tensor, steps: int) -> Tensor:
    """Returns the grid of ``steps`` steps with the smallest bound up to a noise-to-signal ratio of ``end``.

    Args:
        end: one of :data:`ENDS`.
        sde: forward process.
        score: function ``(x, t) -> ∇ log p_t(x)``.
        x: draws of the prior, ``(B, d)``.
        steps: number of steps.
    """
    times = log_snr(sde, POINTS)
    fitted = int((level(sde, times) > end).sum())
    last = [] if fitted > POINTS else [POINTS]
    return times[cheapest(bounds(sde, score, x)[:fitted, :fitted], steps - len(last)) + last]


@functools.cache
def bounds(sde: LinearSDE, score: Score, x: Tensor) -> Tensor:
    """Returns the integrals in the bound for all steps of the dense grid, ``(POINTS + 1, POINTS + 1)``."""
    times = log_snr(sde, POINTS)
    return integrals(level(sde, times), means(sde, score, dpm(3, 3, sde, score, x, times), times))


def means(sde: LinearSDE, score: Score, x: Tensor, times: Tensor) -> Tensor:
    """Returns D at falling times along paths of the forward process that begin at ``x``, ``(times, B, d)``."""
    noise, found = randn_like(generator("cpu", 1, "contest fit of peers")), []
    # Data at the last time have its noise already.
    state, before = x / sde.alpha(times[-1]), level(sde, times[-1])
    for t in times.flip(0):
        now = level(sde, t)
        state = state + (now**2 - before**2).clamp(min=0).sqrt() * noise(state)
        found.append(denoised(sde, score, sde.alpha(t) * state, t).double())
        before = now
    return torch.stack(found[::-1])


def integrals(u: Tensor, means: Tensor) -> Tensor:
    r"""Returns :math:`\int_{u_j}^{u_i} u^{-3} E \|D_u - D_{u_i}\|^2 du` for i < j, by the trapezoidal rule in log u.

    Args:
        u: falling noise-to-signal ratios, ``(M + 1,)``.
        means: D at these ratios, along B paths, ``(M + 1, B, d)``.
    """
    gaps = torch.cdist(means.flatten(1)[None], means.flatten(1)[None])[0] ** 2 / means.shape[1]
    density = gaps / u**2
    pieces = 0.5 * (density[:, 1:] + density[:, :-1]) * -u.log().diff()
    # A step begins at i: the pieces before it do not count.
    pieces = torch.cat([torch.zeros(len(u), 1, dtype=pieces.dtype), pieces.triu()], 1)
    return pieces.cumsum(1)
