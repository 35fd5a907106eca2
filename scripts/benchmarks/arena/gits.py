r"""GITS: time grids fitted to the shape of trajectories by dynamic programming, written from the paper.

A teacher, iPNDM 4, draws trajectories :math:`\hat x(t)` on a dense grid, with :math:`\hat x = x / \alpha` and
:math:`\hat\sigma = \sigma / \alpha`. The cost of a step from :math:`\hat\sigma_i` to :math:`\hat\sigma_j` is the mean
error of Euler's method from the teacher's state,

.. math:: y_{ij} = \hat x_i + (\hat\sigma_j - \hat\sigma_i) \hat\varepsilon_i,

measured as the distance to :math:`\hat x_j` or, in the paper, as the difference of the distances of :math:`y_{ij}` and
:math:`\hat x_j` from the straight line through the first and the last state. The grid minimises the sum of the costs,
in which each step has a factor of 1.15 more than the step before it, or the same.

Reference: Chen et al. (2024), On the trajectory regularity of ODE-based diffusion sampling,
https://arxiv.org/abs/2405.11326
"""

from __future__ import annotations

import functools
from functools import partial

import torch
from torch import Tensor

from arena.grids import GRIDS, Stepper, level
from arena.multistep import FLOW
from arena.papers import ipndm
from arena.paths import cheapest, on_fitted
from arena.race import Contestant
from sdegen.sde import LinearSDE
from sdegen.sde.base import Score

SOLVERS: dict[str, Stepper] = FLOW | {f"iPNDM {order}": partial(ipndm, order) for order in (2, 3, 4)}
"""Solvers of the paper and of its authors' code, by name; DDIM is Euler's method."""

DENSE = ("Karras", "log-SNR", "uniform t")
"""Dense grids. The first is the authors' grid."""

POINTS = 60
"""Number of steps of a dense grid, as in the paper; three for each step of a fitted grid with more than 20 steps."""


def contestants(kind: str) -> list[Contestant]:
    """Returns the solvers of the paper for the flow, with each dense grid, distance and factor."""
    if kind == "sde":
        return []
    return [
        on_fitted(f"GITS {name}", f"{dense}, {metric}, {growth}", solver, partial(fit, dense, metric, growth))
        for name, solver in SOLVERS.items()
        for dense in DENSE
        for metric in METRICS
        for growth in (1.15, 1.0)
    ]


def fit(dense: str, metric: str, growth: float, sde: LinearSDE, score: Score, x: Tensor, steps: int) -> Tensor:
    """Returns the grid of ``steps`` steps that is fitted to trajectories from ``x``, ``(steps + 1,)``."""
    times = GRIDS[dense](sde, max(POINTS, 3 * steps))
    return times[cheapest(costs(dense, metric, len(times) - 1, sde, score, x), steps, growth)]


@functools.lru_cache(maxsize=16)
def costs(dense: str, metric: str, points: int, sde: LinearSDE, score: Score, x: Tensor) -> Tensor:
    """Returns the costs of all steps of the dense grid, ``(points + 1, points + 1)``."""
    times = GRIDS[dense](sde, points)
    states, noises = trajectory(dense, points, sde, score, x)
    sigma, found = level(sde, times), torch.zeros(points + 1, points + 1, dtype=torch.float64)
    for i, noise in enumerate(noises):
        later = slice(i + 1, None)
        ends = states[i] + (sigma[later] - sigma[i])[:, None, None] * noise
        found[i, later] = METRICS[metric](ends, states[later], states[[0, -1]])
    return found


@functools.lru_cache(maxsize=4)
def trajectory(dense: str, points: int, sde: LinearSDE, score: Score, x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns the states :math:`\hat x` of the teacher, ``(points + 1, B, D)``, and the noise ``(points, B, D)``."""
    trace: list[tuple[Tensor, Tensor]] = []
    times = GRIDS[dense](sde, points)
    end = ipndm(4, sde, score, x, times, trace)
    states, noises = (torch.stack(part).double() for part in zip(*trace, strict=True))
    return torch.cat([states, end[None].double() / sde.alpha(times[-1])]).flatten(2), noises.flatten(2)


def distance(y: Tensor, states: Tensor, ends: Tensor) -> Tensor:
    """Returns the mean distances of Euler's states ``y`` ``(J, B, d)`` from the teacher's, ``(J,)``."""
    return (y - states).norm(dim=2).mean(1)


def deviation(y: Tensor, states: Tensor, ends: Tensor) -> Tensor:
    """Returns how much farther ``y`` is than the teacher's states from the lines through ``ends`` ``(2, B, d)``."""
    direction = torch.nn.functional.normalize(ends[1] - ends[0], dim=1)

    def away(points: Tensor) -> Tensor:
        gap = points - ends[1]
        return (gap - (gap * direction).sum(2, keepdim=True) * direction).norm(dim=2).mean(1)

    return away(y) - away(states)


METRICS = {"deviation": deviation, "distance": distance}
"""Costs of a step by name. The first is the authors' default."""
