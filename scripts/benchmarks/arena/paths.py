"""Time grids as cheapest paths through a dense grid, and starts of the trajectories from which costs are estimated."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from arena.grids import Stepper, seeded
from arena.race import Contestant
from sdegen.core.randomness import generator, randn_like
from sdegen.sde import LinearSDE
from sdegen.sde.base import Score
from sdegen.sde.scores import Counted

STARTS = 256
"""Number of trajectories of a fit, as in the paper on GITS."""

Fit = Callable[[LinearSDE, Score, Tensor, int], Tensor]
"""Function ``(sde, score, x, steps) -> times`` that fits a time grid to a score, from draws ``x`` of the prior."""


def cheapest(costs: Tensor, steps: int, growth: float = 1.0) -> list[int]:
    r"""Returns the points :math:`0 = i_0 < \dots < i_n = M` that minimise :math:`\sum_k \gamma^k c(i_k, i_{k+1})`.

    Args:
        costs: costs c(i, j) of a step from point i to a later point j of the dense grid, ``(M + 1, M + 1)``.
        steps: number of steps n, at most M.
        growth: factor :math:`\gamma` of the cost from one step to the next.
    """
    last = len(costs) - 1
    if steps > last:
        raise ValueError(f"steps={steps}: must be at most {last}, the number of steps of the dense grid")
    steppable = torch.ones_like(costs, dtype=torch.bool).triu(1)
    rest, choices = costs.new_full((last + 1,), torch.inf), []
    rest[last] = 0
    for _ in range(steps):
        best = torch.where(steppable, costs + growth * rest, torch.inf).min(1)
        rest = best.values
        choices.append(best.indices)
    path = [0]
    for choice in reversed(choices):
        path.append(int(choice[path[-1]]))
    return path


@functools.cache
def starts(sde: LinearSDE, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Returns draws of the prior, :data:`STARTS` times the ``shape`` of a point, that no contest measures."""
    like = torch.zeros(STARTS, *shape, dtype=dtype)
    return sde.sample_prior(like, randn_like(generator("cpu", 0, "contest fit of peers")))


@functools.cache
def fitted(fit: Fit, sde: LinearSDE, score: Score, x: Tensor, steps: int) -> Tensor:
    """Returns the grid that a fit finds, from the same draws ``x`` the same."""
    return fit(sde, score, x, steps)


def on_fitted(name: str, setting: str, stepper: Stepper, fit: Fit) -> Contestant:
    """Returns a contestant whose time grid is fitted to each target. The evaluations of the fit do not count."""
    return Contestant(name, setting, functools.partial(run, stepper, fit), alone=True)


def run(stepper: Stepper, fit: Fit, sde: LinearSDE, score: Counted, x: Tensor, steps: int, seed: int) -> Tensor:
    """Draws samples on a fitted grid."""
    with seeded(seed):
        times = fitted(fit, sde, score.score, starts(sde, tuple(x.shape[1:]), x.dtype), steps)
        return stepper(sde, score, x, times)
